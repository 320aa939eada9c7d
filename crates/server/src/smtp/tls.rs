//! Certificate and key of an edge; replaceable while connections are open.
//!
//! TLS 1.2 and 1.3 by rustls and aws-lc-rs; sessions resume by tickets whose keys change by
//! themselves. Connections keep what they were opened with.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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
    /// Certificate and key do not go together, or the key is of an unknown kind.
    #[error("the certificate and the key cannot be used")]
    Use(#[from] rustls::Error),
}

/// A certificate chain and its key, ready for use.
#[derive(Clone, Debug)]
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// From PEM texts: the certificate with its intermediates, and its key.
    ///
    /// # Errors
    /// Texts that are not that.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() {
            return Err(IdentityError::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}
