//! The spool beside a model of it, through restarts and power cuts.
//!
//! Over 500 lines: the model and the many ends it is driven to share one harness.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use journal::files::{Cut, Fault};
use journal::{Check, MemoryFiles, Mode, Options};
use proptest::collection::vec;
use proptest::prelude::*;
use smtp::{Content, Envelope, Recipient};

use super::digest::Digest;
use super::*;
use crate::{Head, Priority, Said};

fn journal_in(files: &MemoryFiles, mode: Mode) -> Journal {
    let options = Options {
        segment_bytes_max: 16 << 10,
        record_bytes_max: 1 << 20,
        mode,
        check: Check::Tail,
        ..Options::default()
    };
    Journal::open(Arc::new(files.clone()), options).unwrap().0
}

fn options(files: &MemoryFiles) -> SpoolOptions {
    SpoolOptions {
        digests: Some(Arc::new(files.clone())),
        cache_bytes_max: 16 << 10,
        pack_bytes_min: 2048,
        slack_bytes: 16 << 10,
        compact_bytes_max: 8 << 10,
        ..SpoolOptions::default()
    }
}

fn open(files: &MemoryFiles, mode: Mode) -> (Spool, Vec<Recovered>) {
    let (spool, mut recovery) = Spool::open(journal_in(files, mode), options(files));
    let recovered = recovery.by_ref().map(Result::unwrap).collect();
    assert_eq!(recovery.damage(), []);
    (spool, recovered)
}

fn message(id: MessageId, recipients: usize, content_bytes: usize) -> Message {
    let to = |n| {
        Recipient::from(
            format!("u{n}@example.org")
                .parse::<smtp::Address>()
                .unwrap(),
        )
    };
    let from: smtp::Address = "app@example.com".parse().unwrap();
    let line = format!("{id} {}\r\n", "x".repeat(30));
    let body = line.repeat(content_bytes / line.len() + 1);
    Message::new(
        Head {
            id,
            accepted_at: id.time(),
            tenant: "shop".into(),
            envelope: Arc::new(Envelope::new(from, (0..recipients).map(to).collect()).unwrap()),
            tags: [].into(),
            subject: "hi".into(),
            priority: Priority::Bulk,
            due_at: id.time() + Time::from_nanos(7),
            expires_at: id.time() + Time::from_secs(1000),
        },
        Content::new(format!("Subject: hi\r\n\r\n{body}")).unwrap(),
    )
}

fn event(message: &Message, recipient: u32, status: Status, attempt: u16) -> Event {
    let at = message.accepted_at + Time::from_micros(attempt.into());
    let outcome = Outcome {
        attempt,
        class: (attempt % 7) as u8,
        said: Said {
            code: 451,
            enhanced: None,
            text: format!("attempt {attempt} of {recipient}").into(),
        },
        ..Outcome::default()
    };
    let waits = matches!(status, Status::Deferred);
    Event {
        at,
        message: message.id,
        recipient,
        address: message.envelope.recipients()[recipient as usize]
            .address
            .as_str()
            .into(),
        tenant: message.tenant.clone(),
        tags: message.tags.clone(),
        status,
        due_at: waits.then(|| at + Time::from_nanos(u64::from(attempt) * 1_000_000_007)),
        outcome: Some(Box::new(outcome)),
        heading: None,
    }
}

const NOW: Time = Time::from_secs(1_790_000_000);

#[test]
fn a_message_is_read_back_from_memory_and_from_the_journal() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let mut kept = Vec::new();
    for size in [100, 5000, 100, 4000, 300] {
        let message = message(spool.next_id(NOW), 1, size);
        let (slot, commit) = spool.append(message.clone()).unwrap();
        commit.wait().unwrap();
        kept.push((slot, message));
    }
    for (slot, message) in &kept {
        assert_eq!(spool.read(*slot).unwrap(), *message);
        assert_eq!(spool.find(message.id), Some(*slot));
    }
    let stats = spool.stats();
    assert!(stats.cache_hits > 0 && stats.cache_misses > 0, "{stats:?}");
    assert!(stats.cache_bytes <= 16 << 10);
    assert_eq!((stats.messages, stats.recipients), (5, 5));
}

#[test]
fn who_sends_a_message_takes_it_out_of_memory_once_nobody_else_needs_it() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let [one, two] = [1, 2].map(|recipients| message(spool.next_id(NOW), recipients, 10));
    for (message, is_kept) in [(one, false), (two, true)] {
        let (slot, commit) = spool.append(message.clone()).unwrap();
        commit.wait().unwrap();
        assert_eq!(spool.read_at_once(slot).as_ref(), Some(&message));
        assert_eq!(spool.stats().cache_bytes > 0, is_kept);
        assert_eq!(spool.read(slot).unwrap(), message);
    }
}

#[test]
fn a_second_terminal_event_is_refused_and_not_written() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let message = message(spool.next_id(NOW), 2, 10);
    let (slot, _) = spool.append(message.clone()).unwrap();
    let delivered = event(&message, 0, Status::Delivered, 1);
    spool.record(slot, &delivered).unwrap();
    let end = spool.journal().end();
    for status in [Status::Delivered, Status::Bounced, Status::Deferred] {
        let again = event(&message, 0, status, 2);
        assert_eq!(spool.record(slot, &again), Err(RecordError::Settled(0)));
    }
    let mut none = event(&message, 1, Status::Delivered, 1);
    none.recipient = 2;
    assert_eq!(spool.record(slot, &none), Err(RecordError::Settled(2)));
    let accepted = event(&message, 1, Status::Accepted, 1);
    assert_eq!(spool.record(slot, &accepted), Err(RecordError::Implied));
    assert_eq!(spool.journal().end(), end);

    let both = [event(&message, 1, Status::Bounced, 1), delivered];
    let error = spool.record_all(slot, &both).unwrap_err();
    assert_eq!((error.recorded, error.source), (1, RecordError::Unknown));
    assert_eq!(spool.find(message.id), None);
    assert!(matches!(spool.read(slot), Err(ReadError::Gone)));
    drop(spool);
    assert_eq!(open(&files, Mode::Inline).1, []);
}

