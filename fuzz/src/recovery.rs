//! A journal whose files were meddled with: it opens or says why not, and never makes a record up.
//!
//! An input is a list of changes to a journal's files, each a few octets: see [`meddle`].

use std::ops::ControlFlow;
use std::sync::Arc;

use journal::{Files, Journal, MemoryFiles, Mode, OpenError, Options, Position};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "recovery",
    check,
    examples: &[
        b"",
        b"D\x01\x00\x10\x04\xff\xff\xff\xff",
        b"D\x03\x10\x10\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"D\x02\x00\x00\x08newmagicD\x02\x00\x08\x08newmagic",
        b"T\x02\x00\x12\0T\x03\x00\x10\0T\x01\x00\x00\0",
        b"R\x01\x02\0\0R\x02\x03\0\0",
        b"X\x02\0\0\0X\x03\0\0\0",
        b"C\x01\x02\x00\x10C\x02\x03\x00\x10C\x03\x04\x00\x10",
        b"C\x01\x01\x40\x10D\x01\x00\x10\x01\x01",
        b"X\x04\0\0\0X\x05\0\0\0D\x03\x00\x1e\x01\x01",
    ],
    words: &[
        "D", "T", "R", "X", "C", "\x00\x10", "\x00\x08", "\x01", "\x02", "\x03", "\x04", "\0\0\0\0",
    ],
    rounds: 1_500,
};

const RECORDS: u64 = 60;
const SEGMENTS: u8 = 5;
const SEGMENT_BYTES: u64 = 8192;

fn options(salvage: bool) -> Options {
    Options {
        segment_bytes_max: SEGMENT_BYTES,
        mode: Mode::Inline,
        salvage,
        ..Options::default()
    }
}

fn check(input: &[u8]) {
    let files = MemoryFiles::new();
    write(&files);
    meddle(&files, input);
    let strict = match open(&files, false) {
        Ok(journal) => {
            let records = records(&journal);
            let run = records
                .first()
                .map_or(0..0, |first| *first..first + records.len() as u64);
            assert!(
                records.iter().copied().eq(run),
                "only an end or a beginning may be missing"
            );
            Some(records)
        }
        Err(error) => {
            let is_told = matches!(error, OpenError::Damaged(_) | OpenError::Version { .. });
            assert!(is_told, "{error}");
            None
        }
    };
    // Without any segment's header nothing can be read.
    let Ok(salvaged) = open(&files, true) else {
        assert_eq!(strict, None);
        return;
    };
    let rest = records(&salvaged);
    assert!(rest.is_sorted());
    assert!(
        strict.is_none_or(|strict| strict == rest),
        "there was nothing to salvage"
    );
    drop(salvaged);
    let mended = open(&files, false).expect("it was mended");
    assert_eq!(records(&mended), rest);
    let at = append(&mended, RECORDS);
    drop(mended);
    let again = open(&files, false).expect("it was closed");
    assert_eq!(again.read(at).expect("it is durable").bytes, body(RECORDS));
}

fn open(files: &MemoryFiles, salvage: bool) -> Result<Journal, OpenError> {
    Ok(Journal::open(Arc::new(files.clone()), options(salvage))?.0)
}

fn body(record: u64) -> Vec<u8> {
    let length = 16 + usize::try_from(record * 37 % 400).expect("it is small");
    let mut body = record.to_le_bytes().repeat(length / 8 + 1);
    body.truncate(length);
    body
}

fn append(journal: &Journal, record: u64) -> Position {
    let (at, commit) = journal.append(7, &[&body(record)]).expect("there is room");
    commit.wait().expect("the disk works");
    at
}

fn write(files: &MemoryFiles) {
    let journal = open(files, false).expect("it is empty");
    for record in 0..RECORDS {
        append(&journal, record);
    }
    assert!(journal.durable().segment() >= u32::from(SEGMENTS) - 1);
}

/// The records' numbers; each is as it was written, whatever was done to the files.
fn records(journal: &Journal) -> Vec<u64> {
    let mut numbers = Vec::new();
    let scanned = journal.scan(Position::START, &mut |at, kind, bytes| {
        let number = u64::from_le_bytes(*bytes.first_chunk().expect("it has a number"));
        assert!(number < RECORDS && bytes == body(number) && kind == 7);
        assert_eq!(journal.read(at).expect("it was just read").bytes, bytes);
        numbers.push(number);
        ControlFlow::Continue(())
    });
    assert_eq!(
        scanned.expect("opening looked at everything"),
        journal.durable()
    );
    numbers
}

/// Does what the input says: a letter and four octets for each change, and what it writes.
///
/// | Change | Does |
/// |---|---|
/// | `D` segment, offset (2), length | overwrites with the octets that follow |
/// | `C` from, to, offset (2) | copies 256 octets of one segment to the same place of another |
/// | `T` segment, length (2) | truncates |
/// | `R` from, to | renames |
/// | `X` segment | removes |
fn meddle(files: &MemoryFiles, mut input: &[u8]) {
    while let Some((change, rest)) = input.split_first() {
        let Some((arguments, rest)) = rest.split_first_chunk::<4>() else {
            return;
        };
        let [from, to, low, high] = *arguments;
        let offset = |low, high| u64::from(u16::from_le_bytes([low, high]));
        input = match change {
            b'D' => {
                let (octets, rest) = rest.split_at((high as usize).min(rest.len()));
                overwrite(files, &name(from), offset(to, low), octets);
                rest
            }
            b'T' => {
                if let Ok(file) = files.open(&name(from)) {
                    let _ = file.truncate(offset(to, low).min(SEGMENT_BYTES));
                }
                rest
            }
            b'R' => {
                let _ = files.rename(&name(from), &name(to));
                rest
            }
            b'X' => {
                let _ = files.remove(&name(from));
                rest
            }
            b'C' => {
                let mut octets = [0; 256];
                if let Ok(file) = files.open(&name(from)) {
                    let _ = file.read_at(offset(low, high), &mut octets);
                    overwrite(files, &name(to), offset(low, high), &octets);
                }
                rest
            }
            _ => rest,
        };
    }
}

fn overwrite(files: &MemoryFiles, name: &str, offset: u64, octets: &[u8]) {
    if files.open(name).is_ok() && offset < SEGMENT_BYTES {
        files.damage(name, offset, octets);
    }
}

fn name(segment: u8) -> String {
    format!("{:010}.journal", segment % (SEGMENTS + 2))
}
