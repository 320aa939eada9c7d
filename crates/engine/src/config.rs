//! What an engine is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use smtp::Domain;

/// Settings of an engine. [`Config::new`] has defaults that are right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where journal, state and history live.
    pub data_dir: PathBuf,
    /// Our own name: in Received, Message-ID and notices.
    pub host: Domain,
    /// What a message may be.
    pub limits: Limits,
    /// What is given up after this long; 5 days (RFC 5321 §4.5.4.1).
    pub max_age: Duration,
}

/// Ceilings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Octets of one message's content; 50 MiB.
    pub message_bytes_max: usize,
    /// Recipients of one message; 1000.
    pub recipients_max: usize,
    /// How far ahead a message may be scheduled; 30 days.
    pub ahead_max: Duration,
    /// Messages on the wire at once, over all sites; 2000.
    pub in_flight_max: usize,
    /// Memory for content that was just accepted; 32 MiB.
    pub cache_bytes_max: usize,
    /// The engine slows acceptance when the process nears this; `None`: the cgroup's limit.
    pub memory_bytes_max: Option<u64>,
    /// Acceptance stops when the disk has less than this free; 512 MiB.
    pub disk_free_bytes_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 50 << 20,
            recipients_max: 1000,
            ahead_max: Duration::from_secs(30 * 24 * 3600),
            in_flight_max: 2000,
            cache_bytes_max: 32 << 20,
            memory_bytes_max: None,
            disk_free_bytes_min: 512 << 20,
        }
    }
}

impl Config {
    /// Defaults for everything but the folder and our name.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, host: Domain) -> Self {
        Self {
            data_dir: data_dir.into(),
            host,
            limits: Limits::default(),
            max_age: Duration::from_secs(5 * 24 * 3600),
        }
    }
}
