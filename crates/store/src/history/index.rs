//! The index of a sealed file: where its blocks lie, which of them have a key, and its minutes.
//! Byte tables: `docs/formats/history.md`.
//!
//! All of it is derived from the data file, and made again when it is missing or does not fit.
//! Keys stay on disk: a question costs two reads a file and key.

use std::io;
use std::sync::Arc;

use journal::{File, Files};

use super::block::{HEADER_BYTES, Header};
use super::column::{Corrupt, Reader, Result};
use super::data::{Placed, read_up_to};
use super::minutes::{self, Minutes};

const MAGIC: [u8; 8] = *b"mrIndex\x01";
const START_BYTES: usize = 64;
const PLACED_BYTES: usize = 8 + HEADER_BYTES;
const BUCKET_BYTES: usize = 8;
const ENTRY_BYTES: usize = 4;
/// Entries of a bucket, about.
const BUCKET_ENTRIES: usize = 64;
/// Blocks of a file at most: an entry has 16 bits for them.
pub(super) const BLOCKS_MAX: usize = 1 << 16;

/// What an index is made of.
pub(super) struct Parts<'a> {
    /// Length of the data file.
    pub(super) data_bytes: u64,
    /// The data file's events end before this number.
    pub(super) end_seq: u64,
    pub(super) blocks: &'a [Placed],
    /// For each block, its sorted keys.
    pub(super) keys: Vec<&'a [u32]>,
    pub(super) minutes: &'a Minutes,
}

/// An index as bytes.
pub(super) fn encode(parts: &Parts<'_>) -> Vec<u8> {
    let mut directory = Vec::with_capacity(parts.blocks.len() * PLACED_BYTES);
    for block in parts.blocks {
        directory.extend_from_slice(&block.offset.to_le_bytes());
        directory.extend_from_slice(&block.header.write());
    }
    let mut stats = Vec::new();
    minutes::write(parts.minutes, &mut stats);
    let packed = zstd::bulk::compress(&stats, 1).expect("memory for a compressor");
    let entries = sorted_entries(&parts.keys);
    let bits = bucket_bits(entries.len());
    let (buckets, entries) = table(&entries, bits);

    let mut out = Vec::with_capacity(
        START_BYTES + directory.len() + packed.len() + buckets.len() + entries.len(),
    );
    out.extend_from_slice(&MAGIC);
    for number in [parts.data_bytes, parts.end_seq] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&directory), &packed);
    let counts = [parts.blocks.len(), stats.len(), packed.len()].map(|count| count as u32);
    for number in counts.into_iter().chain([bits, entries.len() as u32, crc]) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.resize(START_BYTES - 4, 0);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    for section in [directory, packed, buckets, entries] {
        out.extend_from_slice(&section);
    }
    out
}

/// Hash in the upper half, block in the lower.
fn sorted_entries(keys: &[&[u32]]) -> Vec<u64> {
    let mut entries = Vec::with_capacity(keys.iter().map(|keys| keys.len()).sum());
    for (block, keys) in (0u64..).zip(keys) {
        entries.extend(keys.iter().map(|key| u64::from(*key) << 32 | block));
    }
    entries.sort_unstable();
    entries
}

/// So many leading bits of a hash say which bucket.
fn bucket_bits(entries: usize) -> u32 {
    (entries / BUCKET_ENTRIES)
        .next_power_of_two()
        .ilog2()
        .min(16)
}

/// A hash without the bits that say which bucket: the next 16.
fn fingerprint(hash: u32, bits: u32) -> u16 {
    (hash << bits >> 16) as u16
}

fn bucket_of(hash: u32, bits: u32) -> usize {
    (u64::from(hash) << bits >> 32) as usize
}

/// Buckets (end of its entries, checksum of them) and entries (16 bits of hash, block).
fn table(sorted: &[u64], bits: u32) -> (Vec<u8>, Vec<u8>) {
    let mut buckets = Vec::with_capacity(BUCKET_BYTES << bits);
    let mut entries = Vec::with_capacity(sorted.len() * ENTRY_BYTES);
    let mut rest = sorted;
    for bucket in 0..1usize << bits {
        let start = entries.len();
        while let Some((first, after)) = rest.split_first()
            && bucket_of((first >> 32) as u32, bits) == bucket
        {
            let hash = (first >> 32) as u32;
            entries.extend_from_slice(&fingerprint(hash, bits).to_le_bytes());
            entries.extend_from_slice(&(*first as u16).to_le_bytes());
            rest = after;
        }
        buckets.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        buckets.extend_from_slice(&crc32c::crc32c(&entries[start..]).to_le_bytes());
    }
    (buckets, entries)
}