#[test]
fn what_is_forgotten_leaves_nothing() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Manual);
    let message = message(spool.next_id(NOW), 3, 10);
    files.fail(files.calls(), Fault::Error(std::io::ErrorKind::StorageFull));
    let (slot, commit) = spool.append(message).unwrap();
    spool.journal().turn();
    assert!(commit.wait().is_err());
    spool.forget(slot);
    let stats = spool.stats();
    assert_eq!(
        (stats.messages, stats.recipients, stats.live_bytes),
        (0, 0, 0)
    );
    assert_eq!(stats.cache_bytes, 0);
}

#[test]
fn a_message_to_many_keeps_each_recipient_apart() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let message = message(spool.next_id(NOW), 130, 10);
    let (slot, _) = spool.append(message.clone()).unwrap();
    for recipient in (0..130).filter(|r| r % 3 != 0) {
        let delivered = event(&message, recipient, Status::Delivered, 1);
        spool.record(slot, &delivered).unwrap();
    }
    spool
        .record(slot, &event(&message, 129, Status::Held, 4))
        .unwrap();
    drop(spool);
    let (spool, recovered) = open(&files, Mode::Inline);
    let left: Vec<u32> = recovered[0].recipients.iter().map(|r| r.index).collect();
    assert_eq!(left, (0..130).filter(|r| r % 3 == 0).collect::<Vec<_>>());
    let held: Vec<_> = recovered[0].recipients.iter().filter(|r| r.held).collect();
    assert_eq!((held.len(), held[0].index, held[0].attempts), (1, 129, 4));
    let slot = recovered[0].slot;
    let other = MessageId::from_bits(1);
    let refused = spool.reschedule(slot, other, &[129], NOW);
    assert_eq!(refused.err(), Some(RecordError::Unknown));
    // Of those who release it at once, one does.
    for want in [&[129][..], &[]] {
        let released = spool.release(slot, message.id, &[100, 129], NOW);
        let (released, commit) = released.unwrap();
        assert_eq!(released, want);
        commit.wait().unwrap();
    }
    drop(spool);
    let (_, recovered) = open(&files, Mode::Inline);
    let last = recovered[0].recipients.last().unwrap();
    assert_eq!((last.held, last.attempts, last.due_at), (false, 4, NOW));
}

#[test]
fn ids_rise_whatever_the_clock_does_and_differ_between_starts() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let times = [5, 5, 3, 9, 0].map(|s| NOW + Time::from_secs(s));
    let mut ids: Vec<_> = times.map(|now| spool.next_id(now)).into();
    ids.extend((0..10_000).map(|_| spool.next_id(NOW)));
    assert!(ids.is_sorted_by(|a, b| a < b));
    let (slot, _) = spool.append(message(ids[0], 1, 1)).unwrap();
    spool.forget(slot);
    drop(spool);
    let (spool, _) = open(&files, Mode::Inline);
    assert!(!ids.contains(&spool.next_id(times[0])));
}

#[test]
fn an_id_of_an_earlier_start_is_refused_until_it_is_known_to_be_free() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let used = message(spool.next_id(NOW), 1, 1);
    let free = message(spool.next_id(NOW), 1, 1);
    drop(spool.append(used.clone()).unwrap());
    drop(spool);
    let (spool, mut recovery) = Spool::open(journal_in(&files, Mode::Inline), options(&files));
    let refused = |message: &Message| spool.append(message.clone()).err();
    assert_eq!(refused(&free), Some(AppendError::Busy));
    assert_eq!(refused(&message(spool.next_id(NOW), 1, 1)), None);
    assert_eq!(recovery.by_ref().count(), 1);
    assert_eq!(
        (refused(&used), refused(&free)),
        (Some(AppendError::Busy), None)
    );
}

/// What the model keeps of a record: enough to say what is left of any beginning of the journal.
#[derive(Clone, Debug)]
enum Logged {
    Accepted(Message),
    Event(Event),
    Rescheduled(Rescheduled),
}

type Standings = BTreeMap<u32, Recipient_>;

#[derive(Clone, Debug, PartialEq)]
struct Recipient_ {
    attempts: u16,
    due_at: Time,
    class: u8,
    held: bool,
    last: Option<(Time, Box<Outcome>)>,
}

