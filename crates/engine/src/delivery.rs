//! What the engine does with one message, whoever asks: reads it, records what became of it, and settles
//! those of its recipients that will not be served.

use std::sync::Arc;

use schedule::Job;
use smtp::Content;
use store::{Event, Head, Message, MessageId, Outcome, Slot, Status};

use crate::batches::Key;
use crate::core::Core;
use crate::dsn::Action;
use crate::expiry::too_old;
use crate::queue::{Waiting, with_domains};

/// What a grant is for. Without the content, which nobody keeps once it is written.
pub(crate) struct Load {
    pub(crate) slot: Slot,
    pub(crate) message: Arc<Head>,
    /// Indexes in the envelope of those still to be served.
    pub(crate) recipients: Vec<u32>,
}

impl Load {
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        Waiting::of(self.slot, &self.message)
    }

    pub(crate) fn with_domains(&self, recipients: &[u32]) -> Vec<(u32, &str)> {
        with_domains(&self.message, recipients)
    }
}

/// The disk does not give a message back, at least now.
pub(crate) struct Unreadable;

impl Core {
    /// The message of a job and those of its recipients that are still to be served, if there are any.
    pub(crate) async fn load(
        self: &Arc<Self>,
        key: Key,
    ) -> Result<Option<(Load, Content)>, Unreadable> {
        let message = match self.spool.read_at_once(key.slot()) {
            Some(message) => Some(message),
            None => self.read_patiently(key.slot()).await?,
        };
        Ok(message.and_then(|message| self.loaded(key, message)))
    }

    /// A message that was read, if it is the job's and one of its recipients is still to be served.
    pub(crate) fn loaded(&self, key: Key, message: Message) -> Option<(Load, Content)> {
        let slot = key.slot();
        let Message {
            head: message,
            content,
        } = message;
        if !key.is_of(message.id) {
            return None;
        }
        let pending = self.spool.pending(slot);
        let mut recipients = self.batches.recipients(key).into_vec();
        recipients.retain(|&index| {
            let mut mine = pending.iter().filter(|pending| pending.recipient == index);
            mine.any(|pending| pending.status != Status::Held)
        });
        // Once more: somebody may have asked for no more mail since it was accepted, or a crash have
        // taken the word that they had.
        recipients.retain(|index| !self.suppress_recipient(slot, &message, *index));
        let load = Load {
            slot,
            message,
            recipients,
        };
        (!load.recipients.is_empty()).then_some((load, content))
    }

    /// A message that is not in memory; `None` if it is settled.
    async fn read_patiently(self: &Arc<Self>, slot: Slot) -> Result<Option<Message>, Unreadable> {
        let core = Arc::clone(self);
        match self.work(move || core.spool.read(slot)).await {
            Ok(Ok(message)) => Ok(Some(message)),
            Ok(Err(store::ReadError::Gone)) => Ok(None),
            Ok(Err(error)) => {
                tracing::error!(%error, "a message cannot be read from the spool");
                self.note_unreadable(1);
                Err(Unreadable)
            }
            Err(_) => Err(Unreadable),
        }
    }

    /// The content of a message that is not settled; `None` where the disk does not give it.
    pub(crate) async fn content(self: &Arc<Self>, slot: Slot, id: MessageId) -> Option<Content> {
        let message = match self.spool.read_at_once(slot) {
            Some(message) => message,
            None => self.read_patiently(slot).await.ok()??,
        };
        (message.id == id).then_some(message.content)
    }

    /// Records an event, and tells who follows. Says whether that is done or will be.
    pub(crate) fn record(&self, slot: Slot, event: Event) -> bool {
        match self.spool.record(slot, &event) {
            Ok(before) => self.recorded(before, event),
            Err(store::RecordError::Journal(_)) if self.failure().is_some() => {
                lost(&event);
                return false;
            }
            Err(store::RecordError::Journal(error)) => {
                tracing::error!(%error, message = %event.message, "an event waits to be recorded");
                self.unrecorded().push((slot, event));
            }
            Err(error) => {
                tracing::error!(%error, message = %event.message, "an event was refused by the spool");
                return false;
            }
        }
        true
    }

    /// Counts an event, once, and tells who follows.
    ///
    /// * `before`: its recipient's status until then.
    pub(crate) fn recorded(&self, before: Status, event: Event) {
        self.count(before, &event);
        self.announce(event);
    }

    /// A job that waited until its message was too old.
    pub(crate) fn expire(self: &Arc<Self>, job: Job) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let key = Key(job.key);
            match core.load(key).await {
                Ok(Some((load, _))) => {
                    core.settle_expired(load.slot, &load.message, &load.recipients)
                        .await;
                }
                Ok(None) => {}
                Err(Unreadable) => {
                    let id = core.spool.id(key.slot()).filter(|id| key.is_of(*id));
                    if let Some(id) = id {
                        let recipients = core.batches.recipients(key);
                        core.expire_unread(key.slot(), id, &recipients).await;
                    }
                }
            }
            core.batches.forget(key);
        });
    }

    /// Settles recipients that reached their age limit, with what was said of them last.
    pub(crate) async fn settle_expired(
        self: &Arc<Self>,
        slot: Slot,
        message: &Head,
        recipients: &[u32],
    ) {
        let outcomes = recipients.iter().map(|&recipient| {
            let last = self.spool.last_outcome(slot, recipient).ok().flatten();
            (recipient, too_old(last.map(|(_, outcome)| *outcome)))
        });
        let outcomes = outcomes.collect();
        self.settle_failed(slot, message, Status::Expired, outcomes)
            .await;
    }

    /// Settles recipients that will not be served: the notice first, so that a crash between can
    /// only repeat it. Where it finds no room before the engine ends, the next start tries once more.
    pub(crate) async fn settle_failed(
        self: &Arc<Self>,
        slot: Slot,
        message: &Head,
        status: Status,
        outcomes: Vec<(u32, Outcome)>,
    ) {
        let event = |recipient, outcome| {
            let mut event = self.event(message, recipient, status);
            event.outcome = Some(Box::new(outcome));
            event
        };
        // About a notice no notice is written, and it is not kept.
        if message.envelope.reverse_path().address().is_some() {
            let content = self.content(slot, message.id).await;
            let bytes = content.as_ref().map_or(&[][..], Content::as_bytes);
            if let Some(action) = Action::of(status)
                && !self.notify(message, bytes, action, &outcomes).await
            {
                if self.failure().is_some() {
                    for (recipient, outcome) in outcomes {
                        lost(&event(recipient, outcome));
                    }
                }
                return;
            }
            if let Some(content) = content {
                let recipients = outcomes.iter().map(|(recipient, _)| *recipient);
                self.keep_failed(message, content, recipients);
            }
        }
        for (recipient, outcome) in outcomes {
            self.suppress_bounced(message, recipient, status, &outcome);
            self.record(slot, event(recipient, outcome));
        }
    }
}

/// The journal has failed, and takes no event any more: the log is all that can still say it. The next
/// start knows nothing of it, and tries the recipient again.
fn lost(event: &Event) {
    let said = event.outcome.as_ref().map(|outcome| &*outcome.said.text);
    tracing::error!(
        message = %event.message,
        recipient = %event.address,
        status = event.status.name(),
        said,
        "an attempt ended and cannot be recorded: it will be made again"
    );
}

/// An outcome without an attempt.
pub(crate) fn plain(said: &str) -> Outcome {
    Outcome {
        class: 0xff,
        said: store::Said {
            text: said.into(),
            ..store::Said::default()
        },
        ..Outcome::default()
    }
}
