//! Who sent mail that still waits after some hours is told so, once (RFC 3461 §4.1, RFC 3464 §2.3.3).
//!
//! It may wait anywhere: to be tried again, behind a breaker, for an operator. So the spool is looked
//! through, a part each second; where nobody is to be told, that is remembered, too. The notice is
//! durable before the mark that it was written: a crash between repeats it.

use std::sync::Arc;

use futures_util::future::join_all;
use store::{Head, Slot, Status, Time};

use crate::core::Core;
use crate::delivery::plain;
use crate::dsn::{Action, Affected};
use crate::intake::Taking;

/// Messages in the spool that are looked at in one go, under its lock.
const SLOTS_AT_ONCE: u32 = 4096;
/// How often that is done in one round.
const LOOKS_MAX: usize = 8;
/// Messages that are read and told of in one round.
const TOLD_MAX: usize = 500;

/// Where a round has come to.
#[derive(Debug)]
pub(crate) struct Round {
    next: Slot,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            next: Slot::from_bits(0),
        }
    }
}

/// A message whose recipients have waited for long.
struct Delayed {
    slot: Slot,
    head: Arc<Head>,
    recipients: Vec<u32>,
    /// `None`: nobody is to be told.
    notice: Option<Taking>,
}

impl Core {
    /// Looks at the next part of what waits.
    pub(crate) async fn tell_delays(self: &Arc<Self>) {
        let mut round = self.delays.lock().await;
        let now = self.clock.now();
        let delay = self.policy.load().delay_notice;
        // Notices wait, too, where room is short; and until it is known who was told before the start.
        if delay.is_zero() || self.gate.check().is_err() || self.spool.stats().is_recovering {
            return;
        }
        let slots = self.delayed(&mut round, now.saturating_sub(delay));
        if slots.is_empty() {
            return;
        }
        let core = Arc::clone(self);
        let begin = move || {
            let begun = slots
                .into_iter()
                .filter_map(|slot| core.begin_telling(slot));
            begun.collect::<Vec<_>>()
        };
        let Ok(begun) = self.work(begin).await else {
            return;
        };
        join_all(begun.into_iter().map(|one| self.end_telling(one))).await;
    }

    fn delayed(&self, round: &mut Round, due_by: Time) -> Vec<Slot> {
        let mut found = Vec::new();
        for _ in 0..LOOKS_MAX {
            let (slots, next) = self.spool.untold(round.next, SLOTS_AT_ONCE, due_by);
            found.extend(slots);
            if found.len() > TOLD_MAX {
                // The others are found from here on the next time.
                round.next = found[TOLD_MAX];
                found.truncate(TOLD_MAX);
                break;
            }
            round.next = next.unwrap_or(Slot::from_bits(0));
            if next.is_none() {
                break;
            }
        }
        found
    }

    /// Writes the notice, which is durable later. Reads the disk.
    fn begin_telling(self: &Arc<Self>, slot: Slot) -> Option<Delayed> {
        let message = self.spool.read(slot).ok()?;
        let pending = self.spool.pending(slot).into_iter();
        let waits = |one: &store::Pending| !one.is_told && one.status != Status::Held;
        let recipients: Vec<u32> = pending.filter(waits).map(|one| one.recipient).collect();
        let is_wanted = |index: &&u32| Action::Delayed.is_told_of(&message, **index);
        let outcomes = recipients.iter().filter(is_wanted).map(|&index| {
            let last = self.spool.last_outcome(slot, index).ok().flatten();
            (index, last)
        });
        let outcomes: Vec<_> = outcomes.collect();
        let untried = plain("it has not been tried yet");
        let affected = outcomes.iter().map(|(index, last)| Affected {
            recipient: *index as usize,
            action: Action::Delayed,
            outcome: last.as_ref().map_or(&untried, |(_, outcome)| outcome),
            tried_at: last.as_ref().map(|(at, _)| *at),
        });
        let content = message.content.as_bytes();
        let notice = self.notice(&message, content, &affected.collect::<Vec<_>>());
        let notice = notice.map(|notice| self.begin_notice(notice));
        Some(Delayed {
            slot,
            head: message.head,
            recipients,
            // Where there is no room now, there may be in the next round.
            notice: notice.transpose().ok()?,
        })
    }

    async fn end_telling(&self, delayed: Delayed) {
        let Delayed {
            slot,
            head,
            recipients,
            notice,
        } = delayed;
        if let Some(notice) = notice {
            if let Err(error) = notice.await {
                tracing::warn!(%error, message = %head.id, "a notice of delay is written later");
                return;
            }
            self.counters.notices.add(1);
        }
        if let Err(error) = self.spool.tell(slot, head.id, &recipients) {
            tracing::warn!(%error, message = %head.id, "a notice of delay may be repeated");
        }
    }
}

#[cfg(test)]
mod tests;