/// Unsettled messages after these records, each with where it ends.
fn state_after(log: &[(Position, Logged)]) -> BTreeMap<MessageId, (Message, Standings)> {
    let mut state: BTreeMap<MessageId, (Message, Standings)> = BTreeMap::new();
    for (_, logged) in log {
        match logged {
            Logged::Accepted(message) => {
                let fresh = Recipient_ {
                    attempts: 0,
                    due_at: message.due_at,
                    class: 0xff,
                    held: false,
                    last: None,
                };
                let all = 0..message.envelope.recipients().len() as u32;
                let standings = all.map(|r| (r, fresh.clone())).collect();
                state.insert(message.id, (message.clone(), standings));
            }
            Logged::Event(event) => {
                let (_, standings) = state.get_mut(&event.message).unwrap();
                let standing = standings.get_mut(&event.recipient).unwrap();
                if event.status.is_terminal() {
                    standings.remove(&event.recipient);
                    if standings.is_empty() {
                        state.remove(&event.message);
                    }
                    continue;
                }
                let outcome = event.outcome.clone().unwrap();
                standing.attempts = outcome.attempt;
                standing.class = outcome.class;
                standing.held = event.status == Status::Held;
                standing.due_at = event.due_at.unwrap_or(standing.due_at);
                standing.last = Some((event.at, outcome));
            }
            Logged::Rescheduled(change) => {
                let (_, standings) = state.get_mut(&change.message).unwrap();
                for (recipient, standing) in standings {
                    if change.recipients.is_empty() || change.recipients.contains(recipient) {
                        standing.due_at = change.due_at;
                        standing.held = false;
                    }
                }
            }
        }
    }
    state
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        recipients: usize,
        content_bytes: usize,
    },
    Record {
        message: usize,
        recipient: usize,
        status: Status,
    },
    Reschedule {
        message: usize,
        one: bool,
    },
    Read {
        message: usize,
    },
    Turn,
    Follow,
    Compact,
    Restart(Cut),
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop::sample::select(vec![
        Status::Deferred,
        Status::Deferred,
        Status::Held,
        Status::Delivered,
        Status::Bounced,
        Status::Canceled,
    ]);
    let cut = prop_oneof![
        Just(Cut::Everything),
        Just(Cut::Nothing),
        any::<u64>().prop_map(Cut::Any),
    ];
    prop_oneof![
        8 => (1usize..4, 1usize..5000).prop_map(|(recipients, content_bytes)| Step::Append { recipients, content_bytes }),
        1 => (60usize..70, 1usize..100).prop_map(|(recipients, content_bytes)| Step::Append { recipients, content_bytes }),
        16 => (any::<usize>(), any::<usize>(), status)
            .prop_map(|(message, recipient, status)| Step::Record { message, recipient, status }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(message, one)| Step::Reschedule { message, one }),
        4 => any::<usize>().prop_map(|message| Step::Read { message }),
        6 => Just(Step::Turn),
        6 => Just(Step::Follow),
        4 => Just(Step::Compact),
        1 => cut.prop_map(Step::Restart),
    ]
}

/// The spool, and beside it what it was told.
struct Pair {
    files: MemoryFiles,
    spool: Spool,
    log: Vec<(Position, Logged)>,
    attempt: u16,
}

impl Pair {
    fn run(&mut self, step: &Step) {
        match *step {
            Step::Append {
                recipients,
                content_bytes,
            } => {
                let message = message(self.spool.next_id(NOW), recipients, content_bytes);
                let appended = self.spool.append(message.clone());
                let _ = appended.unwrap();
                self.log(Logged::Accepted(message));
            }
            Step::Record {
                message,
                recipient,
                status,
            } => {
                let Some((message, standings)) = self.chosen(message) else {
                    return;
                };
                let recipient = *standings.keys().nth(recipient % standings.len()).unwrap();
                self.attempt += 1;
                let event = event(&message, recipient, status, self.attempt);
                let slot = self.spool.find(message.id).unwrap();
                self.spool.record(slot, &event).unwrap();
                self.log(Logged::Event(event));
            }
            Step::Reschedule { message, one } => {
                let Some((message, standings)) = self.chosen(message) else {
                    return;
                };
                let recipients: Vec<u32> = standings.keys().copied().take(one.into()).collect();
                self.attempt += 1;
                let due_at = NOW + Time::from_nanos(self.attempt.into());
                let slot = self.spool.find(message.id).unwrap();
                let rescheduled = self.spool.reschedule(slot, message.id, &recipients, due_at);
                drop(rescheduled.unwrap());
                let message = message.id;
                let change = Rescheduled {
                    message,
                    due_at,
                    recipients,
                };
                self.log(Logged::Rescheduled(change));
            }
            Step::Read { message } => {
                let Some((message, _)) = self.chosen(message) else {
                    return;
                };
                self.turn();
                let slot = self.spool.find(message.id).unwrap();
                assert_eq!(self.spool.read(slot).unwrap(), message);
            }
            Step::Turn => self.turn(),
            Step::Follow => drop(self.spool.follow()),
            Step::Compact => {
                self.turn();
                self.compact();
            }
            Step::Restart(cut) => self.restart(cut),
        }
    }

    fn log(&mut self, logged: Logged) {
        self.log.push((self.spool.journal().end(), logged));
    }

    fn turn(&self) {
        while self.spool.journal().turn() {}
    }

    /// In the manual mode nobody else writes while compaction waits.
    fn compact(&self) {
        std::thread::scope(|scope| {
            let compacting = scope.spawn(|| self.spool.compact());
            while !compacting.is_finished() {
                self.turn();
                std::thread::yield_now();
            }
            compacting.join().unwrap().unwrap();
        });
    }

    fn chosen(&self, which: usize) -> Option<(Message, Standings)> {
        let state = state_after(&self.log);
        let chosen = which.checked_rem(state.len())?;
        state.into_values().nth(chosen)
    }

