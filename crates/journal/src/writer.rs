//! The writer: one write and one sync for each group.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commit::CommitError;
use crate::files::{self, File};
use crate::frame::FIRST;
use crate::gather::Gathering;
use crate::group::Group;
use crate::journal::Shared;
use crate::segment::Failure;
use crate::state::Refusal;

/// How often a full disk is asked again.
const RETRY: Duration = Duration::from_millis(250);

pub(crate) struct Writer {
    /// The segment being written.
    number: u32,
    file: Arc<dyn File>,
    /// Waits for room.
    held: Option<Group>,
    gathering: Gathering,
    /// When the last group was taken.
    began: Option<Instant>,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Idle,
    Wrote,
    NoRoom,
    Poisoned,
}

enum WriteError {
    NoRoom,
    Broken(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if files::is_full(&error) {
            Self::NoRoom
        } else {
            Self::Broken(error)
        }
    }
}

impl Writer {
    pub(crate) fn new(number: u32, file: Arc<dyn File>) -> Self {
        Self {
            number,
            file,
            held: None,
            gathering: Gathering::default(),
            began: None,
        }
    }

    /// Writes and syncs one group, if there is any.
    pub(crate) fn turn(&mut self, shared: &Shared) -> Turn {
        if shared.state().is_full {
            self.make_next_ready(shared);
        }
        let group = self.held.take().or_else(|| shared.state().take());
        let Some(group) = group else {
            return Turn::Idle;
        };
        let start = Instant::now();
        match self.write(shared, &group) {
            Ok(()) => {}
            Err(WriteError::NoRoom) => return self.no_room(shared, group),
            Err(WriteError::Broken(error)) => return poison(shared, "write", &error),
        }
        let written = Instant::now();
        if let Err(error) = self.file.sync() {
            return poison(shared, "sync", &error);
        }
        let (write_time, sync_time) = (written - start, written.elapsed());
        shared.count(&group, write_time, sync_time);
        let meanwhile = shared.state().waiting();
        let interval = start - self.began.replace(start).unwrap_or(start);
        self.gathering
            .synced(group.awaited, meanwhile, sync_time, interval);
        self.commit(shared, group);
        Turn::Wrote
    }

    fn write(&mut self, shared: &Shared, group: &Group) -> Result<(), WriteError> {
        if group.segment != self.number {
            self.file = match shared.segments.ready(group.segment) {
                Ok(file) => file,
                Err(Failure::ForNow(error)) => {
                    tracing::warn!(%error, "no new segment can be made");
                    return Err(WriteError::NoRoom);
                }
                Err(Failure::ForGood(error)) => return Err(WriteError::Broken(error)),
            };
            self.number = group.segment;
        }
        let offset = u64::from(group.start);
        Ok(files::write_all_at(&*self.file, offset, &group.pieces())?)
    }

    /// The group is durable: says so to all who wait, and makes the next segment ready after.
    fn commit(&mut self, shared: &Shared, group: Group) {
        let (outcome, is_first) = (Arc::clone(&group.outcome), group.start == FIRST);
        shared.set_durable(group.behind());
        shared.state().written(group);
        outcome.end(Ok(()));
        if is_first {
            self.make_next_ready(shared);
        }
    }

    pub(crate) fn make_next_ready(&self, shared: &Shared) {
        shared.make_ready(self.number);
    }

    /// Takes back what was written of the group, so that none of it is ever read.
    fn no_room(&mut self, shared: &Shared, group: Group) -> Turn {
        if group.segment == self.number {
            let start = u64::from(group.start);
            if let Err(error) = self.file.truncate(start) {
                return poison(shared, "truncate", &error);
            }
            // The room that was reserved before, if nobody has taken it.
            let _ = self.file.allocate(shared.options.segment_bytes_max);
        }
        let salt = shared.segments.salt(group.segment);
        self.held = shared.state().refuse(group, salt);
        Turn::NoRoom
    }

    /// Sleeps until there is something to do; false: the end.
    fn wait(&self, shared: &Shared) -> bool {
        let mut state = shared.state();
        let (mut linger, mut round) = (None, None);
        loop {
            let is_closing = state.refusal == Some(Refusal::Closed);
            let is_over = is_closing && (self.held.is_some() || !state.has_groups());
            if is_over || state.refusal == Some(Refusal::Poisoned) {
                return false;
            }
            let awaited = state.awaited();
            let (time, until) = if self.held.is_some() {
                (Some(RETRY), u32::MAX)
            } else if is_closing || awaited >= self.gathering.expected() {
                return true;
            } else if awaited > 0 {
                let left = self.gathering.left(&mut round, awaited, Instant::now());
                (Some(left), self.gathering.expected())
            } else if state.has_groups() {
                (Some(left(&mut linger, shared.options.linger)), 1)
            } else {
                (state.is_full.then_some(RETRY), 1)
            };
            if time == Some(Duration::ZERO) {
                return true;
            }
            state.sleeps_until = Some(until);
            let is_over;
            (state, is_over) = shared.sleep(state, time);
            state.sleeps_until = None;
            if is_over && round.is_none() {
                return true;
            }
        }
    }
}

/// What is left of a time that begins with the first call.
fn left(until: &mut Option<Instant>, time: Duration) -> Duration {
    let now = Instant::now();
    let until = until.get_or_insert(now + time);
    until.saturating_duration_since(now)
}

/// The thread: turns until the journal is closed and all is written, or it is poisoned.
pub(crate) fn run(shared: &Shared) {
    let _guard = Guard(shared);
    let mut writer = shared.writer();
    while writer.wait(shared) && writer.turn(shared) != Turn::Poisoned {}
}

/// Nobody waits for a thread that has panicked.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            poison(self.0, "panic", &io::Error::other("the writer panicked"));
        }
    }
}

pub(crate) fn poison(shared: &Shared, call: &str, error: &io::Error) -> Turn {
    tracing::error!(%error, call, "the journal is poisoned: nothing more is accepted");
    // The first one is the reason.
    let _ = shared.failure.set(format!("{call}: {error}"));
    let waiting = shared.state().poison();
    for outcome in waiting {
        outcome.end(Err(CommitError::Poisoned));
    }
    Turn::Poisoned
}
