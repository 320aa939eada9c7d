//! Digests of sealed segments: their records without content and texts, so that a start need not read gigabytes
//! to find out what waits.
//!
//! A digest is derived and never trusted further than it proves itself: it has a checksum, and its
//! last entry must be the journal's record at that place. It is not synced; one that is missing,
//! torn or another journal's costs a scan of its segment, nothing else. Byte table:
//! `docs/formats/spool.md`.

use std::io;
use std::sync::Arc;

use journal::files::File;
use journal::{Files, Journal, Position};

use crate::codec;

const MAGIC: &[u8; 8] = b"mrdigest";
const VERSION: u8 = 1;
/// Magic, version, segment.
const HEADER_BYTES: usize = 13;
/// Of an entry: offset, record's length, stem's length, kind.
const ENTRY_BYTES: usize = 13;
const ENDING: &str = ".digest";
const UNFINISHED: &str = ".new";
/// How much of a digest that is being made is written at once.
const BLOCK_BYTES: usize = 64 << 10;
/// Larger ones are not read: a segment has at most 4 GiB.
const DIGEST_BYTES_MAX: u64 = 4 << 30;

/// One record without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry<'a> {
    pub(super) at: Position,
    pub(super) kind: u8,
    /// Of the whole record.
    pub(super) record_bytes: u32,
    /// What recovery needs of it ([`codec::stem`]).
    pub(super) stem: &'a [u8],
}

/// Makes the digest of a segment from all its records in order. It is written as it grows: that of a
/// segment full of short messages would take as much memory as the messages' entries.
pub(super) struct Builder {
    segment: u32,
    files: Arc<dyn Files>,
    /// Where it is written until it is whole, and how far it is; or why it cannot be.
    file: io::Result<(Arc<dyn File>, u64)>,
    sum: u32,
    /// Not yet written.
    bytes: Vec<u8>,
}

impl Builder {
    pub(super) fn new(files: &Arc<dyn Files>, segment: u32) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&segment.to_le_bytes());
        Self {
            segment,
            files: Arc::clone(files),
            file: create(&**files, &temporary(segment)).map(|file| (file, 0)),
            sum: 0,
            bytes,
        }
    }

    pub(super) fn add(&mut self, at: Position, kind: u8, record: &[u8]) {
        debug_assert_eq!(at.segment(), self.segment);
        let stem = codec::stem(kind, record);
        for number in [at.offset(), record.len() as u32, stem.len() as u32] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&stem);
        if self.bytes.len() >= BLOCK_BYTES {
            self.sum = crc32c::crc32c_append(self.sum, &self.bytes);
            self.write_out();
        }
    }

    /// Puts the digest in its place. Not synced: what a crash leaves of it shows by its checksum.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let sum = crc32c::crc32c_append(self.sum, &self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        self.write_out();
        self.file?;
        let from = temporary(self.segment);
        self.files.rename(&from, &name(self.segment))
    }

    fn write_out(&mut self) {
        if let Ok((file, at)) = &mut self.file {
            match journal::files::write_all_at(&**file, *at, &[&self.bytes]) {
                Ok(()) => *at += self.bytes.len() as u64,
                Err(error) => self.file = Err(error),
            }
        }
        self.bytes.clear();
    }
}

fn create(files: &dyn Files, name: &str) -> io::Result<Arc<dyn File>> {
    match files.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => files.create(name),
    }
}

/// A digest that has proved itself.
pub(super) struct Digest {
    segment: u32,
    bytes: Vec<u8>,
}

impl Digest {
    /// The digest of a segment, if there is one and it is that segment's.
    pub(super) fn read(files: &dyn Files, journal: &Journal, segment: u32) -> Option<Self> {
        let file = files.open(&name(segment)).ok()?;
        let length = file
            .bytes()
            .ok()
            .filter(|bytes| *bytes <= DIGEST_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let read = file.read_at(0, &mut bytes).ok()?;
        let (content, sum) = bytes.split_last_chunk::<4>()?;
        let header = content.get(..HEADER_BYTES)?;
        let is_ours = read == bytes.len()
            && header[..8] == *MAGIC
            && header[8] == VERSION
            && header[9..] == segment.to_le_bytes()
            && u32::from_le_bytes(*sum) == crc32c::crc32c(content);
        if !is_ours {
            return None;
        }
        bytes.truncate(bytes.len() - 4);
        let digest = Self { segment, bytes };
        let last = digest.entries().last()?;
        let record = journal.read(last.at).ok()?;
        let is_same = record.kind == last.kind
            && record.bytes.len() == last.record_bytes as usize
            && *codec::stem(record.kind, &record.bytes) == *last.stem;
        is_same.then_some(digest)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &self.bytes[HEADER_BYTES..];
        std::iter::from_fn(move || {
            let (head, after) = rest.split_first_chunk::<ENTRY_BYTES>()?;
            let number = |at: usize| {
                let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
                u32::from_le_bytes(bytes)
            };
            let (stem, after) = after.split_at_checked(number(8) as usize)?;
            rest = after;
            Some(Entry {
                at: Position::from_u64(u64::from(self.segment) << 32 | u64::from(number(0))),
                kind: head[12],
                record_bytes: number(4),
                stem,
            })
        })
    }
}

fn name(segment: u32) -> String {
    format!("{segment:010}{ENDING}")
}

fn temporary(segment: u32) -> String {
    format!("{segment:010}{ENDING}{UNFINISHED}")
}

/// Removes digests of segments before this one. What cannot be removed is in nobody's way.
pub(super) fn remove_before(files: &dyn Files, segment: u32) {
    for name in files.list().unwrap_or_default() {
        let number = name
            .strip_suffix(UNFINISHED)
            .unwrap_or(&name)
            .strip_suffix(ENDING)
            .and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|number| number < segment)
            && let Err(error) = files.remove(&name)
        {
            tracing::warn!(%error, name, "a digest cannot be removed");
        }
    }
}
