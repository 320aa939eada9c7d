//! accept, spool, and into the schedule: what happens before a message waits for its turn.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smtp::{Address, Content};
use store::{Commit, CommitError, Event, Head, Heading, Message, MessageId, Slot, Status, Time};
use tokio::runtime::Handle;

use crate::accept::{AcceptError, Accepted};
use crate::aside::aside;
use crate::config::Limits;
use crate::core::Core;
use crate::delivery::plain;
use crate::queue::{Waiting, with_domains};
use crate::submission::{Options, Submission};

/// What was accepted before cannot be read.
const UNKNOWN: AcceptError = AcceptError::Busy {
    what: "disk",
    retry_after: Duration::from_secs(5),
};
/// Longest subject that is kept, in characters.
const SUBJECT_LEN_MAX: usize = 200;

impl Core {
    /// Checks a message and puts it into the commit group being filled.
    pub(crate) fn begin_accept(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<Taking, AcceptError> {
        let taking = self
            .admit(&submission)
            .and_then(|()| self.take(submission, true));
        if taking.is_err() {
            self.counters.refused.add(1);
        }
        taking
    }

    /// All that may speak against a message.
    fn admit(&self, submission: &Submission) -> Result<(), AcceptError> {
        self.gate.check()?;
        let policy = self.policy.load();
        let limits = &policy.limits;
        let (size_bytes, size_bytes_max) = (submission.content.len(), limits.message_bytes_max);
        if size_bytes > size_bytes_max {
            return Err(AcceptError::TooLarge {
                size_bytes,
                size_bytes_max,
            });
        }
        let recipients = submission.envelope.recipients();
        let recipients_max = limits.recipients_max.min(Limits::RECIPIENTS_MAX);
        if recipients.len() > recipients_max {
            return Err(AcceptError::TooManyRecipients {
                recipients: recipients.len(),
                recipients_max,
            });
        }
        let latest = self.clock.now() + limits.ahead_max;
        if submission.options.send_at.is_some_and(|at| at > latest) {
            return Err(AcceptError::TooFarAhead {
                ahead_max: limits.ahead_max,
            });
        }
        for recipient in recipients {
            self.check_recipient(&submission.tenant, &recipient.address)?;
        }
        self.admit_tenant(&submission.tenant, recipients.len())
    }

    /// Whether a route leads there.
    pub(crate) fn check_recipient(
        &self,
        tenant: &str,
        recipient: &Address,
    ) -> Result<(), AcceptError> {
        let route = self.resolver.route(recipient.domain(), tenant);
        route.map(|_| ()).ok_or_else(|| AcceptError::NoRoute {
            recipient: recipient.clone(),
        })
    }

    /// Takes a message that nothing speaks against, and that counts in its tenant's stock already.
    ///
    /// * `is_signed_here`: whether it gets the signature of its author's domain.
    pub(crate) fn take(
        self: &Arc<Self>,
        submission: Submission,
        is_signed_here: bool,
    ) -> Result<Taking, AcceptError> {
        let now = self.clock.now();
        let tenant = Arc::clone(&submission.tenant);
        let recipients = submission.envelope.recipients().len();
        let appended = self.append(submission, is_signed_here, now);
        appended.inspect_err(|_| self.leave_stock(&tenant, recipients))
    }

    fn append(
        self: &Arc<Self>,
        submission: Submission,
        is_signed_here: bool,
        now: Time,
    ) -> Result<Taking, AcceptError> {
        let content = if is_signed_here {
            self.signed(&submission, now)?
        } else {
            submission.content.clone()
        };
        let message = self.message(submission, content, now);
        let head = Arc::clone(&message.head);
        let appended = self.spool.append(message);
        let (slot, commit) = appended.map_err(|error| refusal(&error))?;
        Ok(Taking {
            core: Arc::clone(self),
            accepted: Accepted {
                id: head.id,
                accepted_at: now,
                suppressed: Vec::new(),
            },
            waits: Some(Waits { commit, slot, head }),
        })
    }

    /// Of each id, what was accepted under it before. Makes durable what is on its way, and reads the
    /// disk: where that may take a while.
    pub(crate) fn accepted_before(
        &self,
        ids: &[MessageId],
    ) -> Result<Vec<Option<Accepted>>, AcceptError> {
        // Whoever asked for it before may have gone before it was durable; and it may have been settled
        // a moment ago.
        let synced = self.spool.journal().sync();
        self.spool.follow();
        let look = |id: &MessageId| {
            let known = self.history.latest(*id);
            // What cannot be known must not be taken a second time.
            let events = known.map_err(|_| UNKNOWN)?.events;
            if events.is_empty() {
                // What waits and was not made durable may be gone after a restart.
                return match (self.spool.find(*id), synced) {
                    (None, _) => Ok(None),
                    (Some(_), Ok(())) => Ok(Some(accepted(*id, &events))),
                    (Some(_), Err(error)) => Err(lost(error)),
                };
            }
            Ok(Some(accepted(*id, &events)))
        };
        ids.iter().map(look).collect()
    }

    /// Whether history may have known a message of this id, and forgotten it.
    pub(crate) fn is_forgotten(&self, id: MessageId) -> bool {
        // What was accepted under an id was so after the id was made.
        let since = self.history.whole_since();
        since.is_some_and(|since| id.time() <= since)
    }

    /// The content with the signature of its author's domain, where there is a key for it.
    fn signed(&self, submission: &Submission, now: Time) -> Result<Content, AcceptError> {
        let policy = self.policy.load();
        let Some(signer) = policy.signers.find(&submission.content) else {
            return Ok(submission.content.clone());
        };
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        let signed = aside(|| signer.sign(&submission.content, at));
        signed.map_err(|error| AcceptError::Signing(error.to_string()))
    }

    fn message(&self, submission: Submission, content: Content, now: Time) -> Message {
        let Submission {
            tenant,
            envelope,
            options,
            ..
        } = submission;
        let due_at = options.send_at.map_or(now, |at| at.max(now));
        let max_age = self.max_age(&tenant, &envelope, &options);
        Message::new(
            Head {
                id: options.id.unwrap_or_else(|| self.spool.next_id(now)),
                accepted_at: now,
                tenant,
                envelope,
                tags: options.tags,
                subject: cut(options.subject),
                priority: options.priority,
                due_at,
                expires_at: due_at + max_age,
            },
            content,
        )
    }

    /// The shortest of what the application, the route and the engine allow.
    fn max_age(&self, tenant: &str, envelope: &smtp::Envelope, options: &Options) -> Duration {
        let policy = self.policy.load();
        let recipients = envelope.recipients().iter();
        let routes = recipients
            .take(1)
            .filter_map(|recipient| self.resolver.route(recipient.address.domain(), tenant));
        let of_route = routes.filter_map(|route| route.max_age).min();
        let limit = of_route.unwrap_or(policy.max_age);
        options.max_age.map_or(limit, |max_age| max_age.min(limit))
    }

    /// The disk has spoken about a message. Gives the recipients that are suppressed.
    fn taken(
        self: &Arc<Self>,
        slot: Slot,
        message: &Head,
        result: Result<(), CommitError>,
    ) -> Result<Vec<Address>, AcceptError> {
        if let Err(error) = result {
            self.spool.forget(slot);
            self.leave_stock(&message.tenant, message.envelope.recipients().len());
            self.counters.refused.add(1);
            return Err(lost(error));
        }
        Ok(self.accepted(slot, message))
    }

    /// A message has become durable: from here on it is ours.
    fn accepted(self: &Arc<Self>, slot: Slot, message: &Head) -> Vec<Address> {
        self.counters.accepted.add(1);
        self.announce_accepted(message);
        let suppressed = self.suppress_recipients(slot, message);
        let recipients = 0..message.envelope.recipients().len();
        let recipients = recipients.map(|index| index as u32);
        let wanted: Vec<u32> = recipients
            .filter(|index| !suppressed.contains(index))
            .collect();
        let waiting = Waiting::of(slot, message);
        self.enqueue(&waiting, &with_domains(message, &wanted), message.due_at, 0);
        let all = message.envelope.recipients();
        let address = |index: u32| all[index as usize].address.clone();
        suppressed.into_iter().map(address).collect()
    }

    /// Settles those recipients that the tenant's list names; gives their indexes.
    fn suppress_recipients(&self, slot: Slot, message: &Head) -> Vec<u32> {
        let recipients = 0..message.envelope.recipients().len() as u32;
        recipients
            .filter(|index| self.suppress_recipient(slot, message, *index))
            .collect()
    }

    /// Settles a recipient if the tenant's list names it; whether it does.
    pub(crate) fn suppress_recipient(&self, slot: Slot, message: &Head, index: u32) -> bool {
        let address = &message.envelope.recipients()[index as usize].address;
        let found = self.suppressions.find(&message.tenant, address.as_str());
        let Some(suppression) = found else {
            return false;
        };
        let mut event = self.event(message, index, Status::Suppressed);
        event.outcome = Some(Box::new(plain(&suppression.reason)));
        self.record(slot, event);
        true
    }

    /// An event of a recipient, now.
    pub(crate) fn event(&self, message: &Head, recipient: u32, status: Status) -> Event {
        let address = &message.envelope.recipients()[recipient as usize].address;
        Event {
            at: self.clock.now(),
            message: message.id,
            recipient,
            address: address.as_str().into(),
            tenant: Arc::clone(&message.tenant),
            tags: Arc::clone(&message.tags),
            status,
            due_at: None,
            outcome: None,
            heading: None,
        }
    }

    fn announce_accepted(&self, message: &Head) {
        if !self.is_followed() {
            return;
        }
        let heading = Arc::new(Heading::new(&message.envelope, message.subject.clone()));
        for index in 0..message.envelope.recipients().len() {
            let mut event = self.event(message, index as u32, Status::Accepted);
            event.due_at = Some(message.due_at);
            event.heading = Some(Arc::clone(&heading));
            self.announce(event);
        }
    }
}

/// What is said again of a message with these events.
fn accepted(id: MessageId, events: &[Event]) -> Accepted {
    let suppressed = events
        .iter()
        .filter(|event| event.status == Status::Suppressed)
        .filter_map(|event| event.address.parse().ok());
    Accepted {
        id,
        accepted_at: id.time(),
        suppressed: suppressed.collect(),
    }
}

fn cut(subject: Box<str>) -> Box<str> {
    match subject.char_indices().nth(SUBJECT_LEN_MAX) {
        Some((end, _)) => subject[..end].into(),
        None => subject,
    }
}

/// What an edge is told where the journal did not take a message.
pub(crate) fn refusal(error: &store::AppendError) -> AcceptError {
    match error {
        store::AppendError::Full => AcceptError::Full,
        store::AppendError::Busy => AcceptError::Busy {
            what: "journal",
            retry_after: Duration::from_secs(1),
        },
        store::AppendError::Closed => AcceptError::Draining,
        _ => AcceptError::Poisoned,
    }
}

/// The same where the table did not take a change.
pub(crate) fn table_refusal(error: &store::TableError) -> AcceptError {
    match error {
        store::TableError::Append(error) => refusal(error),
        _ => AcceptError::Poisoned,
    }
}

pub(crate) fn lost(error: CommitError) -> AcceptError {
    match error {
        CommitError::Full => AcceptError::Full,
        _ => AcceptError::Poisoned,
    }
}

/// A message on its way to the disk. It is taken up even if nobody waits for this any more.
pub(crate) struct Taking {
    core: Arc<Core>,
    accepted: Accepted,
    /// Until it is durable.
    waits: Option<Waits>,
}

struct Waits {
    commit: Commit,
    slot: Slot,
    head: Arc<Head>,
}

impl Taking {
    /// Whether it would resolve at once.
    pub(crate) fn is_done(&self) -> bool {
        self.waits
            .as_ref()
            .is_none_or(|waits| waits.commit.is_done())
    }
}

impl Future for Taking {
    type Output = Result<Accepted, AcceptError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(waits) = &mut this.waits else {
            return Poll::Ready(Ok(this.accepted.clone()));
        };
        let Poll::Ready(result) = Pin::new(&mut waits.commit).poll(context) else {
            return Poll::Pending;
        };
        let ended = this.core.taken(waits.slot, &waits.head, result);
        this.waits = None;
        Poll::Ready(ended.map(|suppressed| {
            this.accepted.suppressed = suppressed;
            this.accepted.clone()
        }))
    }
}

impl Drop for Taking {
    /// Whoever waited has gone; the message may be durable all the same, and then it is delivered.
    /// Without a runtime, the next start takes it up.
    fn drop(&mut self) {
        let (Some(waits), Ok(runtime)) = (self.waits.take(), Handle::try_current()) else {
            return;
        };
        let core = Arc::clone(&self.core);
        runtime.spawn(async move {
            let result = waits.commit.await;
            let _ = core.taken(waits.slot, &waits.head, result);
        });
    }
}
