//! SASL exchanges (RFC 4954): PLAIN, LOGIN, SCRAM-SHA-256, XOAUTH2.
//!
//! Everything that goes on the wire is base64, so nothing in a user name or password can end a
//! line. The one source of randomness is the nonce that the caller passes in.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::extension::{Extensions, Mechanism};

/// A user or password with control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user or password has control characters")]
pub struct CredentialsError;

/// Who we are. Neither part shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    secret: String,
}

impl Credentials {
    /// * `secret`: the password or, for XOAUTH2, the token.
    ///
    /// # Errors
    /// Control characters, NUL included, in either.
    pub fn new(
        user: impl Into<String>,
        secret: impl Into<String>,
    ) -> Result<Self, CredentialsError> {
        let (user, secret) = (user.into(), secret.into());
        if user.chars().chain(secret.chars()).any(char::is_control) {
            return Err(CredentialsError);
        }
        Ok(Self { user, secret })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Why an exchange cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A challenge that is no base64, or out of order.
    #[error("the server's challenge is malformed")]
    Challenge,
    /// SCRAM: the server does not know the password either.
    #[error("the server could not prove that it knows the password")]
    ServerNotAuthentic,
    /// SCRAM: an iteration count that is weak, or would keep us busy for seconds.
    #[error("the server asks for an unreasonable number of iterations")]
    Iterations,
}

/// The strongest mechanism that is offered and allowed.
pub(super) fn choose(offers: &Extensions, wanted: Option<Mechanism>) -> Option<Mechanism> {
    match wanted {
        Some(mechanism) => offers.offers_auth(mechanism).then_some(mechanism),
        // XOAUTH2 takes a token, not a password: only by name.
        None => [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login]
            .into_iter()
            .find(|&mechanism| offers.offers_auth(mechanism)),
    }
}

/// One exchange, from the AUTH command to the reply that ends it.
#[derive(Debug)]
pub(super) struct Exchange {
    mechanism: Mechanism,
    credentials: Credentials,
    nonce: String,
    step: usize,
    scram: Option<Scram>,
}

#[derive(Debug)]
struct Scram {
    client_first_bare: String,
    server_signature: Option<Vec<u8>>,
    is_verified: bool,
}

const ITERATIONS_MIN: u32 = 4096;
const ITERATIONS_MAX: u32 = 1_000_000;

impl Exchange {
    pub(super) fn new(mechanism: Mechanism, credentials: Credentials, nonce: [u8; 18]) -> Self {
        let nonce = BASE64.encode(nonce);
        Self {
            mechanism,
            credentials,
            nonce,
            step: 0,
            scram: None,
        }
    }

