//! From a grant to its end: read, resolve, deliver, dispose, record.
//!
//! Whatever happens to the task of an attempt, its job comes back to the schedule: [`Grant`] sees to it.
//!
//! Over 500 lines: a grant's way is one story, told in its order.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use client::{Cause, Failure, Kind, Recall, Scope, Stage};
use flow::retry::ErrorClass;
use schedule::{Job, PutBack, Retry};
use smtp::Content;
use store::{Event, Head, Message, MessageId, Outcome, Slot, Status, Time};

use crate::batches::Key;
use crate::core::Core;
use crate::deliver::{Attempt, Delivery, Outgoing};
use crate::dispose::{self, Disposition};
use crate::dsn::Action;
use crate::expiry::too_old;
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

/// What a grant is for. Without the content, which nobody keeps once it is written.
struct Load {
    slot: Slot,
    message: Arc<Head>,
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

/// What few attempts come to is boxed: many wait for their replies at once, and each is as large as
/// the largest of its paths.
type Later<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where the content of what is being sent can be read once more.
struct Original<'a> {
    core: &'a Arc<Core>,
    slot: Slot,
    id: MessageId,
}

impl Recall for Original<'_> {
    async fn recall(&self) -> Result<Content, Failure> {
        let content = self.core.content(self.slot, self.id).await;
        content.ok_or_else(|| Failure {
            stage: Stage::Queue,
            scope: Scope::Message,
            kind: Kind::Transient,
            endpoint: None,
            cause: Cause::Local("it cannot be read from the spool".to_owned()),
        })
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
        let mut grant = Grant {
            core: Arc::clone(self),
            shard,
            job,
            is_settled: false,
        };
        // Boxed as what it is: a task that starts tasks like itself has no name for its type.
        let attempt: Later<'static> = Box::pin(async move { grant.attempt().await });
        tokio::spawn(attempt);
    }

    /// The message of a job and those of its recipients that are still to be served, if there are any.
    async fn load(self: &Arc<Self>, key: Key) -> Result<Option<(Load, Content)>, Unreadable> {
        let slot = key.slot();
        let message = match self.spool.read_at_once(slot) {
            Some(message) => Some(message),
            None => Box::pin(self.read_patiently(slot)).await?,
        };
        let Some(message) = message.filter(|message| key.is_of(message.id)) else {
            return Ok(None);
        };
        let Message {
            head: message,
            content,
        } = message;
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
        Ok((!load.recipients.is_empty()).then_some((load, content)))
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

    /// From reading to recording.
    async fn attempt(&mut self) {
        // Those first who wait for an answer of ours: what is granted now goes out together then.
        tokio::task::yield_now().await;
        let key = Key(self.job.key);
        let (load, content) = match self.core.load(key).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                self.core.batches.forget(key);
                return self.withdraw();
            }
            // The grant that is dropped sees to it that this is tried again.
            Err(Unreadable) => return,
        };
        let domain = domain(&load.message, load.recipients[0]);
        let (resolver, tenant) = (&self.core.resolver, &load.message.tenant);
        let resolved = match resolver.known(domain, tenant) {
            Some(answer) => answer,
            None => Box::pin(resolver.resolve(domain, tenant)).await,
        };
        if self.core.failure().is_some() {
            return self.withdraw();
        }
        let left = match resolved {
            Ok(_) if self.is_unresolved() => return self.place(&load),
            Ok(resolved) => {
                let original = Original {
                    core: &self.core,
                    slot: load.slot,
                    id: load.message.id,
                };
                let Some(delivery) = self.deliver(&load, content, &resolved, &original) else {
                    return self.withdraw();
                };
                let delivery = delivery.await;
                self.dispose(&load, delivery, Some(&resolved))
            }
            Err(error) => {
                let delivery = Delivery {
                    attempts: vec![unresolved(&error); load.recipients.len()],
                    feedback: schedule::Feedback::Withdrawn,
                };
                self.dispose(&load, delivery, None)
            }
        };
        if let Some(left) = left {
            left.await;
        }
    }

    /// Its attempt is the question where it leads.
    fn is_unresolved(&self) -> bool {
        self.job.site == self.core.shards[self.shard].unresolved
    }

    /// That is known now: it waits at its site.
    fn place(&mut self, load: &Load) {
        let job = self.job;
        self.core.batches.forget(Key(job.key));
        self.withdraw();
        let recipients = load.with_domains(&load.recipients);
        self.core
            .enqueue(&load.waiting(), &recipients, job.due_at, job.attempts);
    }

    /// It was not tried after all, and nothing is left to try.
    fn withdraw(&mut self) {
        let job = self.job;
        self.is_settled = true;
        self.core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, schedule::Feedback::Withdrawn);
        });
    }

    /// Hands a message to the pool; `None` where none of its recipients is left.
    fn deliver<'a>(
        &self,
        load: &Load,
        content: Content,
        resolved: &'a Resolved,
        original: &'a Original<'_>,
    ) -> Option<impl Future<Output = Delivery> + use<'a>> {
        let message = &load.message;
        let envelope = if load.recipients.len() == message.envelope.recipients().len() {
            Arc::clone(&message.envelope)
        } else {
            let indexes = load.recipients.iter().map(|&index| index as usize);
            let narrowed = message.envelope.narrowed(&indexes.collect::<Vec<_>>())?;
            Arc::new(narrowed)
        };
        let source = resolved.route.source(message.id.bits());
        let outgoing = Outgoing {
            envelope,
            content,
            wait_max: self.job.expires_at.saturating_sub(self.core.clock.now()),
        };
        let deliverer = &self.core.deliverer;
        Some(deliverer.deliver(resolved, source, outgoing, original))
    }

    /// Tells the schedule, and records what became of each recipient, or gives what is left to do:
    /// where somebody is to be told of it, that comes first.
    fn dispose<'a>(
        &'a mut self,
        load: &'a Load,
        delivery: Delivery,
        resolved: Option<&Resolved>,
    ) -> Option<Later<'a>> {
        let Delivery { attempts, feedback } = delivery;
        let is_unknown = |one: &&Attempt| one.outcome.class == ErrorClass::Unknown as u8;
        let unknown = attempts.iter().filter(is_unknown).count();
        self.core.counters.unknown.add(unknown as u64);
        let mut fates = fates(&load.recipients, &attempts);
        self.core.batches.forget(Key(self.job.key));
        self.settle(load, &mut fates, feedback, resolved);
        let mut told = Vec::new();
        for fate in fates {
            match fate.status() {
                None => self.core.counters.rate_refused.add(1),
                Some(status) if is_told(load, &attempts, status) => told.push((fate, status)),
                Some(status) => self.record(load, &attempts, &fate, status),
            }
        }
        (!told.is_empty()).then(|| -> Later<'a> { Box::pin(self.tell(load, attempts, told)) })
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

    /// Tells what somebody is to be told of, and records it then.
    async fn tell(&self, load: &Load, attempts: Vec<Attempt>, fates: Vec<(Fate, Status)>) {
        let core = &self.core;
        for (fate, status) in fates {
            if status == Status::Delivered {
                let blind = blind(load, &attempts);
                let blind: Vec<_> = blind
                    .map(|(index, attempt)| (index, attempt.outcome.clone()))
                    .collect();
                core.tell_relayed(load.slot, &load.message, &blind).await;
                self.record(load, &attempts, &fate, status);
            } else {
                let outcomes = self.outcomes(load, &attempts, &fate).collect();
                core.settle_failed(load.slot, &load.message, status, outcomes)
                    .await;
            }
        }
    }

    fn record(&self, load: &Load, attempts: &[Attempt], fate: &Fate, status: Status) {
        for (recipient, outcome) in self.outcomes(load, attempts, fate) {
            let mut event = self.core.event(&load.message, recipient, status);
            if let Next::At(due_at) = fate.next {
                event.due_at = Some(due_at);
            }
            event.outcome = Some(Box::new(outcome));
            self.core.record(load.slot, event);
        }
        if status == Status::Held {
            let held_until = &self.core.held_until;
            held_until.add(self.job.expires_at, load.slot, load.message.id);
        }
    }

    /// How the attempt went for each recipient of a fate.
    fn outcomes<'a>(
        &'a self,
        load: &'a Load,
        attempts: &'a [Attempt],
        fate: &'a Fate,
    ) -> impl Iterator<Item = (u32, Outcome)> + 'a {
        fate.recipients.iter().map(|&recipient| {
            let place = load.recipients.iter().position(|&index| index == recipient);
            let mut outcome =
                place.map_or_else(Outcome::default, |place| attempts[place].outcome.clone());
            outcome.attempt = self.job.attempts.saturating_add(1);
            (recipient, outcome)
        })
    }
}

