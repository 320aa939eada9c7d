//! A small durable map for what is neither mail nor history: keys, suppressed addresses, idempotency
//! answers, suspended sites, learned paces.
//!
//! All of it is in memory; each change is one record in a journal of its own. What a write made is seen
//! at once and durable when its commit says so. Entries lie in spaces, which number what they are
//! for, and may expire.
//!
//! The journal is kept in proportion: [`Table::compact`] copies forward what still holds its oldest
//! segment and removes that. A removal's record can go with its segment, for what it removed was
//! written before it and is gone by then.
//!
//! Limits: a key [`KEY_BYTES_MAX`]; a value what the journal takes; all of it what memory takes.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use journal::{AppendError, Commit, CommitError, Journal, Position};

use crate::Time;
use crate::codec::{self, DecodeError, Entry};

/// Longest key in octets: of what the engine keeps, an idempotency key of 256 characters is the longest.
pub const KEY_BYTES_MAX: usize = 2048;

const PUT: u8 = 1;
const REMOVE: u8 = 2;

/// What a key takes in memory and on disk beside itself and its value, roughly.
const OVERHEAD_BYTES: usize = 48;

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Over [`KEY_BYTES_MAX`].
    #[error("a key of {0} octets is too long")]
    KeyTooLong(usize),
    /// The journal did not take it.
    #[error("the journal did not take the change")]
    Append(#[source] AppendError),
}

