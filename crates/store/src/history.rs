//! What became of every recipient: each change, kept for as long as it is of use, found by anything
//! that is known of it.
//!
//! Derived from the spool's journal, whose events it takes in their order ([`EventSink`]), each once:
//! what a restart replays and history already has is passed over. [`History::durable`] says from
//! where on the journal is still needed.
//!
//! Layers, from below: `column` (numbers and zstd), `block` (some thousand events in columns),
//! `data` (files of blocks), `index` and `sealed` (files that no longer change), `tail` (what
//! is not written yet), `view` (all of it, to be asked), `writer` and `worker` (who writes, on a
//! thread of its own, so that mail never waits). Byte tables: `docs/formats/history.md`.
//!
//! # Promises
//! - A question sees every event that was taken before it was asked.
//! - No event is lost or doubled, whenever the process or the power fails, as long as the journal
//!   keeps what is not yet [`durable`](History::durable).
//! - A damaged block costs its own events, and is named ([`HistoryStats::damage`]); everything else
//!   stays readable. What an index holds is made again from the data when it is missing.
//!
//! # Limits
//! Times are whole microseconds. 2^64 events. Memory: 88 bytes a block of sealed files, keys of the
//! active one (some MiB), a bounded feed.

mod block;
mod column;
mod data;
mod index;
mod keys;
mod minutes;
mod options;
mod query;
mod reader;
mod recover;
mod sealed;
mod tail;
mod text;
mod view;
mod worker;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow::{self, Continue};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use journal::{DirFiles, Files};

use crate::{Event, MessageId, Status, Time};

use minutes::Minutes;
use recover::{Access, Found, Refusal};
use sealed::Sealed;
use tail::{Mark, Tail};
use view::{Active, Place, Step};
use worker::Feed;
use writer::{Sizes, Writer};

pub use journal::Position;
pub use minutes::{Counts, MinuteStats, NAMES_MAX};
pub use options::{Damage, HistoryOptions, HistoryStats, OpenError};
pub use query::{Cursor, CursorError, LIMIT_MAX, Latest, Order, Page, Query, QueryError};
pub use reader::HistoryReader;

/// Minutes kept in memory; older ones are read from the files' indexes.
const MINUTES_KEPT: Duration = Duration::from_hours(24);

/// Takes the spool's events once they are durable there.
pub trait EventSink: Send + Sync {
    /// Takes one event; `at` is where its record lies in the journal.
    ///
    /// Called in the order of the journal, and in the order of recipients where several share a
    /// record (an accepted message). After a restart, called again for everything from
    /// [`History::durable`] on, that record included; at any time, what was told may be told again.
    /// May wait until there is room for it.
    fn committed(&self, at: Position, event: Event);
}

/// Where events can be read again: the spool, whose journal has them all.
pub trait EventSource: Send + Sync {
    /// Calls `each` for every event from `from` on (its record included), or from the first one that
    /// is left, in order, until it breaks or there are no more that are durable.
    ///
    /// # Errors
    /// The journal could not be read.
    fn replay(
        &self,
        from: Option<Position>,
        each: &mut dyn FnMut(Position, Event) -> ControlFlow<()>,
    ) -> io::Result<()>;
}

/// Every change of every recipient. A handle: clones share it.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
    _worker: Option<Arc<Stopper>>,
}

/// Lock order: writer, state, feed.
struct Shared {
    options: HistoryOptions,
    files: Arc<dyn Files>,
    _lock: Box<dyn Send + Sync>,
    source: OnceLock<Weak<dyn EventSource>>,
    writer: Mutex<Writer>,
    state: Mutex<State>,
    feed: Mutex<Feed>,
    /// The worker has something to do.
    work: Condvar,
    /// The feed has room again.
    room: Condvar,
}

struct State {
    tail: Tail,
    sealed: Arc<Vec<Arc<Sealed>>>,
    active: Option<Active>,
    /// Of what is written, the newest.
    minutes: Minutes,
    durable: Option<Mark>,
    damage: BTreeSet<Damage>,
    /// The journal is being read again: the feed has to wait, or the order would be lost.
    is_catching_up: bool,
    failure: Option<String>,
}

