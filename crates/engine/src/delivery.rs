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
use crate::deliver::{Attempt, Delivery};
use crate::dispose::{self, Disposition};
use crate::dsn::Action;
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
    fn drop(&mut self) {
        if !self.is_settled {
            self.take_up_again();
        }
        // Last, so that it is never nowhere.
        self.core.counters.in_flight.sub(1);
        self.core.attempt_ended.notify_waiters();
    }
}

/// What a grant is for.
struct Load {
    slot: Slot,
    message: Arc<Message>,
    /// Indexes in the envelope of those still to be served.
    recipients: Vec<u32>,
}

impl Load {
    fn waiting(&self) -> Waiting<'_> {
        Waiting::of(self.slot, &self.message)
    }

    fn with_domains(&self, recipients: &[u32]) -> Vec<(u32, &str)> {
        with_domains(&self.message, recipients)
    }
}

/// The disk does not give a message back, at least now.
struct Unreadable;

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

    /// The message of a job and those of its recipients that are still to be served, if there are any.
    async fn load(self: &Arc<Self>, key: Key) -> Result<Option<Load>, Unreadable> {
        let slot = key.slot();
        let message = match self.spool.read_at_once(slot) {
            Some(message) => message,
            None => {
                let core = Arc::clone(self);
                let read = self.work(move || core.spool.read(slot)).await;
                match read {
                    Ok(Ok(message)) => message,
                    Ok(Err(store::ReadError::Gone)) => return Ok(None),
                    Ok(Err(error)) => {
                        tracing::error!(%error, "a message cannot be read from the spool");
                        self.note_unreadable(1);
                        return Err(Unreadable);
                    }
                    Err(_) => return Err(Unreadable),
                }
            }
        };
        if !key.is_of(message.id) {
            return Ok(None);
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
        Ok((!recipients.is_empty()).then_some(Load {
            slot,
            message,
            recipients,
        }))
    }

    /// Records an event, and tells who follows. Says whether that is done or will be.
    pub(crate) fn record(&self, slot: Slot, event: Event) -> bool {
        match self.spool.record(slot, &event) {
            Ok(before) => self.recorded(before, event),
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
            if let Ok(Some(load)) = core.load(key).await {
                core.settle_expired(load.slot, &load.message, &load.recipients)
                    .await;
            }
            core.batches.forget(key);
        });
    }

    /// Settles recipients that reached their age limit, with what was said of them last.
    pub(crate) async fn settle_expired(
        self: &Arc<Self>,
        slot: Slot,
        message: &Arc<Message>,
        recipients: &[u32],
    ) {
        let said = "gave up: the message reached its age limit";
        let outcomes = recipients.iter().map(|&recipient| {
            let last = self.spool.last_outcome(slot, recipient).ok().flatten();
            let outcome = last.map_or_else(|| plain(said), |(_, outcome)| *outcome);
            (recipient, outcome)
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
        message: &Arc<Message>,
        status: Status,
        outcomes: Vec<(u32, Outcome)>,
    ) {
        if let Some(action) = Action::of(status)
            && !self.notify(message, action, &outcomes).await
        {
            return;
        }
        self.keep_failed(message, outcomes.iter().map(|(recipient, _)| *recipient));
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
        is_blind: false,
    }
}

async fn attempt(grant: Grant) {
    // Those first who wait for an answer of ours: what is granted now goes out together then.
    tokio::task::yield_now().await;
    let core = Arc::clone(&grant.core);
    let key = Key(grant.job.key);
    let load = match core.load(key).await {
        Ok(Some(load)) => load,
        Ok(None) => {
            core.batches.forget(key);
            return grant.withdraw();
        }
        // The grant that is dropped sees to it that this is tried again.
        Err(Unreadable) => return,
    };
    let domain = domain(&load.message, load.recipients[0]);
    let tenant = &load.message.tenant;
    let resolved = match core.resolver.known(domain, tenant) {
        Some(answer) => answer,
        None => core.resolver.resolve(domain, tenant).await,
    };
    let is_unresolved = grant.job.site == core.shards[grant.shard].unresolved;
    match resolved {
        Ok(_) if is_unresolved => {
            core.batches.forget(key);
            let job = grant.job;
            grant.withdraw();
            let recipients = load.with_domains(&load.recipients);
            core.enqueue(&load.waiting(), &recipients, job.due_at, job.attempts);
        }
        Ok(resolved) => grant.deliver(&load, &resolved).await,
        Err(error) => {
            let delivery = Delivery {
                attempts: vec![unresolved(&error); load.recipients.len()],
                feedback: schedule::Feedback::Withdrawn,
            };
            grant.dispose(&load, delivery, None).await;
        }
    }
}

impl Grant {
    /// An attempt that ended without a word, as by a panic.
    fn take_up_again(&self) {
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

    /// It was not tried after all, and nothing is left to try.
    fn withdraw(mut self) {
        let job = self.job;
        self.is_settled = true;
        self.core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, schedule::Feedback::Withdrawn);
        });
    }

    async fn deliver(self, load: &Load, resolved: &Resolved) {
        let message = &load.message;
        let envelope = if load.recipients.len() == message.envelope.recipients().len() {
            Arc::clone(&message.envelope)
        } else {
            let indexes = load.recipients.iter().map(|&index| index as usize);
            match message.envelope.narrowed(&indexes.collect::<Vec<_>>()) {
                Some(narrowed) => Arc::new(narrowed),
                None => return self.withdraw(),
            }
        };
        let source = resolved.route.source(message.id.bits());
        let content = message.content.clone();
        let left = self.job.expires_at.saturating_sub(self.core.clock.now());
        let deliverer = &self.core.deliverer;
        let delivery = deliverer
            .deliver(resolved, source, envelope, content, left)
            .await;
        self.dispose(load, delivery, Some(resolved)).await;
    }

    /// Tells the schedule, and records what became of each recipient.
    async fn dispose(mut self, load: &Load, delivery: Delivery, resolved: Option<&Resolved>) {
        let is_unknown = |one: &&Attempt| one.outcome.class == ErrorClass::Unknown as u8;
        let unknown = delivery.attempts.iter().filter(is_unknown).count();
        self.core.counters.unknown.add(unknown as u64);
        let mut fates = fates(&load.recipients, &delivery.attempts);
        self.core.batches.forget(Key(self.job.key));
        self.settle(load, &mut fates, delivery.feedback, resolved);
        for fate in fates {
            self.record(load, &delivery.attempts, &fate).await;
        }
    }

    /// Ends the grant and lets those wait that are to be tried again.
    fn settle(
        &mut self,
        load: &Load,
        fates: &mut [Fate],
        feedback: schedule::Feedback,
        resolved: Option<&Resolved>,
    ) {
        let core = Arc::clone(&self.core);
        let job = self.job;
        self.is_settled = true;
        let place = resolved.map(|resolved| core.place(resolved, load.message.id));
        let elsewhere = place.filter(|place| place.shard != self.shard);
        core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, feedback);
            for fate in fates.iter_mut() {
                let again = |attempts, due_at| Job {
                    key: core
                        .batches
                        .key(load.slot, load.message.id, &fate.recipients)
                        .0,
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
                        PutBack::Kept(_) => {
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
                    let recipients = load.with_domains(&fate.recipients);
                    core.enqueue(&load.waiting(), &recipients, due_at, attempts);
                }
            }
        }
    }

    async fn record(&self, load: &Load, attempts: &[Attempt], fate: &Fate) {
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
            let place = load.recipients.iter().position(|&index| index == recipient);
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
            let outcomes = outcomes.collect();
            core.settle_failed(load.slot, &load.message, status, outcomes)
                .await;
            return;
        }
        if status == Status::Delivered {
            let attempts = load.recipients.iter().zip(attempts);
            let blind = attempts.filter(|(_, attempt)| attempt.is_blind);
            let blind: Vec<_> = blind
                .filter(|(index, _)| Action::Relayed.is_told_of(&load.message, **index))
                .map(|(index, attempt)| (*index, attempt.outcome.clone()))
                .collect();
            if !blind.is_empty() {
                core.tell_relayed(&load.message, &blind).await;
            }
        }
        for (recipient, outcome) in outcomes {
            let mut event = core.event(&load.message, recipient, status);
            if let Next::At(due_at) = fate.next {
                event.due_at = Some(due_at);
            }
            event.outcome = Some(Box::new(outcome));
            core.record(load.slot, event);
        }
        if status == Status::Held {
            core.held_until
                .add(self.job.expires_at, load.slot, load.message.id);
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
