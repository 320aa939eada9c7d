//! The journal itself: opening, appending, removing, closing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use crate::commit::{Commit, CommitError, Outcome};
use crate::files::Files;
use crate::frame::{self, FIRST};
use crate::group::{Body, Group, LARGE_BYTES, put_padded};
use crate::segment::{Failure, Segment, Segments};
use crate::state::{Incoming, Refusal, State};
use crate::stats::Stats;
use crate::writer::{self, Turn, Writer};
use crate::{AppendError, Mode, OpenError, Opened, Options, Position, RemoveError, recovery};

const SEGMENT_BYTES_MIN: u64 = 8 * 1024;
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// An open journal; clones are the same one. The last one dropped closes it.
#[derive(Clone)]
pub struct Journal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What appenders and the writer share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) segments: Segments,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    writer: Mutex<Writer>,
    durable: AtomicU64,
    /// Why it is poisoned.
    pub(crate) failure: OnceLock<String>,
    stats: Mutex<Stats>,
    /// Keeps others out of the folder.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl Journal {
    /// Opens the journal in these files, or begins one there.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed then, but for a torn tail that was cut.
    pub fn open(files: Arc<dyn Files>, options: Options) -> Result<(Self, Opened), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes_max) {
            return Err(OpenError::SegmentBytes(options.segment_bytes_max));
        }
        let lock = match files.lock() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(OpenError::InUse(files.name()));
            }
            locked => locked?,
        };
        let (segments, end, opened) = recovery::recover(files, &options)?;
        let last = segments.last().expect("recovery made one");
        let number = last.min(end.segment());
        let file = segments.get(number).expect("there is no gap");
        let state = State::new(end, segments.salt(end.segment()));
        let writer = Writer::new(number, file);
        let shared = Arc::new(Shared {
            options,
            segments,
            state: Mutex::new(state),
            work: Condvar::new(),
            writer: Mutex::new(writer),
            durable: AtomicU64::new(end.to_u64()),
            failure: OnceLock::new(),
            stats: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        });
        shared.writer().make_next_ready(&shared);
        let thread = (shared.options.mode == Mode::Thread)
            .then(|| {
                let shared = Arc::clone(&shared);
                let run = move || writer::run(&shared);
                thread::Builder::new().name("journal".to_owned()).spawn(run)
            })
            .transpose()?;
        let handle = Handle {
            shared,
            thread: Mutex::new(thread),
        };
        Ok((Self(Arc::new(handle)), opened))
    }

    /// Appends a record and joins the group being filled.
    ///
    /// * `parts`: concatenated into one record. Those of a record from 64 KiB on are copied outside
    ///   the lock.
    /// * returns: its place, and what resolves when it is durable. The place is not readable before.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended then.
    pub fn append(&self, kind: u8, parts: &[&[u8]]) -> Result<(Position, Commit), AppendError> {
        let (at, outcome) = self.put(kind, parts, true)?;
        Ok((at, Commit::of(outcome)))
    }

    /// Appends a record for which nobody waits: it becomes durable with the next group, at the
    /// latest after [`Options::linger`]. A full disk takes these longest.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended then.
    pub fn append_lazily(&self, kind: u8, parts: &[&[u8]]) -> Result<Position, AppendError> {
        Ok(self.put(kind, parts, false)?.0)
    }

    fn put(
        &self,
        kind: u8,
        parts: &[&[u8]],
        is_awaited: bool,
    ) -> Result<(Position, Arc<Outcome>), AppendError> {
        let shared = self.shared();
        let record = shared.incoming(kind, parts, is_awaited)?;
        if shared.options.mode != Mode::Thread && shared.state().is_short_of_room() {
            shared.writer().turn(shared);
        }
        let mut state = shared.state();
        let is_first = !state.has_groups();
        let new_salt = |number| shared.segments.salt(number);
        let appended = state.append(&shared.options, new_salt, record)?;
        // The first record also starts the writer's clock, unless somebody's wait has.
        let must_wake = state.must_wake() || is_first && state.sleeps_until == Some(1);
        drop(state);
        if must_wake {
            shared.work.notify_one();
        }
        if shared.options.mode == Mode::Inline {
            shared.drive();
        }
        Ok(appended)
    }

    /// Resolves when everything appended so far is durable.
    pub fn flush(&self) -> Commit {
        let shared = self.shared();
        let (commit, must_wake) = {
            let mut state = shared.state();
            (state.flush(), state.must_wake())
        };
        if must_wake {
            shared.work.notify_one();
        }
        commit
    }

    /// Blocks until everything appended so far is durable; with [`Mode::Stepped`], makes it so.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn sync(&self) -> Result<(), CommitError> {
        let commit = self.flush();
        if self.shared().options.mode == Mode::Stepped {
            self.shared().drive();
            if !commit.is_done() {
                return Err(CommitError::Full);
            }
        }
        commit.wait()
    }

    /// Writes and syncs one group now; says whether there was one. Only for [`Mode::Manual`] and
    /// [`Mode::Stepped`]; else there is nothing left to do.
    pub fn turn(&self) -> bool {
        let shared = self.shared();
        let has_caller = matches!(shared.options.mode, Mode::Manual | Mode::Stepped);
        has_caller && shared.writer().turn(shared) == Turn::Wrote
    }

    /// All segments, the oldest first; the last may be one made ready.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        self.shared().segments.all()
    }

    /// Behind the last record appended.
    #[must_use]
    pub fn end(&self) -> Position {
        self.shared().state().end()
    }

    /// Behind the last record known to be durable.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position::from_u64(self.shared().durable.load(Ordering::Acquire))
    }

    /// Removes all segments before this one, durably; never the last one written to.
    /// Blocks for a few syncs.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove_before(&self, segment: u32) -> Result<(), RemoveError> {
        let shared = self.shared();
        if self.is_poisoned() {
            return Err(RemoveError::Poisoned);
        }
        let durable = self.durable();
        // Behind a seal, the next segment may not be there yet.
        let active = match durable.offset() {
            FIRST => durable.segment().saturating_sub(1),
            _ => durable.segment(),
        };
        let removed = shared.segments.remove_before(segment.min(active));
        match removed {
            Ok(()) => {}
            Err(Failure::ForNow(error)) => return Err(RemoveError::Io(error)),
            Err(Failure::ForGood(error)) => {
                writer::poison(shared, "sync", &error);
                return Err(RemoveError::Poisoned);
            }
        }
        let is_full = shared.state().is_full;
        if is_full {
            shared.make_ready(active);
        }
        Ok(())
    }

    /// How it does.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// A write or sync has failed: only reading works. Takes no lock.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.failure().is_some()
    }

    /// Which call failed, and how, where one has.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.shared().failure.get().map(String::as_str)
    }

    /// Octets of a segment: what the disk must have free for the journal to go on.
    #[must_use]
    pub fn segment_bytes_max(&self) -> u64 {
        self.shared().options.segment_bytes_max
    }

    /// Room left on the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.shared().segments.files.free_bytes()
    }

    /// Makes all durable, ends the thread, and gives the folder free; reading still works.
    ///
    /// # Errors
    /// Something was not made durable.
    pub fn close(&self) -> Result<(), CommitError> {
        self.0.close()
    }
}

