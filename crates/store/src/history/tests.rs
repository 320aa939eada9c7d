//! History as a whole, on files in memory that fail and forget.
//!
//! Over 500 lines: each promise is a few lines over the same files.

mod crash;
mod damage;

use std::sync::Mutex;

use journal::MemoryFiles;
use journal::files::Cut;
use proptest::prelude::*;

use super::block::Record;
use super::sample::{Random, Sample};
use super::*;
use crate::Status;

/// The journal of a spool: all events there ever were, in order.
#[derive(Default)]
pub(super) struct Spool {
    events: Mutex<Vec<(Position, Event)>>,
}

impl Spool {
    fn of(records: &[Record]) -> Self {
        let events = records.iter().map(|it| (it.position, it.event.clone()));
        Self {
            events: Mutex::new(events.collect()),
        }
    }

    /// What a restart does.
    fn recover(&self, history: &History) {
        let _ = self.replay(history.durable(), &mut |at, event| {
            history.committed(at, event);
            Continue(())
        });
    }
}

impl EventSource for Spool {
    fn replay(
        &self,
        from: Option<Position>,
        each: &mut dyn FnMut(Position, Event) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let events = lock(&self.events).clone();
        let events = events.into_iter().filter(|(at, _)| Some(*at) >= from);
        for (at, event) in events {
            if each(at, event).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What `version-1` holds.
fn old_records() -> Vec<Record> {
    let mut records = Sample::new(77).take(90);
    records.iter_mut().for_each(|it| it.event.heading = None);
    records
}

/// Files as they were written before blocks had headings: a sealed one with its index, and one that
/// goes on.
fn old_files() -> MemoryFiles {
    let files = MemoryFiles::new();
    for (name, bytes) in [
        (
            data::name(0),
            &include_bytes!("tests/version-1/0000000000000000.events")[..],
        ),
        (
            data::index_name(0),
            include_bytes!("tests/version-1/0000000000000000.index"),
        ),
        (
            data::name(0x44),
            include_bytes!("tests/version-1/0000000000000044.events"),
        ),
    ] {
        let file = files.create(&name).unwrap();
        journal::files::write_all_at(&*file, 0, &[bytes]).unwrap();
        file.sync().unwrap();
    }
    files.sync_dir().unwrap();
    files
}

/// Small blocks and files, no thread: the same every time.
fn small() -> HistoryOptions {
    HistoryOptions {
        age_max: None,
        bytes_max: None,
        block_events: 8,
        file_events: 64,
        feed_events_max: 32,
        thread: false,
        ..HistoryOptions::default()
    }
}

fn open(files: &MemoryFiles, options: &HistoryOptions) -> History {
    History::open_on(Arc::new(files.clone()), options).unwrap()
}

fn commit(history: &History, records: &[Record]) {
    for record in records {
        history.committed(record.position, record.event.clone());
    }
}

/// Every page there is.
fn ask(history: &History, query: &Query) -> Vec<Event> {
    let mut query = query.clone();
    let mut events = Vec::new();
    loop {
        let page = history.query(&query).unwrap();
        assert!(page.events.len() <= query.limit);
        events.extend(page.events);
        if !page.more {
            return events;
        }
        query.cursor = Some(page.cursor.to_string().parse().unwrap());
    }
}

fn all() -> Query {
    Query {
        order: Order::Oldest,
        limit: LIMIT_MAX,
        ..Query::default()
    }
}

/// Fails with little more than the first difference.
#[track_caller]
fn assert_same(got: &[Event], want: &[Event]) {
    let same = got.iter().zip(want).take_while(|(got, want)| got == want);
    let same = same.count();
    assert!(
        got.len() == want.len() && same == want.len(),
        "{} of {}, the same up to {same}: {:?}, not {:?}",
        got.len(),
        want.len(),
        got.get(same),
        want.get(same),
    );
}

fn events_of(records: &[Record]) -> Vec<Event> {
    records.iter().map(|record| record.event.clone()).collect()
}

/// Sealed files, an active one, written blocks and unwritten events.
fn filled(files: &MemoryFiles, records: &[Record]) -> History {
    let history = open(files, &small());
    for records in records.chunks(45) {
        commit(&history, records);
        history.flush().unwrap();
    }
    history
}

/// Questions about what is there, and some about what is not.
fn any_query(random: &mut Random, records: &[Record]) -> Query {
    let mut some = || &records[random.below(records.len() as u64) as usize].event;
    let (one, other) = (some(), some());
    let mut maybe = |one_in| random.below(one_in) == 0;
    let tag = one.tags.first().cloned();
    let site = one.outcome.as_ref().map(|it| Box::from(&*it.site));
    Query {
        message: maybe(4).then_some(one.message),
        recipient: maybe(4).then(|| one.address.to_ascii_lowercase().into()),
        tenant: maybe(3).then(|| Box::from(&*one.tenant)),
        tag: tag.filter(|_| maybe(3)),
        site: site.filter(|_| maybe(3)),
        status: maybe(3).then_some(one.status),
        from: maybe(3).then_some(one.at.min(other.at)),
        to: maybe(3).then_some(one.at.max(other.at)),
        order: if maybe(2) {
            Order::Newest
        } else {
            Order::Oldest
        },
        cursor: None,
        limit: 1 + random.below(20) as usize,
    }
}

fn expected(query: &Query, records: &[Record]) -> Vec<Event> {
    let mut events = events_of(records);
    events.retain(|event| query.matches(event));
    if query.order == Order::Newest {
        events.reverse();
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_question_is_answered_in_full_and_in_order(seed in any::<u64>(), count in 1usize..400) {
        let records = Sample::new(seed).take(count);
        let files = MemoryFiles::new();
        let history = filled(&files, &records[..count / 2]);
        commit(&history, &records[count / 2..]);
        let mut random = Random(seed);
        let queries: Vec<_> = (0..20).map(|_| any_query(&mut random, &records)).collect();
        for query in &queries {
            assert_same(&ask(&history, query), &expected(query, &records));
        }
        history.flush().unwrap();
        drop(history);
        let history = open(&files, &small());
        for query in &queries {
            assert_same(&ask(&history, query), &expected(query, &records));
        }
    }

    #[test]
    fn a_cursor_goes_on_whatever_happens_in_between(seed in any::<u64>()) {
        let records = Sample::new(seed).take(300);
        let files = MemoryFiles::new();
        let mut history = filled(&files, &records[..100]);
        let mut random = Random(seed);
        let mut query = Query { limit: 7, ..any_query(&mut random, &records[..100]) };
        // Newest first, what comes later does not belong to the answer.
        let counted = if query.order == Order::Newest { 100 } else { 300 };
        let (mut got, mut done) = (Vec::new(), 100);
        loop {
            let page = history.query(&query).unwrap();
            got.extend(page.events);
            if !page.more && (done == 300 || query.order == Order::Newest) {
                break;
            }
            query.cursor = Some(page.cursor);
            let more = (done + 50).min(300);
            commit(&history, &records[done..more]);
            done = more;
            if random.below(2) == 0 {
                history.flush().unwrap();
                drop(history);
                history = open(&files, &small());
            }
        }
        assert_same(&got, &expected(&query, &records[..counted]));
    }
}

#[test]
fn a_cursor_of_the_other_order_is_refused() {
    let history = open(&MemoryFiles::new(), &small());
    let page = history.query(&Query::default()).unwrap();
    assert!(!page.more && page.events.is_empty());
    let query = Query {
        cursor: Some(page.cursor),
        ..all()
    };
    assert!(matches!(
        history.query(&query),
        Err(QueryError::CursorOrder)
    ));
}

#[test]
fn an_answer_has_what_was_taken_before_the_question() {
    let records = Sample::new(1).take(3);
    let history = open(&MemoryFiles::new(), &HistoryOptions::default());
    for count in 1..=3 {
        commit(&history, &records[count - 1..count]);
        assert_eq!(ask(&history, &all()).len(), count);
    }
}

#[test]
fn the_latest_of_a_message_is_one_event_for_each_recipient() {
    let mut records = Sample::new(2).take(200);
    let message = records[0].event.message;
    for (index, record) in records.iter_mut().enumerate().take(90) {
        record.event.message = message;
        record.event.recipient = (index % 30) as u32;
    }
    let history = filled(&MemoryFiles::new(), &records);
    let latest = history.latest(message).unwrap();
    assert_same(&latest.events, &events_of(&records[60..90]));
    assert_eq!(latest.accepted, Some(records[0].event.clone()));
    let unknown = history.latest(MessageId::from_bits(1)).unwrap();
    assert_eq!(unknown, Latest::default());
}

#[test]
fn what_a_message_was_stays_known_in_blocks_and_before_they_are_written() {
    let records = Sample::new(9).take(400);
    let history = filled(&MemoryFiles::new(), &records[..200]);
    commit(&history, &records[200..]);
    for record in records.iter().filter(|it| it.event.heading.is_some()) {
        let latest = history.latest(record.event.message).unwrap();
        assert_eq!(latest.accepted, Some(record.event.clone()));
    }
}

#[test]
fn a_heading_beyond_all_measure_is_cut() {
    let mut record = Sample::new(9).next();
    record.event.heading = Some(Arc::new(crate::Heading {
        from: "a".repeat(5000).into(),
        subject: "\u{e9}".repeat(5000).into(),
    }));
    let history = open(&MemoryFiles::new(), &small());
    commit(&history, &[record]);
    let heading = ask(&history, &all())[0].heading.clone().unwrap();
    assert_eq!((heading.from.len(), heading.subject.len()), (1024, 1024));
}

#[test]
fn files_of_version_1_are_read_and_gone_on_with() {
    let mut records = old_records();
    let files = old_files();
    assert_same(&ask(&open(&files, &small()), &all()), &events_of(&records));
    // Of the one that is not sealed, a part becomes version 2; sealed ones are made one with it.
    let more: Vec<Record> = Sample::new(78).take(500);
    let more = more.into_iter().map(|mut it| {
        it.position = Position::from_u64(it.position.to_u64() + 100_000);
        it
    });
    records.extend(more);
    let history = open(&files, &small());
    commit(&history, &records[90..]);
    history.flush().unwrap();
    assert_same(&ask(&history, &all()), &events_of(&records));
    drop(history);
    let history = open(&files, &small());
    assert_same(&ask(&history, &all()), &events_of(&records));
    assert!(history.stats().damage.is_empty());
}

#[test]
fn an_index_of_version_1_is_made_again_when_it_is_missing() {
    let files = old_files();
    files.remove(&data::index_name(0)).unwrap();
    let (history, records) = (open(&files, &small()), old_records());
    let query = Query {
        message: Some(records[3].event.message),
        order: Order::Oldest,
        ..Query::default()
    };
    assert_same(&ask(&history, &query), &expected(&query, &records));
    assert_eq!(
        history
            .minutes(Time::ZERO, Time::MAX)
            .iter()
            .map(|it| it.counts.total())
            .sum::<u64>(),
        90
    );
}

#[test]
fn many_small_blocks_become_few_files_and_nothing_is_lost() {
    let records = Sample::new(3).take(3000);
    let files = MemoryFiles::new();
    let options = HistoryOptions {
        file_events: 1 << 19,
        block_events: 64,
        ..small()
    };
    let history = open(&files, &options);
    for record in &records {
        history.committed(record.position, record.event.clone());
        history.flush().unwrap();
    }
    assert!(history.stats().sealed_files <= 2, "{:?}", history.stats());
    assert_same(&ask(&history, &all()), &events_of(&records));
    drop(history);
    let history = open(&files, &options);
    assert_same(&ask(&history, &all()), &events_of(&records));
    assert_eq!(history.stats().damage, []);
    let last = records.last().map(|record| record.position);
    assert_eq!(history.durable(), last);
}

#[test]
fn minutes_are_counted_once_and_the_same_after_a_restart() {
    let records = Sample::new(4).take(500);
    let mut want = Minutes::new();
    for record in &records {
        let minute = minutes::start_of(record.event.at);
        let new = || MinuteStats::new(minute);
        want.entry(minute).or_insert_with(new).add(&record.event);
    }
    let want: Vec<_> = want.into_values().collect();
    let files = MemoryFiles::new();
    let history = filled(&files, &records[..400]);
    commit(&history, &records[400..]);
    assert_eq!(history.minutes(Time::ZERO, Time::MAX), want);
    let first = want[0].minute;
    assert_eq!(
        history.minutes(first, first + Time::from_secs(1)),
        want[..1]
    );
    assert!(history.minutes(Time::MAX, first).is_empty());
    history.flush().unwrap();
    drop(history);
    assert_eq!(open(&files, &small()).minutes(Time::ZERO, Time::MAX), want);
}

#[test]
fn minutes_older_than_a_day_are_read_from_the_files() {
    let mut records = Sample::new(5).take(300);
    let late = Time::from_hours(50);
    for record in &mut records[150..] {
        record.event.at += late;
    }
    let files = MemoryFiles::new();
    let history = filled(&files, &records);
    let kept = lock(&history.shared.state).minutes.len();
    let found = history.minutes(Time::ZERO, Time::MAX);
    assert!(kept < found.len(), "{kept}");
    let counted: u64 = found.iter().map(|it| it.counts.total()).sum();
    assert_eq!(counted, 300);
    drop(history);
    // One file ends and another begins within the older minute.
    let history = open(&files, &small());
    assert_eq!(lock(&history.shared.state).minutes.len(), kept);
    assert_eq!(history.minutes(Time::ZERO, Time::MAX), found);
}

#[test]
fn old_files_go_and_then_those_over_the_size() {
    let records = Sample::new(6).take(600);
    let files = MemoryFiles::new();
    let history = filled(&files, &records);
    let before = history.stats();
    assert!(before.sealed_files >= 6, "{before:?}");
    drop(history);

    let later = records[130].event.at;
    assert_eq!(open(&files, &small()).whole_since(), None);
    let options = HistoryOptions {
        age_max: Some(Time::from_secs(3600)),
        ..small()
    };
    let history = open(&files, &options);
    history.retain(later + Time::from_secs(3600)).unwrap();
    let left = ask(&history, &all());
    assert!(left.len() < 600 && left[..] == events_of(&records)[600 - left.len()..]);
    drop(history);

    let options = HistoryOptions {
        bytes_max: Some(before.bytes / 2),
        ..small()
    };
    let history = open(&files, &options);
    history.retain(Time::ZERO).unwrap();
    assert!(history.stats().bytes <= before.bytes / 2);
    let left = ask(&history, &all());
    assert!(!left.is_empty() && left[..] == events_of(&records)[600 - left.len()..]);
    let since = left.iter().map(|event| event.at).min();
    assert_eq!(history.whole_since(), since);
    drop(history);
    assert_eq!(open(&files, &small()).whole_since(), since);
}

#[test]
fn retention_leaves_what_says_where_to_go_on() {
    let records = Sample::new(7).take(128);
    let files = MemoryFiles::new();
    let options = HistoryOptions {
        bytes_max: Some(0),
        ..small()
    };
    let history = open(&files, &options);
    commit(&history, &records);
    history.flush().unwrap();
    history.retain(Time::ZERO).unwrap();
    drop(history);
    let history = open(&files, &options);
    assert_eq!(history.durable(), Some(records[127].position));
    Spool::of(&records).recover(&history);
    assert_eq!(ask(&history, &all()), events_of(&records[64..]));
}

#[test]
fn what_went_by_while_the_disk_was_full_is_read_from_the_journal() {
    for seed in 0..20 {
        let records = Sample::new(seed).take(1000);
        let (files, spool) = (MemoryFiles::new(), Arc::new(Spool::default()));
        let history = open(&files, &small());
        let source: Arc<dyn EventSource> = spool.clone();
        history.catch_up_from(Arc::downgrade(&source));
        let mut random = Random(seed);
        let mut was_behind = false;
        for record in &records {
            lock(&spool.events).push((record.position, record.event.clone()));
            history.committed(record.position, record.event.clone());
            was_behind |= history.stats().is_behind;
            match random.below(60) {
                0 => files.set_capacity(Some(0)),
                1 => files.set_capacity(None),
                2 => drop(history.flush()),
                3 => assert!(history.query(&all()).is_ok()),
                _ => {}
            }
        }
        assert!(was_behind, "nothing went by");
        files.set_capacity(None);
        history.flush().unwrap();
        assert!(!history.stats().is_behind);
        assert_same(&ask(&history, &all()), &events_of(&records));
    }
}

#[test]
fn a_full_feed_makes_who_fills_it_wait_and_loses_nothing() {
    let records = Sample::new(8).take(5000);
    let options = HistoryOptions {
        thread: true,
        ..small()
    };
    let history = open(&MemoryFiles::new(), &options);
    commit(&history, &records);
    history.flush().unwrap();
    assert_same(&ask(&history, &all()), &events_of(&records));
}

#[test]
fn recipients_of_one_record_are_each_taken_once() {
    let mut records = Sample::new(9).take(100);
    for (index, record) in records.iter_mut().enumerate() {
        record.position = Position::from_u64(index as u64 / 30);
        record.event.recipient = index as u32 % 30;
    }
    let files = MemoryFiles::new();
    let history = open(&files, &small());
    commit(&history, &records[..50]);
    history.flush().unwrap();
    drop(history);
    let history = open(&files, &small());
    assert_eq!(history.durable(), Some(Position::from_u64(1)));
    Spool::of(&records).recover(&history);
    assert_same(&ask(&history, &all()), &events_of(&records));
}

#[test]
fn another_journal_is_taken_from_its_beginning() {
    let records = Sample::new(10).take(60);
    let files = MemoryFiles::new();
    let history = open(&files, &small());
    commit(&history, &records[..40]);
    history.flush().unwrap();
    drop(history);
    let history = open(&files, &small());
    history.expect_journal_end(Position::from_u64(1));
    assert_eq!(history.durable(), None);
    commit(&history, &records[..20]);
    history.flush().unwrap();
    drop(history);
    let history = open(&files, &small());
    history.expect_journal_end(Position::from_u64(u64::MAX));
    Spool::of(&records[..20]).recover(&history);
    assert_eq!(ask(&history, &all()).len(), 60);
}

#[test]
fn another_process_reads_what_is_written_while_it_is_written() {
    let records = Sample::new(11).take(300);
    let files = MemoryFiles::new();
    let history = filled(&files, &records[..290]);
    commit(&history, &records[290..]);
    let reader = HistoryReader::open_on(&files).unwrap();
    let mut events = Vec::new();
    let damage = reader.for_each(&all(), |event| {
        events.push(event);
        Continue(())
    });
    assert_eq!(damage.unwrap(), []);
    assert_eq!(events, events_of(&records[..290]));
    // It changed nothing, and an open file is read although it goes.
    history.flush().unwrap();
    assert_same(&ask(&history, &all()), &events_of(&records));
}

#[test]
fn a_folder_is_one_historys_alone() {
    let files = MemoryFiles::new();
    let _history = open(&files, &small());
    let again = History::open_on(Arc::new(files.clone()), &small());
    assert!(matches!(again, Err(OpenError::InUse(_))));
}

#[test]
fn a_full_disk_holds_history_up_until_there_is_room() {
    let records = Sample::new(12).take(200);
    let files = MemoryFiles::new();
    let history = open(
        &files,
        &HistoryOptions {
            feed_events_max: 1000,
            ..small()
        },
    );
    commit(&history, &records[..100]);
    history.flush().unwrap();
    files.set_capacity(Some(0));
    commit(&history, &records[100..]);
    assert!(history.flush().is_err());
    assert_eq!(history.durable(), Some(records[99].position));
    files.set_capacity(None);
    history.flush().unwrap();
    assert_same(&ask(&history, &all()), &events_of(&records));
    drop(history);
    files.restart(Cut::Nothing);
    assert_eq!(ask(&open(&files, &small()), &all()), events_of(&records));
}

#[test]
fn counts_by_status_add_up() {
    let records = Sample::new(13).take(100);
    let history = filled(&MemoryFiles::new(), &records);
    let [mut delivered, mut attempts] = [0; 2];
    for stats in history.minutes(Time::ZERO, Time::MAX) {
        delivered += stats.counts.of(Status::Delivered);
        attempts += stats.attempts;
        let tenants: u64 = stats.tenants.values().map(Counts::total).sum();
        assert_eq!(tenants, stats.counts.total());
    }
    let count = |test: &dyn Fn(&Event) -> bool| {
        records.iter().filter(|record| test(&record.event)).count() as u64
    };
    assert_eq!(delivered, count(&|it| it.status == Status::Delivered));
    assert_eq!(attempts, count(&|it| it.outcome.is_some()));
}