/// Stops the worker when the last handle goes.
struct Stopper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Stopper {
    fn drop(&mut self) {
        lock(&self.shared.feed).is_stopped = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl History {
    /// Opens the history in a folder, which is made if there is none.
    ///
    /// # Errors
    /// [`OpenError`]. Damage within is no error: see [`stats`](Self::stats).
    pub fn open(folder: &Path, options: &HistoryOptions) -> Result<Self, OpenError> {
        let files = DirFiles::open(folder).map_err(|source| OpenError::Io {
            folder: folder.display().to_string(),
            source,
        })?;
        Self::open_on(Arc::new(files), options)
    }

    /// The same on any files.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on(files: Arc<dyn Files>, options: &HistoryOptions) -> Result<Self, OpenError> {
        let folder = files.name();
        let refused = |source| match io::Error::kind(&source) {
            io::ErrorKind::WouldBlock => OpenError::InUse(folder.clone()),
            _ => OpenError::Io {
                folder: folder.clone(),
                source,
            },
        };
        let guard = files.lock().map_err(refused)?;
        let found = recover::read(&*files, Access::Write).map_err(|refusal| match refusal {
            Refusal::Io(source) => refused(source),
            Refusal::Version(file, version) => OpenError::Version { file, version },
        })?;
        let mut writer = Writer::new(
            Arc::clone(&files),
            Sizes {
                block_rows: options.block_events.clamp(1, block::ROWS_MAX / 2),
                file_rows: options.file_events.max(1),
                level: options.level,
            },
        );
        writer.resume(found.active.clone(), found.end_seq, found.last);
        let state = State::new(found, options).map_err(refused)?;
        let shared = Arc::new(Shared {
            options: options.clone(),
            files,
            _lock: guard,
            source: OnceLock::new(),
            writer: Mutex::new(writer),
            state: Mutex::new(state),
            feed: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
        });
        let worker = options.thread.then(|| worker::start(&shared)).transpose();
        let worker = worker.map_err(refused)?;
        Ok(Self {
            _worker: worker.map(Arc::new),
            shared,
        })
    }

    /// Where to read again what went by while history could not be written. Without it, that is
    /// made up for by the next restart. To be said once; after [`Self::expect_journal_end`].
    pub fn catch_up_from(&self, source: Weak<dyn EventSource>) {
        let _ = self.shared.source.set(source);
    }

    /// Says where the journal ends, before anything is replayed. If history has events from beyond,
    /// the journal is another one than before, and its positions begin anew.
    pub fn expect_journal_end(&self, end: Position) {
        let mut state = self.state();
        if state.tail.last.is_some_and(|last| last.position >= end) {
            tracing::warn!("history is older than the journal, which begins anew");
            state.tail.begin_era();
            state.durable = None;
        }
    }

    /// From where on the journal must be replayed after a restart, the record there included;
    /// `None`: from its beginning. What lies before is durable here, and the spool may remove it.
    #[must_use]
    pub fn durable(&self) -> Option<Position> {
        self.state().durable.map(|mark| mark.position)
    }

    /// Answers one page.
    ///
    /// # Errors
    /// [`QueryError`]. What is damaged is left out, and named.
    pub fn query(&self, query: &Query) -> Result<Page, QueryError> {
        let view = self.shared.view();
        view.page(query, &mut |place| self.shared.note(place))
    }

    /// Where each recipient of a message stands, and what was accepted.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn latest(&self, message: MessageId) -> Result<Latest, QueryError> {
        let mut latest = BTreeMap::new();
        let mut accepted = None;
        let query = Query {
            message: Some(message),
            order: Order::Oldest,
            ..Query::default()
        };
        let mut each = |step| {
            if let Step::Event(_, event) = step {
                if event.status == Status::Accepted {
                    accepted.get_or_insert_with(|| event.clone());
                }
                latest.insert(event.recipient, event);
            }
            Continue(())
        };
        let view = self.shared.view();
        let mut damaged = |place| self.shared.note(place);
        view.walk(&query, [0, view.end_seq], &mut damaged, &mut each)
            .map_err(QueryError::Read)?;
        Ok(Latest {
            accepted,
            events: latest.into_values().collect(),
        })
    }

    /// Statistics of the minutes that begin in `from..to`; minutes without events are left out.
    ///
    /// Those of the last day are at hand, older ones are read from the files' indexes.
    #[must_use]
    pub fn minutes(&self, from: Time, to: Time) -> Vec<MinuteStats> {
        let mut found = Minutes::new();
        self.each_minute(from, to, &mut |it| {
            minutes::at(&mut found, it.minute).merge(it);
        });
        found.into_values().collect()
    }

