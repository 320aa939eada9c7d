//! The run record: what it keeps, and what a torn end leaves.

use std::fs;

use super::*;

fn identity() -> Identity {
    Identity {
        list: "people.csv".to_owned(),
        list_bytes: 10,
        list_sha256: "aa".to_owned(),
        message_sha256: "bb".to_owned(),
        from: "a@b.example".to_owned(),
    }
}

fn outcome(event: Event, row: u64) -> Outcome<'static> {
    Outcome {
        event,
        row,
        email: "x@y.example",
        time: now(),
        details: Details::default(),
        message_id: None,
    }
}

/// A record in which rows 2 to 5 were begun, 2 was sent and 3 failed for now.
fn written() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    let record = Record::create(&path, &identity()).unwrap();
    record.begin(&[2, 3, 5]).unwrap();
    record.settle(&outcome(Event::Sent, 2)).unwrap();
    record.settle(&outcome(Event::Failed, 3)).unwrap();
    (dir, path)
}

fn states(path: &Path) -> Vec<RowState> {
    let (_, states) = Record::resume(path, &identity(), 6).unwrap();
    (2..=6).map(|row| states.get(row).0).collect()
}

const WANT: [RowState; 5] = [
    RowState::Settled,
    RowState::Failed,
    RowState::Fresh,
    RowState::Unknown,
    RowState::Fresh,
];

#[test]
fn a_record_gives_back_what_became_of_each_row() {
    let (_dir, path) = written();
    assert_eq!(states(&path), WANT);
    // Reading changes nothing.
    assert_eq!(states(&path), WANT);
}

#[test]
fn cut_at_any_byte_a_record_never_says_unsent_of_what_may_be_sent() {
    let (_dir, path) = written();
    let whole = fs::read(&path).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|&b| b == b'\n').collect();
    let begun_at = lines[0].len() + lines[1].len();
    for len in lines[0].len()..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let states = states(&path);
        for row in [0, 1, 3] {
            // Rows 2, 3 and 5 can be on the wire once the second line is whole.
            let may_be_sent = len >= begun_at;
            assert_eq!(states[row] != RowState::Fresh, may_be_sent, "cut at {len}");
        }
        // And it can be gone on with.
        let (record, _) = Record::resume(&path, &identity(), 6).unwrap();
        record.settle(&outcome(Event::Sent, 6)).unwrap();
        drop(record);
        assert_eq!(self::states(&path)[4], RowState::Settled);
    }
}

#[test]
fn damage_before_the_end_is_refused() {
    let (_dir, path) = written();
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, line) in [
        ("attempting", "attemqting", 2),
        ("\"row\":2", "\"row\":2222", 3),
        ("{\"event\":\"run\"", "{\"event\":\"ran\"", 1),
    ] {
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = Record::resume(&path, &identity(), 6).err().unwrap();
        assert!(
            matches!(error, RecordError::Damaged { line: at, .. } if at == line),
            "{error}"
        );
    }
    fs::write(&path, "notes of mine").unwrap();
    assert!(Record::resume(&path, &identity(), 6).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes of mine");
}

#[test]
fn a_record_that_ends_within_its_first_line_starts_afresh() {
    let (_dir, path) = written();
    let whole = fs::read(&path).unwrap();
    let head_len = whole.iter().position(|&b| b == b'\n').unwrap();
    for len in 0..=head_len {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(states(&path), [RowState::Fresh; 5], "cut at {len}");
        // And now it is a record.
        assert_eq!(states(&path), [RowState::Fresh; 5], "cut at {len}");
    }
}

#[test]
fn another_list_message_or_sender_is_refused() {
    let (_dir, path) = written();
    for (change, want) in [
        (|i: &mut Identity| i.list_sha256.push('x'), "list"),
        (|i: &mut Identity| i.message_sha256.push('x'), "message"),
        (|i: &mut Identity| i.from.push('x'), "--from"),
    ] as [(fn(&mut Identity), &str); 3]
    {
        let mut other = identity();
        change(&mut other);
        let error = Record::resume(&path, &other, 6).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    }
    // A list that was moved is the same list.
    let mut moved = identity();
    moved.list = "elsewhere.csv".to_owned();
    assert!(Record::resume(&path, &moved, 6).is_ok());
}

#[test]
fn a_record_has_one_writer_and_is_never_overwritten() {
    let (_dir, path) = written();
    let exists = Record::create(&path, &identity()).err().unwrap();
    assert!(exists.to_string().contains("--resume"), "{exists}");
    let (_held, _) = Record::resume(&path, &identity(), 6).unwrap();
    let in_use = Record::resume(&path, &identity(), 6).err().unwrap();
    assert!(matches!(in_use, RecordError::InUse(_)), "{in_use}");
    let missing = Record::resume(Path::new("/nonexistent/run.jsonl"), &identity(), 6);
    assert!(matches!(missing.err().unwrap(), RecordError::Missing(_)));
}

#[test]
fn rows_are_written_as_ranges() {
    assert_eq!(ranges(&[2, 3, 4, 7, 9, 10]), [(2, 4), (7, 7), (9, 10)]);
    assert_eq!(ranges(&[]), []);
}
