//! Whole lives, each lived once and then cut at every byte, and with every part of what was not
//! synced lost or kept.
//!
//! A life is a few segments long and has all in it that a journal does: groups of awaited and lazy
//! records, ends of segments, records larger than one, a full disk and the room kept for it, copying
//! forward, removal and use again, closing and opening. [`SEEDS`] in the environment says which lives.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;

use journal::files::Cut;
use journal::{Commit, CommitError, Journal, MemoryFiles, Options, Position};

use super::harness::{Dice, body, options};
use super::recorder::{Event, Log, Player, Recorder};

/// `FIRST..END`, or one seed: which lives are lived.
const SEEDS: &str = "MAILRAIL_JOURNAL_SEEDS";
const SEGMENT_BYTES: u64 = 8 * 1024;
/// In a life.
const STEPS: usize = 120;
/// With more pieces than this, only some of their subsets are tried.
const PIECES_MAX: usize = 8;
const SUBSETS: usize = 40;

fn small() -> Options {
    Options {
        segment_bytes_max: SEGMENT_BYTES,
        ..options()
    }
}

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS) else {
        return default;
    };
    let number = |text: &str| text.parse().expect("a number");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    }
}

/// Somebody lives with a journal on a disk that is written about.
struct Life {
    recorder: Recorder,
    journal: Option<Journal>,
    dice: Dice,
    next_id: u64,
}

impl Life {
    /// What happens in it.
    fn events(seed: u64, steps: usize) -> Vec<Event> {
        let mut life = Self {
            recorder: Recorder::new(),
            journal: None,
            dice: Dice(seed),
            next_id: seed << 32,
        };
        life.open();
        for _ in 0..steps {
            life.step();
        }
        life.close();
        life.recorder.log.take()
    }

    fn journal(&self) -> Journal {
        self.journal.clone().expect("it is open")
    }

    fn open(&mut self) {
        let files = Arc::new(self.recorder.clone());
        let (journal, _) = Journal::open(files, small()).expect("it was closed");
        *self.recorder.watched.lock().unwrap() = Some(journal.clone());
        self.journal = Some(journal);
    }

    fn close(&mut self) {
        let _ = self.journal().close();
        *self.recorder.watched.lock().unwrap() = None;
        self.journal = None;
    }

    fn step(&mut self) {
        match self.dice.below(32) {
            0..=15 => {
                let length = self.any_length();
                let is_awaited = self.dice.below(3) > 0;
                self.append(length, is_awaited);
            }
            16..=26 => drop(self.journal().turn()),
            27 => {
                let back = self.dice.below(3) as u32;
                self.remove_before(self.journal().durable().segment().saturating_sub(back));
            }
            28 | 29 => self.copy_forward(),
            30 => {
                // Hardly a segment more, or a few, or any number.
                let room = 3 + self.dice.below(5);
                self.recorder
                    .files
                    .set_capacity((room < 7).then_some(room * SEGMENT_BYTES));
            }
            _ => {
                self.recorder.files.set_capacity(None);
                self.close();
                self.open();
            }
        }
    }

    fn any_length(&mut self) -> usize {
        let most = match self.dice.below(40) {
            0 => 9_000,
            1..=3 => 2_500,
            4..=14 => 500,
            _ => 80,
        };
        self.dice.below(most) as usize
    }

    fn append(&mut self, length: usize, is_awaited: bool) -> bool {
        let id = self.next_id;
        let body = body(id, length);
        let appended = if is_awaited {
            let appended = self.journal().append(id as u8, &[&body]);
            appended.map(|(at, commit)| (at, Some(commit)))
        } else {
            let appended = self.journal().append_lazily(id as u8, &[&body]);
            appended.map(|at| (at, None))
        };
        let Ok((at, commit)) = appended else {
            return false;
        };
        self.next_id += 1;
        let log = &self.recorder.log;
        log.push(Event::Appended { id, at, length });
        if let Some(commit) = commit {
            Waiter::wait(commit, id, log);
        }
        true
    }

    /// What the oldest segment holds is appended anew, and goes there.
    fn copy_forward(&mut self) {
        let journal = self.journal();
        let Some(oldest) = journal.segments().first().map(|segment| segment.number) else {
            return;
        };
        let mut lengths = Vec::new();
        let scanned = journal.scan(Position::START, &mut |at, _, bytes| {
            lengths.extend((at.segment() == oldest).then(|| bytes.len() - 8));
            ControlFlow::Continue(())
        });
        scanned.expect("it is whole");
        let are_appended = lengths.into_iter().all(|length| self.append(length, false));
        let copied = journal.flush();
        while journal.turn() {}
        if are_appended && copied.is_done() && copied.wait().is_ok() {
            self.remove_before(oldest + 1);
        }
    }

    fn remove_before(&self, segment: u32) {
        let segment = segment.min(self.journal().durable().segment());
        self.recorder.log.push(Event::Removing(segment));
        let _ = self.journal().remove_before(segment);
    }
}