    fn restart(&mut self, cut: Cut) {
        self.files.restart(cut);
        let (spool, recovered) = open(&self.files, Mode::Manual);
        self.spool = spool;
        let end = self.spool.journal().end();
        self.log.retain(|(ends_at, _)| *ends_at <= end);
        self.check(&recovered);
    }

    fn check(&self, recovered: &[Recovered]) {
        let expected = state_after(&self.log);
        let ids: Vec<_> = recovered.iter().map(|r| r.id).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected.keys().copied().collect::<Vec<_>>());
        for found in recovered {
            let (message, standings) = &expected[&found.id];
            assert_eq!(found.tenant, message.tenant);
            assert_eq!(found.priority, message.priority);
            assert_eq!(found.expires_at, message.expires_at);
            assert_eq!(self.spool.read(found.slot).unwrap(), *message);
            let mut left = Standings::new();
            for r in &found.recipients {
                let address = &message.envelope.recipients()[r.index as usize].address;
                assert_eq!(&*r.address, address.as_str());
                let standing = Recipient_ {
                    attempts: r.attempts,
                    due_at: r.due_at,
                    class: r.class,
                    held: r.held,
                    last: self.spool.last_outcome(found.slot, r.index).unwrap(),
                };
                left.insert(r.index, standing);
            }
            assert_eq!(left, *standings, "{}", found.id);
        }
        let stats = self.spool.stats();
        assert_eq!(stats.messages, expected.len());
        let left = expected.values().map(|(_, standings)| standings.len());
        assert_eq!(stats.recipients, left.sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn after_any_restart_it_is_as_its_journal_says(steps in vec(step(), 1..250)) {
        let files = MemoryFiles::new();
        let (spool, _) = open(&files, Mode::Manual);
        let mut pair = Pair { files, spool, log: Vec::new(), attempt: 0 };
        for step in &steps {
            pair.run(step);
        }
        pair.turn();
        pair.restart(Cut::Nothing);
    }
}

#[test]
fn the_journal_stays_in_proportion_and_a_long_deferred_message_is_copied_forward_whole() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let old = message(spool.next_id(NOW), 3, 3000);
    let (slot, _) = spool.append(old.clone()).unwrap();
    spool
        .record(slot, &event(&old, 0, Status::Delivered, 1))
        .unwrap();
    let deferred = event(&old, 1, Status::Deferred, 5);
    spool.record(slot, &deferred).unwrap();
    let mut most_segments = 0;
    for _ in 0..200 {
        let message = message(spool.next_id(NOW), 1, 1000);
        let (slot, _) = spool.append(message.clone()).unwrap();
        let delivered = event(&message, 0, Status::Delivered, 1);
        spool.record(slot, &delivered).unwrap();
        spool.compact().unwrap();
        most_segments = most_segments.max(spool.stats().segments);
    }
    let stats = spool.stats();
    assert!(stats.moved_messages > 2, "{stats:?}");
    assert!(
        stats.used_bytes <= 2 * stats.live_bytes + (48 << 10),
        "{stats:?}"
    );
    assert!(most_segments <= 6, "{most_segments}");
    drop(spool);

    let (spool, recovered) = open(&files, Mode::Inline);
    assert_eq!(recovered.len(), 1);
    let slot = recovered[0].slot;
    assert_eq!(spool.read(slot).unwrap(), old);
    let attempts: Vec<_> = recovered[0]
        .recipients
        .iter()
        .map(|r| (r.index, r.attempts))
        .collect();
    assert_eq!(attempts, [(1, 5), (2, 0)]);
    assert_eq!(recovered[0].recipients[0].due_at, deferred.due_at.unwrap());
    let last = spool.last_outcome(slot, 1).unwrap();
    assert_eq!(last, Some((deferred.at, deferred.outcome.unwrap())));
}

#[test]
fn a_moved_message_lives_as_long_as_it_would_have_through_attempts_restarts_and_copies() {
    let files = MemoryFiles::new();
    let (mut spool, _) = open(&files, Mode::Inline);
    let moved_to = NOW + Time::from_secs(5000);
    let message = message(spool.next_id(NOW), 2, 100);
    let lifetime = message.expires_at - message.due_at;
    let expires_at = moved_to + lifetime + Time::from_secs(1);
    let (slot, _) = spool.append(message.clone()).unwrap();
    drop(spool.reschedule(slot, message.id, &[], moved_to).unwrap());
    let times = |message: &Message| (message.due_at, message.expires_at);
    assert_eq!(times(&spool.read(slot).unwrap()), (moved_to, expires_at));
    for attempt in 0..4 {
        if attempt > 0 {
            let slot = spool.find(message.id).unwrap();
            let deferred = event(&message, 0, Status::Deferred, attempt);
            spool.record(slot, &deferred).unwrap();
        }
        if attempt > 1 {
            copy_all_forward(&spool);
        }
        drop(spool);
        let recovered;
        (spool, recovered) = open(&files, Mode::Inline);
        let [recovered] = &recovered[..] else {
            panic!("{recovered:?}")
        };
        assert_eq!(recovered.expires_at, expires_at, "{attempt}");
        assert_eq!(
            times(&spool.read(recovered.slot).unwrap()),
            (moved_to, expires_at)
        );
    }
}

/// Lets so much come and go that whatever waits is copied to the journal's end.
fn copy_all_forward(spool: &Spool) {
    let first = crate::first_of(spool.journal()).segment();
    while spool.stats().moved_messages == 0 || crate::first_of(spool.journal()).segment() == first {
        let passing = message(spool.next_id(NOW), 1, 1500);
        let (slot, _) = spool.append(passing.clone()).unwrap();
        spool
            .record(slot, &event(&passing, 0, Status::Delivered, 1))
            .unwrap();
        spool.compact().unwrap();
    }
}

