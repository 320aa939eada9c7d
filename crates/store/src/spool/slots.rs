//! The unsettled messages in memory: a fixed-size entry each, found by slot or by id.
//!
//! A message with one recipient takes its entry (64 octets) and 5 to 11 in the index. One with more
//! has a box beside it: a bit for each recipient, and, once one of them was tried without being
//! settled, a mark of 24 octets for each.
//!
//! Entries lie in chunks and ids in many small tables, so that growing never copies much at once.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use journal::Position;
use rustc_hash::FxBuildHasher;

use super::Slot;
use crate::codec::{Change, Standing};
use crate::{MessageId, Status, Time};

const CHUNK: usize = 1 << 12;
const SHARDS: usize = 1 << 6;

/// Where an unsettled recipient stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// The record that says how its last attempt went; where there was none, its message's.
    pub(super) last: Position,
    due_ns: u64,
    pub(super) attempts: u16,
    pub(super) class: u8,
    pub(super) status: Status,
    /// It was decided who is told that it waits.
    pub(super) is_told: bool,
}

impl Mark {
    /// Not yet tried.
    pub(super) fn fresh(at: Position, due_at: Time) -> Self {
        Self {
            last: at,
            due_ns: to_ns(due_at),
            attempts: 0,
            class: 0xff,
            status: Status::Accepted,
            is_told: false,
        }
    }

    pub(super) fn due_at(&self) -> Time {
        Time::from_nanos(self.due_ns)
    }

    pub(super) fn set_due_at(&mut self, due_at: Time) {
        self.due_ns = to_ns(due_at);
    }
}