impl Fate {
    /// The state that it leaves its recipients in; `None`: the one they were in.
    fn status(&self) -> Option<Status> {
        match (self.disposition, self.next) {
            (_, Next::PutBack) => None,
            (Disposition::Delivered, _) => Some(Status::Delivered),
            (Disposition::Bounced, _) | (_, Next::GiveUp) => Some(Status::Bounced),
            (Disposition::Held, _) => Some(Status::Held),
            (_, Next::Expired) => Some(Status::Expired),
            (Disposition::Deferred(_) | Disposition::PutBack(_), _) => Some(Status::Deferred),
        }
    }
}

/// Whether somebody is told before it is recorded: who sent it of a failure, or who asked for it that
/// it was passed on.
fn is_told(load: &Load, attempts: &[Attempt], status: Status) -> bool {
    match status {
        Status::Bounced | Status::Expired => true,
        Status::Delivered => blind(load, attempts).next().is_some(),
        _ => false,
    }
}

/// Those taken by a server that gives no notices, for whom one was asked for.
fn blind<'a>(load: &'a Load, attempts: &'a [Attempt]) -> impl Iterator<Item = (u32, &'a Attempt)> {
    let attempts = load.recipients.iter().zip(attempts);
    let blind = attempts.filter(|(index, attempt)| {
        attempt.is_blind && Action::Relayed.is_told_of(&load.message, **index)
    });
    blind.map(|(index, attempt)| (*index, attempt))
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
