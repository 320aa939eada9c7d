//! What callers see beside the journal itself.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

/// Where a record stands; ordered as records were appended, and never used twice for records that
/// were acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(u64);

impl Position {
    pub(crate) fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    /// Before everything.
    pub const START: Self = Self(0);

    /// Number of the segment.
    #[must_use]
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Byte in the segment's file.
    #[must_use]
    pub fn offset(self) -> u32 {
        self.0 as u32
    }

    /// As one number, which orders like the position; [`from_u64`](Self::from_u64) undoes it.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// See [`to_u64`](Self::to_u64).
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

/// How a journal works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment's file, reserved when it is made. At least 8 KiB, and at most 2 GiB.
    pub segment_bytes_max: u64,
    /// Longest body of a record. One that is longer than a segment gets a larger one to itself.
    pub record_bytes_max: u32,
    /// [`AppendError::Busy`] once so much is appended and not yet durable; one record may go beyond.
    pub backlog_bytes_max: usize,
    /// How long records nobody waits for may stay unsynced.
    pub linger: Duration,
    /// Who writes.
    pub mode: Mode,
    /// How much is read when it is opened.
    pub check: Check,
    /// Opens a damaged journal: keeps a copy of each damaged file, as `damaged-…`, and fills the
    /// damaged places with void records, so that the rest is read. Records in them are lost.
    pub salvage: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            record_bytes_max: 256 << 20,
            backlog_bytes_max: 64 << 20,
            linger: Duration::from_millis(5),
            mode: Mode::Thread,
            check: Check::All,
            salvage: false,
        }
    }
}

/// Who writes and syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A thread of the journal's own.
    Thread,
    /// Each append writes and syncs before it returns: the same every time, for simulations.
    Inline,
    /// Only [`Journal::turn`](crate::Journal::turn) writes: for tests that choose the groups.
    Manual,
    /// The same, and whoever waits by [`Journal::sync`](crate::Journal::sync): for simulations on one
    /// thread.
    Stepped,
}

/// How much is read at opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// Every record of every segment.
    All,
    /// Headers and the end; for who scans everything anyway.
    Tail,
}

/// What was found at opening.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Opened {
    /// The end was torn by a crash, and has been cut: nothing acknowledged was in it.
    pub torn: Option<Torn>,
    /// What [`Options::salvage`] gave up.
    pub salvaged: Vec<Damage>,
}

/// A torn tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// Number of the segment.
    pub segment: u32,
    /// Where it was cut.
    pub offset: u32,
    /// What was cut, to the end of the last header.
    pub bytes: u32,
}

/// A damaged place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Number of the segment.
    pub segment: u32,
    /// Where the damage begins.
    pub offset: u32,
    /// What is damaged.
    pub what: What,
}

/// What may be damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum What {
    /// The file is missing, though later ones are there.
    Missing,
    /// The segment's header, or the file is another one's.
    Header,
    /// A record, or the mark that ends a segment.
    Record,
}

impl Damage {
    /// Where it begins.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.segment, self.offset)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            offset,
            what,
        } = self;
        match what {
            What::Missing => write!(f, "segment {segment} is missing"),
            What::Header => write!(f, "segment {segment}: damaged header"),
            What::Record => write!(f, "segment {segment}: damaged from offset {offset}"),
        }
    }
}

/// A record as it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The caller's kind.
    pub kind: u8,
    /// All parts, one behind the other.
    pub bytes: Bytes,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another journal in this one, has the folder.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// Written by a later version of the program.
    #[error("segment {segment} is of format {version}, newer than {newest}, the newest known here")]
    Version {
        /// Number of the segment.
        segment: u32,
        /// Its version.
        version: u32,
        /// The newest that can be read.
        newest: u32,
    },
    /// Acknowledged records are damaged; nothing was changed. [`Options::salvage`] gives them up.
    #[error("the journal is damaged: {}", list(.0))]
    Damaged(Vec<Damage>),
    /// An option is out of its range.
    #[error("segments of {0} bytes are not between 8 KiB and 2 GiB")]
    SegmentBytes(u64),
    /// The file system failed, which may be transient.
    #[error("the journal's files cannot be used")]
    Io(#[from] io::Error),
}

fn list(damages: &[Damage]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown = damages.iter().take(SHOWN_MAX);
    let mut text = shown
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if damages.len() > SHOWN_MAX {
        text += &format!("; and {} more", damages.len() - SHOWN_MAX);
    }
    text
}

/// Why a record was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk is full: try again when there is room.
    #[error("the disk is full")]
    Full,
    /// The disk does not keep up: try again soon.
    #[error("too much is waiting to be written")]
    Busy,
    /// Above [`Options::record_bytes_max`].
    #[error("the record is too large")]
    TooLarge,
    /// A write or sync failed: nothing is taken until the journal is opened anew.
    #[error("the journal failed and must be opened anew")]
    Poisoned,
    /// [`Journal::close`](crate::Journal::close) was called.
    #[error("the journal is closed")]
    Closed,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Not durable yet, or nothing was ever appended there.
    #[error("nothing is committed at {0}")]
    NotCommitted(Position),
    /// Its segment was removed.
    #[error("segment {0} was removed")]
    Removed(u32),
    /// No whole record stands there.
    #[error("{0}")]
    Damaged(Damage),
    /// The file system failed.
    #[error("the journal's files cannot be read")]
    Io(#[from] io::Error),
}

/// Why segments were not removed; some may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The file system failed; try again later.
    #[error("segments cannot be removed")]
    Io(#[source] io::Error),
    /// A sync failed, now or before: the journal is poisoned.
    #[error("the journal failed and must be opened anew")]
    Poisoned,
}
