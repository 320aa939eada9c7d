//! `[listen]` and `[tls]`: where clients find us, and what we show them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::beside;
use super::read::Section;

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listen {
    /// SMTP, with STARTTLS where there is a certificate.
    pub(crate) smtp: Vec<SocketAddr>,
    /// SMTP with TLS from the first octet (RFC 8314).
    pub(crate) smtps: Vec<SocketAddr>,
    /// The API, metrics and health.
    pub(crate) http: Option<SocketAddr>,
    /// Clients on loopback submit as tenant `default` without credentials.
    pub(crate) trust_loopback: bool,
}

impl Listen {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let listen = Self {
            smtp: section.get("smtp", "[\"127.0.0.1:2525\"]"),
            smtps: section.get("smtps", "[]"),
            http: Some(section.get("http", "\"127.0.0.1:8025\"")),
            trust_loopback: section.get("trust_loopback", "true"),
        };
        let mut seen: Vec<SocketAddr> = Vec::new();
        let all = listen.smtp.iter().chain(&listen.smtps).chain(&listen.http);
        for address in all.filter(|address| address.port() != 0) {
            if seen.contains(address) {
                section.wrong("", format_args!("{address} is given twice"));
            }
            seen.push(*address);
        }
        section.end();
        listen
    }
}

/// A certificate chain and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Our own certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// `None` where there is no `[tls]`, or a mistake was noted.
    pub(super) fn read(mut section: Section<'_>, folder: &Path) -> Option<Self> {
        let (chain, key) = match section.is_there() {
            true => (section.must("certificate"), section.must("key")),
            false => (section.maybe("certificate"), section.maybe("key")),
        };
        let chain = chain.and_then(|path: PathBuf| {
            let read = certificates(&beside(folder, &path));
            read.map_err(|error| section.wrong("certificate", error))
                .ok()
        });
        let key = key.and_then(|path: PathBuf| {
            let path = beside(folder, &path);
            let read = PrivateKeyDer::from_pem_file(&path);
            let wrong = |error| section.wrong("key", format_args!("{}: {error}", path.display()));
            read.map_err(wrong).ok()
        });
        section.end();
        Some(Self {
            chain: chain?,
            key: key?,
        })
    }
}

/// Certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| named(&error))?;
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| named(&error))?;
    match certificates.is_empty() {
        true => Err(named(&"there is no certificate in it")),
        false => Ok(certificates),
    }
}
