//! A journal seen from outside.

use std::ops::ControlFlow;
use std::sync::Arc;

use journal::{DirFiles, Journal, OpenError, Options, Position};

fn open(path: &std::path::Path) -> Journal {
    let files = Arc::new(DirFiles::open(path).unwrap());
    Journal::open(files, Options::default()).unwrap().0
}

fn all(journal: &Journal) -> Vec<(Position, u8, Vec<u8>)> {
    let mut records = Vec::new();
    let end = journal.scan(Position::START, &mut |at, kind, bytes| {
        records.push((at, kind, bytes.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap(), journal.durable());
    records
}

#[test]
fn what_was_appended_is_read_back_in_order_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let large = vec![7; 200_000];
    let (first, commit) = journal.append(1, &[b"one", b" ", b"record"]).unwrap();
    commit.wait().unwrap();
    let second = journal.append_lazily(2, &[]).unwrap();
    let (third, commit) = journal.append(3, &[b"large", &large]).unwrap();
    commit.wait().unwrap();
    assert_eq!(&journal.read(first).unwrap().bytes[..], b"one record");
    assert_eq!(&journal.read(third).unwrap().bytes[5..], &large[..]);
    let records = all(&journal);
    journal.close().unwrap();
    let journal = open(folder.path());
    assert_eq!(all(&journal), records);
    let places: Vec<Position> = records.iter().map(|record| record.0).collect();
    assert_eq!(places, [first, second, third]);
}

#[test]
fn a_folder_belongs_to_one_journal_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let files = Arc::new(DirFiles::open(folder.path()).unwrap());
    let second = Journal::open(files, Options::default());
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop(journal);
    open(folder.path());
}
