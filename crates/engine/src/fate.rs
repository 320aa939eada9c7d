//! What becomes of an attempt: each recipient's fate is told to the schedule, to whoever is to hear of it,
//! and recorded.

use std::sync::Arc;

use flow::retry::ErrorClass;
use schedule::{Job, PutBack, Retry};
use store::{Outcome, Status, Time};

use crate::batches::Key;
use crate::deliver::{Attempt, Delivery};
use crate::delivery::Load;
use crate::dispose::Disposition;
use crate::dsn::Action;
use crate::grant::{Going, Loaded};
use crate::route::Resolved;

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

/// What is recorded when somebody was told of it.
struct Told {
    attempts: Vec<Attempt>,
    fates: Vec<(Fate, Status)>,
}

impl Loaded {
    /// All that follows from an attempt.
    pub(crate) fn end(mut self, delivery: Delivery, resolved: Option<&Resolved>) -> Going {
        match self.dispose(delivery, resolved) {
            Some(told) => Going::GoesOn(Box::pin(self.tell(told))),
            None => Going::Ended,
        }
    }

    /// Tells the schedule, and records what became of each recipient, or gives what is left to do:
    /// where somebody is to be told of it, that comes first.
    fn dispose(&mut self, delivery: Delivery, resolved: Option<&Resolved>) -> Option<Told> {
        let Delivery { attempts, feedback } = delivery;
        let core = Arc::clone(&self.grant.core);
        let is_unknown = |one: &&Attempt| one.outcome.class == ErrorClass::Unknown as u8;
        let unknown = attempts.iter().filter(is_unknown).count();
        core.counters.unknown.add(unknown as u64);
        let mut fates = fates(&self.load.recipients, &attempts);
        core.batches.forget(self.grant.key());
        self.settle(&mut fates, feedback, resolved);
        let mut told = Vec::new();
        for fate in fates {
            match fate.status() {
                None => core.counters.rate_refused.add(1),
                Some(status) if is_told(&self.load, &attempts, status) => told.push((fate, status)),
                Some(status) => self.record(&attempts, &fate, status),
            }
        }
        (!told.is_empty()).then_some(Told {
            attempts,
            fates: told,
        })
    }

    /// Ends the grant and lets those wait that are to be tried again.
    fn settle(
        &mut self,
        fates: &mut [Fate],
        feedback: schedule::Feedback,
        resolved: Option<&Resolved>,
    ) {
        let Self { grant, load } = self;
        let (core, job) = (Arc::clone(&grant.core), grant.job);
        grant.is_settled = true;
        let place = resolved.map(|resolved| core.place(resolved, load.message.id));
        let elsewhere = place.filter(|place| place.shard != grant.shard);
        core.turn(grant.shard, |schedule, now| {
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
    async fn tell(self, told: Told) -> Going {
        let (core, load) = (&self.grant.core, &self.load);
        let Told { attempts, fates } = told;
        for (fate, status) in fates {
            if status == Status::Delivered {
                let blind = blind(load, &attempts);
                let blind: Vec<_> = blind
                    .map(|(index, attempt)| (index, attempt.outcome.clone()))
                    .collect();
                core.tell_relayed(load.slot, &load.message, &blind).await;
                self.record(&attempts, &fate, status);
            } else {
                let outcomes = self.outcomes(&attempts, &fate).collect();
                core.settle_failed(load.slot, &load.message, status, outcomes)
                    .await;
            }
        }
        Going::Ended
    }

    fn record(&self, attempts: &[Attempt], fate: &Fate, status: Status) {
        let (core, load) = (&self.grant.core, &self.load);
        for (recipient, outcome) in self.outcomes(attempts, fate) {
            let mut event = core.event(&load.message, recipient, status);
            if let Next::At(due_at) = fate.next {
                event.due_at = Some(due_at);
            }
            event.outcome = Some(Box::new(outcome));
            core.record(load.slot, event);
        }
        if status == Status::Held {
            let expires_at = self.grant.job.expires_at;
            core.held_until.add(expires_at, load.slot, load.message.id);
        }
    }

    /// How the attempt went for each recipient of a fate.
    fn outcomes<'a>(
        &'a self,
        attempts: &'a [Attempt],
        fate: &'a Fate,
    ) -> impl Iterator<Item = (u32, Outcome)> + 'a {
        let all = &self.load.recipients;
        fate.recipients.iter().map(move |&recipient| {
            let place = all.iter().position(|&index| index == recipient);
            let mut outcome =
                place.map_or_else(Outcome::default, |place| attempts[place].outcome.clone());
            outcome.attempt = self.grant.job.attempts.saturating_add(1);
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