    /// The AUTH command, with the initial response where the mechanism has one (RFC 4954 §4).
    pub(super) fn command(&mut self, out: &mut Vec<u8>) {
        let Credentials { user, secret } = &self.credentials;
        let initial = match self.mechanism {
            Mechanism::Plain => Some(format!("\0{user}\0{secret}")),
            Mechanism::Login => None,
            Mechanism::XOAuth2 => Some(format!("user={user}\x01auth=Bearer {secret}\x01\x01")),
            Mechanism::ScramSha256 => {
                let bare = format!("n={},r={}", escape_scram(&prepare(user)), self.nonce);
                let first = format!("n,,{bare}");
                self.scram = Some(Scram {
                    client_first_bare: bare,
                    server_signature: None,
                    is_verified: false,
                });
                Some(first)
            }
        };
        out.extend_from_slice(b"AUTH ");
        out.extend_from_slice(self.mechanism.name().as_bytes());
        if let Some(initial) = initial {
            out.push(b' ');
            out.extend_from_slice(BASE64.encode(initial).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Answers a 334.
    pub(super) fn answer(
        &mut self,
        challenge: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), ExchangeError> {
        self.step += 1;
        let answer = match (self.mechanism, self.step) {
            (Mechanism::Login, 1) => BASE64.encode(&self.credentials.user),
            (Mechanism::Login, 2) => BASE64.encode(&self.credentials.secret),
            // Some servers ask for PLAIN's response although it came with the command.
            (Mechanism::Plain, 1) => {
                let Credentials { user, secret } = &self.credentials;
                BASE64.encode(format!("\0{user}\0{secret}"))
            }
            // The challenge is the error; an empty answer asks for the final reply.
            (Mechanism::XOAuth2, 1) => String::new(),
            (Mechanism::ScramSha256, 1) => BASE64.encode(self.scram_final(&decode(challenge)?)?),
            (Mechanism::ScramSha256, 2) => {
                self.scram_verify(&decode(challenge)?)?;
                String::new()
            }
            _ => return Err(ExchangeError::Challenge),
        };
        out.extend_from_slice(answer.as_bytes());
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Judges a 235: SCRAM's server must have proved itself by now, or does so in its text.
    pub(super) fn finish(&mut self, text: &str) -> Result<(), ExchangeError> {
        if self.mechanism != Mechanism::ScramSha256 {
            return Ok(());
        }
        if self.scram.as_ref().is_some_and(|scram| scram.is_verified) {
            return Ok(());
        }
        let proof = decode(text).map_err(|_| ExchangeError::ServerNotAuthentic)?;
        self.scram_verify(&proof)
    }

    /// `client-final-message`, RFC 5802 §3 and §5.1, RFC 7677.
    fn scram_final(&mut self, server_first: &str) -> Result<String, ExchangeError> {
        let scram = self.scram.as_mut().ok_or(ExchangeError::Challenge)?;
        let mut fields = server_first.split(',');
        let mut field = |tag: &str| {
            fields
                .next()
                .and_then(|f| f.strip_prefix(tag))
                .ok_or(ExchangeError::Challenge)
        };
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ExchangeError::ServerNotAuthentic);
        }
        let salt = BASE64.decode(salt).map_err(|_| ExchangeError::Challenge)?;
        let iterations: u32 = iterations.parse().map_err(|_| ExchangeError::Challenge)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ExchangeError::Iterations);
        }
        let mut salted = [0; 32];
        let password = prepare(&self.credentials.secret);
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, iterations, &mut salted);
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{server_first},{without_proof}", scram.client_first_bare);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(&client_key), message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server_key = hmac(&salted, b"Server Key");
        scram.server_signature = Some(hmac(&server_key, message.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    fn scram_verify(&mut self, server_final: &str) -> Result<(), ExchangeError> {
        let scram = self.scram.as_mut().ok_or(ExchangeError::Challenge)?;
        let signature = server_final
            .strip_prefix("v=")
            .and_then(|v| BASE64.decode(v.split(',').next().unwrap_or_default()).ok());
        scram.is_verified = signature.is_some() && signature == scram.server_signature;
        if scram.is_verified {
            Ok(())
        } else {
            Err(ExchangeError::ServerNotAuthentic)
        }
    }
}

fn decode(challenge: &str) -> Result<String, ExchangeError> {
    let bytes = BASE64
        .decode(challenge.trim())
        .map_err(|_| ExchangeError::Challenge)?;
    String::from_utf8(bytes).map_err(|_| ExchangeError::Challenge)
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// SASLprep (RFC 4013); what it does not map is taken as it is.
fn prepare(text: &str) -> String {
    stringprep::saslprep(text).map_or_else(|_| text.to_owned(), Into::into)
}

/// `saslname`, RFC 5802 §5.1.
fn escape_scram(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(mechanism: Mechanism) -> Exchange {
        Exchange::new(
            mechanism,
            Credentials::new("user", "pencil").unwrap(),
            [0; 18],
        )
    }

    fn command(exchange: &mut Exchange) -> String {
        let mut out = Vec::new();
        exchange.command(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn answer(exchange: &mut Exchange, challenge: &str) -> Result<String, ExchangeError> {
        let mut out = Vec::new();
        exchange.answer(&BASE64.encode(challenge), &mut out)?;
        let line = String::from_utf8(out).unwrap();
        Ok(String::from_utf8(BASE64.decode(line.trim_end()).unwrap()).unwrap())
    }

    #[test]
    fn rfc4616_plain_goes_with_its_initial_response() {
        assert_eq!(
            command(&mut exchange(Mechanism::Plain)),
            "AUTH PLAIN AHVzZXIAcGVuY2ls\r\n"
        );
    }

    #[test]
    fn login_answers_user_then_password_then_no_more() {
        let mut login = exchange(Mechanism::Login);
        assert_eq!(command(&mut login), "AUTH LOGIN\r\n");
        assert_eq!(answer(&mut login, "Username:").unwrap(), "user");
        assert_eq!(answer(&mut login, "Password:").unwrap(), "pencil");
        assert_eq!(answer(&mut login, "Again:"), Err(ExchangeError::Challenge));
    }

    #[test]
    fn xoauth2_answers_an_error_with_an_empty_line() {
        let mut token = exchange(Mechanism::XOAuth2);
        let sent = command(&mut token);
        let sent = BASE64
            .decode(sent.trim_end().rsplit(' ').next().unwrap())
            .unwrap();
        assert_eq!(sent, b"user=user\x01auth=Bearer pencil\x01\x01");
        assert_eq!(answer(&mut token, "{}").unwrap(), "");
    }

    /// The exchange of RFC 7677 §3.
    #[test]
    fn rfc7677_3_scram_sha_256_example() {
        let mut scram = exchange(Mechanism::ScramSha256);
        scram.nonce = "rOprNGfwEbeRWgbNEkqO".into();
        command(&mut scram);
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(
            answer(&mut scram, server_first).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(scram.finish("ok"), Err(ExchangeError::ServerNotAuthentic));
        let proof = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(answer(&mut scram, proof).unwrap(), "");
        assert_eq!(scram.finish("ok"), Ok(()));
    }

    #[test]
    fn a_scram_server_that_is_false_is_found_out() {
        for (server_first, error) in [
            ("r=other,s=AAAA,i=4096", ExchangeError::ServerNotAuthentic),
            (
                "r=AAAAAAAAAAAAAAAAAAAAAAAA,s=AAAA,i=4096",
                ExchangeError::ServerNotAuthentic,
            ),
            (
                "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=AAAA,i=1",
                ExchangeError::Iterations,
            ),
            (
                "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=AAAA,i=4000000000",
                ExchangeError::Iterations,
            ),
            (
                "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=*,i=4096",
                ExchangeError::Challenge,
            ),
            ("i=4096", ExchangeError::Challenge),
        ] {
            let mut scram = exchange(Mechanism::ScramSha256);
            command(&mut scram);
            assert_eq!(
                answer(&mut scram, server_first),
                Err(error),
                "{server_first}"
            );
        }
    }

    #[test]
    fn credentials_refuse_control_characters_and_do_not_show() {
        for (user, secret) in [("a\0", "b"), ("a", "b\r\n"), ("a\n", "b")] {
            assert_eq!(Credentials::new(user, secret), Err(CredentialsError));
        }
        let credentials = Credentials::new("user", "pencil").unwrap();
        assert!(!format!("{credentials:?}").contains("pencil"));
    }
}
