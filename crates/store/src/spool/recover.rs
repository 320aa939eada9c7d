//! After a start: what still waits, and where it stands.
//!
//! Two passes over the journal as it was at the start, by digests where there are any. The first
//! brings the entries in memory to where they stood; the second hands out what waits, a segment at a
//! time, so that nothing but the entries is ever in memory for all of it. Between the passes
//! nothing moves: compaction waits for the end of the second.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use journal::Position;
use rustc_hash::FxHashSet;

use super::digest::{Builder, Digest, Entry};
use super::{Slot, Spool};
use crate::codec::{self, DecodeError, Kind};
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

/// A record that could not be read or understood. What it said is lost: a message not delivered, or an event
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
/// The first step reads the journal. Compaction waits for the end; if this is dropped before, there
/// is none until the next start. Damage is passed over, and there is no compaction then either, so
/// that nothing of a damaged segment goes before somebody has looked. An error is the last item: the
/// journal cannot be read further, and what it may still hold is not handed out.
#[derive(Debug)]
pub struct Recovery {
    spool: Spool,
    /// `None` before the first pass.
    segments: Option<VecDeque<u32>>,
    ready: VecDeque<Recovered>,
    /// There are few, and many messages of each.
    tenants: FxHashSet<Arc<str>>,
    damage: Vec<Damage>,
    has_failed: bool,
}

impl Recovery {
    pub(super) fn new(spool: Spool) -> Self {
        Self {
            spool,
            segments: None,
            ready: VecDeque::new(),
            tenants: FxHashSet::default(),
            damage: Vec::new(),
            has_failed: false,
        }
    }

    /// Records that could not be read or understood; all of them once the iteration has ended.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The first pass: all that the journal held at the start.
    fn replay(&mut self) -> Result<VecDeque<u32>, journal::ReadError> {
        let spool = self.spool.clone();
        let (journal, start) = (&spool.inner.journal, spool.inner.start);
        let numbers = journal.segments().into_iter().map(|segment| segment.number);
        let segments: VecDeque<u32> = numbers.filter(|n| *n <= start.segment()).collect();
        for segment in &segments {
            let mut damaged = Vec::new();
            let places = &mut damaged;
            each_entry(&spool, *segment, Some(places), &mut |entry| {
                if let Err(why) = replay_entry(&spool, &entry) {
                    self.damaged(entry.at, why);
                }
            })?;
            for at in damaged {
                self.has_failed = true;
                self.damaged(at, DecodeError::Damaged);
            }
        }
        Ok(segments)
    }

    /// The second pass over one segment.
    fn hand_out(&mut self, segment: u32) -> Result<(), journal::ReadError> {
        let spool = self.spool.clone();
        each_entry(&spool, segment, None, &mut |entry| {
            let waiting = self.waiting_at(&entry);
            self.ready.extend(waiting);
        })
    }

    /// The message of a record, if it waits and this is its newest record.
    fn waiting_at(&mut self, entry: &Entry<'_>) -> Option<Recovered> {
        let message_at = match Kind::from_number(entry.kind)? {
            Kind::Accepted => 0,
            Kind::Moved => codec::decode_moved(entry.stem).ok()?.message_at,
            _ => return None,
        };
        let record = &entry.stem[message_at..];
        let id = codec::skim_message(record).ok()?.id;
        let spool = self.spool.clone();
        let state = spool.lock();
        let slot = state.slots.find(id)?;
        let held = state.slots.get(slot).filter(|held| held.at == entry.at)?;
        let head = match codec::decode_head(record) {
            Ok(accepted) => accepted.head,
            Err(why) => {
                drop(state);
                spool.forget(slot);
                self.damaged(entry.at, why);
                return None;
            }
        };
        let to = head.envelope.recipients();
        let unsettled = held.marks().map(|(index, mark)| RecoveredRecipient {
            index,
            address: to[index as usize].address.as_str().into(),
            attempts: mark.attempts,
            due_at: mark.due_at(),
            class: mark.class,
            held: mark.status == Status::Held,
        });
        let recipients = unsettled.collect();
        let (_, expires_at) = held.times(head.due_at, head.expires_at);
        drop(state);
        Some(Recovered {
            slot,
            id,
            tenant: self.tenant(head.tenant),
            priority: head.priority,
            expires_at,
            recipients,
        })
    }

    fn damaged(&mut self, at: Position, why: DecodeError) {
        tracing::error!(%at, error = %why, "a record cannot be understood");
        self.damage.push(Damage { at, why });
    }

    fn tenant(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(known) = self.tenants.get(&name) {
            return known.clone();
        }
        self.tenants.insert(name.clone());
        name
    }

    fn step(&mut self) -> Result<Option<Recovered>, journal::ReadError> {
        if self.segments.is_none() {
            self.segments = Some(VecDeque::new());
            self.segments = Some(self.replay()?);
            self.spool.inner.is_replayed.store(true, Release);
        }
        while self.ready.is_empty() {
            let next = self.segments.as_mut().and_then(VecDeque::pop_front);
            let Some(segment) = next else {
                return Ok(None);
            };
            self.hand_out(segment)?;
        }
        Ok(self.ready.pop_front())
    }
}

