//! How much history keeps, and how; what it says of itself.

use std::io;
use std::time::Duration;

/// How much is kept, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryOptions {
    /// Events older than this go, a file at a time; `None` keeps them for good.
    pub age_max: Option<Duration>,
    /// Bytes of all files; the oldest go first. `None` sets no bound.
    pub bytes_max: Option<u64>,
    /// Events that may wait to be looked at; above, who brings them waits.
    pub feed_events_max: usize,
    /// How long an event may stay unwritten, and be unseen by other processes.
    pub linger: Duration,
    /// How long a written event may stay unsynced, and keep the journal's segment.
    pub sync_every: Duration,
    /// Events of a block, about: more compress better, fewer are found faster.
    pub block_events: usize,
    /// Events of a file: more are found faster, fewer are removed in smaller steps.
    pub file_events: u64,
    /// zstd's.
    pub level: i32,
    /// Whether a thread does the work. Without it, it is done within [`committed`] and [`flush`],
    /// the same every time: for simulations.
    ///
    /// [`committed`]: super::EventSink::committed
    /// [`flush`]: super::History::flush
    pub thread: bool,
}

impl Default for HistoryOptions {
    /// 30 days, 10 GiB.
    fn default() -> Self {
        Self {
            age_max: Some(Duration::from_hours(30 * 24)),
            bytes_max: Some(10 << 30),
            feed_events_max: 1 << 14,
            linger: Duration::from_secs(1),
            sync_every: Duration::from_secs(5),
            block_events: 1024,
            file_events: 1 << 19,
            level: 1,
            thread: true,
        }
    }
}

/// Why history cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// A later release wrote a file.
    #[error("{file} is of version {version} of the format, which is not known here")]
    Version {
        /// Its name.
        file: String,
        /// Its version.
        version: u32,
    },
    /// The folder or a file in it cannot be read or written.
    #[error("cannot open history in {folder}")]
    Io {
        /// The folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
}

/// A place that could not be read: from there to the next block, events are lost.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
}

/// What history says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistoryStats {
    /// Events that can be asked for.
    pub events: u64,
    /// Of those, not written yet.
    pub unwritten_events: u64,
    /// Files with an end mark.
    pub sealed_files: u64,
    /// Octets of all files, indexes included.
    pub bytes: u64,
    /// Whether events went by that are still to be read from the journal again.
    pub is_behind: bool,
    /// Why nothing is written, where that is so.
    pub failure: Option<String>,
    /// Places that could not be read so far.
    pub damage: Vec<Damage>,
}
