//! Messages that were accepted a moment ago: most are delivered before they would have to be read.
//!
//! Bounded in octets. Where mail comes faster than it leaves, what came first is needed first: so a
//! full cache keeps what it has and takes nothing new, and what was not kept is read back from the
//! journal, mostly out of the kernel's page cache. Only what has been here for long makes room.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Slot;
use crate::Message;

/// What an entry takes beside content, roughly.
const OVERHEAD_BYTES: usize = 512;

/// A message this long in the cache makes room for a new one.
const KEPT_FOR: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    bytes: usize,
    messages: FxHashMap<Slot, (u64, Message)>,
    /// In the order of insertion; what was taken out meanwhile is still in it.
    order: VecDeque<(u64, Slot)>,
    serial: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            messages: FxHashMap::default(),
            order: VecDeque::new(),
            serial: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, slot: Slot) -> Option<Message> {
        self.messages.get(&slot).map(|(_, message)| message.clone())
    }

    /// Gives a message that nobody else will ask for soon.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Message> {
        let (_, message) = self.messages.remove(&slot)?;
        self.bytes -= cost(&message);
        Some(message)
    }

    /// Keeps a message that is due while there is room. Those that are there already are needed first: one makes
    /// room only when it has been there for long, as where its site takes nothing.
    pub(super) fn insert(&mut self, slot: Slot, message: Message) {
        let (bytes, now) = (cost(&message), message.accepted_at);
        if bytes > self.bytes_max / 8 || message.due_at > now + KEPT_FOR {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let Some((serial, slot)) = self.order.front().copied() else {
                return;
            };
            match self.messages.get(&slot) {
                Some((s, oldest)) if *s == serial && now < oldest.accepted_at + KEPT_FOR => return,
                Some((s, _)) if *s == serial => self.remove(slot),
                _ => {}
            }
            self.order.pop_front();
        }
        self.serial += 1;
        self.bytes += bytes;
        self.order.push_back((self.serial, slot));
        self.messages.insert(slot, (self.serial, message));
        if self.order.len() > 2 * self.messages.len() + 64 {
            let messages = &self.messages;
            self.order
                .retain(|(serial, slot)| messages.get(slot).is_some_and(|(s, _)| s == serial));
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.take(slot);
    }
}

fn cost(message: &Message) -> usize {
    let recipients = message.envelope.recipients().len();
    message.content.len() + OVERHEAD_BYTES + 64 * recipients
}
