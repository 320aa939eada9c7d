//! From a grant to its end: read, resolve, deliver, dispose, record.
//!
//! Whatever happens to the task of an attempt, its job comes back to the schedule: [`Grant`] sees to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use flow::retry::ErrorClass;
use schedule::{Job, PutBack, Retry};
use store::{Event, Message, Outcome, Slot, Status, Time};

use crate::batches::Key;
use crate::core::Core;
use crate::deliver::Attempt;
use crate::dispose::{self, Disposition};
use crate::queue::{Waiting, domain, with_domains};
use crate::route::{ResolveError, Resolved};

/// A job that was granted and is not settled yet.
struct Grant {
    core: Arc<Core>,
    shard: usize,
    job: Job,
    is_settled: bool,
}

impl Drop for Grant {
    /// An attempt that ended without a word, as by a panic, is taken up again.
    fn drop(&mut self) {
        self.core.counters.in_flight.sub(1);
        self.core.attempt_ended.notify_waiters();
        if self.is_settled {
            return;
        }
        let job = self.job;
        self.core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, schedule::Feedback::Withdrawn);
            let attempts = job.attempts.saturating_add(1);
            let tried = Job { attempts, ..job };
            let due_at = match schedule.retry_at(&tried, ErrorClass::Transient, now) {
                Retry::At(due_at) => due_at,
                _ => job.expires_at,
            };
            schedule.insert(Job { due_at, ..tried }, now);
        });
    }
}

/// Recipients of one attempt with one fate.
struct Fate {
    disposition: Disposition,
    /// Indexes in the envelope.
    recipients: Vec<u32>,
    /// What the schedule says of it.
    next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing follows, or somebody decides.
    Nothing,
    /// It waits at the head of its site, as if nothing had been.
    PutBack,
    At(Time),
    GiveUp,
    Expired,
}

impl Core {
    /// Starts a granted job.
    pub(crate) fn launch(self: &Arc<Self>, shard: usize, job: Job) {
        self.counters.in_flight.add(1);
        let grant = Grant {
            core: Arc::clone(self),
            shard,
            job,
            is_settled: false,
        };
        // Boxed as what it is: a task that starts tasks like itself has no name for its type.
        let attempt: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(attempt(grant));
        tokio::spawn(attempt);
    }

    /// The message of a job and those of its recipients that are still to be served.
    async fn load(self: &Arc<Self>, key: Key) -> Option<(Slot, Arc<Message>, Vec<u32>)> {
        let slot = key.slot();
        let message = match self.spool.cached(slot) {
            Some(message) => message,
            None => {
                let core = Arc::clone(self);
                let read = tokio::task::spawn_blocking(move || core.spool.read(slot)).await;
                match read.ok()? {
                    Ok(message) => message,
                    Err(store::ReadError::Gone) => return None,
                    Err(error) => {
                        tracing::error!(%error, "a message cannot be read from the spool");
                        return None;
                    }
                }
            }
        };
        if !key.is_of(message.id) {
            return None;
        }
        let pending = self.spool.pending(slot);
        let mut recipients = self.batches.recipients(key).into_vec();
        recipients.retain(|&index| {
            let mut mine = pending.iter().filter(|pending| pending.recipient == index);
            mine.any(|pending| pending.status != Status::Held)
        });
        (!recipients.is_empty()).then_some((slot, message, recipients))
    }

    /// Records an event, and tells who follows.
    pub(crate) fn record(&self, slot: Slot, event: Event) {
        self.count(&event);
        match self.spool.record(slot, &event) {
            Ok(()) => self.announce(event),
            Err(store::RecordError::Journal(error)) => {
                tracing::error!(%error, message = %event.message, "an event waits to be recorded");
                self.unrecorded().push((slot, event));
            }
            Err(error) => {
                tracing::error!(%error, message = %event.message, "an event was refused by the spool");
            }
        }
    }

    /// A job that waited until its message was too old.
    pub(crate) fn expire(self: &Arc<Self>, job: Job) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let key = Key(job.key);
            if let Some((slot, message, recipients)) = core.load(key).await {
                let said = "gave up: the message reached its age limit";
                let outcomes = recipients.iter().map(|&recipient| {
                    let last = core.spool.last_outcome(slot, recipient).ok().flatten();
                    let outcome = last.map_or_else(|| plain(said), |(_, outcome)| *outcome);
                    (recipient, outcome)
                });
                let outcomes: Vec<_> = outcomes.collect();
                core.settle_failed(slot, &message, Status::Expired, outcomes)
                    .await;
            }
            core.batches.forget(key);
        });
    }

    /// Settles recipients that will not be served: the notice first, so that a crash between can
    /// only repeat it.
    pub(crate) async fn settle_failed(
        self: &Arc<Self>,
        slot: Slot,
        message: &Arc<Message>,
        status: Status,
        outcomes: Vec<(u32, Outcome)>,
    ) {
        self.notify(message, status, &outcomes).await;
        for (recipient, outcome) in outcomes {
            self.suppress_bounced(message, recipient, status, &outcome);
            let mut event = self.event(message, recipient, status);
            event.outcome = Some(Box::new(outcome));
            self.record(slot, event);
        }
    }
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

