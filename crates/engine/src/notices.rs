//! What failed mail causes: notices to who sent it, and suppression of who does not exist.

use std::sync::Arc;

use smtp::{Content, Envelope};
use store::{Message, Outcome, Status};

use crate::core::Core;
use crate::dispose;
use crate::dsn::{Action, Affected, Notice};
use crate::submission::{Options, Submission};

impl Core {
    /// Writes a notice to the reverse-path and waits until it is durable, so that a crash can
    /// repeat it but not lose it. Never for a null reverse-path (RFC 5321 §4.5.5).
    pub(crate) async fn notify(
        self: &Arc<Self>,
        message: &Arc<Message>,
        status: Status,
        outcomes: &[(u32, Outcome)],
    ) {
        if !self.policy.load().notices {
            return;
        }
        let Some((envelope, content)) = self.notice(message, status, outcomes) else {
            return;
        };
        let submission = Submission {
            tenant: Arc::clone(&message.tenant),
            envelope: Arc::new(envelope),
            content,
            options: Options::default(),
        };
        // Not through the front door: what a tenant may hand in does not bound what it is told.
        match self.take(submission, true) {
            Ok(taking) => match Box::pin(taking).await {
                Ok(_) => self.counters.notices.add(1),
                Err(error) => tracing::error!(%error, message = %message.id, "a notice was lost"),
            },
            Err(error) => tracing::error!(%error, message = %message.id, "a notice was lost"),
        }
    }

    fn notice(
        &self,
        message: &Message,
        status: Status,
        outcomes: &[(u32, Outcome)],
    ) -> Option<(Envelope, Content)> {
        let action = Action::of(status)?;
        let recipients: Vec<_> = outcomes
            .iter()
            .map(|(recipient, outcome)| Affected {
                recipient: *recipient as usize,
                action,
                outcome,
            })
            .collect();
        let now = self.clock.now();
        let notice = Notice {
            message,
            host: &self.host,
            id: self.spool.next_id(now),
            now,
            recipients: &recipients,
        };
        notice.compose()
    }

    /// Puts a recipient on the suppression list that a server refused for good as one that is not
    /// there.
    pub(crate) fn suppress_bounced(
        &self,
        message: &Message,
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
