//! The run record: what became of each row, in JSON lines, true after any kind of end.
//!
//! ```text
//! {"event":"run","version":1,"list":…,"list_bytes":…,"list_sha256":…,"message_sha256":…,"from":…}
//! {"event":"attempting","rows":[[2,17],[19,20]],"time":…}     ranges, both ends included
//! {"event":"sent","row":2,"email":…,"time":…,"reply":…,"code":250,"ms":{…},…}
//! ```
//!
//! Invariants:
//! - A row is named by an `attempting` line that is on the disk (`fdatasync`) before its first byte
//!   can reach a relay. So after `kill -9` or a power cut, a row that may have been sent never looks
//!   unsent: without an outcome it is *unknown*. Outcomes need no sync of their own: one that is
//!   lost leaves its row unknown.
//! - One line is one `write`, under a lock; whatever a crash tears is at the end. A torn end is cut
//!   off when the run is resumed; damage before it is refused.
//! - After a failed write or sync no row is begun again: what the file holds is no longer known.
//! - The file is locked while a run writes it, so two processes never share a record.
//!
//! Limits: 3 bytes of memory a row while resuming; lines of at most 1 MiB.

mod read;
mod states;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use read::Reader;
pub(crate) use states::{RowState, States, TAKE_UPS_MAX};

/// The format written here.
const VERSION: u32 = 1;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record {0} exists: go on with --resume, or name another with --record")]
    Exists(PathBuf),
    #[error("there is no record {0} to resume: leave --resume out to start")]
    Missing(PathBuf),
    #[error("the record {0} is in use by another run")]
    InUse(PathBuf),
    #[error("the record {path} is of another {what}; it can only be resumed with the same")]
    Other { path: PathBuf, what: &'static str },
    #[error("the record {path} is damaged in line {line}")]
    Damaged { path: PathBuf, line: u64 },
    #[error("the record {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// What a run sends to whom; a record is resumed with the same only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// As given on the command line; it may move.
    pub(crate) list: String,
    pub(crate) list_bytes: u64,
    pub(crate) list_sha256: String,
    /// Of templates, attachments and headers.
    pub(crate) message_sha256: String,
    /// Reverse-path.
    pub(crate) from: String,
}

/// What became of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The relay took it.
    Sent,
    /// Refused for good, by the relay or because the row is no valid message.
    Rejected,
    /// Refused for now.
    Failed,
    /// Not sent for want of an answer in time.
    TimedOut,
    /// Perhaps sent.
    Unknown,
    /// Left out on purpose: a second row of one address.
    Skipped,
    /// Begun, but never offered to a relay: as if it had not been begun.
    Returned,
}

/// One outcome as it is written; absent fields are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome<'a> {
    pub(crate) event: Event,
    pub(crate) row: u64,
    pub(crate) email: &'a str,
    /// RFC 3339.
    pub(crate) time: String,
    #[serde(flatten)]
    pub(crate) details: Details,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<&'a str>,
}

/// What is known beyond the event itself.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<u16>,
    /// Enhanced status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// By the pool, within this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    /// Stage timings in ms, those above nought.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) ms: serde_json::Map<String, serde_json::Value>,
    /// The connection had been used before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_resumed: Option<bool>,
}

/// Now, as records have it.
pub(crate) fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Mark<'a> {
    Run {
        version: u32,
        time: String,
        #[serde(flatten)]
        identity: &'a Identity,
    },
    Attempting {
        rows: Vec<(u64, u64)>,
        time: String,
    },
}

/// A record being written.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    /// Opened for appending and locked; the mutex keeps lines whole.
    file: Mutex<File>,
    /// The same file, to sync it without holding up those who write.
    syncing: File,
    /// A write or sync has failed.
    is_broken: AtomicBool,
}

impl Record {
    /// Starts a record.
    ///
    /// # Errors
    /// One exists already, and what the file system says.
    pub(crate) fn create(path: &Path, identity: &Identity) -> Result<Self, RecordError> {
        let io_error = in_path(path);
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        // It names people.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RecordError::Exists(path.to_owned()));
            }
            opened => opened.map_err(&io_error)?,
        };
        let record = Self::locked(path, file)?;
        record.write_head(identity).map_err(&io_error)?;
        Ok(record)
    }

    /// Writes the first line, and makes it and the file itself durable.
    fn write_head(&self, identity: &Identity) -> io::Result<()> {
        self.append(&Mark::Run {
            version: VERSION,
            time: now(),
            identity,
        })?;
        self.sync()?;
        sync_directory_of(&self.path)
    }

    /// Takes up a record; says what became of each row so far.
    ///
    /// * `row_max`: the highest row of the list.
    ///
    /// # Errors
    /// None there, in use, of another list or message, or damaged before its end.
    pub(crate) fn resume(
        path: &Path,
        identity: &Identity,
        row_max: u64,
    ) -> Result<(Self, States), RecordError> {
        let io_error = in_path(path);
        let mut options = OpenOptions::new();
        let file = match options.append(true).read(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RecordError::Missing(path.to_owned()));
            }
            opened => opened.map_err(&io_error)?,
        };
        let record = Self::locked(path, file)?;
        let mut reader = Reader::new(path, record.syncing.try_clone().map_err(&io_error)?);
        if reader.has_torn_head().map_err(&io_error)? {
            record.syncing.set_len(0).map_err(&io_error)?;
            record.write_head(identity).map_err(&io_error)?;
            return Ok((record, States::new(row_max)));
        }
        let (states, whole_bytes) = reader.read(identity, row_max)?;
        // What a crash tore holds no outcome, and nothing it was to announce has been sent.
        record.syncing.set_len(whole_bytes).map_err(&io_error)?;
        Ok((record, states))
    }

    fn locked(path: &Path, file: File) -> Result<Self, RecordError> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RecordError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(in_path(path)(error)),
        }
        let syncing = file.try_clone().map_err(in_path(path))?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            syncing,
            is_broken: AtomicBool::new(false),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that these rows may be offered to a relay from now on. When it returns, that is on the
    /// disk; until then they must not be. Blocks for one sync.
    ///
    /// * `rows`: ascending.
    ///
    /// # Errors
    /// The disk failed, now or before: the rows must not be sent.
    pub(crate) fn begin(&self, rows: &[u64]) -> io::Result<()> {
        let mark = Mark::Attempting {
            rows: ranges(rows),
            time: now(),
        };
        self.append(&mark)?;
        self.sync()
    }

    /// Notes an outcome. It survives this process at once, and a power cut from the next sync on.
    ///
    /// # Errors
    /// The disk failed, now or before: the row will count as unknown.
    pub(crate) fn settle(&self, outcome: &Outcome<'_>) -> io::Result<()> {
        self.append(outcome)
    }

    /// Makes all that was noted survive a power cut. Blocks for one sync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.guard(self.syncing.sync_data())
    }

    fn append(&self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_broken.load(Ordering::Acquire) {
            return Err(io::Error::other("the record could not be written before"));
        }
        let written = file.write_all(&bytes);
        self.guard(written)
    }

    fn guard(&self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.is_broken.store(true, Ordering::Release);
        }
        result
    }
}

fn in_path(path: &Path) -> impl Fn(io::Error) -> RecordError {
    move |error| RecordError::Io {
        path: path.to_owned(),
        error,
    }
}

/// A new file survives a power cut only once its directory has been synced.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Runs of numbers that follow one another, both ends included.
fn ranges(rows: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &row in rows {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == row => *last = row,
            _ => ranges.push((row, row)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
