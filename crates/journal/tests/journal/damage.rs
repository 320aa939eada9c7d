//! Disks that decay: nothing acknowledged goes missing without a word.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::files::{self, Cut};
use journal::{
    Damage, DirFiles, Files, Journal, MemoryFiles, OpenError, Opened, Options, Position, ReadError,
    What,
};

use super::harness::{Run, options};

const RECORDS: usize = 90;
const LENGTH: usize = 300;
/// Where the first record of a segment stands.
const FIRST: usize = 4096;

/// Three segments and more, each record a group; closed.
fn written() -> Run {
    let mut run = Run::new(1);
    run.open().unwrap();
    for _ in 0..RECORDS {
        run.append(LENGTH, true).unwrap();
        while run.journal().turn() {}
    }
    run.learn();
    run.journal = None;
    assert!(run.entries[RECORDS - 1].at.segment() >= 3);
    run
}

fn file(segment: u32) -> String {
    format!("{segment:010}.journal")
}

fn open(files: &MemoryFiles, salvage: bool) -> Result<(Journal, Opened), OpenError> {
    let options = Options {
        salvage,
        ..options()
    };
    Journal::open(Arc::new(files.clone()), options)
}

fn flip(files: &MemoryFiles, segment: u32, offset: usize) {
    let byte = files.bytes_of(&file(segment))[offset];
    files.damage(&file(segment), offset as u64, &[!byte]);
}

