//! What failed, delayed or relayed mail causes: notices to who sent it, and suppression of who does
//! not exist.

use std::sync::Arc;
use std::time::Duration;

use smtp::Content;
use store::{Head, Outcome, Slot, Status};

use crate::accept::AcceptError;
use crate::core::Core;
use crate::dispose;
use crate::dsn::{Action, Affected, Notice};
use crate::intake::Taking;
use crate::submission::{Options, Submission};

/// Between two tries to write a notice on a disk that is full.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

impl Core {
    /// Writes a notice to the reverse-path and waits until it is durable, so that a crash can
    /// repeat it but not lose it; on a full disk until there is room. Never for a null reverse-path
    /// (RFC 5321 §4.5.5).
    ///
    /// * returns: whether all is told that is to be told.
    pub(crate) async fn notify(
        self: &Arc<Self>,
        message: &Head,
        content: &[u8],
        action: Action,
        outcomes: &[(u32, Outcome)],
    ) -> bool {
        let Some(notice) = self.notice(message, content, &self.tried_now(action, outcomes)) else {
            return true;
        };
        loop {
            match self.tell(notice.clone()).await {
                Ok(()) => return true,
                Err(AcceptError::Full | AcceptError::Busy { .. }) if !self.gate.is_draining() => {
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                }
                Err(AcceptError::Full | AcceptError::Busy { .. } | AcceptError::Poisoned) => {
                    return false;
                }
                Err(error) => {
                    tracing::error!(%error, message = %message.id, "a notice was lost");
                    return true;
                }
            }
        }
    }

    /// Tells who asked for it that a message was passed on to a server that gives no notices. Tried
    /// once: what was delivered is recorded as such whatever comes of it.
    pub(crate) async fn tell_relayed(
        self: &Arc<Self>,
        slot: Slot,
        message: &Head,
        outcomes: &[(u32, Outcome)],
    ) {
        let content = self.content(slot, message.id).await;
        let content = content.as_ref().map_or(&[][..], Content::as_bytes);
        let affected = self.tried_now(Action::Relayed, outcomes);
        if let Some(notice) = self.notice(message, content, &affected)
            && let Err(error) = self.tell(notice).await
        {
            tracing::error!(%error, message = %message.id, "a notice was lost");
        }
    }

    fn tried_now<'a>(&self, action: Action, outcomes: &'a [(u32, Outcome)]) -> Vec<Affected<'a>> {
        let now = self.clock.now();
        let affected = outcomes.iter().map(|(recipient, outcome)| Affected {
            recipient: *recipient as usize,
            action,
            outcome,
            tried_at: Some(now),
        });
        affected.collect()
    }

    async fn tell(self: &Arc<Self>, notice: Submission) -> Result<(), AcceptError> {
        Box::pin(self.begin_notice(notice)?).await?;
        self.counters.notices.add(1);
        Ok(())
    }

    /// Puts a notice into the commit group being filled. Not through the front door: what a tenant may
    /// hand in does not bound what it is told.
    pub(crate) fn begin_notice(
        self: &Arc<Self>,
        notice: Submission,
    ) -> Result<Taking, AcceptError> {
        self.enter_stock(&notice.tenant, 1);
        self.take(notice, true)
    }

    /// A notice about recipients of a message; `None` where nobody is to be told.
    pub(crate) fn notice(
        &self,
        message: &Head,
        content: &[u8],
        recipients: &[Affected<'_>],
    ) -> Option<Submission> {
        if !self.policy.load().notices {
            return None;
        }
        let now = self.clock.now();
        let notice = Notice {
            message,
            content,
            host: &self.host,
            id: self.spool.next_id(now),
            now,
            recipients,
        };
        let (envelope, content) = notice.compose()?;
        Some(Submission {
            tenant: Arc::clone(&message.tenant),
            envelope: Arc::new(envelope),
            content,
            options: Options::default(),
        })
    }

    /// Puts a recipient on the suppression list that a server refused for good as one that is not
    /// there.
    pub(crate) fn suppress_bounced(
        &self,
        message: &Head,
        recipient: u32,
        status: Status,
        outcome: &Outcome,
    ) {
        let is_gone = status == Status::Bounced && dispose::is_gone(outcome);
        if !is_gone || !self.policy.load().suppress_bounced {
            return;
        }
        let address = message.envelope.recipients()[recipient as usize]
            .address
            .as_str();
        let reason = format!("{} {}", outcome.said.code, outcome.said.text);
        let now = self.clock.now();
        let added = self
            .suppressions
            .add(&self.table, &message.tenant, address, &reason, now);
        if let Err(error) = added {
            tracing::warn!(%error, "a bounced address is not on the suppression list");
        }
    }
}
