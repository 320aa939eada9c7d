//! What an engine is told when it is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::TlsContext;
use rustc_hash::FxHashMap;
use schedule::{Quota, TenantPolicy};
use smtp::Domain;
use store::HistoryOptions;

use crate::route::{Dns, ResolverOptions, Route};
use crate::signing::Signers;
use crate::world::World;

/// Settings of an engine. [`Config::new`] has defaults that are right for most.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where journal, state and history live.
    pub data_dir: PathBuf,
    /// Our own name: in Received, Message-ID and notices.
    pub host: Domain,
    /// Where mail goes, in order; a domain takes the first route that matches. Without any, nothing
    /// is accepted.
    pub routes: Vec<Route>,
    /// What may change while the engine runs.
    pub policy: Policy,
    /// Certificate authorities, and the tickets of TLS sessions. `None`: the system's authorities.
    pub tls: Option<TlsContext>,
    /// Answers questions of MX routes; `None`: the system's resolver.
    pub dns: Option<Arc<dyn Dns>>,
    /// How the DNS is asked and remembered.
    pub resolver: ResolverOptions,
    /// Where we listen: MX routes never lead there unless they are allowed to.
    pub listening: Vec<SocketAddr>,
    /// How long history is kept.
    pub history: HistoryOptions,
    /// Memory for content that was just accepted; 32 MiB.
    pub cache_bytes_max: usize,
    /// Schedules side by side; sites are spread over them. 1 unless set.
    pub shards: usize,
    /// Seeds jitter and ids.
    pub seed: u64,
    /// Opens a damaged data folder: what is damaged is given up, and a copy of it kept.
    pub salvage: bool,
    /// A made-up world in place of this machine, for simulations; `data_dir` is then only a name.
    pub world: Option<Arc<dyn World>>,
}

/// Settings that [`crate::Engine::reload`] can replace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// What a message may be, and what the machine must keep free.
    pub limits: Limits,
    /// What is given up after this long; 5 days (RFC 5321 §4.5.4.1).
    pub max_age: Duration,
    /// When to try again, and how much at once.
    pub schedule: schedule::Config,
    /// What is said of tenants by name.
    pub tenants: FxHashMap<Arc<str>, Tenant>,
    /// What is said of all others.
    pub other_tenants: Tenant,
    /// DKIM.
    pub signers: Signers,
    /// Whether a hard bounce of class 5.1.x puts the recipient on the tenant's suppression list.
    pub suppress_bounced: bool,
    /// Whether there are notices to the reverse-path: of failed mail, of delay, and of success where
    /// it was asked for and the next hop gives none (RFC 3464).
    pub notices: bool,
    /// Mail that waits for so long since it could first have gone causes a notice of delay; 4 hours.
    /// Zero: none.
    pub delay_notice: Duration,
}

/// What is said of one tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenant {
    /// On the way out: its share and limits.
    pub sending: TenantPolicy,
    /// At the front door.
    pub quota: Quota,
}

/// Ceilings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Octets of one message's content; 50 MiB.
    pub message_bytes_max: usize,
    /// Recipients of one message; 1000, and [`Limits::RECIPIENTS_MAX`] at most.
    pub recipients_max: usize,
    /// How far ahead a message may be scheduled; 30 days.
    pub ahead_max: Duration,
    /// Percent of the machine's CPU above which the engine protects itself; 80.
    pub cpu_percent_max: u8,
    /// The engine slows acceptance when the process nears this, or its cgroup's limit where that is
    /// lower; `None`: the cgroup's alone.
    pub memory_bytes_max: Option<u64>,
    /// Acceptance stops when the disk has less than this free; 512 MiB.
    pub disk_free_bytes_min: u64,
}

impl Limits {
    /// Recipients of one message that can be told apart; more are refused whatever is set.
    pub const RECIPIENTS_MAX: usize = crate::batches::RECIPIENTS_MAX;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 50 << 20,
            recipients_max: 1000,
            ahead_max: Duration::from_secs(30 * 24 * 3600),
            cpu_percent_max: 80,
            memory_bytes_max: None,
            disk_free_bytes_min: 512 << 20,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_age: Duration::from_secs(5 * 24 * 3600),
            schedule: schedule::Config::default(),
            tenants: FxHashMap::default(),
            other_tenants: Tenant::default(),
            signers: Signers::default(),
            suppress_bounced: true,
            notices: true,
            delay_notice: Duration::from_secs(4 * 3600),
        }
    }
}

impl Policy {
    /// What is said of a tenant.
    pub(crate) fn tenant(&self, name: &str) -> &Tenant {
        self.tenants.get(name).unwrap_or(&self.other_tenants)
    }
}

impl Config {
    /// Defaults for everything but the folder and our name.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, host: Domain) -> Self {
        Self {
            data_dir: data_dir.into(),
            host,
            routes: Vec::new(),
            policy: Policy::default(),
            tls: None,
            dns: None,
            resolver: ResolverOptions::default(),
            listening: Vec::new(),
            history: HistoryOptions::default(),
            cache_bytes_max: 32 << 20,
            shards: 1,
            seed: 0,
            salvage: false,
            world: None,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("data_dir", &self.data_dir)
            .field("host", &self.host)
            .field("routes", &self.routes.len())
            .finish_non_exhaustive()
    }
}