fn places(journal: &Journal) -> Vec<Position> {
    let mut places = Vec::new();
    let scanned = journal.scan(Position::START, &mut |at, _, _| {
        places.push(at);
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    places
}

/// The record that holds a byte, without its padding, if there is one.
fn record_at(run: &Run, segment: u32, offset: usize) -> Option<usize> {
    let holds = |entry: &super::harness::Entry| {
        let start = entry.at.offset() as usize;
        entry.at.segment() == segment && (start..start + 20 + 8 + entry.length).contains(&offset)
    };
    run.entries.iter().position(holds)
}

#[test]
fn any_byte_that_decays_in_a_synced_record_is_reported_with_its_place() {
    let run = written();
    let last = run.entries[RECORDS - 1].at.segment();
    for segment in 1..=last {
        for offset in (FIRST..options().segment_bytes_max as usize).step_by(3) {
            flip(&run.files, segment, offset);
            let damaged = record_at(&run, segment, offset);
            let result = open(&run.files, false);
            match damaged {
                // It may as well have been torn: that is what the end of a journal cannot tell.
                Some(record) if record == RECORDS - 1 => {
                    assert_eq!(places(&result.unwrap().0).len(), record);
                    return;
                }
                Some(record) => {
                    let at = run.entries[record].at;
                    let damage = Damage {
                        segment,
                        offset: at.offset(),
                        what: What::Record,
                    };
                    let Err(OpenError::Damaged(found)) = result else {
                        panic!("{segment}:{offset} was not reported");
                    };
                    assert_eq!(found, [damage]);
                }
                // Padding, what no record has reached yet, or the seal.
                None => match result {
                    Ok((journal, _)) => assert_eq!(places(&journal).len(), RECORDS),
                    Err(error) => assert!(segment < last, "{segment}:{offset}: {error}"),
                },
            }
            flip(&run.files, segment, offset);
        }
    }
}

#[test]
fn salvage_keeps_the_damaged_file_aside_and_goes_on_with_the_rest() {
    for (record, byte) in [(0, 0), (3, 17), (40, 5), (60, 200), (RECORDS - 2, 100)] {
        let mut run = written();
        let at = run.entries[record].at;
        let (segment, offset) = (at.segment(), at.offset());
        flip(&run.files, segment, offset as usize + byte);
        let damaged = run.files.bytes_of(&file(segment));
        let (journal, opened) = open(&run.files, true).unwrap();
        let damage = Damage {
            segment,
            offset,
            what: What::Record,
        };
        assert_eq!(opened.salvaged, [damage]);
        let aside = format!("damaged-{}.1", file(segment));
        assert_eq!(run.files.bytes_of(&aside), damaged);
        assert!(matches!(journal.read(at), Err(ReadError::Damaged(found)) if found == damage));
        drop(journal);
        run.entries.remove(record);
        run.files.restart(Cut::Nothing);
        run.open().unwrap();
        run.verify(false);
        run.append(10, true).unwrap();
        run.crash(Cut::Everything);
    }
}

#[test]
fn a_missing_file_and_a_lost_header_are_reported_and_salvaged() {
    let mut run = written();
    run.files.remove(&file(2)).unwrap();
    run.files.damage(&file(1), 0, &[0; 16]);
    let missing = Damage {
        segment: 2,
        offset: 0,
        what: What::Missing,
    };
    let header = Damage {
        segment: 1,
        offset: 0,
        what: What::Header,
    };
    let Err(OpenError::Damaged(found)) = open(&run.files, false) else {
        panic!("not reported");
    };
    // One copy of the header is enough.
    assert_eq!(found, [missing]);
    run.files.damage(&file(1), 2048, &[0; 16]);
    let Err(OpenError::Damaged(found)) = open(&run.files, false) else {
        panic!("not reported");
    };
    assert_eq!(found, [header, missing]);
    let (journal, opened) = open(&run.files, true).unwrap();
    assert_eq!(opened.salvaged, [header, missing]);
    drop(journal);
    run.entries.retain(|entry| entry.at.segment() != 2);
    run.open().unwrap();
    run.verify(false);
    run.append(10, true).unwrap();
    run.crash(Cut::Everything);
}

#[test]
fn damage_that_a_quick_opening_did_not_look_for_is_met_by_the_scan() {
    let run = written();
    let at = run.entries[5].at;
    flip(&run.files, at.segment(), at.offset() as usize + 30);
    let options = Options {
        check: journal::Check::Tail,
        ..options()
    };
    let (journal, _) = Journal::open(Arc::new(run.files.clone()), options).unwrap();
    let mut seen = 0;
    let scanned = journal.scan(Position::START, &mut |_, _, _| {
        seen += 1;
        ControlFlow::Continue(())
    });
    let damage = Damage {
        segment: at.segment(),
        offset: at.offset(),
        what: What::Record,
    };
    assert!(matches!(scanned, Err(ReadError::Damaged(found)) if found == damage));
    assert_eq!(seen, 5);
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1")
}

/// What the fixture holds: `(kind, bytes)`.
fn fixed() -> Vec<(u8, Vec<u8>)> {
    let record = |n: u8| (n, vec![n; usize::from(n) * 40]);
    (0..24).map(record).collect()
}

fn fixture_options() -> Options {
    Options {
        segment_bytes_max: 8192,
        ..options()
    }
}

#[test]
#[ignore = "writes the fixture anew: only for a new format version"]
fn write_fixture() {
    let files = Arc::new(DirFiles::open(&fixture()).unwrap());
    let (journal, _) = Journal::open(files, fixture_options()).unwrap();
    for (kind, bytes) in fixed() {
        let commit = journal.append(kind, &[&bytes]).unwrap().1;
        while journal.turn() {}
        commit.wait().unwrap();
    }
}

fn copy_of_fixture() -> MemoryFiles {
    let copy = MemoryFiles::new();
    for entry in std::fs::read_dir(fixture()).unwrap() {
        let entry = entry.unwrap();
        let content = std::fs::read(entry.path()).unwrap();
        files::replace(&copy, entry.file_name().to_str().unwrap(), &content).unwrap();
    }
    copy
}

#[test]
fn format_version_1_is_read_and_gone_on_with() {
    let files = copy_of_fixture();
    let (journal, opened) = Journal::open(Arc::new(files), fixture_options()).unwrap();
    assert_eq!(opened, Opened::default());
    let mut records = Vec::new();
    let scanned = journal.scan(Position::START, &mut |_, kind, bytes| {
        records.push((kind, bytes.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(scanned.unwrap(), journal.end());
    assert!(records == fixed());
    let (at, commit) = journal.append(9, &[b"more"]).unwrap();
    while journal.turn() {}
    commit.wait().unwrap();
    assert_eq!(&journal.read(at).unwrap().bytes[..], b"more");
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let files = copy_of_fixture();
    let mut header = files.bytes_of(&file(2))[..32].to_vec();
    header[8] = 2;
    let sum = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&sum.to_le_bytes());
    for copy in [0, 2048] {
        files.damage(&file(2), copy, &header);
    }
    let before = files.bytes_of(&file(2));
    for salvage in [false, true] {
        let options = Options {
            salvage,
            ..fixture_options()
        };
        let result = Journal::open(Arc::new(files.clone()), options);
        let Err(
            error @ OpenError::Version {
                segment: 2,
                version: 2,
                newest: 1,
            },
        ) = result
        else {
            panic!("{result:?}");
        };
        assert!(error.to_string().contains("format 2"), "{error}");
    }
    assert_eq!(files.bytes_of(&file(2)), before);
}
