//! What a job of the schedule stands for: one recipient of a message, or several that travel in
//! one transaction.
//!
//! A job's key packs the message's slot and one recipient, or the number of a batch of that message.
//! So the common case, one recipient, takes no memory beside its job.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use store::{MessageId, Slot};

/// Set in the low 16 bits of a key whose job is a batch.
const BATCH: u64 = 1 << 15;
const LOW: u64 = (1 << 16) - 1;

/// Recipients of one message, at most: what the low bits of a key can say.
pub(crate) const RECIPIENTS_MAX: usize = BATCH as usize - 1;

/// The message's slot (32 bits), a digest of its id (16), recipient or batch (16). Slots are used again:
/// the digest tells a job that outlived its message from one of the slot's next message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    fn new(slot: Slot, id: MessageId, low: u64) -> Self {
        Self(u64::from(slot.bits()) << 32 | u64::from(digest(id)) << 16 | low)
    }

    /// Where the message is, if it still is.
    pub(crate) fn slot(self) -> Slot {
        Slot::from_bits((self.0 >> 32) as u32)
    }

    /// Whether it may be of this message.
    pub(crate) fn is_of(self, id: MessageId) -> bool {
        (self.0 >> 16) as u16 == digest(id)
    }

    /// Whether it stands for the first recipient alone.
    pub(crate) fn is_first(self) -> bool {
        self.low() == 0
    }

    fn low(self) -> u64 {
        self.0 & LOW
    }
}

fn digest(id: MessageId) -> u16 {
    let bits = id.bits();
    let folded = (bits ^ (bits >> 64)) as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16
}

/// The batches of all messages.
#[derive(Debug, Default)]
pub(crate) struct Batches(Mutex<BySlot>);

/// The batches of each message, by number; `None` where one is free.
type BySlot = FxHashMap<Slot, Vec<Option<Box<[u32]>>>>;

impl Batches {
    /// A key that stands for `recipients` of the message.
    pub(crate) fn key(&self, slot: Slot, id: MessageId, recipients: &[u32]) -> Key {
        if let [recipient] = recipients {
            return Key::new(slot, id, u64::from(*recipient));
        }
        let mut all = self.lock();
        let batches = all.entry(slot).or_default();
        let free = batches.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            batches.push(None);
            batches.len() - 1
        });
        batches[number] = Some(recipients.into());
        Key::new(slot, id, BATCH | number as u64)
    }

    /// All keys that stand for one of `recipients`, or for several of the message.
    pub(crate) fn keys(
        &self,
        slot: Slot,
        id: MessageId,
        recipients: impl Iterator<Item = u32>,
    ) -> Vec<Key> {
        let single = |recipient| Key::new(slot, id, u64::from(recipient));
        let mut keys: Vec<Key> = recipients.map(single).collect();
        let all = self.lock();
        let batches = all.get(&slot).into_iter().flatten().enumerate();
        let in_use = batches.filter(|(_, batch)| batch.is_some());
        keys.extend(in_use.map(|(number, _)| Key::new(slot, id, BATCH | number as u64)));
        keys
    }

    /// Which recipients a key stands for.
    pub(crate) fn recipients(&self, key: Key) -> Box<[u32]> {
        let low = key.low();
        if low & BATCH == 0 {
            return Box::new([low as u32]);
        }
        let all = self.lock();
        let batches = all.get(&key.slot());
        let batch = batches.and_then(|batches| batches.get((low & !BATCH) as usize)?.clone());
        batch.unwrap_or_default()
    }

    /// Forgets a key whose job has ended.
    pub(crate) fn forget(&self, key: Key) {
        let low = key.low();
        if low & BATCH == 0 {
            return;
        }
        let mut all = self.lock();
        if let Some(batches) = all.get_mut(&key.slot()) {
            if let Some(batch) = batches.get_mut((low & !BATCH) as usize) {
                *batch = None;
            }
            if batches.iter().all(Option::is_none) {
                all.remove(&key.slot());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BySlot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_recipients_of_which_message() {
        let batches = Batches::default();
        let (slot, id) = (Slot::from_bits(7), MessageId::from_bits(99));
        let single = batches.key(slot, id, &[5]);
        let several = batches.key(slot, id, &[0, 2, 9]);
        let more = batches.key(slot, id, &[1, 3]);
        assert_eq!(batches.recipients(single)[..], [5]);
        assert_eq!(batches.recipients(several)[..], [0, 2, 9]);
        assert_eq!(batches.recipients(more)[..], [1, 3]);
        let recipients = [1, 5].into_iter();
        let single_1 = Key::new(slot, id, 1);
        let all = [single_1, single, several, more];
        assert_eq!(batches.keys(slot, id, recipients), all);
        let is_right = |key: &Key| key.slot() == slot && key.is_of(id);
        assert!([single, several, more].iter().all(is_right));
        assert!(!single.is_of(MessageId::from_bits(98)));
    }

    #[test]
    fn nothing_is_left_of_forgotten_keys_and_numbers_are_used_again() {
        let batches = Batches::default();
        let (slot, id) = (Slot::from_bits(1), MessageId::from_bits(1));
        let first = batches.key(slot, id, &[0, 1]);
        let second = batches.key(slot, id, &[2, 3]);
        batches.forget(first);
        assert_eq!(batches.key(slot, id, &[4, 5]), first);
        batches.forget(first);
        batches.forget(second);
        assert!(batches.lock().is_empty());
    }
}
