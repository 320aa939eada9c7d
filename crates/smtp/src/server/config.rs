//! What a server is called, offers and bears; rendered once, shared by all of its connections.

use memchr::memmem;

use crate::domain::Domain;
use crate::extension::{Extensions, Mechanism};

/// What one client may cost (RFC 5321 §4.5.3.1). `Default` is at least what the RFC demands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerLimits {
    /// Octets of a command line with its CRLF. The RFC's 512 grows by what each parameter adds;
    /// SMTPUTF8, SIZE, BODY, DSN and AUTH= together ask for about 1,700.
    pub command_line_bytes_max: usize,
    /// Octets of a line of an AUTH exchange with its CRLF (RFC 4954 §4.3).
    pub auth_line_bytes_max: usize,
    /// Octets of a line of content without its CRLF (§4.5.3.1.6).
    pub text_line_bytes_max: usize,
    /// Recipients of a transaction (§4.5.3.1.8: at least 100); above, 452 4.5.3.
    pub recipients_max: u32,
    /// Transactions of a connection; above, 421. `None` is no limit.
    pub transactions_max: Option<u32>,
    /// Commands in error on a connection; the next one is answered 421. What the caller refuses, and
    /// what had been pipelined behind it, does not count.
    pub errors_max: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            command_line_bytes_max: 2048,
            auth_line_bytes_max: 12_288,
            text_line_bytes_max: 998,
            recipients_max: 1000,
            transactions_max: None,
            errors_max: 20,
        }
    }
}

/// What a server is called, offers and bears.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its name in the greeting; the domain of a bare `<Postmaster>`.
    pub host: Domain,
    /// What EHLO announces. `size_bytes_max` is also enforced; `limits` is filled in from
    /// [`ServerConfig::limits`]; of the mechanisms only PLAIN and LOGIN can be served.
    pub offers: Extensions,
    /// Whether AUTH is offered on a connection that is not encrypted.
    pub auth_in_clear: bool,
    /// What one client may cost.
    pub limits: ServerLimits,
}

impl ServerConfig {
    /// Everything that needs no further consent: no STARTTLS, no AUTH, no limit of size.
    #[must_use]
    pub fn new(host: Domain) -> Self {
        let mut offers = Extensions::default();
        offers.pipelining = true;
        offers.chunking = true;
        offers.eight_bit_mime = true;
        offers.smtputf8 = true;
        offers.enhanced_status_codes = true;
        offers.dsn = true;
        offers.size_bytes_max = Some(0);
        Self {
            host,
            offers,
            auth_in_clear: false,
            limits: ServerLimits::default(),
        }
    }
}

/// A [`ServerConfig`] made ready: every connection shares one, behind an `Arc`.
#[derive(Debug)]
pub struct Profile {
    pub(super) host: Domain,
    pub(super) limits: ServerLimits,
    pub(super) size_bytes_max: u64,
    pub(super) clear: Offer,
    pub(super) encrypted: Offer,
    pub(super) greeting: Box<[u8]>,
    pub(super) helo: Box<[u8]>,
    pub(super) line_end_dot: memmem::Finder<'static>,
}

/// What is offered in one state of the connection, and the reply to EHLO that says so.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) extensions: Extensions,
    pub(super) ehlo: Box<[u8]>,
}

impl Profile {
    /// Renders what does not change from connection to connection.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let ServerConfig {
            host,
            mut offers,
            auth_in_clear,
            limits,
        } = config;
        offers.limits.recipients_max = Some(limits.recipients_max);
        offers.limits.transactions_max = limits.transactions_max;
        let served = [Mechanism::Plain, Mechanism::Login];
        offers = served
            .into_iter()
            .filter(|&mechanism| offers.offers_auth(mechanism))
            .fold(offers.clone().without_auth(), Extensions::with_auth);
        let mut encrypted = offers.clone();
        encrypted.starttls = false;
        let clear = match auth_in_clear {
            true => offers,
            false => offers.without_auth(),
        };
        Self {
            limits,
            size_bytes_max: match clear.size_bytes_max {
                None | Some(0) => u64::MAX,
                Some(octets) => octets,
            },
            clear: Offer::new(&host, clear),
            encrypted: Offer::new(&host, encrypted),
            greeting: format!("220 {host} ESMTP\r\n").into_bytes().into(),
            helo: format!("250 {host}\r\n").into_bytes().into(),
            line_end_dot: memmem::Finder::new(b"\r\n."),
            host,
        }
    }

    pub(super) fn offer(&self, encrypted: bool) -> &Offer {
        match encrypted {
            true => &self.encrypted,
            false => &self.clear,
        }
    }

    /// The least a driver's read buffer must hold, in octets: the longest line.
    #[must_use]
    pub fn buffer_bytes_min(&self) -> usize {
        self.limits
            .command_line_bytes_max
            .max(self.limits.auth_line_bytes_max)
    }
}

impl Offer {
    fn new(host: &Domain, extensions: Extensions) -> Self {
        let lines = extensions.to_lines();
        let mut ehlo = String::new();
        let mut texts = std::iter::once(host.as_str())
            .chain(lines.lines())
            .peekable();
        while let Some(text) = texts.next() {
            let mark = if texts.peek().is_some() { '-' } else { ' ' };
            ehlo.push_str("250");
            ehlo.push(mark);
            ehlo.push_str(text);
            ehlo.push_str("\r\n");
        }
        Self {
            extensions,
            ehlo: ehlo.into_bytes().into(),
        }
    }
}
