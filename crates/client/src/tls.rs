//! TLS settings: one rustls configuration, and so one ticket store, per verification policy.
//!
//! A ticket from a session whose certificate nobody checked must never resume one that promises a
//! checked certificate, so [`TlsClients`] keeps the two apart.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use smtp::Domain;

use crate::config::{BuildError, TlsSettings};
use crate::relay::TlsMode;

/// Hosts whose tickets are kept, per policy: for one pool, and for a program with many.
const TICKETS_MAX: usize = 256;
const TICKETS_SHARED_MAX: usize = 4096;

/// Roots and session tickets for many pools: read once, kept once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsContext(pub(crate) Arc<TlsClients>);

impl TlsContext {
    /// Trusts these certificate authorities; the system's if there are none. Where those cannot be
    /// read either, no certificate is trusted, and a warning says so.
    ///
    /// # Errors
    /// [`BuildError::Tls`].
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, BuildError> {
        let settings = TlsSettings {
            roots,
            ..TlsSettings::default()
        };
        let clients = match TlsClients::with_tickets(&settings, true, TICKETS_SHARED_MAX) {
            Err(BuildError::Roots(error)) => {
                tracing::warn!(%error, "no certificate will be trusted: there are no roots");
                TlsClients::with_tickets(&settings, false, TICKETS_SHARED_MAX)
            }
            clients => clients,
        };
        Ok(Self(Arc::new(clients?)))
    }
}

/// Ready rustls configurations.
#[derive(Debug)]
pub(crate) struct TlsClients {
    verified: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
    accept_any_certificate: bool,
}

impl TlsClients {
    pub(crate) fn new(settings: &TlsSettings, needs_roots: bool) -> Result<Self, BuildError> {
        Self::with_tickets(settings, needs_roots, TICKETS_MAX)
    }

    fn with_tickets(
        settings: &TlsSettings,
        needs_roots: bool,
        tickets_max: usize,
    ) -> Result<Self, BuildError> {
        let provider = Arc::new(provider());
        let versions: &[_] = if settings.tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .map_err(|error| tls_error(&error))
        };
        let roots = if settings.roots.is_empty() && needs_roots {
            system_roots()?
        } else {
            own_roots(&settings.roots)?
        };
        let any = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let mut configs = Vec::with_capacity(2);
        for verified in [
            builder()?.with_root_certificates(roots),
            builder()?.dangerous().with_custom_certificate_verifier(any),
        ] {
            let mut config = match &settings.identity {
                Some((chain, key)) => verified
                    .with_client_auth_cert(chain.clone(), key.clone_key())
                    .map_err(|error| tls_error(&error))?,
                None => verified.with_no_client_auth(),
            };
            config.resumption = if settings.no_resumption {
                Resumption::disabled()
            } else {
                Resumption::in_memory_sessions(tickets_max)
            };
            configs.push(Arc::new(config));
        }
        let unverified = configs.remove(1);
        let accept_any_certificate = settings.accept_any_certificate;
        Ok(Self {
            verified: configs.remove(0),
            unverified,
            accept_any_certificate,
        })
    }

    /// The configuration that keeps `mode`'s promise.
    pub(crate) fn for_mode(&self, mode: TlsMode) -> Arc<ClientConfig> {
        let checks = matches!(mode, TlsMode::Required | TlsMode::Implicit);
        if checks && !self.accept_any_certificate {
            Arc::clone(&self.verified)
        } else {
            Arc::clone(&self.unverified)
        }
    }
}

/// AES-128-GCM with SHA-256 first: processors hash that in hardware, and the key schedule of a
/// handshake with SHA-384 costs several times as much.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

/// The name a certificate must carry, also sent as SNI unless it is an address.
pub(crate) fn server_name(host: &Domain) -> Option<ServerName<'static>> {
    match host.ip() {
        Some(ip) => Some(ServerName::from(ip)),
        None => ServerName::try_from(host.as_str().to_owned()).ok(),
    }
}

fn tls_error(error: &rustls::Error) -> BuildError {
    BuildError::Tls(error.to_string())
}

fn own_roots(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, BuildError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| tls_error(&error))?;
    }
    Ok(store)
}

fn system_roots() -> Result<RootCertStore, BuildError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    match found.errors.first() {
        Some(error) if added == 0 => Err(BuildError::Roots(error.to_string())),
        _ => Ok(store),
    }
}

/// Takes any certificate, but the peer must own its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration owns its ticket store, so one that is not shared shares no tickets.
    #[test]
    fn a_checked_and_an_unchecked_session_never_share_a_ticket_store() {
        let identity = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let settings = |accept_any_certificate| TlsSettings {
            roots: vec![identity.cert.der().clone()],
            accept_any_certificate,
            ..TlsSettings::default()
        };
        let share = |clients: &TlsClients, one, other| {
            Arc::ptr_eq(&clients.for_mode(one), &clients.for_mode(other))
        };
        let clients = TlsClients::new(&settings(false), true).unwrap();
        assert!(!share(&clients, TlsMode::Opportunistic, TlsMode::Required));
        assert!(!share(&clients, TlsMode::Opportunistic, TlsMode::Implicit));
        assert!(share(&clients, TlsMode::Required, TlsMode::Implicit));
        let careless = TlsClients::new(&settings(true), true).unwrap();
        assert!(share(&careless, TlsMode::Opportunistic, TlsMode::Required));
    }
}
