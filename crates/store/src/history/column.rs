//! Columns: like values of many events side by side, which compress far better than events do.
//!
//! Numbers are LEB128, signed ones zigzag. Each column of a block is one zstd frame, or stands as it
//! is where that is no shorter, so that a reader unpacks only those it looks at.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use zstd::bulk::{Compressor, Decompressor};

/// Octets of one column, unpacked, at most.
const COLUMN_BYTES_MAX: usize = 32 << 20;

/// Shorter columns are not worth a frame.
const FRAME_BYTES_MIN: usize = 48;

/// Bytes that are not what they should be: damage, or not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("these bytes are no part of history")]
pub(super) struct Corrupt;

pub(super) type Result<T> = std::result::Result<T, Corrupt>;

pub(super) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left of a column to read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or(Corrupt)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..70).step_by(7) {
            let b = self.u8()?;
            let bits = u64::from(b & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Corrupt);
            }
            value |= bits << shift;
            if b < 0x80 {
                return Ok(value);
            }
        }
        Err(Corrupt)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        let bits = self.u64()?;
        Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed())
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        T::try_from(self.u64()?).map_err(|_| Corrupt)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Corrupt)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Corrupt)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Corrupt)
    }

    /// A count of things that take an octet each at least, so that it is safe to allocate for.
    pub(super) fn count(&mut self) -> Result<usize> {
        let count = self.number()?;
        if count <= self.0.len() {
            Ok(count)
        } else {
            Err(Corrupt)
        }
    }
}

/// Entries that repeat, by the order of their first appearance.
#[derive(Default)]
pub(super) struct Dictionary {
    numbers: FxHashMap<Box<[u8]>, u32>,
    bytes: Vec<u8>,
}

impl Dictionary {
    /// The number of an entry, and whether it is new.
    pub(super) fn number(&mut self, entry: &[u8]) -> (u32, bool) {
        if let Some(number) = self.numbers.get(entry) {
            return (*number, false);
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(entry.into(), number);
        put_bytes(&mut self.bytes, entry);
        (number, true)
    }

    /// Appends count and entries, and begins anew.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        put_u64(out, self.numbers.len() as u64);
        out.append(&mut self.bytes);
        self.numbers.clear();
    }
}

/// Entries of a [`Dictionary`].
pub(super) fn entries<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>> {
    let count = reader.count()?;
    (0..count).map(|_| reader.bytes()).collect()
}

/// Packs columns into the body of a block.
pub(super) struct Packer {
    zstd: Compressor<'static>,
    frame: Vec<u8>,
}

impl Packer {
    pub(super) fn new(level: i32) -> Self {
        Self {
            zstd: Compressor::new(level).expect("memory for a compressor"),
            frame: Vec::new(),
        }
    }

    /// Appends the lengths of all columns, then all columns.
    pub(super) fn pack(&mut self, columns: &[Vec<u8>], out: &mut Vec<u8>) {
        let mut packed = Vec::new();
        for column in columns {
            let start = packed.len();
            let is_framed = column.len() >= FRAME_BYTES_MIN && self.frame(column);
            packed.extend_from_slice(if is_framed { &self.frame } else { column });
            put_u64(out, column.len() as u64);
            put_u64(out, (packed.len() - start) as u64);
        }
        out.append(&mut packed);
    }

    /// Whether the column came out shorter.
    fn frame(&mut self, column: &[u8]) -> bool {
        self.frame.clear();
        self.frame
            .reserve(zstd::zstd_safe::compress_bound(column.len()));
        let len = self.zstd.compress_to_buffer(column, &mut self.frame);
        len.is_ok_and(|len| len < column.len())
    }
}

/// The columns of a block, to be unpacked one by one.
pub(super) struct Packed<'a, const N: usize> {
    /// Length unpacked, and the bytes as they lie.
    columns: [(usize, &'a [u8]); N],
}

impl<'a, const N: usize> Packed<'a, N> {
    /// Finds the columns in a body that holds nothing else.
    ///
    /// * `count`: so many it has; the others are empty.
    pub(super) fn parse(body: &'a [u8], count: usize) -> Result<Self> {
        let mut reader = Reader(body);
        let mut lengths = [(0usize, 0usize); N];
        for (unpacked, stored) in &mut lengths[..count] {
            (*unpacked, *stored) = (reader.number()?, reader.number()?);
            if *unpacked > COLUMN_BYTES_MAX || *stored > *unpacked {
                return Err(Corrupt);
            }
        }
        let mut columns = [(0, &body[..0]); N];
        for (column, (unpacked, stored)) in columns.iter_mut().zip(lengths) {
            *column = (unpacked, reader.take(stored)?);
        }
        if reader.is_empty() {
            Ok(Self { columns })
        } else {
            Err(Corrupt)
        }
    }

    /// One column, unpacked.
    pub(super) fn column(&self, index: usize, zstd: &mut Unpacker) -> Result<Cow<'a, [u8]>> {
        let (unpacked, stored) = self.columns[index];
        if stored.len() == unpacked {
            return Ok(Cow::Borrowed(stored));
        }
        let bytes = zstd.0.decompress(stored, unpacked).map_err(|_| Corrupt)?;
        if bytes.len() == unpacked {
            Ok(Cow::Owned(bytes))
        } else {
            Err(Corrupt)
        }
    }
}

/// What unpacking needs, to be used again.
pub(super) struct Unpacker(Decompressor<'static>);

impl Unpacker {
    pub(super) fn new() -> Self {
        Self(Decompressor::new().expect("memory for a decompressor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_and_longer_ones_refused() {
        let mut out = Vec::new();
        for value in [0, 127, 128, u64::MAX] {
            put_u64(&mut out, value);
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            put_i64(&mut out, value);
        }
        let mut reader = Reader(&out);
        for value in [0, 127, 128, u64::MAX] {
            assert_eq!(reader.u64(), Ok(value));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(reader.i64(), Ok(value));
        }
        assert!(reader.is_empty());
        assert_eq!(Reader(&[0xff; 11]).u64(), Err(Corrupt));
        assert_eq!(Reader(&[0x80]).u64(), Err(Corrupt));
    }

    #[test]
    fn columns_are_unpacked_one_by_one() {
        let columns = [vec![7; 1000], Vec::new(), vec![1, 2, 3]];
        let mut body = Vec::new();
        Packer::new(1).pack(&columns, &mut body);
        assert!(body.len() < 100);
        let packed = Packed::<4>::parse(&body, 3).unwrap();
        for (index, column) in columns.iter().enumerate() {
            let got = packed.column(index, &mut Unpacker::new()).unwrap();
            assert_eq!(*got, **column);
        }
        assert_eq!(*packed.column(3, &mut Unpacker::new()).unwrap(), []);
        assert!(Packed::<4>::parse(&body[..body.len() - 1], 3).is_err());
    }
}