/// What became of a recipient whose domain leads nowhere, now or for good.
fn unresolved(error: &ResolveError) -> Attempt {
    Attempt {
        verdict: dispose::judge_resolve(error),
        outcome: Outcome {
            stage: "dns".into(),
            class: 0xff,
            said: error.said(),
            ..Outcome::default()
        },
    }
}

async fn attempt(grant: Grant) {
    let core = Arc::clone(&grant.core);
    let key = Key(grant.job.key);
    let Some((slot, message, recipients)) = core.load(key).await else {
        core.batches.forget(key);
        return grant.withdraw();
    };
    let domain = domain(&message, recipients[0]);
    let resolved = match core.resolver.known(domain, &message.tenant) {
        Some(answer) => answer,
        None => core.resolver.resolve(domain, &message.tenant).await,
    };
    let is_unresolved = grant.job.site == core.shards[grant.shard].unresolved;
    match resolved {
        Ok(_) if is_unresolved => {
            core.batches.forget(key);
            let job = grant.job;
            grant.withdraw();
            let waiting = Waiting::of(slot, &message);
            let recipients = with_domains(&message, &recipients);
            core.enqueue(&waiting, &recipients, job.due_at, job.attempts);
        }
        Ok(resolved) => grant.deliver(slot, &message, recipients, &resolved).await,
        Err(error) => {
            let attempts = vec![unresolved(&error); recipients.len()];
            let feedback = schedule::Feedback::Withdrawn;
            grant
                .dispose(slot, &message, recipients, attempts, feedback, None)
                .await;
        }
    }
}