/// An index that was opened.
pub(super) struct Index {
    pub(super) end_seq: u64,
    pub(super) blocks: Vec<Placed>,
    pub(super) table: Table,
    pub(super) bytes: u64,
    minutes: Section,
}

struct Section {
    offset: u64,
    stored: usize,
    unpacked: usize,
}

impl Index {
    /// Opens the index of a data file of this length; `Err(Corrupt)` within if it is missing,
    /// damaged or another file's.
    pub(super) fn open(files: &dyn Files, name: &str, data_bytes: u64) -> io::Result<Result<Self>> {
        let file = match files.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Corrupt)),
            file => file?,
        };
        let mut start = [0; START_BYTES];
        if read_up_to(&*file, 0, &mut start)? < START_BYTES {
            return Ok(Err(Corrupt));
        }
        let Ok(start) = Start::read(&start) else {
            return Ok(Err(Corrupt));
        };
        let bytes = file.bytes()?;
        if start.data_bytes != data_bytes || start.bytes() != bytes {
            return Ok(Err(Corrupt));
        }
        let mut head = vec![0; start.head_bytes()];
        let len = read_up_to(&*file, START_BYTES as u64, &mut head)?;
        if len < head.len() || crc32c::crc32c(&head) != start.crc {
            return Ok(Err(Corrupt));
        }
        Ok(
            read_directory(&head[..start.blocks * PLACED_BYTES]).map(|blocks| Self {
                end_seq: start.end_seq,
                blocks,
                bytes,
                minutes: Section {
                    offset: (START_BYTES + start.blocks * PLACED_BYTES) as u64,
                    stored: start.stored,
                    unpacked: start.unpacked,
                },
                table: Table {
                    file,
                    bits: start.bits,
                    offset: (START_BYTES + start.head_bytes()) as u64,
                    entry_bytes: start.entry_bytes,
                },
            }),
        )
    }

    /// Reads the minutes; checked when it was opened.
    pub(super) fn minutes(&self) -> io::Result<Result<Minutes>> {
        let mut packed = vec![0; self.minutes.stored];
        read_up_to(&*self.table.file, self.minutes.offset, &mut packed)?;
        let unpacked = zstd::bulk::decompress(&packed, self.minutes.unpacked);
        let unpacked = unpacked.map_err(|_| Corrupt);
        Ok(unpacked.and_then(|bytes| minutes::read(&mut Reader(&bytes))))
    }
}

struct Start {
    data_bytes: u64,
    end_seq: u64,
    blocks: usize,
    /// Length of the minutes unpacked, and as they lie.
    unpacked: usize,
    stored: usize,
    bits: u32,
    entry_bytes: usize,
    crc: u32,
}

impl Start {
    fn read(bytes: &[u8; START_BYTES]) -> Result<Self> {
        /// Of the minutes of a file.
        const MINUTES_BYTES_MAX: usize = 256 << 20;
        let (checked, crc) = bytes.split_last_chunk::<4>().ok_or(Corrupt)?;
        let mut reader = Reader(checked.strip_prefix(&MAGIC).ok_or(Corrupt)?);
        let mut u64 = || reader.array().map(u64::from_le_bytes);
        let (data_bytes, end_seq) = (u64()?, u64()?);
        let mut u32 = || reader.array().map(u32::from_le_bytes);
        let start = Self {
            data_bytes,
            end_seq,
            blocks: u32()? as usize,
            unpacked: u32()? as usize,
            stored: u32()? as usize,
            bits: u32()?,
            entry_bytes: u32()? as usize,
            crc: u32()?,
        };
        let is_sound = crc32c::crc32c(checked) == u32::from_le_bytes(*crc)
            && start.blocks <= BLOCKS_MAX
            && start.bits <= 16
            && start.unpacked <= MINUTES_BYTES_MAX
            && start.stored <= MINUTES_BYTES_MAX;
        is_sound.then_some(start).ok_or(Corrupt)
    }

    /// Octets of directory and minutes.
    fn head_bytes(&self) -> usize {
        self.blocks * PLACED_BYTES + self.stored
    }

    fn bytes(&self) -> u64 {
        let table = (BUCKET_BYTES << self.bits) + self.entry_bytes;
        (START_BYTES + self.head_bytes() + table) as u64
    }
}