/// Writes down when a commit resolves.
struct Waiter {
    log: Log,
    id: u64,
    commit: Mutex<Option<Commit>>,
}

impl Waiter {
    fn wait(mut commit: Commit, id: u64, log: &Log) {
        let waiter = Arc::new(Self {
            log: log.clone(),
            id,
            commit: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&waiter));
        let polled = Pin::new(&mut commit).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "nothing has been written yet");
        *waiter.commit.lock().unwrap() = Some(commit);
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        let commit = self.commit.lock().unwrap().take().expect("woken once");
        assert!(commit.is_done());
        match commit.wait() {
            Ok(()) => self.log.push(Event::Acknowledged(self.id)),
            Err(CommitError::Full) => self.log.push(Event::Refused(self.id)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Open,
    Durable,
    Refused,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    at: Position,
    body: Vec<u8>,
    known: Known,
}

/// What was promised so far.
#[derive(Default)]
struct Promises {
    /// Those that may still be there.
    entries: VecDeque<Entry>,
    removed_before: u32,
}

impl Promises {
    fn note(&mut self, event: &Event) {
        let mut durable = |is: &dyn Fn(&Entry) -> bool| {
            for entry in &mut self.entries {
                if entry.known == Known::Open && is(entry) {
                    entry.known = Known::Durable;
                }
            }
        };
        match event {
            Event::Appended { id, at, length } => self.entries.push_back(Entry {
                id: *id,
                at: *at,
                body: body(*id, *length),
                known: Known::Open,
            }),
            // With a record, all before it are durable.
            Event::Acknowledged(id) => durable(&|entry| entry.id <= *id),
            Event::Durable(end) => durable(&|entry| entry.at < *end),
            Event::Refused(id) => {
                let refused = self.entries.iter_mut().find(|entry| entry.id == *id);
                refused.expect("it was appended").known = Known::Refused;
            }
            Event::Removing(segment) => self.removed_before = self.removed_before.max(*segment),
            _ => {}
        }
    }

    /// Opens what a cut left, and compares; says which of the entries are there.
    fn check(&self, files: &MemoryFiles) -> (Journal, Vec<usize>) {
        let (journal, opened) = Journal::open(Arc::new(files.clone()), small())
            .unwrap_or_else(|error| panic!("{error} ({error:?})"));
        assert_eq!(opened.salvaged, []);
        let (mut next, mut kept, mut lost) = (0, Vec::new(), None);
        let scanned = journal.scan(Position::START, &mut |at, kind, bytes| {
            while next < self.entries.len() && self.entries[next].body != bytes {
                let entry = &self.entries[next];
                let may_be_removed = entry.at.segment() < self.removed_before && kept.is_empty();
                match entry.known {
                    _ if may_be_removed => {}
                    Known::Refused => {}
                    Known::Open => lost = Some(entry.id),
                    Known::Durable => panic!("lost, with others behind it: {entry:?}"),
                }
                next += 1;
            }
            let entry = self.entries.get(next);
            let entry = entry.unwrap_or_else(|| panic!("never appended, or out of order: {at}"));
            assert_eq!((at, kind), (entry.at, entry.id as u8));
            assert_eq!(lost, None, "{} is there, and this one is not", entry.id);
            kept.push(next);
            next += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(scanned.expect("it is whole"), journal.durable());
        let mut rest = self.entries.iter().skip(next);
        let lost = rest.find(|entry| {
            entry.known == Known::Durable && entry.at.segment() >= self.removed_before
        });
        assert!(lost.is_none(), "lost: {lost:?}");
        (journal, kept)
    }

    /// As [`Self::check`]; then lives on a little, and checks that what was lost does not come back.
    fn check_and_go_on(&self, files: &MemoryFiles, cut: Cut) {
        files.restart(cut);
        let (journal, kept) = self.check(files);
        let entries = kept.iter().map(|index| self.entries[*index].clone());
        let mut promises = Self {
            entries: entries.collect(),
            removed_before: 0,
        };
        for entry in &mut promises.entries {
            entry.known = Known::Durable;
        }
        let (id, length) = (u64::MAX, 60);
        let (at, commit) = journal
            .append(id as u8, &[&body(id, length)])
            .expect("there is room");
        promises.note(&Event::Appended { id, at, length });
        while journal.turn() {}
        assert!(commit.is_done());
        assert_eq!(commit.wait(), Ok(()));
        promises.note(&Event::Acknowledged(id));
        drop(journal);
        files.restart(Cut::Nothing);
        let (_, again) = promises.check(files);
        assert_eq!(again.len(), kept.len() + 1, "what was lost is back");
    }
}

/// Says what to do to see it again, if the check panics.
struct Place {
    seed: u64,
    event: usize,
    byte: usize,
    cut: Cut,
}

impl Drop for Place {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self {
                seed,
                event,
                byte,
                cut,
            } = self;
            eprintln!(
                "seed {seed}, cut in event {event} at byte {byte}, leaving {cut:?}; to repeat:\n  \
                 {SEEDS}={seed} cargo nextest run -p mailrail-journal lives"
            );
        }
    }
}

/// A life being played again: the disk as it is, and what was promised by then.
struct Theatre {
    seed: u64,
    events: Vec<Event>,
    player: Player,
    promises: Promises,
    event: usize,
}

impl Theatre {
    fn new(seed: u64, steps: usize) -> Self {
        Self {
            seed,
            events: Life::events(seed, steps),
            player: Player::default(),
            promises: Promises::default(),
            event: 0,
        }
    }

    fn next(&mut self) {
        let event = &self.events[self.event];
        self.player.play(event);
        self.promises.note(event);
        self.event += 1;
    }

    /// In how many places the next event can be cut.
    fn bytes(&self) -> usize {
        match &self.events[self.event] {
            Event::Write(_, _, bytes) => bytes.len(),
            _ => 1,
        }
    }

    /// Cuts the next event before this byte of it.
    fn cut(&self, byte: usize, cut: Cut) {
        let files = match &self.events[self.event] {
            Event::Write(file, offset, bytes) => {
                self.player.after_part(*file, *offset, &bytes[..byte])
            }
            _ => self.player.files.copy(),
        };
        let place = Place {
            seed: self.seed,
            event: self.event,
            byte,
            cut,
        };
        self.promises.check_and_go_on(&files, cut);
        drop(place);
    }
}

/// Does so for each seed, on all cores.
fn for_each_seed(seeds: &Range<u64>, each: impl Fn(u64) + Sync) {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = seeds.start + next.fetch_add(1, Ordering::Relaxed) as u64;
                    if !seeds.contains(&seed) {
                        return;
                    }
                    each(seed);
                }
            });
        }
    });
}