impl Journal {
    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.shared().segments.files.name();
        f.debug_struct("Journal")
            .field("files", &files)
            .field("end", &self.end())
            .field("durable", &self.durable())
            .finish()
    }
}

impl Handle {
    fn close(&self) -> Result<(), CommitError> {
        let shared = &*self.shared;
        shared.state().close();
        shared.work.notify_one();
        let thread = lock(&self.thread).take();
        let is_writer = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if thread.as_ref().is_some_and(is_writer) {
            // The writer dropped the last handle, with a waker: it ends soon, and lets go of the
            // folder then.
            return Ok(());
        }
        if let Some(thread) = thread {
            // A panic of the writer has been shown, and its waiters told.
            let _ = thread.join();
        } else {
            shared.drive();
        }
        lock(&shared.lock).take();
        let state = shared.state();
        match state.refusal {
            Some(Refusal::Poisoned) => Err(CommitError::Poisoned),
            _ if state.is_stuck => Err(CommitError::Full),
            _ => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the journal closed with records that are not durable");
        }
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// Turns until there is nothing more to write, or no room.
    fn drive(&self) {
        let mut writer = self.writer();
        while writer.turn(self) == Turn::Wrote {}
    }

    /// All that can be done for a record before it takes the lock.
    fn incoming<'a>(
        &self,
        kind: u8,
        parts: &'a [&'a [u8]],
        is_awaited: bool,
    ) -> Result<Incoming<'a>, AppendError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).map_err(|_| AppendError::TooLarge)?;
        if length > self.options.record_bytes_max {
            return Err(AppendError::TooLarge);
        }
        let sum = frame::body_sum(parts);
        let body = Body { parts, length, sum };
        let copy = (length as usize >= LARGE_BYTES).then(|| {
            let mut copy = Vec::new();
            put_padded(&mut copy, body);
            copy
        });
        Ok(Incoming {
            kind,
            body,
            copy,
            is_awaited,
        })
    }

    /// Lets go of the state until woken, or for so long; says whether that is over.
    pub(crate) fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> (MutexGuard<'a, State>, bool) {
        match timeout {
            None => {
                let woken = self.work.wait(state);
                (woken.unwrap_or_else(PoisonError::into_inner), false)
            }
            Some(timeout) => {
                let woken = self.work.wait_timeout(state, timeout);
                let (state, result) = woken.unwrap_or_else(PoisonError::into_inner);
                (state, result.timed_out())
            }
        }
    }

    pub(crate) fn set_durable(&self, end: Position) {
        self.durable.store(end.to_u64(), Ordering::Release);
    }

    pub(crate) fn count(&self, group: &Group, write_time: Duration, sync_time: Duration) {
        let mut stats = lock(&self.stats);
        stats.records += u64::from(group.records);
        stats.groups += 1;
        stats.bytes += group.bytes() as u64;
        stats.write_time += write_time;
        stats.sync.add(sync_time);
    }

    fn stats(&self) -> Stats {
        let state = self.state();
        let (backlog_bytes, refusal) = (state.backlog_bytes, state.refusal);
        let is_full = state.is_short_of_room();
        drop(state);
        Stats {
            backlog_bytes,
            segments: self.segments.numbers().len(),
            used_bytes: self.segments.used_bytes(),
            segments_reused: self.segments.reused.load(Ordering::Relaxed),
            is_full,
            is_poisoned: refusal == Some(Refusal::Poisoned),
            ..*lock(&self.stats)
        }
    }

    /// Has this segment, and the one that follows it, ready; without room for them, only lazily
    /// appended records are taken from now on.
    pub(crate) fn make_ready(&self, number: u32) {
        let ready = self.segments.ready(number);
        match ready.and_then(|_| self.segments.ready(number + 1)) {
            Ok(_) => self.state().is_full = false,
            Err(Failure::ForNow(error)) => {
                if !std::mem::replace(&mut self.state().is_full, true) {
                    tracing::warn!(%error, "no room for another segment: taking nothing new");
                }
            }
            Err(Failure::ForGood(error)) => {
                writer::poison(self, "sync", &error);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
