//! What appending touches: the groups being filled, under one short lock.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::{Commit, CommitError, Outcome};
use crate::frame::{self, AWAITED, FIRST, SEAL_BYTES, Salt};
use crate::group::{Body, Group};
use crate::{AppendError, Options, Position};

/// A group is closed at this size, so that no write takes too long.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Buffers that grew beyond are not kept.
const BUFFER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct State {
    /// Those waiting to be written, the last one being filled.
    groups: VecDeque<Group>,
    /// Of the group being written.
    pub(crate) in_flight: Option<Arc<Outcome>>,
    /// Where the next record goes.
    segment: u32,
    offset: u32,
    salt: Salt,
    /// What is neither durable nor refused.
    pub(crate) backlog_bytes: usize,
    pub(crate) refusal: Option<Refusal>,
    /// No segment is ready to follow: what is left of this one is for lazily appended records.
    pub(crate) is_full: bool,
    /// Lazily appended records wait for room to be written.
    pub(crate) is_stuck: bool,
    /// The writer sleeps until so many wait.
    pub(crate) sleeps_until: Option<u32>,
    buffer: Option<Vec<u8>>,
}

/// Why nothing is taken any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Poisoned,
    Closed,
}

/// A record about to be appended.
pub(crate) struct Incoming<'a> {
    pub(crate) kind: u8,
    pub(crate) body: Body<'a>,
    /// Body and padding, where large.
    pub(crate) copy: Option<Vec<u8>>,
    pub(crate) is_awaited: bool,
}

impl State {
    pub(crate) fn new(end: Position, salt: Salt) -> Self {
        Self {
            groups: VecDeque::new(),
            in_flight: None,
            segment: end.segment(),
            offset: end.offset(),
            salt,
            backlog_bytes: 0,
            refusal: None,
            is_full: false,
            is_stuck: false,
            sleeps_until: None,
            buffer: None,
        }
    }

    pub(crate) fn end(&self) -> Position {
        Position::new(self.segment, self.offset)
    }

    /// Takes a record in. `new_salt` is that of the segment that would follow.
    ///
    /// # Errors
    /// As [`crate::Journal::append`]; nothing has changed then.
    pub(crate) fn append(
        &mut self,
        options: &Options,
        new_salt: impl FnOnce(u32) -> Salt,
        record: Incoming<'_>,
    ) -> Result<(Position, Arc<Outcome>), AppendError> {
        let bytes = frame::padded(record.body.length);
        let end = u64::from(self.offset) + u64::from(bytes) + u64::from(SEAL_BYTES);
        let must_roll = end > options.segment_bytes_max && self.offset > FIRST;
        self.admit(options, &record, must_roll)?;
        if must_roll {
            self.roll(new_salt);
        }
        let group = self.filling();
        let at = Position::new(group.segment, group.end);
        let flags = if record.is_awaited { AWAITED } else { 0 };
        group.awaited += u32::from(record.is_awaited);
        group.push(record.kind, flags, record.body, record.copy);
        let outcome = Arc::clone(&group.outcome);
        self.offset = group.end;
        self.backlog_bytes += bytes as usize;
        Ok((at, outcome))
    }

    fn admit(
        &self,
        options: &Options,
        record: &Incoming<'_>,
        must_roll: bool,
    ) -> Result<(), AppendError> {
        match self.refusal {
            Some(Refusal::Poisoned) => return Err(AppendError::Poisoned),
            Some(Refusal::Closed) => return Err(AppendError::Closed),
            None => {}
        }
        if self.is_short_of_room() && record.is_awaited || self.is_full && must_roll {
            return Err(AppendError::Full);
        }
        // The last one may go beyond, so that a large one has its turn however busy it is.
        if self.backlog_bytes >= options.backlog_bytes_max {
            return Err(AppendError::Busy);
        }
        Ok(())
    }

