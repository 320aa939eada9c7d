//! A journal on a disk of ours, beside a plain list of what was appended to it.

use std::ops::ControlFlow;
use std::sync::Arc;

use journal::files::Cut;
use journal::{
    AppendError, Commit, CommitError, Journal, MemoryFiles, Mode, OpenError, Options, Position,
    ReadError,
};

/// SplitMix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

pub(crate) fn options() -> Options {
    Options {
        segment_bytes_max: 16 * 1024,
        backlog_bytes_max: 64 * 1024,
        mode: Mode::Manual,
        ..Options::default()
    }
}

/// What somebody might do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Append {
        length: usize,
        is_awaited: bool,
    },
    Turn,
    Flush,
    /// So many segments back from the last.
    RemoveBefore(u32),
    Reopen,
    Crash(Cut),
}

/// What became of a record, as far as the caller knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    Durable,
    Refused,
    /// Appended; after a crash it is there only if those before it are.
    Open,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Position,
    pub(crate) id: u64,
    pub(crate) length: usize,
    pub(crate) known: Known,
    commit: Option<Commit>,
}

/// A journal and what is known of it.
pub(crate) struct Run {
    pub(crate) files: MemoryFiles,
    pub(crate) options: Options,
    pub(crate) journal: Option<Journal>,
    pub(crate) entries: Vec<Entry>,
    /// Segments before this one may be gone.
    pub(crate) removed_before: u32,
    pub(crate) dice: Dice,
    next_id: u64,
    is_even: bool,
}

