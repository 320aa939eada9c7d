//! What an SMTP edge is told.

use std::net::SocketAddr;
use std::time::Duration;

use smtp::server::{Profile, ServerConfig, ServerLimits};
use smtp::{Domain, Mechanism};

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS from the first octet on (RFC 8314 §3.3), not by STARTTLS.
    pub implicit_tls: bool,
}

impl From<SocketAddr> for Listen {
    /// Without TLS from the start.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            implicit_tls: false,
        }
    }
}

/// What one edge offers and bears; can be replaced while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Our name: in the greeting, `Received` and `Message-ID`.
    pub host: Domain,
    /// AUTH without TLS also for clients that are not on this machine. Passwords can be read on
    /// the way then.
    pub auth_in_clear: bool,
    /// Whether `Received` tells the client's address and what it calls itself.
    pub shows_client: bool,
    /// Ceilings.
    pub limits: Limits,
}

impl Settings {
    /// Defaults for everything but our name.
    #[must_use]
    pub fn new(host: Domain) -> Self {
        Self {
            host,
            auth_in_clear: false,
            shows_client: true,
            limits: Limits::default(),
        }
    }

    /// What clients are offered, on this machine or elsewhere.
    pub(crate) fn profile(&self, has_tls: bool, is_loopback: bool) -> Profile {
        let mut config = ServerConfig::new(self.host.clone());
        let limits = &self.limits;
        config.offers.size_bytes_max = Some(limits.message_bytes_max);
        config.offers.starttls = has_tls;
        config.offers = config
            .offers
            .with_auth(Mechanism::Plain)
            .with_auth(Mechanism::Login);
        config.auth_in_clear = self.auth_in_clear || is_loopback;
        config.limits = ServerLimits {
            recipients_max: limits.recipients_max,
            transactions_max: limits.transactions_max,
            errors_max: limits.errors_max,
            ..ServerLimits::default()
        };
        Profile::new(config)
    }
}

/// Ceilings. A stranger is a client that no rule of [`crate::auth`] names (yet): neither on this
/// machine nor in a tenant's network nor authenticated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once; 10,000. Above: 421 4.3.2.
    pub connections_max: usize,
    /// Of these, strangers'; 2,000. Above: 421 4.7.0.
    pub strangers_max: usize,
    /// A stranger's from one address (IPv6: from one /64); 50. Above: 421 4.7.0.
    pub stranger_connections_max: u32,
    /// One tenant's; no limit of its own. Above: 421 4.7.0.
    pub tenant_connections_max: Option<u32>,
    /// Messages a second that one address may begin, this machine excepted; no limit. Above:
    /// 451 4.7.1. What a tenant may send is the engine's to say.
    pub address_messages_per_s_max: Option<u32>,
    /// Failed AUTH commands from one address at once, one more every ten seconds; 10. Above:
    /// 421 4.7.0.
    pub auth_failures_max: u32,
    /// Commands in error on one connection; 20. Above: 421 4.7.0.
    pub errors_max: u32,
    /// Messages on one connection; no limit.
    pub transactions_max: Option<u32>,
    /// Recipients of one message; 1,000 (RFC 5321 §4.5.3.1.8 asks for 100). Above: 452 4.5.3.
    pub recipients_max: u32,
    /// Octets of one message; 50 MiB. Above: 552 5.3.4.
    pub message_bytes_max: u64,
    /// Octets of its header section; 256 KiB. Above: 552 5.3.4.
    pub header_bytes_max: usize,
    /// `Received` fields in it; 100 (RFC 5321 §6.3). Above: 554 5.4.6.
    pub received_max: usize,
    /// Octets of all messages that are coming in at this moment; 256 MiB. Above: 452 4.3.1.
    pub content_bytes_max: usize,
    /// Messages of one connection that wait for the disk; then nothing more is read; 256.
    pub owed_max: usize,
    /// Silence between commands, or within content; 5 minutes (RFC 5321 §4.5.3.2.7). Then 421
    /// 4.4.2.
    pub idle: Duration,
    /// Within this a stranger must have authenticated; 1 minute. Then 421 4.4.2.
    pub login: Duration,
    /// Time for any content, however small; 2 minutes. Then 421 4.4.2.
    pub content: Duration,
    /// More of it for each so many octets that have come: one second for 1,024.
    pub content_bytes_per_s_min: u64,
    /// Time for a TLS handshake; 30 seconds.
    pub handshake: Duration,
    /// A client takes its replies within this; 1 minute.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            strangers_max: 2_000,
            stranger_connections_max: 50,
            tenant_connections_max: None,
            address_messages_per_s_max: None,
            auth_failures_max: 10,
            errors_max: 20,
            transactions_max: None,
            recipients_max: 1_000,
            message_bytes_max: 50 << 20,
            header_bytes_max: 256 << 10,
            received_max: 100,
            content_bytes_max: 256 << 20,
            owed_max: 256,
            idle: Duration::from_secs(300),
            login: Duration::from_secs(60),
            content: Duration::from_secs(120),
            content_bytes_per_s_min: 1024,
            handshake: Duration::from_secs(30),
            write: Duration::from_secs(60),
        }
    }
}