#[test]
fn a_crash_anywhere_in_compaction_leaves_one_message() {
    let mut copied = 0;
    for call in 0.. {
        let files = MemoryFiles::new();
        let (spool, _) = open(&files, Mode::Inline);
        let old = message(spool.next_id(NOW), 2, 3000);
        let _ = spool.append(old.clone()).unwrap();
        for _ in 0..60 {
            let message = message(spool.next_id(NOW), 1, 2000);
            let (slot, _) = spool.append(message.clone()).unwrap();
            let delivered = event(&message, 0, Status::Delivered, 1);
            spool.record(slot, &delivered).unwrap();
        }
        files.fail(files.calls() + call, Fault::PowerCut);
        let is_done = spool.compact().is_ok();
        copied += spool.stats().moved_messages;
        files.restart(Cut::Any(call));
        let (spool, recovered) = open(&files, Mode::Inline);
        assert_eq!(recovered.len(), 1, "power cut at call {call}");
        spool.compact().unwrap();
        assert_ne!(spool.journal().segments()[0].number, 1);
        assert_eq!(spool.read(recovered[0].slot).unwrap(), old);
        if is_done {
            assert!(call > 10 && copied > 2, "{call} {copied}");
            return;
        }
    }
}

#[test]
fn a_copy_prepared_before_an_event_is_not_put() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let message = message(spool.next_id(NOW), 2, 10);
    let (slot, _) = spool.append(message.clone()).unwrap();
    let at = spool.lock().slots.get(slot).unwrap().at;
    for status in [Status::Deferred, Status::Delivered] {
        let marks = spool.marks_at(slot, at).unwrap();
        spool.record(slot, &event(&message, 1, status, 1)).unwrap();
        let end = spool.journal().end();
        let put = spool.put_copy(slot, at, &marks, &[b"", b""]);
        assert!(matches!(put, Ok(None)), "{put:?}");
        assert_eq!(spool.journal().end(), end);
    }
}

#[test]
fn who_was_told_of_is_known_after_a_restart_and_a_copy_forward() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let messages = [1, 3].map(|recipients| {
        let message = message(spool.next_id(NOW), recipients, 10);
        let (slot, commit) = spool.append(message.clone()).unwrap();
        commit.wait().unwrap();
        (slot, message)
    });
    let [one, many] = messages.each_ref().map(|(slot, _)| *slot);
    let first = Slot::from_bits(0);
    let later = NOW + Time::from_secs(60);
    assert_eq!(
        spool.untold(first, 10, NOW - Time::from_secs(1)),
        (vec![], None)
    );
    assert_eq!(spool.untold(first, 10, later), (vec![one, many], None));
    assert_eq!(spool.untold(first, 1, later), (vec![one], Some(many)));
    let tell = |slot: Slot, recipients: &[u32]| {
        let id = spool.id(slot).unwrap();
        spool.tell(slot, id, recipients).unwrap();
        spool.untold(first, 10, later).0
    };
    assert_eq!(tell(one, &[0]), [many]);
    assert_eq!(tell(many, &[0, 2]), [many]);
    let deferred = event(&messages[1].1, 2, Status::Deferred, 1);
    spool.record(many, &deferred).unwrap();
    let told = |spool: &Spool| {
        spool
            .pending(many)
            .iter()
            .map(|it| it.is_told)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&spool), [true, false, true]);
    let other = messages[0].1.id;
    assert_eq!(spool.tell(many, other, &[1]), Err(RecordError::Unknown));

    let (spool, _) = {
        drop(spool);
        open(&files, Mode::Inline)
    };
    assert_eq!(told(&spool), [true, false, true]);
    assert_eq!(spool.untold(first, 10, later).0, [many]);
    // Until it is copied forward.
    while spool.stats().moved_messages < 2 {
        let filler = message(spool.next_id(NOW), 1, 4000);
        let (slot, _) = spool.append(filler.clone()).unwrap();
        spool
            .record(slot, &event(&filler, 0, Status::Delivered, 1))
            .unwrap();
        spool.compact().unwrap();
    }
    assert_eq!(told(&spool), [true, false, true]);
    drop(spool);
    let (spool, _) = open(&files, Mode::Inline);
    assert_eq!(told(&spool), [true, false, true]);
    assert_eq!(spool.untold(first, 10, later).0, [many]);
}

#[test]
fn nothing_goes_before_its_copies_are_durable() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Manual);
    let turn = || while spool.journal().turn() {};
    let _ = spool.append(message(spool.next_id(NOW), 1, 1000)).unwrap();
    for _ in 0..60 {
        let message = message(spool.next_id(NOW), 1, 2000);
        let (slot, _) = spool.append(message.clone()).unwrap();
        let delivered = event(&message, 0, Status::Delivered, 1);
        spool.record(slot, &delivered).unwrap();
    }
    turn();
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| spool.compact());
        while spool.stats().moved_messages == 0 {
            std::thread::yield_now();
        }
        (0..1000).for_each(|_| std::thread::yield_now());
        assert_eq!(spool.journal().segments()[0].number, 1);
        while !compacting.is_finished() {
            turn();
            std::thread::yield_now();
        }
        compacting.join().unwrap().unwrap();
    });
    assert_ne!(spool.journal().segments()[0].number, 1);
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<(Position, Event)>>);

