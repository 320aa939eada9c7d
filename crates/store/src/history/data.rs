//! Data files: a header, blocks one behind the other, and an end mark once sealed.
//! Byte tables: `docs/formats/history.md`.
//!
//! A file is named by the number of its first event. It is never written again once it has its end
//! mark; a better one may take its place whole.

use std::io;

use journal::File;

use super::block::{HEADER_BYTES, Header, MAGIC, SEQ_MAX};
use super::column::Reader;

/// Octets before the first block.
pub(super) const START: u64 = 16;
/// Octets of the end mark.
pub(super) const END_BYTES: usize = 36;

const FILE_MAGIC: [u8; 8] = *b"mrHist\r\n";
/// Version 1 has no blocks of version 2; nothing else tells them apart.
const VERSION: u32 = 2;
const END_MAGIC: [u8; 8] = *b"mrEnd\0\0\x01";
/// Octets looked at at once where the next sound block is looked for.
const SEARCH_BYTES: usize = 1 << 16;

/// The name of the data file whose first event has this number.
pub(super) fn name(first_seq: u64) -> String {
    format!("{first_seq:016x}.events")
}

/// The name of its index.
pub(super) fn index_name(first_seq: u64) -> String {
    format!("{first_seq:016x}.index")
}

/// The number in the name of a data file.
pub(super) fn first_seq(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".events")?;
    let seq = u64::from_str_radix(digits, 16).ok()?;
    (seq <= SEQ_MAX && self::name(seq) == name).then_some(seq)
}

/// The octets that every data file begins with.
pub(super) fn start() -> [u8; START as usize] {
    let mut out = [0; START as usize];
    out[..8].copy_from_slice(&FILE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// How a data file begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    Ours,
    /// Written by a later release.
    Version(u32),
    Damaged,
}

/// Looks at the beginning of a file.
pub(super) fn read_start(file: &dyn File) -> io::Result<Start> {
    let mut bytes = [0; START as usize];
    if read_up_to(file, 0, &mut bytes)? < bytes.len() {
        return Ok(Start::Damaged);
    }
    let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four octets"));
    let crc = u32::from_le_bytes(bytes[12..].try_into().expect("four octets"));
    let is_sound = bytes[..8] == FILE_MAGIC && crc == crc32c::crc32c(&bytes[..12]);
    Ok(match version {
        1..=VERSION if is_sound => Start::Ours,
        other if is_sound => Start::Version(other),
        _ => Start::Damaged,
    })
}

/// The end mark of a file whose events end before `end_seq`.
pub(super) fn end_mark(end_seq: u64, blocks: usize, offset: u64) -> [u8; END_BYTES] {
    let mut out = Vec::with_capacity(END_BYTES);
    out.extend_from_slice(&END_MAGIC);
    for number in [end_seq, blocks as u64, offset] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.try_into().expect("as long as an end mark")
}

/// The number that an end mark says the events end before.
fn read_end_mark(bytes: &[u8; END_BYTES], offset: u64) -> Option<u64> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    let mut reader = Reader(checked.strip_prefix(&END_MAGIC)?);
    let mut number = || reader.array().map(u64::from_le_bytes).ok();
    let (end_seq, _, at) = (number()?, number()?, number()?);
    let is_sound = crc32c::crc32c(checked) == u32::from_le_bytes(*crc) && at == offset;
    let is_sound = is_sound && end_seq <= SEQ_MAX;
    is_sound.then_some(end_seq)
}

/// A block and where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) offset: u64,
    pub(super) header: Header,
}

impl Placed {
    pub(super) fn end(&self) -> u64 {
        self.offset + HEADER_BYTES as u64 + u64::from(self.header.body_bytes)
    }

    /// Reads the body; `None` if it is damaged.
    pub(super) fn body(&self, file: &dyn File) -> io::Result<Option<Vec<u8>>> {
        let mut body = vec![0; self.header.body_bytes as usize];
        let offset = self.offset + HEADER_BYTES as u64;
        let is_whole = read_up_to(file, offset, &mut body)? == body.len();
        let is_sound = is_whole && crc32c::crc32c(&body) == self.header.body_crc;
        Ok(is_sound.then_some(body))
    }
}

