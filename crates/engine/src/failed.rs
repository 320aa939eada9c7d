//! Mail that failed for good, kept for some days so that an operator can have it tried again.
//!
//! A spool of its own holds it, so that it neither counts as waiting nor keeps the mail's own journal from
//! being tidied. Each entry has an id of its own, which the message gets when it is tried again: taking
//! it up twice, as after a crash in between, makes one message. Labels say which message it was and
//! how often it has been tried again.

use std::sync::Arc;
use std::time::Duration;

use smtp::Content;
use store::{Event, Head, Message, Slot, Status, Time};

use crate::accept::AcceptError;
use crate::core::Core;
use crate::intake::{lost, refusal};
use crate::meant::{is_tagged, is_to};
use crate::submission::{Options, Submission};
use crate::views::Filter;

/// How long failed mail can be taken up again.
const KEPT_FOR: Duration = Duration::from_secs(72 * 3600);
/// The label that names the message which failed first.
pub(crate) const RETRY_OF: &str = "mailrail-retry-of";
/// The label that counts.
const RETRIES: &str = "mailrail-retries";

impl Core {
    /// Keeps a message for those recipients; nobody waits for it.
    pub(crate) fn keep_failed(
        &self,
        message: &Head,
        content: Content,
        recipients: impl Iterator<Item = u32>,
    ) {
        let indexes: Vec<usize> = recipients.map(|index| index as usize).collect();
        let Some(envelope) = message.envelope.narrowed(&indexes) else {
            return;
        };
        let now = self.clock.now();
        let kept = Head {
            id: self.spool.next_id(now),
            accepted_at: now,
            envelope: Arc::new(envelope),
            tags: relabeled(message),
            due_at: now + KEPT_FOR,
            expires_at: now + KEPT_FOR,
            ..message.clone()
        };
        let kept = Message::new(kept, content);
        if let Err(error) = self.failed.append(kept) {
            tracing::warn!(%error, message = %message.id, "failed mail cannot be taken up again");
        }
    }

    /// Takes up what failed at `since` or later and the filter means, each at most `times_max` times;
    /// says how many recipients.
    pub(crate) async fn retry_failed(
        self: &Arc<Self>,
        filter: &Filter,
        since: Time,
        times_max: u16,
    ) -> Result<u64, AcceptError> {
        let _alone = self.taking_up.lock().await;
        let mut recipients = 0;
        for slot in self.failed.slots() {
            let core = Arc::clone(self);
            let read = self.work(move || core.failed.read(slot)).await;
            let Ok(Ok(message)) = read else { continue };
            let is_meant = message.accepted_at >= since
                && retries(&message) <= times_max
                && is_of(&message, filter);
            if !is_meant {
                continue;
            }
            let meant = self.meant_again(&message, filter).await;
            let (slot, message) = match meant.len() {
                0 => continue,
                count if count == message.envelope.recipients().len() => (slot, message),
                _ => self.keep_apart(slot, &message, &meant).await?,
            };
            self.take_again(&message).await?;
            self.forget_failed(slot, &message, Status::Canceled);
            recipients += message.envelope.recipients().len() as u64;
        }
        Ok(recipients)
    }

    /// Which recipients of a message that failed a filter means. Their site is where they would go now.
    async fn meant_again(&self, message: &Message, filter: &Filter) -> Vec<usize> {
        let mut meant = Vec::new();
        for (index, recipient) in message.envelope.recipients().iter().enumerate() {
            if !is_to(recipient, filter) {
                continue;
            }
            let is_there = match &filter.site {
                None => true,
                Some(site) => {
                    let domain = recipient.address.domain();
                    let resolved = self.resolver.resolve(domain, &message.tenant).await;
                    resolved.is_ok_and(|it| self.place(&it, message.id).name() == Some(site))
                }
            };
            meant.extend(is_there.then_some(index));
        }
        meant
    }

    /// Keeps recipients that are meant apart from the others of their message; gives their part. A
    /// crash in between may leave both, so that they can be taken up once more.
    async fn keep_apart(
        &self,
        slot: Slot,
        message: &Message,
        meant: &[usize],
    ) -> Result<(Slot, Message), AcceptError> {
        let mut others: Vec<usize> = (0..message.envelope.recipients().len()).collect();
        others.retain(|index| meant.binary_search(index).is_err());
        let keep = |indexes: &[usize]| {
            let narrowed = message.envelope.narrowed(indexes);
            let head = Head {
                id: self.spool.next_id(self.clock.now()),
                envelope: narrowed.map_or_else(|| Arc::clone(&message.envelope), Arc::new),
                ..(*message.head).clone()
            };
            let part = Message::new(head, message.content.clone());
            let kept = self.failed.append(part.clone());
            kept.map(|(slot, _)| (slot, part))
        };
        let kept = keep(&others).and_then(|_| keep(meant));
        let kept = kept.map_err(|error| refusal(&error))?;
        self.forget_failed(slot, message, Status::Canceled);
        self.failed.journal().flush().await.map_err(lost)?;
        Ok(kept)
    }