impl Grant {
    /// It was not tried after all, and nothing is left to try.
    fn withdraw(mut self) {
        let job = self.job;
        self.is_settled = true;
        self.core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, schedule::Feedback::Withdrawn);
        });
    }

    async fn deliver(
        self,
        slot: Slot,
        message: &Arc<Message>,
        recipients: Vec<u32>,
        resolved: &Resolved,
    ) {
        let all = message.envelope.recipients().len();
        let envelope = if recipients.len() == all {
            Arc::clone(&message.envelope)
        } else {
            let indexes: Vec<usize> = recipients.iter().map(|&index| index as usize).collect();
            match message.envelope.narrowed(&indexes) {
                Some(narrowed) => Arc::new(narrowed),
                None => return self.withdraw(),
            }
        };
        let source = resolved.route.source(message.id.bits());
        let content = message.content.clone();
        let delivery = self
            .core
            .deliverer
            .deliver(resolved, source, envelope, content)
            .await;
        let feedback = feedback(delivery.feedback);
        self.dispose(
            slot,
            message,
            recipients,
            delivery.attempts,
            feedback,
            Some(resolved),
        )
        .await;
    }

    /// Tells the schedule, and records what became of each recipient.
    async fn dispose(
        mut self,
        slot: Slot,
        message: &Arc<Message>,
        recipients: Vec<u32>,
        attempts: Vec<Attempt>,
        feedback: schedule::Feedback,
        resolved: Option<&Resolved>,
    ) {
        let mut fates = fates(&recipients, &attempts);
        self.core.batches.forget(Key(self.job.key));
        self.settle(slot, message, &mut fates, feedback, resolved);
        for fate in fates {
            self.record(slot, message, &recipients, &attempts, &fate)
                .await;
        }
    }

    /// Ends the grant and lets those wait that are to be tried again.
    fn settle(
        &mut self,
        slot: Slot,
        message: &Arc<Message>,
        fates: &mut [Fate],
        feedback: schedule::Feedback,
        resolved: Option<&Resolved>,
    ) {
        let core = Arc::clone(&self.core);
        let job = self.job;
        self.is_settled = true;
        let place = resolved.map(|resolved| core.place(resolved, message.id));
        let elsewhere = place.filter(|place| place.shard != self.shard);
        core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, feedback);
            for fate in fates.iter_mut() {
                let again = |attempts, due_at| Job {
                    key: core.batches.key(slot, message.id, &fate.recipients).0,
                    cost: u16::try_from(fate.recipients.len()).unwrap_or(u16::MAX),
                    attempts,
                    due_at,
                    ..job
                };
                let mut class = match fate.disposition {
                    Disposition::Deferred(class) | Disposition::PutBack(class) => class,
                    Disposition::Delivered | Disposition::Bounced | Disposition::Held => continue,
                };
                if matches!(fate.disposition, Disposition::PutBack(_)) {
                    let back = again(job.attempts, job.due_at);
                    match schedule.put_back(back, now) {
                        PutBack::Kept => {
                            fate.next = Next::PutBack;
                            continue;
                        }
                        PutBack::Spent => {
                            core.batches.forget(Key(back.key));
                            class = ErrorClass::Throttled;
                        }
                    }
                }
                let tried = Job {
                    attempts: job.attempts.saturating_add(1),
                    ..job
                };
                fate.next = match schedule.retry_at(&tried, class, now) {
                    Retry::At(due_at) => Next::At(due_at),
                    Retry::GiveUp(_) => Next::GiveUp,
                    Retry::Expired => Next::Expired,
                };
                if let (Next::At(due_at), None) = (fate.next, &elsewhere) {
                    schedule.insert(again(job.attempts.saturating_add(1), due_at), now);
                }
            }
        });
        if elsewhere.is_some() {
            for fate in fates.iter() {
                if let Next::At(due_at) = fate.next {
                    let attempts = job.attempts.saturating_add(1);
                    let recipients = with_domains(message, &fate.recipients);
                    core.enqueue(&Waiting::of(slot, message), &recipients, due_at, attempts);
                }
            }
        }
    }

    async fn record(
        &self,
        slot: Slot,
        message: &Arc<Message>,
        recipients: &[u32],
        attempts: &[Attempt],
        fate: &Fate,
    ) {
        let core = &self.core;
        let status = match (fate.disposition, fate.next) {
            (_, Next::PutBack) => {
                core.counters.rate_refused.add(1);
                return;
            }
            (Disposition::Delivered, _) => Status::Delivered,
            (Disposition::Bounced, _) | (_, Next::GiveUp) => Status::Bounced,
            (Disposition::Held, _) => Status::Held,
            (_, Next::Expired) => Status::Expired,
            (Disposition::Deferred(_) | Disposition::PutBack(_), _) => Status::Deferred,
        };
        let outcome_of = |recipient: u32| {
            let place = recipients.iter().position(|&index| index == recipient);
            let mut outcome =
                place.map_or_else(Outcome::default, |place| attempts[place].outcome.clone());
            outcome.attempt = self.job.attempts.saturating_add(1);
            outcome
        };
        let outcomes = fate
            .recipients
            .iter()
            .map(|&index| (index, outcome_of(index)));
        if matches!(status, Status::Bounced | Status::Expired) {
            core.settle_failed(slot, message, status, outcomes.collect())
                .await;
            return;
        }
        for (recipient, outcome) in outcomes {
            let mut event = core.event(message, recipient, status);
            if let Next::At(due_at) = fate.next {
                event.due_at = Some(due_at);
            }
            event.outcome = Some(Box::new(outcome));
            core.record(slot, event);
        }
    }
}

/// Puts recipients with one fate together.
fn fates(recipients: &[u32], attempts: &[Attempt]) -> Vec<Fate> {
    let mut fates: Vec<Fate> = Vec::with_capacity(1);
    for (&recipient, attempt) in recipients.iter().zip(attempts) {
        let disposition = attempt.verdict.disposition;
        match fates
            .iter_mut()
            .find(|fate| fate.disposition == disposition)
        {
            Some(fate) => fate.recipients.push(recipient),
            None => fates.push(Fate {
                disposition,
                recipients: vec![recipient],
                next: Next::Nothing,
            }),
        }
    }
    fates
}

/// In the schedule's own words.
fn feedback(feedback: dispose::Feedback) -> schedule::Feedback {
    use schedule::Feedback as F;
    match feedback {
        dispose::Feedback::Delivered { rtt } => F::Delivered { rtt },
        dispose::Feedback::Refused => F::Refused,
        dispose::Feedback::RateRefused => F::RateRefused,
        dispose::Feedback::ConnectionRefused => F::ConnectionRefused,
        dispose::Feedback::ConnectFailed => F::ConnectFailed,
        dispose::Feedback::HandshakeFailed => F::HandshakeFailed,
        dispose::Feedback::Lost => F::Lost,
        dispose::Feedback::Withdrawn => F::Withdrawn,
    }
}
