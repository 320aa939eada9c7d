//! The table beside a map, through restarts and power cuts.

use std::collections::BTreeMap;

use journal::files::{Cut, Fault};
use journal::{MemoryFiles, Mode, Options};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn journal_in(files: &MemoryFiles, mode: Mode) -> Journal {
    let options = Options {
        segment_bytes_max: 8 << 10,
        mode,
        ..Options::default()
    };
    Journal::open(Arc::new(files.clone()), options).unwrap().0
}

fn open(files: &MemoryFiles, mode: Mode, now: Time) -> Table {
    let (table, damage) = Table::open(journal_in(files, mode), now).unwrap();
    assert_eq!(damage, []);
    table
}

const NOW: Time = Time::from_secs(1_790_000_000);

#[test]
fn what_was_put_is_there_after_a_restart_and_what_expired_is_not() {
    let files = MemoryFiles::new();
    let table = open(&files, Mode::Inline, NOW);
    let later = NOW + Time::from_secs(60);
    table.insert(1, b"a", b"1", None).unwrap().wait().unwrap();
    table
        .insert(1, b"b", b"2", Some(later))
        .unwrap()
        .wait()
        .unwrap();
    table
        .insert(2, b"a", b"3", Some(later))
        .unwrap()
        .wait()
        .unwrap();
    table.insert(2, b"a", b"4", None).unwrap().wait().unwrap();
    table.insert(1, b"c", b"5", None).unwrap().wait().unwrap();
    table.remove(1, b"c").unwrap().wait().unwrap();
    drop(table);
    let table = open(&files, Mode::Inline, NOW);
    let got = |space, key: &[u8]| table.get(space, key).map(|v| v.to_vec());
    assert_eq!(got(1, b"a"), Some(b"1".to_vec()));
    assert_eq!(got(1, b"b"), Some(b"2".to_vec()));
    assert_eq!(got(2, b"a"), Some(b"4".to_vec()));
    assert_eq!((got(1, b"c"), table.len()), (None, 3));
    assert_eq!(table.entries(1).len(), 2);
    assert_eq!((table.expire(NOW), table.expire(later)), (0, 1));
    assert_eq!((got(1, b"b"), got(2, b"a")), (None, Some(b"4".to_vec())));
    drop(table);
    assert_eq!(open(&files, Mode::Inline, later).len(), 2);
}

#[test]
fn a_key_too_long_is_refused() {
    let table = open(&MemoryFiles::new(), Mode::Inline, NOW);
    let key = [b'k'; KEY_BYTES_MAX + 1];
    let refused = table.insert(0, &key, b"", None).unwrap_err();
    assert_eq!(refused, TableError::KeyTooLong(KEY_BYTES_MAX + 1));
    assert!(table.insert(0, &key[1..], b"", None).is_ok());
}

#[test]
fn the_journal_stays_in_proportion_to_what_is_in_the_table() {
    let files = MemoryFiles::new();
    let table = open(&files, Mode::Inline, NOW);
    drop(table.insert(9, b"first", b"kept", None).unwrap());
    for n in 0..2000u32 {
        let key = (n % 40).to_le_bytes();
        drop(table.insert(1, &key, &n.to_le_bytes(), None).unwrap());
        table.compact().unwrap();
    }
    let segments = table.inner.journal.segments();
    assert!(segments.len() <= 5, "{segments:?}");
    assert!(segments[0].number > 3);
    drop(table);
    let table = open(&files, Mode::Inline, NOW);
    assert_eq!(table.len(), 41);
    assert_eq!(table.get(9, b"first").unwrap(), "kept");
    assert_eq!(
        table.get(1, &7u32.to_le_bytes()).unwrap(),
        &1967u32.to_le_bytes()[..]
    );
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        key: u8,
        value: u16,
        seconds: Option<u8>,
    },
    Remove {
        key: u8,
    },
    Pass {
        seconds: u8,
    },
    Turn,
    Compact,
    Restart(Cut),
}

