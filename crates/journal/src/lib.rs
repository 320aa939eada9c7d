//! A log of opaque records that survive: segmented, checksummed, committed in groups. The only code
//! of ours that syncs files.
//!
//! Layers, from below: [`files`] (what a disk does and may forget), `frame` (bytes of headers),
//! `group` and `state` (records on their way), `segment` (the set of files), `writer` (one write and
//! one sync a group), `read`, `recovery`. Byte tables: `docs/formats/journal.md`.
//!
//! # What is promised
//! - [`Commit`] resolves with `Ok` only after an `fdatasync` of the file that followed the write of
//!   the record and of all before it. From then on it is read back, whatever happens to the process
//!   or the power. It is no protection from a disk that lies about its cache, or decays; decay is
//!   *found* by checksums.
//! - What is not acknowledged is, after a crash, whole or absent; never in part. Records come back in
//!   the order of appending; of one group, a power cut may leave any prefix.
//! - A record of [`append_lazily`](Journal::append_lazily) is durable with the next group somebody
//!   waits for, or after [`Options::linger`].
//! - After a failed sync or write nothing is retried: the journal is *poisoned* until opened anew,
//!   for nobody can know what the disk holds.
//! - A full disk refuses ([`AppendError::Full`]) and poisons nothing. One segment is always reserved
//!   ahead. Once no further one can be, what is left of the current one (and of the one reserved, as
//!   far as the backlog had rolled into it) is kept for lazily appended records: what settles mail
//!   and frees room can still be written. Should even a reserved write meet a full disk, lazily
//!   appended records stay in memory, in their places, until there is room; who waits is refused.
//! - Damage anywhere but in the torn tail is reported, by [`Journal::open`] or by
//!   [`Journal::scan`], with segment and offset, and never silently cut.
//!
//! # Limits
//! Only prefixes of segments are removed. One process a folder. 2^32 segments of up to 4 GiB.

mod commit;
pub mod files;
mod frame;
mod gather;
mod group;
mod journal;
mod read;
mod reading;
mod recovery;
mod segment;
mod state;
mod stats;
mod types;
mod writer;

pub use commit::{Commit, CommitError};
pub use files::{DirFiles, File, Files, MemoryFiles};
pub use journal::Journal;
pub use reading::Each;
pub use segment::Segment;
pub use stats::{SYNC_BUCKETS, Stats, SyncTimes};
pub use types::{
    AppendError, Check, Damage, Mode, OpenError, Opened, Options, Position, ReadError, Record,
    RemoveError, Torn, What,
};
