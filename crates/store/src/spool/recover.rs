//! After a start: what still waits, and where it stands.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use journal::Position;
use rustc_hash::{FxHashMap, FxHashSet};
use smtp::Envelope;

use super::{Slot, Spool};
use crate::codec::{self, DecodeError, Head, Kind, Standing};
use crate::{MessageId, Priority, Status, Time};

/// A message that still waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its slot.
    pub slot: Slot,
    /// Its id.
    pub id: MessageId,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Which goes first.
    pub priority: Priority,
    /// What is not delivered by then expires.
    pub expires_at: Time,
    /// Its unsettled recipients, in order; never none.
    pub recipients: Vec<RecoveredRecipient>,
}

/// A recipient that still waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredRecipient {
    /// Index in the envelope.
    pub index: u32,
    /// Its address.
    pub address: Arc<str>,
    /// Attempts made.
    pub attempts: u16,
    /// When it is due.
    pub due_at: Time,
    /// Class of the last failure; 0xff for none.
    pub class: u8,
    /// Waits for somebody to decide, not for its time.
    pub held: bool,
}

/// A record that could not be understood. What it said is lost: a message not delivered, or an event
/// that makes a recipient be tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where it stands.
    pub at: Position,
    /// What is wrong with it.
    pub why: DecodeError,
}

/// What was accepted before the start, in the order of its records.
///
/// The first step reads the journal. Compaction waits for the end of it; if it is dropped before,
/// there is none until the next start.
#[derive(Debug)]
pub struct Recovery {
    spool: Spool,
    /// Last first; `None` before the journal was read.
    waiting: Option<Vec<(Slot, Facts)>>,
    damage: Vec<Damage>,
}

#[derive(Debug)]
struct Facts {
    tenant: Arc<str>,
    priority: Priority,
    expires_at: Time,
    envelope: Arc<Envelope>,
}

impl Recovery {
    pub(super) fn new(spool: Spool) -> Self {
        Self {
            spool,
            waiting: None,
            damage: Vec::new(),
        }
    }

    /// Records that could not be understood; all of them once the iteration has begun.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    fn read(&mut self) -> Result<Vec<(Slot, Facts)>, journal::ReadError> {
        let inner = &self.spool.inner;
        let mut replay = Replay {
            spool: &self.spool,
            facts: FxHashMap::default(),
            tenants: FxHashSet::default(),
            damage: &mut self.damage,
        };
        let start = inner.start;
        inner
            .journal
            .scan(crate::first_of(&inner.journal), &mut |at, kind, bytes| {
                if at >= start {
                    return ControlFlow::Break(());
                }
                replay.record(at, kind, bytes);
                ControlFlow::Continue(())
            })?;
        let mut waiting: Vec<_> = replay.facts.into_iter().collect();
        let state = self.spool.lock();
        let at = |slot: Slot| state.slots.get(slot).map(|entry| entry.at);
        waiting.sort_by_cached_key(|(slot, _)| std::cmp::Reverse(at(*slot)));
        Ok(waiting)
    }

    fn recovered(&self, slot: Slot, facts: &Facts) -> Option<Recovered> {
        let state = self.spool.lock();
        let entry = state.slots.get(slot)?;
        let recipients = facts.envelope.recipients();
        let unsettled = entry.marks().map(|(index, mark)| RecoveredRecipient {
            index,
            address: recipients[index as usize].address.as_str().into(),
            attempts: mark.attempts,
            due_at: mark.due_at(),
            class: mark.class,
            held: mark.status == Status::Held,
        });
        Some(Recovered {
            slot,
            id: entry.id(),
            tenant: facts.tenant.clone(),
            priority: facts.priority,
            expires_at: facts.expires_at,
            recipients: unsettled.collect(),
        })
    }
}

impl Iterator for Recovery {
    type Item = Result<Recovered, journal::ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None => match self.read() {
                Ok(waiting) => {
                    self.spool.inner.is_recovered.store(true, Relaxed);
                    waiting
                }
                Err(error) => return Some(Err(error)),
            },
        };
        let next = waiting
            .pop()
            .and_then(|(slot, facts)| self.recovered(slot, &facts));
        self.waiting = Some(waiting);
        next.map(Ok)
    }
}

