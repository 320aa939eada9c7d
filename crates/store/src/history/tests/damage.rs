//! What decays is named and costs no more than itself; what is derived is made again.

use super::*;
use crate::history::data::{Placed, scan};

fn names(files: &MemoryFiles, ending: &str) -> Vec<String> {
    let mut names = files.list().unwrap();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    names
}

fn blocks(files: &MemoryFiles, name: &str) -> Vec<Placed> {
    scan(&*files.open(name).unwrap(), 0).unwrap().blocks
}

#[test]
fn indexes_that_are_gone_are_made_again() {
    let records = Sample::new(30).take(400);
    let files = MemoryFiles::new();
    drop(filled(&files, &records));
    let indexes = names(&files, ".index");
    assert!(indexes.len() > 3);
    let before: Vec<_> = indexes.iter().map(|name| files.bytes_of(name)).collect();
    for name in &indexes {
        files.remove(name).unwrap();
    }
    let history = open(&files, &small());
    let mut random = Random(1);
    for _ in 0..50 {
        let query = any_query(&mut random, &records);
        assert_eq!(ask(&history, &query), expected(&query, &records));
    }
    let after: Vec<_> = indexes.iter().map(|name| files.bytes_of(name)).collect();
    assert!(before == after, "an index came out otherwise");
}

#[test]
fn a_damaged_index_is_noticed_and_answers_stay_right() {
    let records = Sample::new(31).take(64);
    let mut random = Random(2);
    for at in 0..100 {
        let files = MemoryFiles::new();
        drop(filled(&files, &records));
        let name = &names(&files, ".index")[0];
        let offset = files.bytes_of(name).len() as u64 * at / 100;
        files.damage(name, offset, &[0x5a; 3]);
        let history = open(&files, &small());
        for _ in 0..5 {
            let query = any_query(&mut random, &records);
            assert_eq!(ask(&history, &query), expected(&query, &records), "{at}");
        }
    }
}

#[test]
fn a_damaged_block_is_named_and_the_rest_is_read() {
    let records = Sample::new(32).take(400);
    for is_indexed in [true, false] {
        let files = MemoryFiles::new();
        drop(filled(&files, &records));
        let name = names(&files, ".events")[1].clone();
        let block = blocks(&files, &name)[2];
        files.damage(&name, block.offset + 100, b"decay");
        if !is_indexed {
            files.remove(&name.replace("events", "index")).unwrap();
        }
        let history = open(&files, &small());
        let mut want = events_of(&records);
        let first = block.header.first_seq as usize;
        want.drain(first..first + block.header.rows as usize);
        assert_eq!(ask(&history, &all()), want);
        let place = Damage {
            file: name,
            offset: block.offset,
        };
        assert_eq!(history.stats().damage, [place]);
    }
}

#[test]
fn damage_to_what_was_durable_in_the_active_file_is_no_tear() {
    let records = Sample::new(33).take(60);
    let files = MemoryFiles::new();
    let history = open(&files, &small());
    for records in records.chunks(10) {
        commit(&history, records);
        history.flush().unwrap();
    }
    drop(history);
    let name = &names(&files, ".events")[0];
    let block = blocks(&files, name)[1];
    files.damage(name, block.offset, b"decay");
    let history = open(&files, &small());
    assert_eq!(history.durable(), Some(records[59].position));
    assert_eq!(ask(&history, &all()).len(), 60 - block.header.rows as usize);
    assert_eq!(history.stats().damage.len(), 1);
}

#[test]
fn any_damage_to_any_file_panics_nothing_and_loses_no_more_than_its_block() {
    let records = Sample::new(34).take(120);
    for seed in 0..300 {
        let files = MemoryFiles::new();
        drop(filled(&files, &records));
        let mut random = Random(seed);
        let names = files.list().unwrap();
        let name = &names[random.below(names.len() as u64) as usize];
        let len = files.bytes_of(name).len() as u64;
        if len == 0 {
            continue;
        }
        let bytes = random.bits().to_le_bytes();
        files.damage(name, random.below(len), &bytes[..1 + (seed % 8) as usize]);
        let Ok(history) = History::open_on(Arc::new(files.clone()), &small()) else {
            continue;
        };
        let got = ask(&history, &all());
        assert!(got.len() >= 120 - 2 * 45, "{}", got.len());
        let mut want = events_of(&records).into_iter();
        assert!(got.iter().all(|event| want.any(|it| it == *event)));
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_by_name() {
    let files = MemoryFiles::new();
    drop(filled(&files, &Sample::new(35).take(10)));
    let name = &names(&files, ".events")[0];
    let mut start = files.bytes_of(name)[..12].to_vec();
    start[8] = 3;
    let crc = crc32c::crc32c(&start);
    start.extend_from_slice(&crc.to_le_bytes());
    files.damage(name, 0, &start);
    let opened = History::open_on(Arc::new(files.clone()), &small());
    let error = opened.err().expect("a refusal");
    assert!(error.to_string().contains(name.as_str()), "{error}");
}

/// Written by the first release that had this format.
const VERSION_1: &[u8] = include_bytes!("version-1.events");

#[test]
fn what_the_first_version_wrote_is_read() {
    let files = MemoryFiles::new();
    let file = files.create("0000000000000064.events").unwrap();
    journal::files::write_all_at(&*file, 0, &[VERSION_1]).unwrap();
    let history = open(&files, &small());
    let events = ask(&history, &all());
    assert_eq!(events.len(), 24);
    let statuses: Vec<_> = events.iter().map(|event| event.status as u8).collect();
    let want = [
        1, 1, 2, 4, 1, 1, 4, 2, 1, 1, 1, 4, 4, 1, 1, 4, 1, 4, 4, 2, 4, 4, 1, 1,
    ];
    assert_eq!(statuses, want);
    let one = &events[21];
    assert_eq!(one.at, Time::from_micros(1_780_000_000_021_934));
    assert_eq!(
        one.message.to_string(),
        "019e7044-8808-7009-8000-000000000007"
    );
    assert_eq!(
        (one.recipient, &*one.address),
        (3, "Person.362581@b\u{fc}cher.example")
    );
    assert_eq!(*one.tags, [("campaign".into(), "c2".into())]);
    let outcome = one.outcome.as_ref().unwrap();
    assert_eq!(
        (&*outcome.host, outcome.class, outcome.times.0[10]),
        (":25", 255, 90_296)
    );
    assert_eq!(&*outcome.said.text, "Ok: queued as 468968AF03FF");
    assert_eq!(history.stats().damage, []);
    assert_eq!(history.durable(), Some(Position::from_u64(2400)));
}