impl Iterator for Recovery {
    type Item = Result<Recovered, journal::ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        let inner = &self.spool.inner;
        match &step {
            // Not after an error: what was not handed out must not be taken for settled.
            Ok(None) if inner.is_replayed.load(super::Acquire) && !self.has_failed => {
                inner.is_recovered.store(true, Release);
            }
            Err(_) => {
                self.has_failed = true;
                self.segments = Some(VecDeque::new());
                self.ready.clear();
            }
            _ => {}
        }
        step.transpose()
    }
}

/// Calls `each` for every record that a segment held at the start.
///
/// * `damaged`: on the first pass, takes the places where no whole record stands; a digest is made
///   then for a segment that is sealed and has none.
fn each_entry(
    spool: &Spool,
    segment: u32,
    damaged: Option<&mut Vec<Position>>,
    each: &mut dyn FnMut(Entry<'_>),
) -> Result<(), journal::ReadError> {
    let inner = &spool.inner;
    let (journal, start) = (&inner.journal, inner.start);
    let is_sealed = segment < start.segment();
    let files = inner.digests.as_ref().filter(|_| is_sealed);
    if let Some(digest) = files.and_then(|files| Digest::read(&**files, journal, segment)) {
        digest.entries().for_each(each);
        return Ok(());
    }
    let files = files.filter(|_| damaged.is_some());
    let mut builder = files.map(|files| Builder::new(files, segment));
    let first = Position::from_u64(u64::from(segment) << 32);
    let mut places = Vec::new();
    let each_record = &mut |at: Position, kind, record: &[u8]| {
        if at.segment() != segment || at >= start {
            return ControlFlow::Break(());
        }
        if let Some(builder) = &mut builder {
            builder.add(at, kind, record);
        }
        each(Entry {
            at,
            kind,
            record_bytes: record.len() as u32,
            stem: record,
        });
        ControlFlow::Continue(())
    };
    journal.scan_over_damage(first, each_record, &mut |damage| {
        if damage.segment == segment {
            places.push(damage.position());
        }
    })?;
    let is_whole = places.is_empty();
    if let Some(damaged) = damaged {
        *damaged = places;
    }
    if let (Some(builder), true) = (builder, is_whole)
        && let Err(error) = builder.finish()
    {
        tracing::warn!(%error, segment, "no digest was made: the next start takes longer");
    }
    Ok(())
}

fn replay_entry(spool: &Spool, entry: &Entry<'_>) -> Result<(), DecodeError> {
    match Kind::from_number(entry.kind) {
        Some(Kind::Accepted) => insert(spool, entry, entry.stem).map(|_| ()),
        Some(Kind::Event) => replay_event(spool, entry),
        Some(Kind::Moved) => replay_moved(spool, entry),
        Some(Kind::Rescheduled) => replay_rescheduled(spool, entry.stem),
        Some(Kind::Told) => replay_told(spool, entry.stem),
        None => Err(DecodeError::Range("a record's kind")),
    }
}

fn insert(spool: &Spool, entry: &Entry<'_>, record: &[u8]) -> Result<Slot, DecodeError> {
    let outline = codec::skim_message(record)?;
    let (id, due_at) = (outline.id, outline.due_at);
    let slots = &mut spool.lock().slots;
    slots
        .insert(id, entry.at, entry.record_bytes, outline.recipients, due_at)
        .ok_or(DecodeError::Range("an id that is in use"))
}

/// Events of messages that are not there are of ones that were settled long ago.
fn replay_event(spool: &Spool, entry: &Entry<'_>) -> Result<(), DecodeError> {
    let change = codec::skim_event(entry.stem)?;
    let slots = &mut spool.lock().slots;
    let slot = slots.find(change.message).filter(|slot| {
        let held = slots.get(*slot);
        held.is_some_and(|held| held.mark(change.recipient).is_some())
    });
    if let Some(slot) = slot {
        slots.apply(slot, &change, entry.at);
    }
    Ok(())
}

/// What was copied forward is as it was then, whatever came before.
fn replay_moved(spool: &Spool, entry: &Entry<'_>) -> Result<(), DecodeError> {
    let moved = codec::decode_moved(entry.stem)?;
    let record = &entry.stem[moved.message_at..];
    let id = codec::skim_message(record)?.id;
    let before = spool.lock().slots.find(id);
    if let Some(slot) = before {
        spool.forget(slot);
    }
    let slot = insert(spool, entry, record)?;
    let slots = &mut spool.lock().slots;
    slots.restore(slot, entry.at, &moved.standings);
    Ok(())
}

fn replay_told(spool: &Spool, record: &[u8]) -> Result<(), DecodeError> {
    let told = codec::decode_told(record)?;
    let slots = &mut spool.lock().slots;
    if let Some(slot) = slots.find(told.message) {
        slots.tell(slot, &told.recipients);
    }
    Ok(())
}

fn replay_rescheduled(spool: &Spool, record: &[u8]) -> Result<(), DecodeError> {
    let change = codec::decode_rescheduled(record)?;
    let slots = &mut spool.lock().slots;
    if let Some(slot) = slots.find(change.message) {
        slots.reschedule(slot, &change.recipients, change.due_at);
    }
    Ok(())
}
