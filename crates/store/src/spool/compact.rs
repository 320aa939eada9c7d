//! Keeping the journal in proportion to what still waits.
//!
//! Segments go from the oldest on, and only whole ones of which nothing waits any more. When the
//! journal takes more than twice what waits, and some slack, the messages that hold its oldest
//! segment are copied forward to its end, with where their recipients stand. A crash between copy
//! and removal leaves both, of which recovery takes the later.
//!
//! Copies are appended lazily: on a full disk the journal keeps such records until there is room,
//! so that one that memory points to never vanishes. They are durable before what they were copied
//! from goes.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use journal::{CommitError, Position};

use super::slots::Mark;
use super::{ReadError, Slot, Spool, digest};
use crate::Status;
use crate::codec::{self, Kind, Outline, Standing};

/// What is under way between calls.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// Where in the oldest segment copying goes on.
    cursor: Option<Position>,
}

/// What one call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Messages copied forward.
    pub moved_messages: u64,
    /// Octets copied forward.
    pub moved_bytes: u64,
    /// Segments removed.
    pub removed_segments: u64,
    /// There is more to do now.
    pub is_unfinished: bool,
}

/// Why compaction stopped. Nothing is lost; it may be called again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A segment cannot be read.
    #[error("the journal cannot be read")]
    Scan(#[source] journal::ReadError),
    /// Messages wait in this segment and are not found there: damage, or a commit that failed and
    /// was not forgotten.
    #[error("segment {0} does not show all messages that it holds")]
    Unreadable(u32),
    /// What is known of a message's last attempt cannot be read.
    #[error("a message cannot be copied forward")]
    Read(#[source] ReadError),
    /// The journal does not take the copy.
    #[error("the journal does not take a copy")]
    Append(#[source] journal::AppendError),
    /// The copies did not become durable.
    #[error("the copies did not become durable")]
    Commit(#[source] CommitError),
    /// A segment cannot be removed.
    #[error("a segment cannot be removed")]
    Remove(#[source] journal::RemoveError),
}

impl Spool {
    /// Copies forward and removes as much of the journal as is due, within a bound of work.
    ///
    /// To be called every second or so, and again at once while it says that it is unfinished. Blocks on
    /// the disk. Does nothing until recovery is complete.
    ///
    /// # Errors
    /// [`CompactError`].
    pub fn compact(&self) -> Result<Compacted, CompactError> {
        let mut compacted = Compacted::default();
        let inner = &self.inner;
        if !inner.is_recovered.load(Acquire) {
            return Ok(compacted);
        }
        let compaction = &inner.compaction;
        let mut compaction = compaction.lock().unwrap_or_else(PoisonError::into_inner);
        let end = {
            let appending = &inner.appending;
            let _alone = appending.write().unwrap_or_else(PoisonError::into_inner);
            inner.journal.end().min(inner.journal.durable())
        };
        self.remove_settled(end, &mut compacted)?;
        // A full disk is no time to write copies: what is settled goes first.
        while self.is_over()
            && compacted.moved_bytes < inner.compact_bytes_max
            && !inner.journal.stats().is_full
        {
            let oldest = crate::first_of(&inner.journal).segment();
            if oldest >= end.segment() || self.is_needed(oldest) {
                break;
            }
            self.copy_forward(oldest, &mut compaction, &mut compacted)?;
            if self.lock().slots.live_in(oldest) == 0 {
                self.remove_settled(end, &mut compacted)?;
            } else if compaction.cursor.is_none() {
                return Err(CompactError::Unreadable(oldest));
            }
        }
        compacted.is_unfinished =
            compacted.moved_bytes >= inner.compact_bytes_max && self.is_over();
        Ok(compacted)
    }

    /// Whether the journal takes more than it should.
    fn is_over(&self) -> bool {
        let stats = self.stats();
        stats.used_bytes > 2 * stats.live_bytes + self.inner.slack_bytes
    }

    /// Whether history has yet to make durable what it was told from this segment.
    fn is_needed(&self, segment: u32) -> bool {
        let needed = self.inner.following.needed_from();
        needed.is_some_and(|needed| segment >= needed)
    }

    /// Has the copies made so far on the disk, and what settled the other messages of what is to go,
    /// for history is still to be told of that. A full disk may do without the latter: there is no
    /// room to be had but by removing.
    fn make_durable(&self) -> Result<(), CompactError> {
        let journal = &self.inner.journal;
        match journal.sync() {
            Err(CommitError::Full) if self.lock().copies_end <= journal.durable() => Ok(()),
            result => result.map_err(CompactError::Commit),
        }
    }

    /// Removes the oldest segments up to the first of which something waits or is needed.
    fn remove_settled(&self, end: Position, compacted: &mut Compacted) -> Result<(), CompactError> {
        let journal = &self.inner.journal;
        let numbers: Vec<u32> = journal.segments().iter().map(|s| s.number).collect();
        let is_done = |number: &u32| {
            *number < end.segment()
                && !self.is_needed(*number)
                && self.lock().slots.live_in(*number) == 0
        };
        let done = numbers.iter().take_while(|number| is_done(number)).count();
        if done == 0 {
            return Ok(());
        }
        self.make_durable()?;
        let before = numbers[done - 1] + 1;
        journal
            .remove_before(before)
            .map_err(CompactError::Remove)?;
        if let Some(digests) = &self.inner.digests {
            digest::remove_before(&**digests, before);
        }
        compacted.removed_segments += done as u64;
        let removed = &self.inner.counts.removed_segments;
        removed.fetch_add(done as u64, Relaxed);
        Ok(())
    }

    /// Copies messages of a segment, from where the last call left off, within the bound.
    fn copy_forward(
        &self,
        segment: u32,
        compaction: &mut Compaction,
        compacted: &mut Compacted,
    ) -> Result<(), CompactError> {
        let journal = &self.inner.journal;
        let cursor = compaction.cursor.filter(|at| at.segment() == segment);
        let from = cursor.unwrap_or(crate::first_of(journal));
        let most = self.inner.compact_bytes_max;
        let mut failed = None;
        compaction.cursor = None;
        let scanned = journal.scan(from, &mut |at, kind, bytes| {
            if at.segment() != segment {
                return ControlFlow::Break(());
            }
            if compacted.moved_bytes >= most {
                compaction.cursor = Some(at);
                return ControlFlow::Break(());
            }
            match self.copy_record(at, kind, bytes) {
                Ok(0) => {}
                Ok(moved) => {
                    compacted.moved_messages += 1;
                    compacted.moved_bytes += moved;
                }
                Err(error) => {
                    failed = Some(error);
                    compaction.cursor = Some(at);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        scanned.map_err(CompactError::Scan)?;
        failed.map_or(Ok(()), Err)
    }

    /// Copies one record, if a message still stands in it. Returns the copy's octets.
    fn copy_record(&self, at: Position, kind: u8, bytes: &[u8]) -> Result<u64, CompactError> {
        let damaged = |source| CompactError::Read(ReadError::Record { at, source });
        let message_at = match Kind::from_number(kind) {
            Some(Kind::Accepted) => 0,
            Some(Kind::Moved) => codec::decode_moved(bytes).map_err(damaged)?.message_at,
            _ => return Ok(0),
        };
        let message = &bytes[message_at..];
        let outline = codec::skim_message(message).map_err(damaged)?;
        let slot = self.lock().slots.find(outline.id);
        match slot {
            Some(slot) => self.copy_message(slot, at, message, &outline),
            None => Ok(0),
        }
    }

    /// Copies a message, unless it is no longer the one that stands there. Returns the copy's octets.
    fn copy_message(
        &self,
        slot: Slot,
        at: Position,
        message: &[u8],
        outline: &Outline,
    ) -> Result<u64, CompactError> {
        while let Some(marks) = self.marks_at(slot, at) {
            let standings = self.standings(&marks).map_err(CompactError::Read)?;
            let moved = self.moved_record(slot, message, outline);
            let message = moved.as_deref().unwrap_or(message);
            if let Some(bytes) = self.put_copy(slot, at, &marks, &[&standings, message])? {
                return Ok(bytes);
            }
        }
        Ok(0)
    }

    /// Appends a copy that was prepared from these marks; none if they have changed since.
    pub(super) fn put_copy(
        &self,
        slot: Slot,
        at: Position,
        marks: &[(u32, Mark)],
        copy: &[&[u8]; 2],
    ) -> Result<Option<u64>, CompactError> {
        let mut state = self.lock();
        let entry = state.slots.get(slot).filter(|entry| entry.at == at);
        if !entry.is_some_and(|entry| entry.marks().eq(marks.iter().copied())) {
            return Ok(None);
        }
        let journal = &self.inner.journal;
        let moved = journal.append_lazily(Kind::Moved as u8, copy);
        let moved = moved.map_err(CompactError::Append)?;
        let bytes = copy[0].len() + copy[1].len();
        state.slots.set_at(slot, moved, bytes as u32);
        state.copies_end = journal.end();
        drop(state);
        let counts = &self.inner.counts;
        counts.moved_messages.fetch_add(1, Relaxed);
        counts.moved_bytes.fetch_add(bytes as u64, Relaxed);
        Ok(Some(bytes as u64))
    }

    /// A message's record with the times to which it was moved, if it was.
    fn moved_record(&self, slot: Slot, message: &[u8], outline: &Outline) -> Option<Vec<u8>> {
        let (due_at, expires_at) = (outline.due_at, outline.expires_at);
        let times = self.lock().slots.get(slot)?.times(due_at, expires_at);
        (times != (due_at, expires_at)).then(|| codec::with_times(message, times.0, times.1))
    }

    pub(super) fn marks_at(&self, slot: Slot, at: Position) -> Option<Vec<(u32, Mark)>> {
        let state = self.lock();
        let entry = state.slots.get(slot).filter(|entry| entry.at == at)?;
        Some(entry.marks().collect())
    }

    /// What precedes the message in a moved one's record. Reads the disk where attempts were made.
    fn standings(&self, marks: &[(u32, Mark)]) -> Result<Vec<u8>, ReadError> {
        let mut standings = Vec::with_capacity(marks.len());
        for (recipient, mark) in marks {
            let last = match mark.status {
                Status::Accepted => None,
                _ => self.outcome_at(mark.last, *recipient)?,
            };
            standings.push(Standing {
                recipient: *recipient,
                status: mark.status,
                attempts: mark.attempts,
                class: mark.class,
                due_at: mark.due_at(),
                is_told: mark.is_told,
                last,
            });
        }
        let mut head = Vec::with_capacity(128 * standings.len());
        codec::encode_standings(&standings, &mut head);
        Ok(head)
    }
}
