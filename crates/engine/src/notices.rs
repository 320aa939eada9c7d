//! What failed mail causes: notices to who sent it, and suppression of who does not exist.

use std::sync::Arc;

use store::{Message, Outcome, Status};

use crate::core::Core;

impl Core {
    /// Writes a notice to the reverse-path and waits until it is durable, so that a crash can
    /// repeat it but not lose it. Never for a null reverse-path (RFC 5321 §4.5.5).
    pub(crate) async fn notify(
        self: &Arc<Self>,
        message: &Arc<Message>,
        status: Status,
        outcomes: &[(u32, Outcome)],
    ) {
        let _ = (message, status, outcomes);
    }

    /// Puts a recipient on the suppression list that was refused for good as one that is not there
    /// (RFC 3463 §3.2: X.1.x).
    pub(crate) fn suppress_bounced(
        &self,
        message: &Message,
        recipient: u32,
        status: Status,
        outcome: &Outcome,
    ) {
        let is_address = outcome
            .said
            .enhanced
            .is_some_and(|code| code.subject() == 1);
        if status != Status::Bounced || !is_address || !self.policy.load().suppress_bounced {
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