/// As the codec stores it, so that memory and journal agree.
fn to_ns(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Until the year 2106.
fn to_s(time: Time) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// One unsettled message.
#[derive(Debug)]
pub(super) struct Entry {
    /// In halves, for the sake of alignment.
    id: [u64; 2],
    /// Its newest record with content.
    pub(super) at: Position,
    /// The mark of the only recipient, or of each as long as `Many::marks` is empty.
    first: Mark,
    many: Option<Box<Many>>,
    /// That record's length; 0 for an entry that is free.
    record_bytes: u32,
    /// From when on it could go, in whole seconds.
    due_s: u32,
}

#[derive(Debug)]
struct Many {
    count: u32,
    left: u32,
    /// A set bit is an unsettled recipient.
    bits: Box<[u64]>,
    /// Empty, or one for each recipient.
    marks: Box<[Mark]>,
}

impl Entry {
    fn new(id: MessageId, at: Position, record_bytes: u32, recipients: u32, mark: Mark) -> Self {
        let many = (recipients > 1).then(|| {
            let mut bits = vec![u64::MAX; recipients.div_ceil(64) as usize];
            if let Some(last) = bits.last_mut() {
                *last >>= (64 - recipients % 64) % 64;
            }
            Box::new(Many {
                count: recipients,
                left: recipients,
                bits: bits.into(),
                marks: Box::default(),
            })
        });
        Self {
            id: halves(id),
            at,
            first: mark,
            many,
            record_bytes,
            due_s: to_s(mark.due_at()),
        }
    }

    /// Whether it could have gone by then, and a recipient waits that nobody was told of.
    pub(super) fn is_untold(&self, due_by: Time) -> bool {
        let is_untold = |mark: Mark| !mark.is_told && mark.status != Status::Held;
        self.due_s <= to_s(due_by) && self.marks().any(|(_, mark)| is_untold(mark))
    }

    /// When its message is due, and expires: its sender may have moved it, and it lives as long as it
    /// would have, and up to a second more, for only whole ones are known.
    ///
    /// * `due_at`, `expires_at`: by its record.
    pub(super) fn times(&self, due_at: Time, expires_at: Time) -> (Time, Time) {
        if self.due_s == to_s(due_at) {
            return (due_at, expires_at);
        }
        let moved_to = Time::from_secs(self.due_s.into());
        let lifetime = expires_at.saturating_sub(due_at);
        (moved_to, moved_to + Time::from_secs(1) + lifetime)
    }

    pub(super) fn id(&self) -> MessageId {
        MessageId::from_bits(u128::from(self.id[0]) << 64 | u128::from(self.id[1]))
    }

    /// Unsettled recipients; never 0.
    pub(super) fn left(&self) -> u32 {
        self.many.as_ref().map_or(1, |many| many.left)
    }

    /// All recipients, settled or not.
    pub(super) fn count(&self) -> u32 {
        self.many.as_ref().map_or(1, |many| many.count)
    }

    /// The mark of a recipient, unless it is settled or there is no such.
    pub(super) fn mark(&self, recipient: u32) -> Option<Mark> {
        let Some(many) = &self.many else {
            return (recipient == 0).then_some(self.first);
        };
        let word = many.bits.get(recipient as usize / 64)?;
        let is_pending = word >> (recipient % 64) & 1 == 1;
        let mark = many.marks.get(recipient as usize);
        is_pending.then(|| mark.copied().unwrap_or(self.first))
    }

    /// Unsettled recipients with their marks, in order.
    pub(super) fn marks(&self) -> impl Iterator<Item = (u32, Mark)> {
        (0..self.count()).filter_map(|recipient| Some((recipient, self.mark(recipient)?)))
    }

    /// `recipient` must be unsettled.
    pub(super) fn set_mark(&mut self, recipient: u32, mark: Mark) {
        debug_assert!(self.mark(recipient).is_some());
        let Some(many) = &mut self.many else {
            self.first = mark;
            return;
        };
        if many.marks.is_empty() {
            many.marks = vec![self.first; many.count as usize].into();
        }
        many.marks[recipient as usize] = mark;
    }
}

fn halves(id: MessageId) -> [u64; 2] {
    [(id.bits() >> 64) as u64, id.bits() as u64]
}

fn hash(id: [u64; 2]) -> u64 {
    FxBuildHasher.hash_one(id)
}

/// All of them, and how many octets of each segment they hold.
#[derive(Debug, Default)]
pub(super) struct Slots {
    chunks: Vec<Vec<Entry>>,
    free: Vec<u32>,
    ids: Vec<HashTable<u32>>,
    live: BTreeMap<u32, u64>,
    pub(super) messages: usize,
    pub(super) recipients: usize,
    pub(super) live_bytes: u64,
}

impl Slots {
    /// `None` if there is such an id already.
    pub(super) fn insert(
        &mut self,
        id: MessageId,
        at: Position,
        record_bytes: u32,
        recipients: u32,
        due_at: Time,
    ) -> Option<Slot> {
        assert!(recipients > 0 && record_bytes > 0);
        if self.find(id).is_some() {
            return None;
        }
        let mark = Mark::fresh(at, due_at);
        let entry = Entry::new(id, at, record_bytes, recipients, mark);
        let index = self.place(entry);
        if self.ids.is_empty() {
            self.ids.resize_with(SHARDS, HashTable::new);
        }
        let hash_of = |index: &u32| {
            let index = *index as usize;
            hash(self.chunks[index / CHUNK][index % CHUNK].id)
        };
        let hash = hash(halves(id));
        self.ids[shard(hash)].insert_unique(hash, index, hash_of);
        self.messages += 1;
        self.recipients += recipients as usize;
        self.add_live(at, record_bytes);
        Some(Slot(index))
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if let Some(index) = self.free.pop() {
            self.chunks[index as usize / CHUNK][index as usize % CHUNK] = entry;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("one was just made");
        chunk.push(entry);
        u32::try_from(before + chunk.len() - 1).expect("fewer messages than 2^32")
    }

    pub(super) fn find(&self, id: MessageId) -> Option<Slot> {
        let id = halves(id);
        let hash = hash(id);
        let is_it = |index: &u32| self.entry_at(*index).id == id;
        let index = self.ids.get(shard(hash))?.find(hash, is_it)?;
        Some(Slot(*index))
    }

    fn entry_at(&self, index: u32) -> &Entry {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Entry> {
        let chunk = self.chunks.get(slot.0 as usize / CHUNK)?;
        let entry = chunk.get(slot.0 as usize % CHUNK)?;
        (entry.record_bytes > 0).then_some(entry)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        let chunk = self.chunks.get_mut(slot.0 as usize / CHUNK)?;
        let entry = chunk.get_mut(slot.0 as usize % CHUNK)?;
        (entry.record_bytes > 0).then_some(entry)
    }

    /// What an event does to its recipient, which must be unsettled. Whether that freed the slot.
    pub(super) fn apply(&mut self, slot: Slot, change: &Change, at: Position) -> bool {
        if change.status.is_terminal() {
            return self.settle(slot, change.recipient);
        }
        let entry = self.get_mut(slot).expect("its recipient is unsettled");
        let mut mark = entry.mark(change.recipient).expect("it is unsettled");
        mark.last = at;
        mark.status = change.status;
        if let Some(due_at) = change.due_at {
            mark.set_due_at(due_at);
        }
        if let Some((attempts, class)) = change.attempt {
            (mark.attempts, mark.class) = (attempts, class);
        }
        entry.set_mark(change.recipient, mark);
        false
    }

    /// Makes unsettled ones of these recipients, or all if there are none, due then and no longer held.
    pub(super) fn reschedule(&mut self, slot: Slot, recipients: &[u32], due_at: Time) {
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        let all = 0..if recipients.is_empty() {
            entry.due_s = to_s(due_at);
            entry.count()
        } else {
            0
        };
        for recipient in all.chain(recipients.iter().copied()) {
            let Some(mut mark) = entry.mark(recipient) else {
                continue;
            };
            mark.set_due_at(due_at);
            if mark.status == Status::Held {
                mark.status = Status::Deferred;
            }
            entry.set_mark(recipient, mark);
        }
    }

    /// It was decided who is told that these recipients wait.
    pub(super) fn tell(&mut self, slot: Slot, recipients: &[u32]) {
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        for recipient in recipients {
            if let Some(mut mark) = entry.mark(*recipient) {
                mark.is_told = true;
                entry.set_mark(*recipient, mark);
            }
        }
    }

    /// Messages in `count` places from one on that are untold of, and the place after them; `None`
    /// after the last.
    pub(super) fn untold(&self, from: Slot, count: u32, due_by: Time) -> (Vec<Slot>, Option<Slot>) {
        let places = self.places();
        let end = from.0.saturating_add(count).min(places);
        let slots = (from.0..end).map(Slot);
        let is_untold = |slot: &Slot| self.get(*slot).is_some_and(|it| it.is_untold(due_by));
        (
            slots.filter(is_untold).collect(),
            (end < places).then_some(Slot(end)),
        )
    }

    /// Brings a fresh entry to where its message stood when it was copied forward to `at`. False if
    /// nobody is left, and the slot is free.
    pub(super) fn restore(&mut self, slot: Slot, at: Position, standings: &[Standing]) -> bool {
        let mut standings = standings.iter().peekable();
        let count = self.get(slot).map_or(0, Entry::count);
        for recipient in 0..count {
            let Some(standing) = standings.next_if(|s| s.recipient == recipient) else {
                if self.settle(slot, recipient) {
                    return false;
                }
                continue;
            };
            let mut mark = Mark::fresh(at, standing.due_at);
            (mark.status, mark.attempts) = (standing.status, standing.attempts);
            (mark.class, mark.is_told) = (standing.class, standing.is_told);
            let Some(entry) = self.get_mut(slot) else {
                continue;
            };
            if entry.mark(recipient) != Some(mark) {
                entry.set_mark(recipient, mark);
            }
            if mark.status == Status::Accepted {
                // An earlier release left the times in the copy of what was moved.
                entry.due_s = to_s(standing.due_at);
            }
        }
        count > 0
    }

    /// Settles one recipient, which must be unsettled. Whether it was the last: the slot is free then.
    fn settle(&mut self, slot: Slot, recipient: u32) -> bool {
        let entry = self.get_mut(slot).expect("its recipient is unsettled");
        debug_assert!(entry.mark(recipient).is_some());
        if entry.left() == 1 {
            self.remove(slot);
            return true;
        }
        if let Some(many) = &mut entry.many {
            many.bits[recipient as usize / 64] &= !(1 << (recipient % 64));
            many.left -= 1;
        }
        self.recipients -= 1;
        false
    }

    /// Frees a slot, whatever is unsettled.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        let (id, at, bytes, left) = (entry.id, entry.at, entry.record_bytes, entry.left());
        entry.record_bytes = 0;
        entry.many = None;
        let hash = hash(id);
        if let Ok(found) = self.ids[shard(hash)].find_entry(hash, |index| *index == slot.0) {
            found.remove();
        }
        self.free.push(slot.0);
        self.messages -= 1;
        self.recipients -= left as usize;
        self.sub_live(at, bytes);
    }

    /// The message and where its recipients stand are now in a newer record.
    pub(super) fn set_at(&mut self, slot: Slot, at: Position, record_bytes: u32) {
        let Some(entry) = self.get_mut(slot) else {
            return;
        };
        let (before, bytes) = (entry.at, entry.record_bytes);
        (entry.at, entry.record_bytes) = (at, record_bytes);
        entry.first.last = at;
        let marks = entry.many.iter_mut().flat_map(|many| many.marks.iter_mut());
        marks.for_each(|mark| mark.last = at);
        self.sub_live(before, bytes);
        self.add_live(at, record_bytes);
    }

    /// Octets of messages that still wait in this segment.
    pub(super) fn live_in(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// Every slot that is taken.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.places())
            .map(Slot)
            .filter(|slot| self.get(*slot).is_some())
    }

    fn places(&self) -> u32 {
        self.chunks.iter().map(Vec::len).sum::<usize>() as u32
    }

    fn add_live(&mut self, at: Position, bytes: u32) {
        *self.live.entry(at.segment()).or_default() += u64::from(bytes);
        self.live_bytes += u64::from(bytes);
    }

    fn sub_live(&mut self, at: Position, bytes: u32) {
        self.live_bytes -= u64::from(bytes);
        let live = self.live.entry(at.segment()).or_default();
        *live -= u64::from(bytes);
        if *live == 0 {
            self.live.remove(&at.segment());
        }
    }
}

/// By bits that the tables themselves make little use of.
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_64_octets_and_a_mark_24() {
        assert_eq!(size_of::<Entry>(), 64);
        assert_eq!(size_of::<Mark>(), 24);
    }
}
