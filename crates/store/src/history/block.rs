//! A block: some thousand events in columns, packed. Byte tables: `docs/formats/history.md`.
//!
//! Who an event is about (message, recipient, address, tenant, labels) is a *subject*, written once
//! a block; what was said is a template and the words in its gaps ([`super::text`]), as is what a
//! message's *heading* says. Times are whole microseconds.
//!
//! Version 1 has no headings; it is read, and not written any more.

mod decode;
mod details;
mod encode;

use crate::Time;

use super::column::{Corrupt, Reader, Result};

pub(super) use decode::{Filter, Keys, decode, is_within, read_keys};
pub(super) use encode::{Encoded, Encoder, Record};

/// Octets of a block's header.
pub(super) const HEADER_BYTES: usize = 88;
/// Events in one block at most.
pub(super) const ROWS_MAX: usize = 1 << 16;
/// Octets of a block's body at most.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;

/// Numbers of events are at most this, so that no sum of them overflows.
pub(super) const SEQ_MAX: u64 = 1 << 62;

/// What every block begins with; its version is the octet behind it.
pub(super) const MAGIC: [u8; 7] = *b"mrBlock";

/// What columns a block has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Version {
    /// Those before [`columns::HEADING`].
    One = 1,
    /// All.
    Two = 2,
}

impl Version {
    fn columns(self) -> usize {
        match self {
            Self::One => columns::HEADING,
            Self::Two => columns::COUNT,
        }
    }
}

/// Columns, by their place in the body.
mod columns {
    pub(super) const AT: usize = 0;
    pub(super) const SUBJECT: usize = 1;
    pub(super) const ID_MS: usize = 2;
    pub(super) const ID_COUNT: usize = 3;
    pub(super) const ID_REST: usize = 4;
    pub(super) const RECIPIENT: usize = 5;
    pub(super) const LOCAL_BYTES: usize = 6;
    pub(super) const LOCAL: usize = 7;
    pub(super) const DOMAIN: usize = 8;
    pub(super) const TENANT: usize = 9;
    pub(super) const TAGS: usize = 10;
    pub(super) const STATUS: usize = 11;
    pub(super) const ROUTE: usize = 12;
    pub(super) const DUE: usize = 13;
    pub(super) const ATTEMPT: usize = 14;
    pub(super) const KIND: usize = 15;
    pub(super) const WORD_BYTES: usize = 16;
    pub(super) const WORDS: usize = 17;
    pub(super) const NAMES: usize = 18;
    pub(super) const KINDS: usize = 19;
    pub(super) const MINUTES: usize = 20;
    pub(super) const TIMES: usize = 21;
    pub(super) const HEADING: usize = TIMES + 11;
    pub(super) const TITLE: usize = HEADING + 1;
    pub(super) const TITLE_WORD_BYTES: usize = HEADING + 2;
    pub(super) const TITLE_WORDS: usize = HEADING + 3;
    pub(super) const TITLES: usize = HEADING + 4;
    pub(super) const COUNT: usize = HEADING + 5;
}

/// Bits of the status column beside the status.
const HAS_OUTCOME: u8 = 0x10;
const HAS_DUE: u8 = 0x20;
const HAS_HEADING: u8 = 0x40;

/// What is known of a block without unpacking it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) body_bytes: u32,
    pub(super) rows: u32,
    /// The number of its first event.
    pub(super) first_seq: u64,
    /// Which journal the positions are of: another one begins another era.
    pub(super) era: u32,
    /// Where the record of its last event lies in the journal,
    pub(super) last_position: u64,
    /// and which recipient that event is about.
    pub(super) last_recipient: u32,
    /// The earliest and latest moment of its events, in microseconds.
    pub(super) at_us: [u64; 2],
    /// Events below this number were durable when the block was written.
    pub(super) durable_seq: u64,
    pub(super) body_crc: u32,
}

impl Header {
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq + u64::from(self.rows)
    }

    pub(super) fn write(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(self.version as u8);
        for number in [self.body_bytes, self.rows] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.last_position.to_le_bytes());
        for number in [self.last_recipient, self.era] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.at_us[0], self.at_us[1], self.durable_seq, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.resize(HEADER_BYTES - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("as long as a header")
    }

    /// Reads a header, and checks that it is whole and within limits.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let (checked, crc) = bytes
            .split_last_chunk::<4>()
            .expect("longer than a checksum");
        if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) || checked[..7] != MAGIC {
            return Err(Corrupt);
        }
        let version = match checked[7] {
            1 => Version::One,
            2 => Version::Two,
            _ => return Err(Corrupt),
        };
        let mut reader = Reader(&checked[8..]);
        let mut u32 = || reader.array().map(u32::from_le_bytes);
        let [body_bytes, rows] = [u32()?, u32()?];
        let mut u64 = || reader.array().map(u64::from_le_bytes);
        let [first_seq, last_position] = [u64()?, u64()?];
        let mut u32 = || reader.array().map(u32::from_le_bytes);
        let [last_recipient, era] = [u32()?, u32()?];
        let mut u64 = || reader.array().map(u64::from_le_bytes);
        let (at_us, durable_seq, _) = ([u64()?, u64()?], u64()?, u64()?);
        let body_crc = u32::from_le_bytes(reader.array()?);
        let is_sound = (1..=ROWS_MAX).contains(&(rows as usize))
            && body_bytes as usize <= BODY_BYTES_MAX
            && first_seq <= SEQ_MAX;
        let header = Self {
            version,
            body_bytes,
            rows,
            first_seq,
            era,
            last_position,
            last_recipient,
            at_us,
            durable_seq,
            body_crc,
        };
        is_sound.then_some(header).ok_or(Corrupt)
    }
}

/// Whole microseconds.
pub(super) fn micros(time: Time) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
