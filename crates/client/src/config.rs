//! How a pool is set up.

use std::sync::Arc;
use std::time::Duration;

use flow::rate::RateLimit;
use flow::retry::RetryPolicy;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smtp::ClientName;

use crate::budget::Budget;
use crate::network::Network;
use crate::relay::Relay;
use crate::tls::TlsContext;

/// How commands are grouped on the wire; each falls back to what the server offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wire {
    /// One command, one reply.
    Lockstep,
    /// PIPELINING within a transaction: 2 round trips.
    Pipelined,
    /// The content and the next transaction's commands in one flight: 1 round trip.
    #[default]
    Overlapped,
    /// BDAT with up to this many transactions unanswered: 1/W round trips. For a configured
    /// relay that is known to be sound; a cut connection leaves up to W messages unknown.
    Windowed(u8),
}

impl Wire {
    /// Whole transactions that may be unanswered on one connection.
    pub(crate) fn window(self) -> usize {
        match self {
            Self::Lockstep | Self::Pipelined | Self::Overlapped => 1,
            Self::Windowed(window) => usize::from(window.max(1)),
        }
    }
}

/// How many connections work at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Concurrency {
    /// This many, at least 1.
    Fixed(usize),
    /// Finds the concurrency at which the relay gives the most without its latency growing
    /// (Gradient2), at most `max`; yields when this machine's CPU passes 80 %.
    Auto {
        /// The cap.
        max: usize,
    },
}

impl Concurrency {
    pub(crate) fn cap(self) -> usize {
        match self {
            Self::Fixed(cap) | Self::Auto { max: cap } => cap.max(1),
        }
    }
}

/// How long each step may take. RFC 5321 §4.5.3.2 asks for minutes where a server scans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP connect, name resolution included.
    pub connect: Duration,
    /// Until the greeting.
    pub greeting: Duration,
    /// Each EHLO and STARTTLS.
    pub ehlo: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// Each step of AUTH.
    pub auth: Duration,
    /// MAIL and RSET.
    pub mail: Duration,
    /// Each RCPT.
    pub rcpt: Duration,
    /// DATA, until 354.
    pub data: Duration,
    /// While content is being written: time without any progress.
    pub content: Duration,
    /// Reply to the content, whatever its size …
    pub final_base: Duration,
    /// … and for each MiB of it on top. A too short one makes duplicates.
    pub final_per_mib: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            ehlo: minutes(5),
            tls: Duration::from_secs(60),
            auth: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            content: minutes(3),
            final_base: minutes(10),
            final_per_mib: minutes(3),
        }
    }
}

impl Timeouts {
    /// The shortest of them.
    pub(crate) fn shortest(&self) -> Duration {
        [
            self.mail,
            self.rcpt,
            self.data,
            self.content,
            self.final_base,
        ]
        .into_iter()
        .fold(self.mail, Duration::min)
        .max(Duration::from_millis(1))
    }

    /// The same for every step.
    #[must_use]
    pub fn all(each: Duration) -> Self {
        Self {
            connect: each,
            greeting: each,
            ehlo: each,
            tls: each,
            auth: each,
            mail: each,
            rcpt: each,
            data: each,
            content: each,
            final_base: each,
            final_per_mib: each,
        }
    }
}

/// Why a pool cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A certificate or key that rustls does not take.
    #[error("TLS settings: {0}")]
    Tls(String),
    /// The system's root certificates cannot be read.
    #[error("the system's root certificates cannot be read: {0}")]
    Roots(String),
    /// A user without a password.
    #[error("there is a user for {0} but no password")]
    NoPassword(String),
    /// A password or user that no mechanism can carry.
    #[error("the user or password for {0} has control characters")]
    Credentials(String),
}

/// Certificates beyond the system's, and what we show of ourselves.
#[derive(Debug, Default)]
pub(crate) struct TlsSettings {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub(crate) tls13_only: bool,
    pub(crate) no_resumption: bool,
    pub(crate) accept_any_certificate: bool,
}

/// Settings of a [`Pool`](crate::Pool); made by [`Pool::builder`](crate::Pool::builder).
#[derive(Debug)]
pub struct PoolBuilder {
    pub(crate) relays: Vec<Relay>,
    pub(crate) wire: Wire,
    pub(crate) concurrency: Concurrency,
    pub(crate) messages_per_connection: u32,
    pub(crate) age_max: Duration,
    pub(crate) idle_max: Duration,
    pub(crate) min_idle: usize,
    pub(crate) rate: Option<RateLimit>,
    pub(crate) wait_max: Duration,
    pub(crate) retry: Option<Box<RetryPolicy>>,
    pub(crate) retry_seed: u64,
    pub(crate) timeouts: Arc<Timeouts>,
    pub(crate) ehlo_name: ClientName,
    pub(crate) allow_plaintext_auth: bool,
    pub(crate) tls: TlsSettings,
    pub(crate) tls_context: Option<TlsContext>,
    pub(crate) local_ip: Option<std::net::IpAddr>,
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) budget: Option<Budget>,
}

