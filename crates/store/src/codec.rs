//! Records as bytes: what the spool writes to the journal, and history to its own files.
//!
//! Byte tables: `docs/formats/spool.md`. Each record begins with the format's version, so that what
//! an older release wrote stays readable. Integers are little-endian or LEB128; text is UTF-8 after
//! its length. The journal guards records by checksum, yet nothing here trusts them: decoding checks
//! every length, number and address, allocates no more than a few times what the record holds, and
//! never panics. Envelopes and content come back through the checks of `smtp`.
//!
//! Limits: content [`CONTENT_BYTES_MAX`], a text [`TEXT_BYTES_MAX`].

mod entry;
mod event;
mod fields;
mod message;
mod skim;

pub use entry::{Entry, decode_entry, encode_entry};
pub use event::{decode_event, encode_event};
pub use message::{
    Accepted, Moved, Packer, Rescheduled, Standing, Told, decode_head, decode_message,
    decode_moved, decode_rescheduled, decode_told, encode_head, encode_rescheduled,
    encode_standings, encode_told, with_times,
};

pub use skim::{Change, Outline, skim_event, skim_message, stem};

/// Version of every record's layout that is written.
pub const VERSION: u8 = 1;
/// Longest content in octets, before compression.
pub const CONTENT_BYTES_MAX: usize = 256 << 20;
/// Longest text of any field in octets.
pub const TEXT_BYTES_MAX: usize = 1 << 16;

/// What a journal record is, by its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A message was accepted; implies [`crate::Status::Accepted`] for each recipient.
    Accepted = 1,
    /// A recipient changed.
    Event = 2,
    /// A message that still waits, copied forward with where its recipients stand.
    Moved = 3,
    /// An operator changed when recipients are due.
    Rescheduled = 4,
    /// It was decided who is told that recipients wait.
    Told = 5,
}

impl Kind {
    /// From the journal's number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Accepted),
            2 => Some(Self::Event),
            3 => Some(Self::Moved),
            4 => Some(Self::Rescheduled),
            5 => Some(Self::Told),
            _ => None,
        }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a later release, or no record at all.
    #[error("record version {0} is not known")]
    Version(u8),
    /// Its sum does not fit: no whole record stands there.
    #[error("no whole record stands there")]
    Damaged,
    /// It ends too early.
    #[error("the record ends too early")]
    Truncated,
    /// It goes on after its end.
    #[error("the record goes on after its end")]
    Trailing,
    /// A number that its field cannot have.
    #[error("{0} is out of its range")]
    Range(&'static str),
    /// Text that is not UTF-8 or is too long.
    #[error("a text is not UTF-8 or too long")]
    Text,
    /// Not an address.
    #[error("an address is not valid")]
    Address(#[from] smtp::AddressError),
    /// Parts that make no envelope.
    #[error("the envelope is not valid")]
    Envelope(#[from] smtp::EnvelopeError),
    /// Content that is not canonical.
    #[error("the content is not valid")]
    Content(#[from] smtp::ContentError),
    /// Compressed content that does not unpack to its length.
    #[error("the content does not unpack")]
    Unpack,
}

#[cfg(test)]
pub(crate) mod tests;