fn read_directory(bytes: &[u8]) -> Result<Vec<Placed>> {
    let entries = bytes.chunks_exact(PLACED_BYTES);
    let blocks: Vec<Placed> = entries
        .map(|entry| {
            let (offset, header) = entry.split_first_chunk::<8>().ok_or(Corrupt)?;
            Ok(Placed {
                offset: u64::from_le_bytes(*offset),
                header: Header::read(header.try_into().map_err(|_| Corrupt)?)?,
            })
        })
        .collect::<Result<_>>()?;
    let mut pairs = blocks.iter().zip(blocks.iter().skip(1));
    let is_sorted = pairs.all(|(one, next)| one.header.end_seq() <= next.header.first_seq);
    is_sorted.then_some(blocks).ok_or(Corrupt)
}

/// Which blocks have a key.
pub(super) struct Table {
    file: Arc<dyn File>,
    bits: u32,
    /// Where the buckets begin.
    offset: u64,
    entry_bytes: usize,
}

impl Table {
    /// The blocks that may have the key, in order.
    pub(super) fn blocks(&self, key: u32) -> io::Result<Result<Vec<u16>>> {
        let bucket = bucket_of(key, self.bits);
        let Some((range, crc)) = self.bucket(bucket)? else {
            return Ok(Err(Corrupt));
        };
        let mut entries = vec![0; range.end - range.start];
        let offset = self.offset + (BUCKET_BYTES << self.bits) as u64 + range.start as u64;
        read_up_to(&*self.file, offset, &mut entries)?;
        if crc32c::crc32c(&entries) != crc {
            return Ok(Err(Corrupt));
        }
        let wanted = fingerprint(key, self.bits).to_le_bytes();
        let entries = entries.chunks_exact(ENTRY_BYTES);
        let found = entries.filter(|entry| entry[..2] == wanted);
        let mut blocks: Vec<_> = found.map(|it| u16::from_le_bytes([it[2], it[3]])).collect();
        // Keys of one fingerprint stand one behind the other, each with its own blocks.
        blocks.sort_unstable();
        blocks.dedup();
        Ok(Ok(blocks))
    }

    /// Where its entries lie among all, and their checksum.
    fn bucket(&self, bucket: usize) -> io::Result<Option<(std::ops::Range<usize>, u32)>> {
        let mut bytes = [0; 2 * BUCKET_BYTES];
        // The bucket before says where this one begins; there is none before the first.
        let (first, into) = match bucket {
            0 => (0, &mut bytes[BUCKET_BYTES..]),
            _ => (bucket - 1, &mut bytes[..]),
        };
        let offset = self.offset + (first * BUCKET_BYTES) as u64;
        read_up_to(&*self.file, offset, into)?;
        let number = |at: usize| {
            let bytes = bytes[at..at + 4].try_into().expect("four octets");
            u32::from_le_bytes(bytes)
        };
        let range = number(0) as usize..number(BUCKET_BYTES) as usize;
        let is_sound = range.start <= range.end
            && range.end <= self.entry_bytes
            && (range.end - range.start).is_multiple_of(ENTRY_BYTES);
        Ok(is_sound.then_some((range, number(BUCKET_BYTES + 4))))
    }
}

#[cfg(test)]
mod tests {
    use journal::MemoryFiles;

    use super::*;

    #[test]
    fn keys_that_share_a_fingerprint_name_each_block_once_in_order() {
        let keys: [&[u32]; 3] = [&[0x0001_0000, 0x0001_0001], &[0x0001_0001], &[0x0001_0000]];
        let parts = Parts {
            data_bytes: 7,
            end_seq: 0,
            blocks: &[],
            keys: keys.to_vec(),
            minutes: &Minutes::new(),
        };
        let files = MemoryFiles::new();
        journal::files::replace(&files, "i", &encode(&parts)).unwrap();
        let index = Index::open(&files, "i", 7).unwrap().unwrap();
        assert_eq!(index.table.blocks(0x0001_0001).unwrap(), Ok(vec![0, 1, 2]));
        assert_eq!(index.table.blocks(0x0002_0001).unwrap(), Ok(vec![]));
        assert!(Index::open(&files, "i", 8).unwrap().is_err());
    }

    #[test]
    fn bucket_and_fingerprint_take_the_leading_bits_of_a_hash() {
        for (hash, bits, want) in [
            (0xabcd_1234, 0, (0, 0xabcd)),
            (0xabcd_1234, 8, (0xab, 0xcd12)),
            (0xabcd_1234, 16, (0xabcd, 0x1234)),
        ] {
            assert_eq!((bucket_of(hash, bits), fingerprint(hash, bits)), want);
        }
        let bits = [0, 64, 129, 256, 1 << 30].map(bucket_bits);
        assert_eq!(bits, [0, 0, 1, 2, 16]);
    }
}