/// Why the table cannot be read or kept small.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A segment cannot be read.
    #[error("the journal cannot be read")]
    Scan(#[source] journal::ReadError),
    /// The journal does not take a copy.
    #[error("the journal does not take a copy")]
    Append(#[source] AppendError),
    /// The copies did not become durable.
    #[error("the copies did not become durable")]
    Commit(#[source] CommitError),
    /// A segment cannot be removed.
    #[error("a segment cannot be removed")]
    Remove(#[source] journal::RemoveError),
}

/// A record that could not be understood, and was passed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where it stands.
    pub at: Position,
    /// What is wrong with it.
    pub why: DecodeError,
}

/// A durable map. A handle: clones share it.
#[derive(Clone)]
pub struct Table {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    state: Mutex<State>,
    /// Held by who compacts.
    compaction: Mutex<()>,
}

type Key = (u8, Arc<[u8]>);

/// Keys come from outside, so the map's hash is one that cannot be guessed.
#[derive(Default)]
struct State {
    entries: HashMap<Key, Held>,
    expiries: BTreeSet<(Time, Key)>,
    live_bytes: u64,
}

struct Held {
    value: Bytes,
    expires_at: Option<Time>,
    at: Position,
}

impl Held {
    fn bytes(&self, key: &Key) -> u64 {
        (OVERHEAD_BYTES + key.1.len() + self.value.len()) as u64
    }
}

impl State {
    fn insert(&mut self, key: Key, held: Held) {
        self.remove(&key);
        self.live_bytes += held.bytes(&key);
        if let Some(expires_at) = held.expires_at {
            self.expiries.insert((expires_at, key.clone()));
        }
        self.entries.insert(key, held);
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(held) = self.entries.remove(key) else {
            return false;
        };
        self.live_bytes -= held.bytes(key);
        if let Some(expires_at) = held.expires_at {
            self.expiries.remove(&(expires_at, key.clone()));
        }
        true
    }

    fn expire(&mut self, now: Time) -> usize {
        let mut expired = 0;
        while let Some((expires_at, key)) = self.expiries.first().cloned()
            && expires_at <= now
        {
            self.remove(&key);
            expired += 1;
        }
        expired
    }
}

impl Table {
    /// Reads the journal, which is the table's alone. What has expired by `now` is left out.
    ///
    /// # Errors
    /// The journal cannot be read. Records that cannot be understood are returned instead.
    pub fn open(journal: Journal, now: Time) -> Result<(Self, Vec<Damage>), journal::ReadError> {
        let mut state = State::default();
        let mut damage = Vec::new();
        journal.scan(crate::first_of(&journal), &mut |at, kind, bytes| {
            if let Err(why) = replay(&mut state, at, kind, bytes) {
                tracing::error!(?at, error = %why, "a record of the table cannot be understood");
                damage.push(Damage { at, why });
            }
            ControlFlow::Continue(())
        })?;
        state.expire(now);
        let inner = Inner {
            journal,
            state: Mutex::new(state),
            compaction: Mutex::new(()),
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, damage))
    }

    /// Puts a value in place of what the key had. It holds at once; if the disk is full, it becomes
    /// durable when there is room, whatever the commit says.
    ///
    /// # Errors
    /// [`TableError`]: nothing has changed.
    pub fn insert(
        &self,
        space: u8,
        key: &[u8],
        value: &[u8],
        expires_at: Option<Time>,
    ) -> Result<Commit, TableError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(TableError::KeyTooLong(key.len()));
        }
        let mut head = Vec::with_capacity(32 + key.len());
        let entry = Entry {
            space,
            key,
            expires_at,
            value,
        };
        codec::encode_entry(&entry, &mut head);
        let mut state = self.lock();
        let journal = &self.inner.journal;
        let at = journal.append_lazily(PUT, &[&head, value]);
        let held = Held {
            value: Bytes::copy_from_slice(value),
            expires_at,
            at: at.map_err(TableError::Append)?,
        };
        state.insert((space, key.into()), held);
        Ok(journal.flush())
    }

    /// Removes a key; none is there afterwards. It holds at once, as an insertion does.
    ///
    /// # Errors
    /// [`TableError`]: nothing has changed.
    pub fn remove(&self, space: u8, key: &[u8]) -> Result<Commit, TableError> {
        let mut head = Vec::with_capacity(32 + key.len());
        let entry = Entry {
            space,
            key,
            expires_at: None,
            value: b"",
        };
        codec::encode_entry(&entry, &mut head);
        let mut state = self.lock();
        let journal = &self.inner.journal;
        let key = (space, key.into());
        if state.entries.contains_key(&key) {
            let removed = journal.append_lazily(REMOVE, &[&head]);
            removed.map_err(TableError::Append)?;
            state.remove(&key);
        }
        Ok(journal.flush())
    }

    /// The key's value. What has expired is there until [`expire`](Self::expire).
    #[must_use]
    pub fn get(&self, space: u8, key: &[u8]) -> Option<Bytes> {
        let state = self.lock();
        let held = state.entries.get(&(space, key.into()))?;
        Some(held.value.clone())
    }

    /// All keys of a space with their values and when they expire, in no order.
    #[must_use]
    pub fn entries(&self, space: u8) -> Vec<(Arc<[u8]>, Bytes, Option<Time>)> {
        let state = self.lock();
        let of_it = state.entries.iter().filter(|((s, _), _)| *s == space);
        of_it
            .map(|((_, key), held)| (key.clone(), held.value.clone(), held.expires_at))
            .collect()
    }

    /// Why nothing can be changed any more before it is opened anew, where that is so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.inner.journal.failure()
    }

    /// What keys and values take in memory, roughly.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.lock().live_bytes
    }

    /// How many keys there are in all spaces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes all of it durable and ends the journal: nothing can be changed any more.
    ///
    /// # Errors
    /// Those of [`Journal::close`].
    pub fn close(&self) -> Result<(), CommitError> {
        self.inner.journal.close()
    }

    /// Removes what expires at `now` or before. Returns how many. Nothing is written: a restart leaves
    /// them out as well.
    pub fn expire(&self, now: Time) -> usize {
        self.lock().expire(now)
    }

    /// Copies forward and removes the oldest segments while the journal takes more than twice what is
    /// in the table and two segments. Blocks on the disk. Returns how many were removed.
    ///
    /// # Errors
    /// [`CompactError`]; nothing is lost, and it may be called again.
    pub fn compact(&self) -> Result<usize, CompactError> {
        let compaction = &self.inner.compaction;
        let _alone = compaction.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = &self.inner.journal;
        let end = journal.durable().segment();
        let mut removed = 0;
        loop {
            let segments = journal.segments();
            let used: u64 = segments.iter().map(|segment| segment.bytes).sum();
            let largest = segments.iter().map(|segment| segment.bytes).max();
            let bound = 2 * self.lock().live_bytes + 3 * largest.unwrap_or(0);
            let oldest = crate::first_of(journal);
            if used <= bound || oldest.segment() >= end {
                return Ok(removed);
            }
            self.copy_forward(oldest)?;
            journal.sync().map_err(CompactError::Commit)?;
            let next = oldest.segment() + 1;
            journal.remove_before(next).map_err(CompactError::Remove)?;
            removed += 1;
        }
    }

    /// Appends again what the table still has from the segment that begins there.
    fn copy_forward(&self, first: Position) -> Result<(), CompactError> {
        let journal = &self.inner.journal;
        let mut result = Ok(());
        let scanned = journal.scan(first, &mut |at, kind, bytes| {
            if at.segment() != first.segment() {
                return ControlFlow::Break(());
            }
            result = self.copy_record(at, kind, bytes);
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        scanned.map_err(CompactError::Scan)?;
        result.map_err(CompactError::Append)
    }

    fn copy_record(&self, at: Position, kind: u8, bytes: &[u8]) -> Result<(), AppendError> {
        // What cannot be understood was reported at the start, and is not in the table.
        let Ok(entry) = codec::decode_entry(bytes) else {
            return Ok(());
        };
        let mut state = self.lock();
        let held = state.entries.get_mut(&(entry.space, entry.key.into()));
        if let Some(held) = held.filter(|held| kind == PUT && held.at == at) {
            held.at = self.inner.journal.append_lazily(PUT, &[bytes])?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn replay(state: &mut State, at: Position, kind: u8, bytes: &[u8]) -> Result<(), DecodeError> {
    let entry = codec::decode_entry(bytes)?;
    let key = (entry.space, entry.key.into());
    match kind {
        PUT => {
            let held = Held {
                value: Bytes::copy_from_slice(entry.value),
                expires_at: entry.expires_at,
                at,
            };
            state.insert(key, held);
        }
        REMOVE => {
            state.remove(&key);
        }
        _ => return Err(DecodeError::Range("a record's kind")),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
