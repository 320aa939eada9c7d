//! From a grant to the wire: read, resolve, deliver. What becomes of it is in [`fate`](crate::fate).
//!
//! Whatever happens to the task of an attempt, its job comes back to the schedule: [`Grant`] sees to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use client::{Cause, Failure, Kind, Recall, Scope, Stage};
use flow::retry::ErrorClass;
use schedule::{Job, Retry};
use smtp::Content;
use store::{Head, Outcome, Slot};

use crate::batches::Key;
use crate::core::Core;
use crate::deliver::{Attempt, Delivering, Delivery, Outgoing};
use crate::delivery::{Load, Unreadable};
use crate::dispose;
use crate::queue::domain;
use crate::route::{ResolveError, Resolved};

/// A job that was granted and is not settled yet.
pub(crate) struct Grant {
    pub(crate) core: Arc<Core>,
    pub(crate) shard: usize,
    pub(crate) job: Job,
    pub(crate) is_settled: bool,
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

/// A grant whose message was read.
pub(crate) struct Loaded {
    pub(crate) grant: Grant,
    pub(crate) load: Load,
}

/// What an attempt is doing. Not an `async fn`, since as many wait for their replies as there are in
/// flight: there is room for what all come to, and what few come to is boxed.
#[derive(Default)]
pub(crate) enum Going {
    Begins(Grant),
    Sends(Loaded, Delivering<Original>),
    GoesOn(Pin<Box<dyn Future<Output = Going> + Send>>),
    #[default]
    Ended,
}

/// Where the content of what is being sent can be read once more.
#[derive(Clone)]
pub(crate) struct Original {
    core: Arc<Core>,
    slot: Slot,
    message: Arc<Head>,
}

impl Recall for Original {
    async fn recall(&self) -> Result<Content, Failure> {
        let content = self.core.content(self.slot, self.message.id).await;
        content.ok_or_else(|| Failure {
            stage: Stage::Queue,
            scope: Scope::Message,
            kind: Kind::Transient,
            endpoint: None,
            cause: Cause::Local("it cannot be read from the spool".to_owned()),
        })
    }
}

impl Core {
    /// Starts a granted job.
    pub(crate) fn launch(self: &Arc<Self>, shard: usize, job: Job) {
        self.counters.in_flight.add(1);
        let mut going = Going::Begins(Grant {
            core: Arc::clone(self),
            shard,
            job,
            is_settled: false,
        });
        tokio::spawn(async move {
            // Those first who wait for an answer of ours: what is granted now goes out together then.
            tokio::task::yield_now().await;
            (&mut going).await;
        });
    }
}

impl Future for Going {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let delivery = match &mut *self {
                Self::GoesOn(rest) => {
                    *self = ready!(rest.as_mut().poll(context));
                    continue;
                }
                Self::Sends(_, delivering) => Some(ready!(Pin::new(delivering).poll(context))),
                Self::Begins(_) | Self::Ended => None,
            };
            *self = match (std::mem::take(&mut *self), delivery) {
                (Self::Begins(grant), _) => grant.begin(),
                (Self::Sends(loaded, delivering), Some(delivery)) => {
                    loaded.end(delivery, Some(delivering.resolved()))
                }
                _ => return Poll::Ready(()),
            };
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

    pub(crate) fn key(&self) -> Key {
        Key(self.job.key)
    }

    fn begin(self) -> Going {
        match self.core.spool.read_at_once(self.key().slot()) {
            Some(message) => {
                let loaded = self.core.loaded(self.key(), message);
                self.with(loaded)
            }
            None => Going::GoesOn(Box::pin(self.read())),
        }
    }

    /// Of a message that is not in memory.
    async fn read(self) -> Going {
        match self.core.load(self.key()).await {
            Ok(loaded) => self.with(loaded),
            // The grant that is dropped sees to it that this is tried again.
            Err(Unreadable) => Going::Ended,
        }
    }