impl EventSink for Told {
    fn committed(&self, at: Position, event: Event) {
        self.0.lock().unwrap().push((at, event));
    }
}

#[test]
fn history_is_told_of_committed_events_only_in_order_and_again_after_a_restart() {
    let files = MemoryFiles::new();
    let told = Arc::new(Told::default());
    let with_history = |from| SpoolOptions {
        history: Some(told.clone()),
        history_from: from,
        ..options(&files)
    };
    let (spool, _) = Spool::open(journal_in(&files, Mode::Manual), with_history(None));
    let message = message(spool.next_id(NOW), 2, 10);
    let (slot, _) = spool.append(message.clone()).unwrap();
    spool
        .record(slot, &event(&message, 1, Status::Delivered, 1))
        .unwrap();
    spool.follow();
    assert!(told.0.lock().unwrap().is_empty());
    spool.journal().turn();
    spool.follow();
    spool.follow();
    let first: Vec<_> = told.0.lock().unwrap().drain(..).collect();
    let seen: Vec<_> = first.iter().map(|(_, e)| (e.recipient, e.status)).collect();
    let expected = [
        (0, Status::Accepted),
        (1, Status::Accepted),
        (1, Status::Delivered),
    ];
    assert_eq!(seen, expected);
    assert!(first.is_sorted_by_key(|(at, _)| *at));
    assert_eq!(first[0].1.due_at, Some(message.due_at));

    files.restart(Cut::Nothing);
    let from = Some(first[2].0);
    let (spool, _) = Spool::open(journal_in(&files, Mode::Manual), with_history(from));
    spool.follow();
    assert_eq!(*told.0.lock().unwrap(), first[2..]);
}

#[test]
fn the_journal_keeps_what_history_has_not_made_durable() {
    let files = MemoryFiles::new();
    let options = SpoolOptions {
        history: Some(Arc::new(Told::default())),
        ..options(&files)
    };
    let (spool, recovery) = Spool::open(journal_in(&files, Mode::Inline), options);
    assert_eq!(recovery.count(), 0);
    for _ in 0..40 {
        let message = message(spool.next_id(NOW), 1, 2000);
        let (slot, _) = spool.append(message.clone()).unwrap();
        let delivered = event(&message, 0, Status::Delivered, 1);
        spool.record(slot, &delivered).unwrap();
    }
    spool.compact().unwrap();
    assert_eq!(spool.journal().segments()[0].number, 1);
    let end = spool.follow().unwrap();
    spool.compact().unwrap();
    assert_eq!(spool.journal().segments()[0].number, 1);
    spool.history_durable(Some(end));
    spool.compact().unwrap();
    assert_eq!(spool.journal().segments()[0].number, end.segment());
}

#[test]
fn a_digest_stands_for_its_segment_and_only_for_that() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let mut waiting = Vec::new();
    for _ in 0..30 {
        let message = message(spool.next_id(NOW), 2, 2500);
        let (slot, _) = spool.append(message.clone()).unwrap();
        spool
            .record(slot, &event(&message, 0, Status::Delivered, 1))
            .unwrap();
        spool
            .record(slot, &event(&message, 1, Status::Deferred, 1))
            .unwrap();
        spool.follow();
        waiting.push(message.id);
    }
    drop(spool);
    let first = journal_in(&files, Mode::Inline).segments()[0].number;
    let digest = || Digest::read(&files, &journal_in(&files, Mode::Inline), first);
    assert!(digest().unwrap().entries().count() > 3);
    // Nothing of the segment's middle is looked at: damage there goes unseen until it is read.
    let segment = format!("{first:010}.journal");
    let whole = files.bytes_of(&segment);
    files.damage(&segment, 4096 + 1000, b"damage");
    let (_, recovered) = open(&files, Mode::Inline);
    assert!(recovered.iter().map(|r| r.id).eq(waiting.iter().copied()));

    files.damage(&segment, 0, &whole);
    for at in [0, 8, 9, 20, 300] {
        let name = format!("{first:010}.digest");
        let good = files.bytes_of(&name);
        files.damage(&name, at, &[good[at as usize] ^ 1]);
        assert!(digest().is_none(), "{at}");
        let (_, recovered) = open(&files, Mode::Inline);
        assert!(recovered.iter().map(|r| r.id).eq(waiting.iter().copied()));
        assert!(digest().is_some(), "it is made anew");
    }
}

#[test]
fn digests_go_with_their_segments_finished_or_not() {
    let files = MemoryFiles::new();
    for name in [
        "0000000001.digest",
        "0000000001.digest.new",
        "0000000002.digest.new",
        "other",
    ] {
        files.create(name).unwrap();
    }
    digest::remove_before(&files, 2);
    let mut left = files.list().unwrap();
    left.sort();
    assert_eq!(left, ["0000000002.digest.new", "other"]);
}

#[test]
fn a_segment_that_was_followed_over_damage_gets_no_digest() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let first = spool.journal().end().segment();
    let mut begins = Vec::new();
    while begins.len() < 3 {
        let message = message(spool.next_id(NOW), 1, 1500);
        let (slot, _) = spool.append(message).unwrap();
        let at = spool.lock().slots.get(slot).unwrap().at;
        if begins.len() as u32 == at.segment() - first {
            begins.push(at);
        }
    }
    // The record that a segment begins with.
    let at = begins[1];
    let segment = format!("{:010}.journal", at.segment());
    files.damage(&segment, u64::from(at.offset()) + 1000, b"damage");
    spool.follow();
    let journal = spool.journal();
    assert!(Digest::read(&files, journal, at.segment()).is_none());
    drop(spool);
    let (_, mut recovery) = Spool::open(journal_in(&files, Mode::Inline), options(&files));
    assert!(recovery.by_ref().all(|it| it.is_ok()));
    let places: Vec<_> = recovery.damage().iter().map(|damage| damage.at).collect();
    assert_eq!(places, [at]);
}

