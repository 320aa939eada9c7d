//! Reading and writing of fields.

use super::{DecodeError, TEXT_BYTES_MAX, VERSION};
use crate::Time;

/// What is left of a record to read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A record whose version is one that is known.
    pub(super) fn versioned(record: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Self { rest: record };
        match reader.u8()? {
            VERSION => Ok(reader),
            other => Err(DecodeError::Version(other)),
        }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn time(&mut self) -> Result<Time, DecodeError> {
        self.array()
            .map(|bytes| Time::from_nanos(u64::from_le_bytes(bytes)))
    }

    /// Bits of which none but `known` may be set.
    pub(super) fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.u8()?;
        if flags & !known == 0 {
            Ok(flags)
        } else {
            Err(DecodeError::Range("a flag"))
        }
    }

    /// LEB128, at most ten octets, the shortest form only.
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            let bits = u64::from(b & 0x7f);
            let is_over = shift == 63 && bits > 1;
            let is_padded = b == 0 && shift > 0;
            if is_over || is_padded {
                return Err(DecodeError::Range("a number"));
            }
            value |= bits << shift;
            if b < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Range("a number"))
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.varint()?).map_err(|_| DecodeError::Range(name))
    }

    /// A count of things that take at least `bytes_each` octets, so that it is safe to allocate for.
    pub(super) fn count(&mut self, bytes_each: usize) -> Result<usize, DecodeError> {
        let count: usize = self.number("a count")?;
        if count <= self.rest.len() / bytes_each {
            Ok(count)
        } else {
            Err(DecodeError::Truncated)
        }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Passes over a text.
    pub(super) fn skip_text(&mut self) -> Result<(), DecodeError> {
        let len: usize = self.number("a length")?;
        self.take(len).map(|_| ())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let len: usize = self.number("a length")?;
        if len > TEXT_BYTES_MAX {
            return Err(DecodeError::Text);
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| DecodeError::Text)
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Text longer than [`TEXT_BYTES_MAX`] is cut at a character: it would not read back.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Nanoseconds; what is later than the year 2554 becomes that.
pub(super) fn put_time(out: &mut Vec<u8>, time: Time) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    out.extend_from_slice(&ns.to_le_bytes());
}