/// A place where no sound block begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    pub(super) offset: u64,
    /// How many sound blocks lie before it.
    pub(super) blocks_before: usize,
}

/// What a data file holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Scan {
    pub(super) blocks: Vec<Placed>,
    pub(super) gaps: Vec<Gap>,
    /// What the end mark says; `None` if there is none.
    pub(super) end_seq: Option<u64>,
    /// Where the last sound block ends.
    pub(super) end: u64,
}

impl Scan {
    /// Takes off what a crash left of blocks that were never durable, and all that follows them.
    ///
    /// What a later block says was durable and is not sound is damage, and stays a gap.
    pub(super) fn cut_tear(&mut self, first_seq: u64) {
        let is_torn = |gap: &Gap| {
            let (before, after) = self.blocks.split_at(gap.blocks_before);
            let seq = before.last().map_or(first_seq, |it| it.header.end_seq());
            after.iter().all(|it| it.header.durable_seq <= seq)
        };
        let Some(tear) = self.gaps.iter().position(is_torn) else {
            return;
        };
        let gap = self.gaps[tear];
        self.gaps.truncate(tear);
        self.blocks.truncate(gap.blocks_before);
        self.end = self.blocks.last().map_or(START, Placed::end);
    }
}

/// Reads a file from end to end and checks every block; blocks whose events are not later than those
/// before are none.
///
/// * `first_seq`: the number that names the file.
pub(super) fn scan(file: &dyn File, first_seq: u64) -> io::Result<Scan> {
    let bytes = file.bytes()?;
    let mut scan = Scan {
        end: START,
        ..Scan::default()
    };
    let mut offset = START;
    while offset < bytes {
        let next_seq = scan
            .blocks
            .last()
            .map_or(first_seq, |it| it.header.end_seq());
        offset = match read_piece(file, offset)? {
            Piece::Block(block, true) if block.header.first_seq >= next_seq => {
                scan.blocks.push(block);
                scan.end = block.end();
                block.end()
            }
            Piece::End(end_seq) => {
                scan.end_seq = Some(end_seq.max(next_seq));
                break;
            }
            piece => {
                scan.gaps.push(Gap {
                    offset,
                    blocks_before: scan.blocks.len(),
                });
                let next = match piece {
                    Piece::Block(block, _) if block.end() <= bytes => block.end(),
                    _ => offset + 1,
                };
                search(file, next, bytes)?
            }
        };
    }
    Ok(scan)
}

enum Piece {
    /// And whether its body is sound.
    Block(Placed, bool),
    End(u64),
    Neither,
}

fn read_piece(file: &dyn File, offset: u64) -> io::Result<Piece> {
    let mut bytes = [0; HEADER_BYTES];
    let len = read_up_to(file, offset, &mut bytes)?;
    let end_mark = bytes.first_chunk().expect("shorter than a header");
    if len >= END_BYTES
        && let Some(end_seq) = read_end_mark(end_mark, offset)
    {
        return Ok(Piece::End(end_seq));
    }
    match Header::read(&bytes) {
        Ok(header) if len == HEADER_BYTES => {
            let block = Placed { offset, header };
            let is_sound = block.end() <= file.bytes()? && block.body(file)?.is_some();
            Ok(Piece::Block(block, is_sound))
        }
        _ => Ok(Piece::Neither),
    }
}

/// The next place from `offset` on where a block or the end mark seems to begin, or `bytes`.
fn search(file: &dyn File, mut offset: u64, bytes: u64) -> io::Result<u64> {
    let mut buffer = vec![0; SEARCH_BYTES];
    while offset < bytes {
        let len = read_up_to(file, offset, &mut buffer)?;
        let found = buffer[..len]
            .windows(END_MAGIC.len())
            .position(|it| it.starts_with(&MAGIC) || it == END_MAGIC);
        match found {
            Some(found) => return Ok(offset + found as u64),
            None if len < buffer.len() => break,
            None => offset += (len - END_MAGIC.len() + 1) as u64,
        }
    }
    Ok(bytes)
}

/// Fills as much of the buffer as the file has from there on.
pub(super) fn read_up_to(file: &dyn File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