#[test]
fn a_digest_holds_its_own_segment_where_following_had_stopped_behind_the_seal() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Manual);
    let journal = spool.journal();
    let mut has_stopped_there = false;
    while journal.end().segment() < 4 {
        let message = message(spool.next_id(NOW), 1, 3000);
        drop(spool.append(message).unwrap());
        // One group at a time: for a moment, the one that ends a segment is all that is durable.
        while journal.turn() {
            let durable = journal.durable();
            has_stopped_there |= durable.segment() > 1 && durable < journal.end();
            assert_eq!(spool.follow(), Some(durable));
        }
    }
    assert!(has_stopped_there);
    let mut recorded = BTreeMap::new();
    let each = &mut |at: Position, _, _: &[u8]| {
        *recorded.entry(at.segment()).or_insert(0) += 1;
        ControlFlow::Continue(())
    };
    journal.scan(crate::first_of(journal), each).unwrap();
    for segment in 1..4 {
        let digest = Digest::read(&files, journal, segment).expect("it is sealed");
        assert_eq!(digest.entries().count(), recorded[&segment], "{segment}");
    }
}

#[test]
fn damage_in_a_sealed_segment_is_reported_and_the_others_are_there() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let ids: Vec<MessageId> = (0..30)
        .map(|_| {
            let message = message(spool.next_id(NOW), 1, 1500);
            let _ = spool.append(message.clone()).unwrap();
            message.id
        })
        .collect();
    let (at, of_second) = {
        let slot = spool.find(ids[1]).unwrap();
        (spool.lock().slots.get(slot).unwrap().at, ids[1])
    };
    drop(spool);
    let segment = format!("{:010}.journal", at.segment());
    files.damage(&segment, u64::from(at.offset()) + 1000, b"damage");
    for name in files.list().unwrap() {
        if name.ends_with(".digest") {
            files.remove(&name).unwrap();
        }
    }
    let (spool, mut recovery) = Spool::open(journal_in(&files, Mode::Inline), options(&files));
    let recovered: Vec<_> = recovery.by_ref().map(|it| it.unwrap().id).collect();
    let others = ids.iter().copied().filter(|id| *id != of_second);
    assert!(recovered.into_iter().eq(others));
    let damage = recovery.damage();
    assert_eq!((damage[0].at, damage.len()), (at, 1));
    assert_eq!(damage[0].why, DecodeError::Damaged);
    // What is left of it stays until somebody has looked.
    for id in ids.iter().filter(|id| **id != of_second) {
        let slot = spool.find(*id).unwrap();
        spool.forget(slot);
    }
    spool.compact().unwrap();
    assert_eq!(spool.journal().segments()[0].number, at.segment());
}

#[test]
fn a_record_that_cannot_be_understood_is_reported_and_the_others_are_there() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let message = message(spool.next_id(NOW), 1, 10);
    let _ = spool.append(message).unwrap();
    let (at, _) = spool
        .journal()
        .append(Kind::Accepted as u8, &[b"\x07"])
        .unwrap();
    let (other, _) = spool.journal().append(200, &[b"?"]).unwrap();
    drop(spool);
    let (_, mut recovery) = Spool::open(journal_in(&files, Mode::Inline), options(&files));
    assert_eq!(recovery.by_ref().count(), 1);
    let places: Vec<_> = recovery.damage().iter().map(|damage| damage.at).collect();
    assert_eq!(places, [at, other]);
    assert_eq!(recovery.damage()[0].why, DecodeError::Version(7));
}

#[test]
fn after_a_restart_none_of_100_000_deferred_messages_is_due_early() {
    let files = MemoryFiles::new();
    let options = Options {
        mode: Mode::Manual,
        backlog_bytes_max: usize::MAX,
        ..Options::default()
    };
    let journal = Journal::open(Arc::new(files.clone()), options.clone())
        .unwrap()
        .0;
    let (spool, _) = Spool::open(journal, SpoolOptions::default());
    let template = message(spool.next_id(NOW), 1, 10);
    let mut due = BTreeMap::new();
    for n in 0..100_000u64 {
        let mut message = template.clone();
        let head = Arc::make_mut(&mut message.head);
        head.id = spool.next_id(NOW + Time::from_micros(n));
        head.due_at = NOW + Time::from_nanos(n * 7919);
        let (slot, _) = spool.append(message.clone()).unwrap();
        let mut due_at = message.due_at;
        if n % 4 > 0 {
            let mut deferred = event(&message, 0, Status::Deferred, (n % 5) as u16 + 1);
            due_at += Time::from_nanos(n * 104_729 + 3);
            deferred.due_at = Some(due_at);
            spool.record(slot, &deferred).unwrap();
        }
        due.insert(message.id, due_at);
        if n % 1000 == 0 {
            spool.journal().turn();
        }
    }
    while spool.journal().turn() {}
    drop(spool);
    files.restart(Cut::Nothing);
    let journal = Journal::open(Arc::new(files), options).unwrap().0;
    let (_, recovery) = Spool::open(journal, SpoolOptions::default());
    for recovered in recovery.map(Result::unwrap) {
        let due_at = due.remove(&recovered.id).unwrap();
        assert_eq!(recovered.recipients[0].due_at, due_at);
    }
    assert!(due.is_empty());
}