/// The body of a record says which it is, and each byte of it can be told.
pub(crate) fn body(id: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice(id);
    let mut body = id.to_le_bytes().to_vec();
    while body.len() < 8 + length {
        body.extend_from_slice(&dice.below(u64::MAX).to_le_bytes());
    }
    body.truncate(8 + length);
    body
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            files: MemoryFiles::new(),
            options: options(),
            journal: None,
            entries: Vec::new(),
            removed_before: 0,
            dice: Dice(seed),
            next_id: seed << 32,
            is_even: seed % 2 == 1,
        }
    }

    pub(crate) fn open(&mut self) -> Result<(), OpenError> {
        let files = Arc::new(self.files.clone());
        let (journal, opened) = Journal::open(files, self.options.clone())?;
        assert_eq!(opened.salvaged, []);
        self.journal = Some(journal);
        Ok(())
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.journal.as_ref().expect("it is open")
    }

    pub(crate) fn append(
        &mut self,
        length: usize,
        is_awaited: bool,
    ) -> Result<Position, AppendError> {
        let id = self.next_id;
        self.next_id += 1;
        let (kind, body) = (id as u8, body(id, length));
        let (head, tail) = body.split_at(body.len() / 2);
        let (at, commit) = if is_awaited {
            let (at, commit) = self.journal().append(kind, &[head, &[], tail])?;
            (at, Some(commit))
        } else {
            (self.journal().append_lazily(kind, &[head, tail])?, None)
        };
        self.entries.push(Entry {
            at,
            id,
            length,
            known: Known::Open,
            commit,
        });
        Ok(at)
    }

    /// Asks the commits.
    pub(crate) fn learn(&mut self) {
        let mut durable_from = None;
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let Some(commit) = &entry.commit else {
                continue;
            };
            if !commit.is_done() {
                continue;
            }
            match commit.wait() {
                Ok(()) => {
                    entry.known = Known::Durable;
                    durable_from = Some(index);
                }
                Err(CommitError::Full) => entry.known = Known::Refused,
                Err(_) => {}
            }
            entry.commit = None;
        }
        // With a record, all before it are durable.
        if let Some(last) = durable_from {
            for entry in &mut self.entries[..last] {
                if entry.known == Known::Open && entry.commit.is_none() {
                    entry.known = Known::Durable;
                }
            }
        }
    }

    /// One thing somebody might do, by the dice.
    pub(crate) fn step(&mut self) {
        let op = match self.dice.below(20) {
            0..=9 => Op::Append {
                length: self.any_length(),
                is_awaited: self.dice.below(3) > 0,
            },
            10..=16 => Op::Turn,
            17 => Op::Flush,
            18 => Op::RemoveBefore(self.dice.below(3) as u32),
            _ => Op::Reopen,
        };
        self.apply(op);
    }

    /// Does it, whatever comes of it.
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Append { length, is_awaited } => {
                let _ = self.append(length, is_awaited);
            }
            Op::Turn => {
                self.journal().turn();
            }
            Op::Flush => drop(self.journal().flush()),
            Op::RemoveBefore(back) => {
                let segment = self.journal().durable().segment().saturating_sub(back);
                self.removed_before = self.removed_before.max(segment);
                let _ = self.journal().remove_before(segment);
            }
            Op::Reopen => {
                let journal = self.journal.take().unwrap();
                let _ = journal.close();
                drop(journal);
                self.learn();
                if self.open().is_err() {
                    return;
                }
                if !self.files.is_off() {
                    self.verify(true);
                }
            }
            Op::Crash(cut) => self.crash(cut),
        }
        self.learn();
    }

    fn any_length(&mut self) -> usize {
        // Alike, so that what is left of a dead record stands where a new one ends.
        if self.is_even && self.dice.below(8) > 0 {
            return 700;
        }
        let most = match self.dice.below(40) {
            0 => 24_000,
            1..=4 => 6_000,
            5..=15 => 600,
            _ => 80,
        };
        self.dice.below(most) as usize
    }

    /// Opens what could not be opened a moment ago.
    pub(crate) fn reopen(&mut self) {
        self.open().unwrap();
        self.verify(true);
    }

    /// The process dies, or the machine; what comes back must be what was promised.
    pub(crate) fn crash(&mut self, cut: Cut) {
        self.learn();
        self.journal = None;
        self.learn();
        self.files.restart(cut);
        if let Err(error) = self.open() {
            panic!("{error} ({error:?})");
        }
        self.verify(true);
    }

    /// Compares what is read with what was appended; after a crash forgets what is gone.
    pub(crate) fn verify(&mut self, is_after_crash: bool) {
        let journal = self.journal().clone();
        let Some(found) = read_all(&journal) else {
            assert!(self.files.is_off());
            return;
        };
        let mut found = found.into_iter().peekable();
        let mut kept = Vec::new();
        let mut lost_open = None;
        for mut entry in std::mem::take(&mut self.entries) {
            let is_next = found
                .peek()
                .is_some_and(|(_, _, bytes)| bytes[..8] == entry.id.to_le_bytes());
            if !is_next {
                let may_be_removed = entry.at.segment() < self.removed_before;
                match entry.known {
                    _ if may_be_removed => {
                        assert!(kept.is_empty(), "removed in the middle: {entry:?}");
                    }
                    Known::Durable => panic!("lost {entry:?}"),
                    Known::Refused => {}
                    Known::Open if is_after_crash => lost_open = Some(entry.id),
                    Known::Open => kept.push(entry),
                }
                continue;
            }
            let (at, kind, bytes) = found.next().unwrap();
            assert_eq!(at, entry.at);
            assert_eq!(kind, entry.id as u8);
            assert_eq!(bytes, body(entry.id, entry.length));
            assert_eq!(lost_open, None, "{entry:?} is there, and one before is not");
            assert!(
                is_after_crash || entry.known != Known::Refused,
                "refused, yet read: {entry:?}"
            );
            if is_after_crash {
                (entry.known, entry.commit) = (Known::Durable, None);
            }
            kept.push(entry);
        }
        assert_eq!(found.next(), None, "never appended, or out of order");
        self.entries = kept;
    }
}

/// A record: place, kind, bytes.
type Found = (Position, u8, Vec<u8>);

/// All that is durable, read in both ways; none if the power is off.
fn read_all(journal: &Journal) -> Option<Vec<Found>> {
    // A call may be made to fail once.
    try_read_all(journal).or_else(|| try_read_all(journal))
}

fn try_read_all(journal: &Journal) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    let scanned = journal.scan(Position::START, &mut |at, kind, bytes| {
        found.push((at, kind, bytes.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(sound(scanned)?, journal.durable());
    for (at, kind, bytes) in &found {
        let record = sound(journal.read(*at))?;
        assert_eq!((record.kind, &record.bytes[..]), (*kind, &bytes[..]));
    }
    Some(found)
}

fn sound<T>(result: Result<T, ReadError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(ReadError::Io(_)) => None,
        Err(error) => panic!("{error}"),
    }
}
