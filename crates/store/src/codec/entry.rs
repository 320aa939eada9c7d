//! Entries of the table as bytes.

use super::fields::{Reader, put_time, put_varint};
use super::{DecodeError, VERSION};
use crate::Time;

const EXPIRES: u8 = 1;

/// A key and its value; for a removal, the key alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// What the key is for.
    pub space: u8,
    /// The key.
    pub key: &'a [u8],
    /// When it goes by itself.
    pub expires_at: Option<Time>,
    /// The value.
    pub value: &'a [u8],
}

/// Appends to `out` what comes before the value in an entry's record; the value goes on to its end.
pub fn encode_entry(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let flags = entry.expires_at.map_or(0, |_| EXPIRES);
    out.extend_from_slice(&[VERSION, flags, entry.space]);
    put_varint(out, entry.key.len() as u64);
    out.extend_from_slice(entry.key);
    if let Some(expires_at) = entry.expires_at {
        put_time(out, expires_at);
    }
}

/// Reads an entry, which is all of `record`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_entry(record: &[u8]) -> Result<Entry<'_>, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let expires = reader.flags(EXPIRES)? == EXPIRES;
    let space = reader.u8()?;
    let len = reader.number("a length")?;
    let key = reader.take(len)?;
    let expires_at = expires.then(|| reader.time()).transpose()?;
    Ok(Entry {
        space,
        key,
        expires_at,
        value: reader.rest(),
    })
}