    /// Ends the segment; the writer finds or makes the next one.
    fn roll(&mut self, new_salt: impl FnOnce(u32) -> Salt) {
        self.filling().seal();
        self.backlog_bytes += SEAL_BYTES as usize;
        self.segment += 1;
        self.offset = FIRST;
        self.salt = new_salt(self.segment);
    }

    fn filling(&mut self) -> &mut Group {
        let fits = |group: &Group| group.segment == self.segment && group.bytes() < GROUP_BYTES_MAX;
        if !self.groups.back().is_some_and(fits) {
            let buffer = self.buffer.take().unwrap_or_default();
            let group = Group::new(self.segment, self.offset, self.salt, buffer);
            self.groups.push_back(group);
        }
        self.groups.back_mut().expect("one was just pushed")
    }

    /// A commit of everything appended so far; the writer must not linger then.
    pub(crate) fn flush(&mut self) -> Commit {
        if self.refusal == Some(Refusal::Poisoned) {
            return Commit::known(Err(CommitError::Poisoned));
        }
        if self.is_stuck {
            return Commit::known(Err(CommitError::Full));
        }
        if let Some(group) = self.groups.back_mut() {
            group.awaited += 1;
            return Commit::of(Arc::clone(&group.outcome));
        }
        match &self.in_flight {
            Some(outcome) => Commit::of(Arc::clone(outcome)),
            None => Commit::known(Ok(())),
        }
    }

    pub(crate) fn is_short_of_room(&self) -> bool {
        self.is_full || self.is_stuck
    }

    /// The writer must be woken.
    pub(crate) fn must_wake(&self) -> bool {
        self.sleeps_until
            .is_some_and(|awaited| self.awaited() >= awaited)
    }

    /// Takes nothing more.
    pub(crate) fn close(&mut self) {
        self.refusal.get_or_insert(Refusal::Closed);
    }

    pub(crate) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// How many wait for the groups not yet taken; all of them where there is more than one group.
    pub(crate) fn awaited(&self) -> u32 {
        match self.groups.front() {
            Some(group) if self.groups.len() == 1 => group.awaited,
            Some(_) => u32::MAX,
            None => 0,
        }
    }

    /// How many wait for all groups not yet taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.groups.iter().map(|group| group.awaited).sum()
    }

    /// Hands out the next group to be written.
    pub(crate) fn take(&mut self) -> Option<Group> {
        let group = self.groups.pop_front()?;
        self.in_flight = Some(Arc::clone(&group.outcome));
        Some(group)
    }

    /// A group has been made durable.
    pub(crate) fn written(&mut self, group: Group) {
        self.in_flight = None;
        self.is_stuck = false;
        self.backlog_bytes = self.backlog_bytes.saturating_sub(group.bytes());
        let buffer = group.into_buffer();
        if buffer.capacity() <= BUFFER_BYTES_MAX {
            self.buffer = Some(buffer);
        }
    }

    /// There is no room for this group: whoever waits is refused. Gives it back if lazily appended
    /// records hold it and what follows in place; else all of it is as if never appended.
    pub(crate) fn refuse(&mut self, mut group: Group, salt: Salt) -> Option<Group> {
        self.in_flight = None;
        let mut is_held = group.refuse();
        for waiting in &mut self.groups {
            is_held |= waiting.refuse();
        }
        self.is_stuck = is_held;
        if is_held {
            return Some(group);
        }
        self.groups.clear();
        self.backlog_bytes = 0;
        (self.segment, self.offset, self.salt) = (group.segment, group.start, salt);
        None
    }

    /// Nothing works any more; returns who is to be told so.
    pub(crate) fn poison(&mut self) -> Vec<Arc<Outcome>> {
        self.refusal = Some(Refusal::Poisoned);
        self.backlog_bytes = 0;
        let groups = self.groups.drain(..).map(|group| group.outcome);
        groups.chain(self.in_flight.take()).collect()
    }
}