/// One pass over the journal.
struct Replay<'a> {
    spool: &'a Spool,
    facts: FxHashMap<Slot, Facts>,
    tenants: FxHashSet<Arc<str>>,
    damage: &'a mut Vec<Damage>,
}

impl Replay<'_> {
    fn record(&mut self, at: Position, kind: u8, bytes: &[u8]) {
        let done = match Kind::from_number(kind) {
            Some(Kind::Accepted) => self.accepted(at, bytes),
            Some(Kind::Event) => self.event(at, bytes),
            Some(Kind::Moved) => self.moved(at, bytes),
            Some(Kind::Rescheduled) => self.rescheduled(bytes),
            None => Err(DecodeError::Range("a record's kind")),
        };
        if let Err(why) = done {
            tracing::error!(?at, error = %why, "a record of the spool cannot be understood");
            self.damage.push(Damage { at, why });
        }
    }

    fn accepted(&mut self, at: Position, bytes: &[u8]) -> Result<(), DecodeError> {
        let head = codec::decode_head(bytes)?;
        self.insert(at, bytes.len(), head).map(|_| ())
    }

    fn insert(
        &mut self,
        at: Position,
        record_bytes: usize,
        head: Head,
    ) -> Result<Slot, DecodeError> {
        let recipients = head.envelope.recipients().len() as u32;
        let mut state = self.spool.lock();
        let slots = &mut state.slots;
        let slot = slots
            .insert(head.id, at, record_bytes as u32, recipients, head.due_at)
            .ok_or(DecodeError::Range("an id that is in use"))?;
        drop(state);
        let facts = Facts {
            tenant: self.tenant(head.tenant),
            priority: head.priority,
            expires_at: head.expires_at,
            envelope: head.envelope,
        };
        self.facts.insert(slot, facts);
        Ok(slot)
    }

    /// There are few, and many messages of each.
    fn tenant(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(known) = self.tenants.get(&name) {
            return known.clone();
        }
        self.tenants.insert(name.clone());
        name
    }

    /// Events of messages that are not there are of ones that were settled long ago.
    fn event(&mut self, at: Position, bytes: &[u8]) -> Result<(), DecodeError> {
        let event = codec::decode_event(bytes)?;
        let mut state = self.spool.lock();
        let slot = state.slots.find(event.message).filter(|slot| {
            let entry = state.slots.get(*slot);
            entry.is_some_and(|entry| entry.mark(event.recipient).is_some())
        });
        if let Some(slot) = slot
            && state.slots.apply(slot, &event, at)
        {
            drop(state);
            self.facts.remove(&slot);
        }
        Ok(())
    }

    /// What was copied forward is as it was then, whatever came before.
    fn moved(&mut self, at: Position, bytes: &[u8]) -> Result<(), DecodeError> {
        let moved = codec::decode_moved(bytes)?;
        let head = codec::decode_head(&bytes[moved.message_at..])?;
        let before = self.spool.lock().slots.find(head.id);
        if let Some(slot) = before {
            self.spool.forget(slot);
            self.facts.remove(&slot);
        }
        let slot = self.insert(at, bytes.len(), head)?;
        let mut state = self.spool.lock();
        if !state.slots.restore(slot, at, &moved.standings) {
            drop(state);
            self.facts.remove(&slot);
        }
        Ok(())
    }

    fn rescheduled(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let change = codec::decode_rescheduled(bytes)?;
        let mut state = self.spool.lock();
        if let Some(slot) = state.slots.find(change.message) {
            let slots = &mut state.slots;
            slots.reschedule(slot, &change.recipients, change.due_at);
        }
        Ok(())
    }
}

/// What a moved message's record says of a recipient.
pub(super) fn standing_of(
    recipient: u32,
    mark: &super::slots::Mark,
    last: Option<(Time, Box<crate::Outcome>)>,
) -> Standing {
    Standing {
        recipient,
        status: mark.status,
        attempts: mark.attempts,
        class: mark.class,
        due_at: mark.due_at(),
        last,
    }
}
