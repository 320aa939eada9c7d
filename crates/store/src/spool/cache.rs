//! Messages that were accepted a moment ago: most are delivered before they would have to be read.
//!
//! Bounded in octets. The oldest go first, whether read or not: a message is read once for each of
//! its sites, so having been read says nothing about being read again.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Slot;
use crate::Message;

/// What an entry takes beside content, roughly.
const OVERHEAD_BYTES: usize = 512;

#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    bytes: usize,
    messages: FxHashMap<Slot, (u64, Arc<Message>)>,
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

    pub(super) fn get(&self, slot: Slot) -> Option<Arc<Message>> {
        self.messages.get(&slot).map(|(_, message)| message.clone())
    }

    /// Keeps a message, unless it would take more than an eighth of the room.
    pub(super) fn insert(&mut self, slot: Slot, message: Arc<Message>) {
        let bytes = cost(&message);
        if bytes > self.bytes_max / 8 {
            return;
        }
        self.serial += 1;
        self.bytes += bytes;
        self.order.push_back((self.serial, slot));
        self.messages.insert(slot, (self.serial, message));
        while self.bytes > self.bytes_max {
            let Some((serial, slot)) = self.order.pop_front() else {
                break;
            };
            if self.messages.get(&slot).is_some_and(|(s, _)| *s == serial) {
                self.remove(slot);
            }
        }
        if self.order.len() > 2 * self.messages.len() + 64 {
            let messages = &self.messages;
            self.order
                .retain(|(serial, slot)| messages.get(slot).is_some_and(|(s, _)| s == serial));
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some((_, message)) = self.messages.remove(&slot) {
            self.bytes -= cost(&message);
        }
    }
}

fn cost(message: &Message) -> usize {
    let recipients = message.envelope.recipients().len();
    message.content.len() + OVERHEAD_BYTES + 64 * recipients
}