fn step() -> impl Strategy<Value = Step> {
    let cut = prop_oneof![
        Just(Cut::Everything),
        Just(Cut::Nothing),
        any::<u64>().prop_map(Cut::Any),
    ];
    prop_oneof![
        20 => (0u8..20, any::<u16>(), proptest::option::of(0u8..50))
            .prop_map(|(key, value, seconds)| Step::Insert { key, value, seconds }),
        5 => (0u8..20).prop_map(|key| Step::Remove { key }),
        2 => (0u8..20).prop_map(|seconds| Step::Pass { seconds }),
        4 => Just(Step::Turn),
        4 => Just(Step::Compact),
        1 => cut.prop_map(Step::Restart),
    ]
}

type Change = (u8, Option<(Vec<u8>, Option<Time>)>);

/// What a table holds at `now` after these changes.
fn map_after(changes: &[(Position, Change)], now: Time) -> BTreeMap<u8, Vec<u8>> {
    let mut map = BTreeMap::new();
    for (_, (key, value)) in changes {
        map.insert(*key, value.clone());
    }
    let lives = |expires_at: &Option<Time>| expires_at.is_none_or(|at| at > now);
    let held = map
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    held.filter(|(_, (_, expires_at))| lives(expires_at))
        .map(|(key, (value, _))| (key, value))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_is_what_its_journal_says(steps in vec(step(), 1..300)) {
        let files = MemoryFiles::new();
        let mut table = open(&files, Mode::Manual, NOW);
        let (mut changes, mut now) = (Vec::new(), NOW);
        for step in steps {
            match step {
                Step::Insert { key, value, seconds } => {
                    let value = [value.to_le_bytes().repeat(50), vec![key]].concat();
                    let expires_at = seconds.map(|s| now + Time::from_secs(s.into()));
                    drop(table.insert(3, &[key], &value, expires_at).unwrap());
                    changes.push((table.inner.journal.end(), (key, Some((value, expires_at)))));
                }
                Step::Remove { key } => {
                    drop(table.remove(3, &[key]).unwrap());
                    changes.push((table.inner.journal.end(), (key, None)));
                }
                Step::Pass { seconds } => now += Time::from_secs(seconds.into()),
                Step::Turn => while table.inner.journal.turn() {},
                Step::Compact => compact(&table),
                Step::Restart(cut) => {
                    files.restart(cut);
                    table = open(&files, Mode::Manual, now);
                    let end = table.inner.journal.end();
                    changes.retain(|(ends_at, _)| *ends_at <= end);
                }
            }
            table.expire(now);
            let held = table.entries(3).into_iter();
            let held: BTreeMap<_, _> = held.map(|(key, value, _)| (key[0], value.to_vec())).collect();
            prop_assert_eq!(held, map_after(&changes, now));
        }
    }
}

/// In the manual mode nobody else writes while compaction waits.
fn compact(table: &Table) {
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| table.compact());
        while !compacting.is_finished() {
            table.inner.journal.turn();
            std::thread::yield_now();
        }
        compacting.join().unwrap().unwrap();
    });
}

#[test]
fn a_table_whose_journal_failed_says_why_and_changes_no_more() {
    let files = MemoryFiles::new();
    let table = open(&files, Mode::Inline, NOW);
    table.insert(1, b"a", b"1", None).unwrap().wait().unwrap();
    assert_eq!(table.failure(), None);
    for call in files.calls()..files.calls() + 4 {
        files.fail(call, Fault::Error(std::io::ErrorKind::Other));
    }
    let lost = table.insert(1, b"b", b"2", None).unwrap().wait();
    assert_eq!(lost, Err(CommitError::Poisoned));
    let why = table.failure().unwrap();
    assert!(why.starts_with("write: "), "{why}");
    let refused = table.insert(1, b"c", b"3", None);
    assert!(matches!(
        refused,
        Err(TableError::Append(AppendError::Poisoned))
    ));
    drop(table);
    files.mend();
    let table = open(&files, Mode::Inline, NOW);
    assert_eq!((table.failure(), table.len()), (None, 1));
}