/// Which lives are cut everywhere. Those of more seeds take longer: some seconds each.
const THOROUGH: Range<u64> = 0..2;

#[test]
fn lives_have_in_them_all_that_a_journal_does() {
    let lives = THOROUGH.map(|seed| Life::events(seed, STEPS));
    let events: Vec<Event> = lives.flatten().collect();
    let count = |is: &dyn Fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    let rolls = count(&|event| matches!(event, Event::Rename(_, to) if to.ends_with("journal")));
    assert!(rolls > 6, "{rolls} segments");
    let removed = count(&|event| matches!(event, Event::Rename(_, to) if to.contains("spare")));
    assert!(removed > 1, "{removed} removed");
    let reused = count(&|event| {
        let (Event::Rename(from, to), plain) = (event, ['-', '.']) else {
            return false;
        };
        let number = |name: &str| name.split(plain).find_map(|part| part.parse::<u32>().ok());
        to.ends_with("journal") && number(from) != number(to)
    });
    assert!(reused > 0, "none used again");
    let large = |event: &Event| matches!(event, Event::Appended { length, .. } if *length > 4096);
    assert!(count(&large) > 0, "none larger than a segment");
    assert!(
        count(&|event| matches!(event, Event::Remove(_))) > 0,
        "never without room for a segment"
    );
    assert!(
        count(&|event| matches!(event, Event::Open(_))) > 6,
        "not opened again"
    );
}

#[test]
fn a_power_cut_at_every_byte_of_a_life_keeps_what_was_acknowledged() {
    for_each_seed(&seeds(THOROUGH), |seed| {
        let mut theatre = Theatre::new(seed, STEPS);
        while theatre.event < theatre.events.len() {
            theatre.cut(0, Cut::Nothing);
            for byte in 0..theatre.bytes() {
                let any = Cut::Any((theatre.event << 20 | byte) as u64);
                theatre.cut(byte, Cut::Everything);
                theatre.cut(byte, any);
            }
            theatre.next();
        }
    });
}

#[test]
fn any_part_of_what_was_not_synced_may_be_lost() {
    for_each_seed(&seeds(0..12), |seed| {
        let mut theatre = Theatre::new(seed, STEPS);
        while theatre.event < theatre.events.len() {
            let pieces = theatre.player.files.pieces();
            let subsets: Vec<u64> = if pieces <= PIECES_MAX {
                (0..1 << pieces).collect()
            } else {
                let mut dice = Dice(seed << 32 | theatre.event as u64);
                (0..SUBSETS).map(|_| dice.below(u64::MAX)).collect()
            };
            for pieces in subsets {
                theatre.cut(0, Cut::Pieces(pieces));
            }
            theatre.next();
        }
    });
}

#[test]
fn thousands_of_lives_that_end_anywhere_keep_what_was_acknowledged() {
    for_each_seed(&seeds(1_000..6_000), |seed| {
        let mut theatre = Theatre::new(seed, STEPS / 3);
        let mut dice = Dice(!seed);
        while theatre.event < theatre.events.len() {
            if dice.below(8) == 0 {
                let byte = dice.below(theatre.bytes() as u64) as usize;
                theatre.cut(byte, Cut::Any(dice.below(u64::MAX)));
            }
            theatre.next();
        }
    });
}