impl PoolBuilder {
    pub(crate) fn new(relay: Relay) -> Self {
        Self {
            relays: vec![relay],
            wire: Wire::default(),
            concurrency: Concurrency::Fixed(10),
            messages_per_connection: 1000,
            age_max: Duration::from_secs(600),
            idle_max: Duration::from_secs(60),
            min_idle: 0,
            rate: None,
            wait_max: Duration::from_secs(300),
            retry: None,
            retry_seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8),
            timeouts: Arc::default(),
            ehlo_name: smtp::Domain::from_ip(std::net::Ipv4Addr::LOCALHOST.into()).into(),
            allow_plaintext_auth: false,
            tls: TlsSettings::default(),
            tls_context: None,
            local_ip: None,
            network: None,
            budget: None,
        }
    }

    /// One more relay. Connections go to the lowest [`Relay::preference`] that answers, spread by
    /// [`Relay::weight`] over those that have it; those that failed lately come last.
    #[must_use]
    pub fn relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    /// Grouping of commands; [`Wire::Overlapped`] unless set.
    #[must_use]
    pub fn wire(mut self, wire: Wire) -> Self {
        self.wire = wire;
        self
    }

    /// Cap on open connections, or `auto`; 10 unless set. It holds however many callers there are.
    #[must_use]
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// A connection is closed after this many messages; 1000 unless set, 0 for no end.
    #[must_use]
    pub fn messages_per_connection(mut self, messages_max: u32) -> Self {
        self.messages_per_connection = messages_max;
        self
    }

    /// A connection takes no new message past this age; 10 minutes unless set.
    #[must_use]
    pub fn connection_age_max(mut self, age_max: Duration) -> Self {
        self.age_max = age_max;
        self
    }

    /// A connection without work is closed after this long; 60 s unless set.
    #[must_use]
    pub fn idle_max(mut self, idle_max: Duration) -> Self {
        self.idle_max = idle_max;
        self
    }

    /// Connections opened at once and kept open without work; 0 unless set, capped by the cap.
    #[must_use]
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.min_idle = connections;
        self
    }

    /// An exact rate shared by all connections, in messages.
    #[must_use]
    pub fn rate(mut self, rate: RateLimit) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How long a message waits for its turn before [`Cause::Deadline`](crate::Cause::Deadline);
    /// 5 minutes unless set.
    #[must_use]
    pub fn wait_max(mut self, wait_max: Duration) -> Self {
        self.wait_max = wait_max;
        self
    }

    /// Retries what failed for now, within `send`; without it, `send` makes one attempt.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(Box::new(policy));
        self
    }

    /// Seeds all that is random in it, so that a run can be repeated.
    #[must_use]
    pub fn retry_seed(mut self, seed: u64) -> Self {
        self.retry_seed = seed;
        self
    }

    /// How long each step may take.
    #[must_use]
    pub fn timeouts(mut self, timeouts: impl Into<Arc<Timeouts>>) -> Self {
        self.timeouts = timeouts.into();
        self
    }

    /// What we call ourselves in EHLO; `[127.0.0.1]` unless set.
    #[must_use]
    pub fn ehlo_name(mut self, name: ClientName) -> Self {
        self.ehlo_name = name;
        self
    }

    /// Lets AUTH go over a connection that is not encrypted. Whoever listens has the password.
    #[must_use]
    pub fn allow_plaintext_auth(mut self) -> Self {
        self.allow_plaintext_auth = true;
        self
    }

    /// Uses these roots and tickets, and shares them; the other settings of TLS then have no effect.
    #[must_use]
    pub fn tls_context(mut self, context: TlsContext) -> Self {
        self.tls_context = Some(context);
        self
    }

    /// Trusts these certificate authorities, and no longer the system's.
    #[must_use]
    pub fn roots(mut self, roots: Vec<CertificateDer<'static>>) -> Self {
        self.tls.roots = roots;
        self
    }

    /// Shows this certificate chain to servers that ask.
    #[must_use]
    pub fn identity(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        self.tls.identity = Some((chain, key));
        self
    }

    /// Refuses TLS 1.2.
    #[must_use]
    pub fn tls13_only(mut self) -> Self {
        self.tls.tls13_only = true;
        self
    }

    /// Makes every TLS handshake a full one; for measuring what resumption saves.
    #[must_use]
    pub fn no_resumption(mut self) -> Self {
        self.tls.no_resumption = true;
        self
    }

    /// Takes any certificate, even where TLS is required: encryption without knowing to whom.
    #[must_use]
    pub fn accept_any_certificate(mut self) -> Self {
        self.tls.accept_any_certificate = true;
        self
    }

    /// Dials from this address.
    #[must_use]
    pub fn local_ip(mut self, ip: std::net::IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// Shares its connections' number with the other pools that have this budget.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Dials through this in place of TCP: for simulations.
    #[must_use]
    pub fn network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }
}
