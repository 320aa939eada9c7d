//! Recipients whose outcome is unknown wait for somebody's decision, and no longer than anybody else:
//! at the age limit they expire, and their sender is told what is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

use store::{MessageId, Slot, Status, Time};

use crate::core::Core;

/// When held recipients expire. Who was decided upon in between is found out then.
#[derive(Debug, Default)]
pub(crate) struct HeldUntil(Mutex<BinaryHeap<Reverse<(Time, Slot, MessageId)>>>);

impl HeldUntil {
    /// Recipients of this message are held.
    pub(crate) fn add(&self, expires_at: Time, slot: Slot, id: MessageId) {
        let mut heap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heap.push(Reverse((expires_at, slot, id)));
    }

    fn due(&self, now: Time) -> Vec<(Slot, MessageId)> {
        let mut heap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while heap.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            due.extend(heap.pop().map(|Reverse((_, slot, id))| (slot, id)));
        }
        due
    }
}

impl Core {
    /// Gives up what was held for too long.
    pub(crate) fn expire_held(self: &Arc<Self>) {
        for (slot, id) in self.held_until.due(self.clock.now()) {
            let core = Arc::clone(self);
            // Beside housekeeping: a notice may wait for the room that this makes.
            tokio::spawn(async move { core.expire_held_of(slot, id).await });
        }
    }

    async fn expire_held_of(self: &Arc<Self>, slot: Slot, id: MessageId) {
        let mut pending = self.spool.pending(slot);
        pending.retain(|one| one.status == Status::Held && self.spool.id(slot) == Some(id));
        let recipients: Vec<u32> = pending.iter().map(|one| one.recipient).collect();
        if recipients.is_empty() {
            return;
        }
        let core = Arc::clone(self);
        match self.work(move || core.spool.read(slot)).await {
            Ok(Ok(message)) if message.id == id => {
                self.settle_expired(slot, &message, &recipients).await;
            }
            Ok(Err(store::ReadError::Gone)) | Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "a message cannot be read from the spool");
                self.note_unreadable(1);
                self.expire_unread(slot, id, &recipients).await;
            }
            Err(_) => {}
        }
    }
}
