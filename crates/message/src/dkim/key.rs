//! Keys: made, read, written, published.

use std::fmt;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use smtp::Domain;

use super::{IdentityError, check_identity};

/// How a signature is made (RFC 6376 §3.3, RFC 8463 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// rsa-sha256. Every verifier knows it.
    Rsa,
    /// ed25519-sha256. Cheap to make, short in DNS; many verifiers still pass it over.
    Ed25519,
}

impl Algorithm {
    /// The value of `a=`.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }
}

/// Why something is not a key to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No private key in PEM.
    #[error("there is no PEM private key (PKCS#8 or PKCS#1)")]
    Pem,
    /// An elliptic-curve key in SEC 1 form: DKIM has no algorithm for it.
    #[error("the key is neither RSA nor Ed25519")]
    Algorithm,
    /// Neither RSA of 2048 to 8192 bits nor Ed25519. RFC 8301 §3.2 lets signers go down to 1024;
    /// the crypto library does not.
    #[error("the key is not a sound RSA key of 2048 to 8192 bits, nor an Ed25519 key")]
    Rejected,
    /// The crypto library could not make or write a key.
    #[error("the key could not be made")]
    Crypto,
}

/// A private key.
pub struct SigningKey(Pair);

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Makes a new one; RSA of 2048 bits, as longer ones do not fit one DNS string pair everywhere.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let pair = match algorithm {
            Algorithm::Rsa => RsaKeyPair::generate(KeySize::Rsa2048).map(Pair::Rsa),
            Algorithm::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
        };
        pair.map(Self).map_err(|_| KeyError::Crypto)
    }

    /// Reads the first private key of a PEM text: PKCS#8 (`BEGIN PRIVATE KEY`), or PKCS#1
    /// (`BEGIN RSA PRIVATE KEY`).
    ///
    /// # Errors
    /// No such key, or one that cannot sign for DKIM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => {
                RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Pair::Rsa)
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let ed25519 = Ed25519KeyPair::from_pkcs8(der).map(Pair::Ed25519);
                ed25519.or_else(|_| RsaKeyPair::from_pkcs8(der).map(Pair::Rsa))
            }
            _ => return Err(KeyError::Algorithm),
        };
        pair.map(Self).map_err(|_| KeyError::Rejected)
    }

    /// The key as PKCS#8 in PEM, with line ends of LF. A secret: write it where only its owner reads.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let der: Pkcs8V1Der<'static> = match &self.0 {
            Pair::Rsa(pair) => pair.as_der(),
            Pair::Ed25519(pair) => pair.as_der(),
        }
        .map_err(|_| KeyError::Crypto)?;
        let base64 = STANDARD.encode(der.as_ref());
        let mut pem = String::with_capacity(base64.len() + 128);
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for piece in base64.as_bytes().chunks(64) {
            pem.extend(piece.iter().map(|b| char::from(*b)));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// Which algorithm it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Pair::Rsa(_) => Algorithm::Rsa,
            Pair::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The TXT value to publish: `v=DKIM1; k=…; p=…` (RFC 6376 §3.6.1, RFC 8463 §4).
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn public_record(&self) -> Result<String, KeyError> {
        Ok(match &self.0 {
            Pair::Rsa(pair) => {
                let der: PublicKeyX509Der<'static> =
                    pair.public_key().as_der().map_err(|_| KeyError::Crypto)?;
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(der.as_ref()))
            }
            Pair::Ed25519(pair) => {
                let public = STANDARD.encode(pair.public_key());
                format!("v=DKIM1; k=ed25519; p={public}")
            }
        })
    }

    /// Signs a SHA-256 digest: PKCS#1 v1.5, or PureEdDSA of the digest (RFC 8463 §3).
    pub(super) fn sign(&self, digest: &Digest) -> Result<Vec<u8>, Unspecified> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, digest, &mut signature)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => Ok(pair.try_sign(digest.as_ref())?.as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for SigningKey {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm())
    }
}

/// The record as a zone file has it: name, `IN TXT`, and the value in strings of at most 255
/// octets (RFC 1035 §3.3, RFC 6376 §3.6.2.2).
///
/// * `value`: from [`SigningKey::public_record`].
///
/// # Errors
/// A domain or selector that cannot be one.
pub fn dns_record(domain: &Domain, selector: &str, value: &str) -> Result<String, IdentityError> {
    check_identity(domain, selector)?;
    let mut record = format!("{selector}._domainkey.{}. IN TXT (", domain.as_str());
    for piece in value.as_bytes().chunks(255) {
        record.push_str(" \"");
        record.push_str(&String::from_utf8_lossy(piece));
        record.push('"');
    }
    record.push_str(" )");
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_written_is_read_again_as_the_same() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let key = SigningKey::generate(algorithm).unwrap();
            let pem = key.to_pem().unwrap();
            assert!(pem.lines().all(|line| line.len() <= 64));
            let again = SigningKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(again.algorithm(), algorithm);
            assert_eq!(again.public_record(), key.public_record());
        }
    }

    #[test]
    fn rfc8017_a_1_2_an_rsa_key_in_pkcs1_is_read() {
        let key = SigningKey::generate(Algorithm::Rsa).unwrap();
        let pem = key.to_pem().unwrap();
        let pkcs8 = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        // PKCS#8 of a 2048-bit key is 26 octets of wrapping and the PKCS#1 key.
        let pkcs1 = STANDARD.encode(&pkcs8.secret_der()[26..]);
        let pem =
            format!("-----BEGIN RSA PRIVATE KEY-----\n{pkcs1}\n-----END RSA PRIVATE KEY-----\n");
        let again = SigningKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(again.public_record(), key.public_record());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let cut = "-----BEGIN PRIVATE KEY-----\nMC4CAQA=\n-----END PRIVATE KEY-----\n";
        for (pem, error) in [
            ("", KeyError::Pem),
            ("hello", KeyError::Pem),
            (cut, KeyError::Rejected),
        ] {
            assert_eq!(SigningKey::from_pem(pem.as_bytes()).unwrap_err(), error);
        }
    }

    #[test]
    fn rfc1035_3_3_a_long_record_is_split_into_strings() {
        let domain: Domain = "example.org".parse().unwrap();
        let record = dns_record(&domain, "s1", &"x".repeat(300)).unwrap();
        let strings: Vec<_> = record.split('"').skip(1).step_by(2).collect();
        assert_eq!(strings, ["x".repeat(255), "x".repeat(45)]);
        assert!(record.starts_with("s1._domainkey.example.org. IN TXT ("));
        for selector in ["", "a b", "a..b", "-a", "a\nb", "a;"] {
            assert!(dns_record(&domain, selector, "x").is_err(), "{selector}");
        }
        let literal = "[192.0.2.1]".parse().unwrap();
        assert_eq!(dns_record(&literal, "s", "x"), Err(IdentityError::Domain));
    }
}
