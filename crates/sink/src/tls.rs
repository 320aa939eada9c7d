//! The sink's certificate and TLS settings.
//!
//! Without a certificate of its own, a sink makes a certificate authority and signs one for
//! itself, so that clients can verify it in the usual way: trust the authority, check the name.
//! TLS 1.2 and 1.3; sessions resume by tickets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why there is no [`Identity`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificates or the key are not PEM, or the wrong kind of it.
    #[error("the certificate or the key is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There is no certificate in the file.
    #[error("there is no certificate in the PEM text")]
    Empty,
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not go together, or the key is of an unknown kind.
    #[error("the certificate and the key cannot be used")]
    Use(#[from] rustls::Error),
}

/// A certificate, its key, and the authority behind it.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    authority: CertificateDer<'static>,
    authority_pem: Option<String>,
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// A new one for `names`, `localhost`, 127.0.0.1 and ::1, signed by a new authority.
    ///
    /// # Errors
    /// A name that is no DNS name.
    pub fn self_signed(names: &[&str]) -> Result<Self, IdentityError> {
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "mailrail sink authority");
        let authority_key = KeyPair::generate()?;
        let authority_cert = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        names.push("localhost".into());
        let mut params = CertificateParams::new(names)?;
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            params.subject_alt_names.push(SanType::IpAddress(ip));
        }
        params
            .distinguished_name
            .push(DnType::CommonName, "mailrail sink");
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Self {
            chain: vec![cert.der().clone()],
            key: Arc::new(PrivatePkcs8KeyDer::from(key.serialize_der()).into()),
            authority: authority_cert.der().clone(),
            authority_pem: Some(authority_cert.pem()),
        })
    }

    /// From PEM texts: the certificate with its intermediates, and its key.
    ///
    /// # Errors
    /// Texts that are not that.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let authority = chain.last().ok_or(IdentityError::Empty)?.clone();
        Ok(Self {
            chain,
            key: Arc::new(PrivateKeyDer::from_pem_slice(key)?),
            authority,
            authority_pem: None,
        })
    }

    /// What a client must trust to verify the sink: the authority made for it, or the last
    /// certificate of the given chain.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The same as PEM; `None` where the certificate was given.
    #[must_use]
    pub fn authority_pem(&self) -> Option<&str> {
        self.authority_pem.as_deref()
    }

    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}