    async fn take_again(self: &Arc<Self>, message: &Message) -> Result<(), AcceptError> {
        let submission = Submission {
            tenant: Arc::clone(&message.tenant),
            envelope: Arc::clone(&message.envelope),
            // With the signature it went out under.
            content: message.content.clone(),
            options: Options {
                id: Some(message.id),
                tags: Arc::clone(&message.tags),
                subject: message.subject.clone(),
                priority: message.priority,
                ..Options::default()
            },
        };
        let (core, ids) = (Arc::clone(self), [message.id]);
        let known = self.work(move || core.accepted_before(&ids)).await;
        if known.map_err(|_| AcceptError::Draining)?? == [None] {
            let recipients = message.envelope.recipients().len();
            self.enter_stock(&message.tenant, recipients);
            self.take(submission, false)?.await?;
        }
        Ok(())
    }

    fn forget_failed(&self, slot: Slot, message: &Head, status: Status) {
        let events = (0..message.envelope.recipients().len() as u32)
            .map(|index| self.event(message, index, status));
        let events: Vec<Event> = events.collect();
        if let Err(error) = self.failed.record_all(slot, &events) {
            tracing::warn!(%error, "failed mail that was taken up is still kept");
        }
    }

    /// Lets go of what has been kept long enough.
    pub(crate) fn tidy_failed(&self) {
        let now = self.clock.now();
        for slot in self.failed.slots() {
            let is_over = |pending: &store::Pending| pending.due_at <= now;
            if !self.failed.pending(slot).first().is_some_and(is_over) {
                continue;
            }
            if let Ok(message) = self.failed.read(slot) {
                self.forget_failed(slot, &message, Status::Expired);
            }
        }
        if let Err(error) = self.failed.compact() {
            tracing::error!(%error, "what is kept of failed mail could not be compacted");
        }
    }
}

/// The message's labels, with the first message's id and one more retry.
fn relabeled(message: &Head) -> store::Tags {
    let count = retries(message) + 1;
    let is_ours = |(name, _): &&(Box<str>, Box<str>)| &**name == RETRY_OF || &**name == RETRIES;
    let first = message.tags.iter().find(|(name, _)| &**name == RETRY_OF);
    let first = first.map_or_else(|| message.id.to_string().into(), |(_, id)| id.clone());
    let others = message.tags.iter().filter(|tag| !is_ours(tag)).cloned();
    others
        .chain([
            (RETRY_OF.into(), first),
            (RETRIES.into(), count.to_string().into()),
        ])
        .collect()
}

/// How often it has been tried again, the time to come included.
fn retries(message: &Head) -> u16 {
    let label = message.tags.iter().find(|(name, _)| &**name == RETRIES);
    label.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
}

/// Whether a filter's tenant, message and label mean it; the message may be named as it first was.
fn is_of(message: &Head, filter: &Filter) -> bool {
    let is_message = |id: store::MessageId| {
        let name = id.to_string();
        let is_first = |(tag, first): &(Box<str>, Box<str>)| &**tag == RETRY_OF && **first == name;
        id == message.id || message.tags.iter().any(is_first)
    };
    filter
        .tenant
        .as_ref()
        .is_none_or(|tenant| *tenant == message.tenant)
        && filter.message.is_none_or(is_message)
        && is_tagged(message, filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp::{Address, Envelope};

    fn message(tags: store::Tags) -> Head {
        let address: Address = "a@example.org".parse().unwrap();
        Head {
            id: store::MessageId::from_bits(7),
            accepted_at: Time::ZERO,
            tenant: "default".into(),
            envelope: Arc::new(Envelope::single(address.clone(), address)),
            tags,
            subject: "".into(),
            priority: store::Priority::Normal,
            due_at: Time::ZERO,
            expires_at: Time::ZERO,
        }
    }

    #[test]
    fn labels_name_the_first_message_and_count_the_retries() {
        let first = message([("kind".into(), "news".into())].into());
        let once = message(relabeled(&first));
        let twice = message(relabeled(&once));
        assert_eq!(
            (retries(&first), retries(&once), retries(&twice)),
            (0, 1, 2)
        );
        assert!(is_of(
            &twice,
            &Filter {
                message: Some(first.id),
                ..Filter::default()
            }
        ));
        assert_eq!(
            twice
                .tags
                .iter()
                .filter(|(name, _)| &**name == RETRY_OF)
                .count(),
            1
        );
        assert!(twice.tags.iter().any(|(name, _)| &**name == "kind"));
    }
}
