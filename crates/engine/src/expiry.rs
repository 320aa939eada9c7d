//! What is said at the age limit, and what becomes there of a message that cannot be read.

use std::sync::Arc;

use flow::retry::ErrorClass;
use rustc_hash::FxHashMap;
use store::{Event, MessageId, Outcome, Query, Slot, Status, Time};

use crate::core::Core;
use crate::delivery::plain;

/// What is said of a recipient that is given up for its age.
pub(crate) fn too_old(last: Option<Outcome>) -> Outcome {
    let Some(mut last) = last else {
        return plain("gave up: the message reached its age limit");
    };
    if last.class == ErrorClass::Unknown as u8 {
        let text = &last.said.text;
        let text = format!("gave up, and it is not known whether it was delivered: {text}");
        last.said.text = text.into();
    }
    last
}

impl Core {
    /// Settles recipients of a message that is too old and cannot be read. History knows whom it was
    /// for; who sent it does not hear of it, for where a notice goes stood in the message.
    pub(crate) async fn expire_unread(
        self: &Arc<Self>,
        slot: Slot,
        id: MessageId,
        recipients: &[u32],
    ) {
        tracing::error!(message = %id, ?recipients, "gave up: the message is too old and cannot be read");
        let query = Query {
            message: Some(id),
            status: Some(Status::Accepted),
            limit: store::history::LIMIT_MAX,
            ..Query::default()
        };
        let core = Arc::clone(self);
        let asked = self.work(move || {
            core.catch_up();
            core.history.query(&query)
        });
        let asked = asked.await;
        let events = asked.ok().and_then(Result::ok).map(|page| page.events);
        let known = events
            .into_iter()
            .flatten()
            .map(|event| (event.recipient, event));
        let mut known: FxHashMap<u32, Event> = known.collect();
        let pending = self.spool.pending(slot);
        for one in pending
            .iter()
            .filter(|one| recipients.contains(&one.recipient))
        {
            let accepted = known.remove(&one.recipient);
            let mut event = accepted.unwrap_or_else(|| nameless(id, one.recipient));
            event.at = self.clock.now();
            event.status = Status::Expired;
            (event.due_at, event.heading) = (None, None);
            let said =
                "gave up: the message reached its age limit, and cannot be read from the disk";
            event.outcome = Some(Box::new(plain(said)));
            self.record(slot, event);
        }
    }
}

/// An event of a recipient that not even history knows.
fn nameless(message: MessageId, recipient: u32) -> Event {
    Event {
        at: Time::ZERO,
        message,
        recipient,
        address: "".into(),
        tenant: "".into(),
        tags: [].into(),
        status: Status::Expired,
        due_at: None,
        outcome: None,
        heading: None,
    }
}