#[test]
fn a_full_disk_takes_mail_again_once_what_it_holds_is_settled() {
    let files = MemoryFiles::new();
    let (spool, _) = open(&files, Mode::Inline);
    let mut waiting = Vec::new();
    let mut fill = |spool: &Spool| loop {
        let message = message(spool.next_id(NOW), 1, 1500);
        match spool.append(message.clone()) {
            Ok((slot, commit)) if commit.wait().is_ok() => waiting.push((slot, message)),
            Ok((slot, _)) => {
                spool.forget(slot);
                return;
            }
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                return;
            }
        }
    };
    files.set_capacity(Some(200 << 10));
    fill(&spool);
    let before = spool.stats();
    assert!(before.messages > 50 && spool.journal().stats().is_full);
    // Nothing can go while mail waits, and nothing is lost.
    spool.compact().unwrap();
    assert_eq!(spool.stats(), before);
    let settled = waiting.len() / 2;
    for (slot, message) in waiting.drain(..settled) {
        let delivered = event(&message, 0, Status::Delivered, 1);
        spool.record(slot, &delivered).unwrap();
    }
    assert!(spool.compact().unwrap().removed_segments > 2);
    let message = message(spool.next_id(NOW), 1, 1500);
    let (slot, commit) = spool.append(message.clone()).unwrap();
    commit.wait().unwrap();
    waiting.push((slot, message));
    drop(spool);
    let (_, recovered) = open(&files, Mode::Inline);
    assert!(
        recovered
            .iter()
            .map(|r| r.id)
            .eq(waiting.iter().map(|(_, m)| m.id))
    );
}

#[test]
fn threads_that_settle_defer_copy_and_follow_at_once_agree_with_the_journal() {
    let files = MemoryFiles::new();
    let told = Arc::new(Told::default());
    let with_history = SpoolOptions {
        history: Some(told.clone()),
        ..options(&files)
    };
    let (spool, recovery) = Spool::open(journal_in(&files, Mode::Thread), with_history);
    assert_eq!(recovery.count(), 0);
    let running = AtomicU64::new(3);
    let mut expected = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|seed| {
                scope.spawn({
                    let (spool, running) = (&spool, &running);
                    move || {
                        let waiting = work(spool, seed);
                        running.fetch_sub(1, Relaxed);
                        waiting
                    }
                })
            })
            .collect();
        while running.load(Relaxed) > 0 {
            let end = spool.follow();
            spool.history_durable(end);
            spool.compact().unwrap();
        }
        for worker in workers {
            expected.extend(worker.join().unwrap());
        }
    });
    assert!(spool.stats().moved_messages > 0, "{:?}", spool.stats());
    spool.journal().flush().wait().unwrap();
    spool.follow();
    drop(spool);
    let (_, recovered) = open(&files, Mode::Inline);
    let found: BTreeMap<_, _> = recovered
        .iter()
        .map(|r| {
            (
                r.id,
                r.recipients
                    .iter()
                    .map(|r| (r.index, r.attempts))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    let told = told.0.lock().unwrap();
    assert!(told.is_sorted_by_key(|(at, _)| *at));
    let mut terminal = std::collections::HashSet::new();
    for (_, event) in told.iter().filter(|(_, event)| event.status.is_terminal()) {
        assert!(
            terminal.insert((event.message, event.recipient)),
            "told twice"
        );
    }
}

/// A message, and its unsettled recipients with how often each was tried.
type Waiting = (Slot, Message, Vec<(u32, u16)>);

/// Appends, settles and defers, and says which recipients are left with how many attempts.
fn work(spool: &Spool, seed: u64) -> BTreeMap<MessageId, Vec<(u32, u16)>> {
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut dice = seed;
    let mut throw = |sides: usize| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % sides
    };
    for _ in 0..1500 {
        if waiting.len() < 8 || throw(4) == 0 {
            let recipients = 1 + throw(3);
            let message = message(spool.next_id(NOW), recipients, 800);
            let (slot, commit) = spool.append(message.clone()).unwrap();
            commit.wait().unwrap();
            waiting.push((
                slot,
                message,
                (0..recipients as u32).map(|r| (r, 0)).collect(),
            ));
            continue;
        }
        let chosen = throw(waiting.len());
        let (slot, message, left) = &mut waiting[chosen];
        let which = throw(left.len());
        let recipient = left[which].0;
        if throw(3) == 0 {
            left[which].1 += 1;
            let deferred = event(message, recipient, Status::Deferred, left[which].1);
            spool.record(*slot, &deferred).unwrap();
            assert_eq!(spool.read(*slot).unwrap(), *message);
            let last = spool.last_outcome(*slot, recipient).unwrap();
            assert_eq!(last.unwrap().1, deferred.outcome.unwrap());
        } else {
            let delivered = event(message, recipient, Status::Delivered, left[which].1 + 1);
            spool.record(*slot, &delivered).unwrap();
            left.swap_remove(which);
            if left.is_empty() {
                waiting.swap_remove(chosen);
            }
        }
    }
    let left = waiting.into_iter().map(|(_, message, mut left)| {
        left.sort_unstable();
        (message.id, left)
    });
    left.collect()
}