    /// Tells of the same minutes one by one, in no order, and of one in several parts where it was
    /// written so: all that is told of it adds up. For long times, of which not all is to be had in
    /// memory at once. `each` must ask history for nothing.
    pub fn each_minute(&self, from: Time, to: Time, each: &mut dyn FnMut(&MinuteStats)) {
        self.shared.each_minute(from, to, each);
    }

    /// From when on no event is missing; `None`: none was ever removed, for its age or for the size of
    /// all.
    #[must_use]
    pub fn whole_since(&self) -> Option<Time> {
        self.state().whole_since()
    }

    /// Removes what is older than its age, then what is over its size, a file at a time. Cheap
    /// where there is nothing to remove; to be called now and then.
    ///
    /// # Errors
    /// A file could not be removed; it will be tried again after a restart.
    pub fn retain(&self, now: Time) -> io::Result<()> {
        self.shared.retain(now)
    }

    /// Makes everything taken so far durable here.
    ///
    /// # Errors
    /// A file could not be written; the events stay in the journal.
    pub fn flush(&self) -> io::Result<()> {
        self.shared.work(true)?;
        self.shared.sync()
    }

    /// What it says of itself.
    #[must_use]
    pub fn stats(&self) -> HistoryStats {
        let is_behind = lock(&self.shared.feed).is_behind;
        let state = self.state();
        let written = state.active.iter().flat_map(|active| active.blocks.iter());
        let (rows, bytes) = written.fold((0, 0), |(rows, _), block| {
            (
                rows + u64::from(block.placed.header.rows),
                block.placed.end(),
            )
        });
        let sealed = state.sealed.iter();
        let (rows, bytes) = sealed.fold((rows, bytes), |(rows, bytes), file| {
            (rows + file.rows(), bytes + file.bytes)
        });
        let unwritten = state.tail.rows() as u64;
        HistoryStats {
            events: rows + unwritten,
            unwritten_events: unwritten,
            sealed_files: state.sealed.len() as u64,
            bytes,
            is_behind: is_behind || state.is_catching_up,
            failure: state.failure.clone(),
            damage: state.damage.iter().cloned().collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl EventSink for History {
    fn committed(&self, at: Position, event: Event) {
        self.shared.committed(at, event);
    }
}

impl State {
    fn new(found: Found, options: &HistoryOptions) -> io::Result<Self> {
        let chunk_rows = options.block_events.max(1);
        let mut damage: BTreeSet<Damage> = found.damage.iter().map(Damage::from).collect();
        let mut minutes = found
            .active
            .as_ref()
            .map(|it| it.1.clone())
            .unwrap_or_default();
        let last_minute = |file: &Sealed| minutes::start_of(Time::from_micros(file.latest_us()));
        let newest = minutes.last_key_value().map(|(minute, _)| *minute);
        let newest = found.sealed.iter().map(last_minute).chain(newest).max();
        let from = newest.unwrap_or_default().saturating_sub(MINUTES_KEPT);
        for file in &found.sealed {
            if last_minute(file) >= from {
                let mut note = |place| damage.extend([Damage::from(&place)]);
                minutes::merge(&mut minutes, &file.minutes(&mut note)?);
            }
        }
        // Older ones may go on in files that were not looked at.
        minutes = minutes.split_off(&from);
        Ok(Self {
            tail: Tail::new(chunk_rows, found.end_seq, found.era, found.last),
            sealed: Arc::new(found.sealed.into_iter().map(Arc::new).collect()),
            active: found.active.map(|(active, _)| active),
            minutes,
            durable: found.last,
            damage,
            is_catching_up: false,
            failure: None,
        })
    }
}

impl State {
    fn whole_since(&self) -> Option<Time> {
        let sealed = self
            .sealed
            .iter()
            .map(|file| (file.first_seq, file.blocks.first()));
        let active = self.active.iter().map(|file| {
            let first = file.blocks.first();
            (file.first_seq, first.map(|block| &block.placed))
        });
        let mut files = sealed.chain(active).peekable();
        files.peek().filter(|(first_seq, _)| *first_seq > 0)?;
        let first = files.find_map(|(_, block)| block);
        // Where all of them are damaged, nothing is known.
        Some(first.map_or(Time::MAX, |block| Time::from_micros(block.header.at_us[0])))
    }
}

impl From<&Place> for Damage {
    fn from(place: &Place) -> Self {
        Self {
            file: data::name(place.first_seq),
            offset: place.offset,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
