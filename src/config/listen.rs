//! `[listen]` and `[tls]`: where clients find us, and what we show them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use server::smtp::Identity;

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
    pub(crate) http: SocketAddr,
    /// Clients on loopback submit as tenant `default` without credentials.
    pub(crate) trust_loopback: bool,
}

impl Listen {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let listen = Self {
            smtp: section.get("smtp", "[\"127.0.0.1:2525\"]"),
            smtps: section.get("smtps", "[]"),
            http: section.get("http", "\"127.0.0.1:8025\""),
            trust_loopback: section.get("trust_loopback", "true"),
        };
        let mut seen: Vec<SocketAddr> = Vec::new();
        let all = listen
            .smtp
            .iter()
            .chain(&listen.smtps)
            .chain([&listen.http]);
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

/// `[tls]`.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    /// Our own certificate and key; no TLS for clients without.
    pub(crate) identity: Option<Identity>,
    /// Whom we trust when we dial; the system's authorities where there is none.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

impl Tls {
    pub(super) fn read(mut section: Section<'_>, folder: &Path) -> Self {
        let certificate = section.maybe::<PathBuf>("certificate");
        let key = section.maybe::<PathBuf>("key");
        let authorities = section.maybe::<PathBuf>("authorities").and_then(|path| {
            let read = certificates(&beside(folder, &path));
            read.map_err(|error| section.wrong("authorities", error))
                .ok()
        });
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(_), None) => {
                section.wrong("certificate", "without its `key` it is of no use");
                None
            }
            (None, Some(_)) => {
                section.wrong("key", "without its `certificate` it is of no use");
                None
            }
            (Some(certificate), Some(key)) => identity(&section, folder, &certificate, &key),
        };
        section.end();
        Self {
            identity,
            authorities: authorities.unwrap_or_default(),
        }
    }
}

fn identity(
    section: &Section<'_>,
    folder: &Path,
    certificate: &Path,
    key: &Path,
) -> Option<Identity> {
    let read = |name: &str, path: &Path| {
        let path = beside(folder, path);
        let wrong = |error| section.wrong(name, format_args!("{}: {error}", path.display()));
        std::fs::read(&path).map_err(wrong).ok()
    };
    let certificate = read("certificate", certificate);
    let key = read("key", key);
    let identity = Identity::from_pem(&certificate?, &key?);
    let wrong = |error| section.wrong("certificate", whole(&error));
    identity.map_err(wrong).ok()
}

/// An error and its sources.
fn whole(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole(source)),
        None => error.to_string(),
    }
}

/// Certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
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