    /// * `loaded`: `None` where all that its job stood for is settled.
    fn with(self, loaded: Option<(Load, Content)>) -> Going {
        match loaded {
            Some((load, content)) => Loaded { grant: self, load }.begin(content),
            None => {
                self.core.batches.forget(self.key());
                self.withdraw()
            }
        }
    }

    /// It was not tried after all, and nothing is left to try.
    fn withdraw(mut self) -> Going {
        let job = self.job;
        self.is_settled = true;
        self.core.turn(self.shard, |schedule, now| {
            schedule.settle(now, &job, schedule::Feedback::Withdrawn);
        });
        Going::Ended
    }

    /// Its attempt is the question where it leads.
    fn is_unresolved(&self) -> bool {
        self.job.site == self.core.shards[self.shard].unresolved
    }
}

impl Loaded {
    fn domain(&self) -> &str {
        domain(&self.load.message, self.load.recipients[0])
    }

    fn begin(self, content: Content) -> Going {
        let resolver = &self.grant.core.resolver;
        match resolver.known(self.domain(), &self.load.message.tenant) {
            Some(Ok(resolved)) => self.send(content, &resolved),
            _ => Going::GoesOn(Box::pin(self.resolve(content))),
        }
    }

    /// Where it is not known yet where it leads, or that it leads nowhere.
    async fn resolve(self, content: Content) -> Going {
        let (resolver, tenant) = (&self.grant.core.resolver, &self.load.message.tenant);
        let resolved = match resolver.known(self.domain(), tenant) {
            Some(answer) => answer,
            None => resolver.resolve(self.domain(), tenant).await,
        };
        match resolved {
            Ok(resolved) => self.send(content, &resolved),
            Err(_) if self.grant.core.failure().is_some() => self.grant.withdraw(),
            Err(error) => {
                let delivery = Delivery {
                    attempts: vec![unresolved(&error); self.load.recipients.len()],
                    feedback: schedule::Feedback::Withdrawn,
                };
                self.end(delivery, None)
            }
        }
    }

    /// Hands it to the pool, unless something else is to be done with it.
    fn send(self, content: Content, resolved: &Arc<Resolved>) -> Going {
        if self.grant.core.failure().is_some() {
            return self.grant.withdraw();
        }
        if self.grant.is_unresolved() {
            return self.place();
        }
        match self.deliver(content, resolved) {
            Some(delivering) => Going::Sends(self, delivering),
            None => self.grant.withdraw(),
        }
    }

    /// That is known now: it waits at its site.
    fn place(self) -> Going {
        let Self { grant, load } = self;
        let (core, job) = (Arc::clone(&grant.core), grant.job);
        core.batches.forget(grant.key());
        let ended = grant.withdraw();
        let recipients = load.with_domains(&load.recipients);
        core.enqueue(&load.waiting(), &recipients, job.due_at, job.attempts);
        ended
    }

    /// `None` where none of its recipients is left.
    fn deliver(&self, content: Content, resolved: &Arc<Resolved>) -> Option<Delivering<Original>> {
        let (core, load) = (&self.grant.core, &self.load);
        let message = &load.message;
        let envelope = if load.recipients.len() == message.envelope.recipients().len() {
            Arc::clone(&message.envelope)
        } else {
            let indexes = load.recipients.iter().map(|&index| index as usize);
            let narrowed = message.envelope.narrowed(&indexes.collect::<Vec<_>>())?;
            Arc::new(narrowed)
        };
        let source = resolved.route.source(message.id.bits());
        let expires_at = self.grant.job.expires_at;
        let outgoing = Outgoing {
            envelope,
            content,
            wait_max: expires_at.saturating_sub(core.clock.now()),
        };
        let original = Original {
            core: Arc::clone(core),
            slot: load.slot,
            message: Arc::clone(message),
        };
        let deliverer = &core.deliverer;
        Some(deliverer.deliver(resolved, source, outgoing, original))
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
