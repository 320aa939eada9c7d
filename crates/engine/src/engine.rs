//! The engine itself: what edges and embedders hold.
//!
//! Over 500 lines, being one type's public face: each method is a few lines over the parts.

use std::sync::Arc;
use std::time::Duration;

use client::TlsContext;
use schedule::Schedule;
use smtp::Address;
use store::{MessageId, Store, StoreOptions, Time, Workers};

use crate::accept::{AcceptError, Accepted, Pending};
use crate::aside::aside;
use crate::asked::durable;
use crate::clock::Clock;
use crate::config::{Config, Policy};
use crate::core::{Core, Parts};
use crate::deliver::Deliverer;
use crate::idempotency::{self, Claim, ClaimError, Fingerprint, Held, table_key};
use crate::intake::{lost, table_refusal};
use crate::lifecycle;
use crate::queue::Shard;
use crate::reload;
use crate::route::{Dns, Own, Resolver, Route, Routes, SystemDns};
use crate::submission::Submission;
use crate::views::{
    Filter, Followed, Health, MessageView, QueueLine, SiteView, Stats, Suppression,
};
use crate::world::{Desk, World};

/// The table's space for idempotency keys.
const CLAIMS: u8 = b'i';
/// No more keys are claimed while the table takes so much memory.
const CLAIMED_BYTES_MAX: u64 = 256 << 20;
const CLAIMS_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it, it is damaged, or it cannot be written.
    #[error("the data folder {path}: {reason}")]
    Data {
        /// The folder.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Mail in it is damaged; nothing was changed. [`Config::salvage`] gives up what is damaged.
    #[error("the data folder {path}: {reason}")]
    Damaged {
        /// The folder.
        path: String,
        /// What is damaged.
        reason: String,
    },
    /// A setting that cannot be used.
    #[error("{0}")]
    Config(String),
}

/// Why an engine cannot do its work any more; only a restart helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PulseError {
    /// A write or sync failed: nothing is accepted, and nothing that ends is recorded.
    #[error("the journal has failed")]
    Poisoned,
    /// Something that runs as long as the engine has ended, as by a panic.
    #[error("a part of the engine has stopped")]
    Clock,
}

/// A running engine. Cheap to clone; all clones are one engine, which stops when the last goes.
/// What it has not delivered by then, the next start takes up; [`Engine::drain`] first is kinder.
#[derive(Clone)]
pub struct Engine {
    pub(crate) core: Arc<Core>,
}

impl Engine {
    /// Opens the data folder, takes up what is unsettled, and begins to deliver. Needs a tokio
    /// runtime with timers. Returns as soon as mail can be accepted; what was unsettled comes back
    /// meanwhile.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let routes = routes(config.routes.clone())?;
        let tls = match config.tls.clone() {
            Some(tls) => tls,
            None => {
                TlsContext::new(Vec::new()).map_err(|error| OpenError::Config(error.to_string()))?
            }
        };
        let system_dns = || Arc::new(SystemDns::default()) as Arc<dyn Dns>;
        let dns = config.dns.clone().unwrap_or_else(system_dns);
        let own = Own {
            names: vec![config.host.clone()],
            listening: config.listening.clone(),
        };
        let store = open_store(&config).await?;
        let clock = Clock::start(config.world.as_deref().map(World::wall_clock));
        let shards = config.shards.max(1);
        let schedule = reload::share(&config.policy.schedule, shards);
        let shard = |number| {
            let seed = config.seed.wrapping_add(number as u64);
            Shard::new(Schedule::new(schedule.clone(), seed))
        };
        let network = config.world.as_deref().map(World::network);
        let core = Arc::new(Core::new(Parts {
            clock,
            host: config.host,
            data_dir: config.data_dir,
            policy: config.policy,
            spool: store.spool,
            failed: store.failed,
            table: store.table,
            history: store.history,
            follower: store.follower,
            shards: (0..shards).map(shard).collect(),
            resolver: Resolver::new(routes, dns, own, config.resolver),
            deliverer: Deliverer::new(tls, network, config.seed),
            world: config.world,
        }));
        core.restore_learned();
        core.restore_suspensions();
        lifecycle::start(&core, store.recovery, store.failed_recovery);
        Ok(Self { core })
    }

    /// Takes other routes and policies from now on; what is on the wire ends as it began.
    ///
    /// # Errors
    /// [`OpenError::Config`]: everything stays as it was.
    pub fn reload(&self, new_routes: Vec<Route>, policy: Policy) -> Result<(), OpenError> {
        let routes = routes(new_routes)?;
        self.core.policy.store(Arc::new(policy));
        self.core.resolver.set_routes(routes);
        self.core.set_tenants();
        self.core.configure();
        Ok(())
    }

    /// The engine's clock: time since the Unix epoch, never running backwards within a process.
    #[must_use]
    pub fn now(&self) -> Time {
        self.core.clock.now()
    }

    /// Our own name, for Received and Message-ID fields.
    #[must_use]
    pub fn host(&self) -> &smtp::Domain {
        &self.core.host
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.core.policy.load_full()
    }

    /// An id for a message that is to be accepted, to be made known before it is.
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        self.core.spool.next_id(self.now())
    }

    /// Takes a message; returns once it is durable.
    ///
    /// # Errors
    /// See [`AcceptError`]; nothing was kept then.
    pub async fn accept(&self, submission: Submission) -> Result<Accepted, AcceptError> {
        self.begin_accept(submission)?.await
    }

    /// Puts a message into the commit group being filled. Several that begin together share one
    /// sync; each is accepted only when its [`Pending`] says so.
    ///
    /// # Errors
    /// What is known at once; see [`AcceptError`].
    pub fn begin_accept(&self, submission: Submission) -> Result<Pending, AcceptError> {
        self.core.begin_accept(submission).map(Pending)
    }

    /// Whether a route leads to this recipient for this tenant; for an edge to refuse at RCPT.
    ///
    /// # Errors
    /// [`AcceptError::NoRoute`].
    pub fn check_recipient(&self, tenant: &str, recipient: &Address) -> Result<(), AcceptError> {
        self.core.check_recipient(tenant, recipient)
    }

    /// Whether mail of this tenant would be taken now; for an edge to refuse early, at MAIL.
    ///
    /// # Errors
    /// Pressure, rate, quota, suspension.
    pub fn check_tenant(&self, tenant: &str) -> Result<(), AcceptError> {
        self.core.gate.check()?;
        self.core.check_tenant(tenant)
    }

    /// Claims an idempotency key for a request that makes `messages` messages; the request then accepts
    /// each that was not accepted before under its id, and drops the claim.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub async fn claim(
        &self,
        tenant: &str,
        key: &str,
        fingerprint: Fingerprint,
        messages: usize,
    ) -> Result<Claim, ClaimError> {
        let table_key = table_key(tenant, key)?;
        let held = self
            .core
            .claims
            .hold(&table_key)
            .ok_or(ClaimError::InFlight)?;
        let known = self.core.table.get(CLAIMS, table_key.as_bytes());
        if let Some((seen, ids)) = known.as_deref().and_then(idempotency::decode) {
            return self
                .repeated(seen == fingerprint, ids, messages, held)
                .await;
        }
        if self.core.table.live_bytes() > CLAIMED_BYTES_MAX {
            return Err(ClaimError::Accept(AcceptError::Busy {
                what: "idempotency keys",
                retry_after: CLAIMS_RETRY_AFTER,
            }));
        }
        let ids: Vec<MessageId> = (0..messages).map(|_| self.next_id()).collect();
        let value = idempotency::encode(&fingerprint, &ids);
        let expires = self.now() + idempotency::KEPT_FOR;
        let commit = self
            .core
            .table
            .insert(CLAIMS, table_key.as_bytes(), &value, Some(expires));
        durable(commit).await?;
        Ok(Claim {
            accepted: vec![None; ids.len()],
            ids,
            is_repeated: false,
            held,
        })
    }

    /// A claim whose key was there.
    async fn repeated(
        &self,
        is_same: bool,
        ids: Vec<MessageId>,
        messages: usize,
        held: Held,
    ) -> Result<Claim, ClaimError> {
        if !is_same || ids.len() != messages {
            return Err(ClaimError::OtherRequest);
        }
        let core = Arc::clone(&self.core);
        let looked = self.core.work(move || {
            let accepted = core.accepted_before(&ids);
            (ids, accepted)
        });
        let (ids, accepted) = looked.await.map_err(|_| AcceptError::Draining)?;
        let accepted = accepted?;
        let mut unknown = ids.iter().zip(&accepted).filter(|(_, it)| it.is_none());
        if unknown.any(|(id, _)| self.core.is_forgotten(*id)) {
            return Err(ClaimError::Forgotten);
        }
        Ok(Claim {
            ids,
            accepted,
            is_repeated: true,
            held,
        })
    }

    /// Accepts a message under an idempotency key: the same again makes no second message. A key
    /// under which nothing was accepted may be used anew.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub async fn accept_once(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        mut submission: Submission,
    ) -> Result<Accepted, ClaimError> {
        let tenant = Arc::clone(&submission.tenant);
        let claim = self.claim(&tenant, key, fingerprint, 1).await?;
        if let Some(Some(accepted)) = claim.accepted.first() {
            return Ok(accepted.clone());
        }
        submission.options.id = claim.ids.first().copied();
        let accepted = self.accept(submission).await;
        if let Err(error) = &accepted {
            self.release(&claim, error);
        }
        Ok(accepted?)
    }

    /// Gives a claim back under which nothing was accepted: else whoever is refused again and
    /// again, under other keys, would fill the memory. The key may be used anew.
    pub fn release(&self, claim: &Claim, why: &AcceptError) {
        // What a journal that failed has may be there after a restart.
        if !claim.is_repeated && *why != AcceptError::Poisoned {
            let key = claim.held.key().as_bytes();
            if let Err(error) = self.core.table.remove(CLAIMS, key) {
                tracing::warn!(%error, "an idempotency key is kept for nothing");
            }
        }
    }

    /// A message and each recipient's state, from the spool while it lives, then from history.
    /// May read the disk.
    #[must_use]
    pub fn status(&self, id: MessageId) -> Option<MessageView> {
        self.core.status(id)
    }

    /// Every event from now on. A follower that falls far behind loses the oldest and is told so.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower {
            receiver: self.core.follow(),
        }
    }

    /// Whether [`events`](Self::events) has all that [`follow`](Self::follow) has told of: an event is
    /// told of when it is recorded, and read once it is durable.
    #[must_use]
    pub fn has_read_up(&self) -> bool {
        self.core.spool.is_followed()
    }

    /// Waiting mail by site and tenant.
    #[must_use]
    pub fn queue(&self, filter: &Filter) -> Vec<QueueLine> {
        self.core.queue(filter)
    }

    /// Every site that has mail or is remembered.
    #[must_use]
    pub fn sites(&self) -> Vec<SiteView> {
        self.core.sites()
    }

    /// One site.
    #[must_use]
    pub fn site(&self, name: &str) -> Option<SiteView> {
        self.sites().into_iter().find(|site| &*site.name == name)
    }

    /// Stops deliveries to a site, or of a tenant, or both as the filter says, until `resume`.
    /// Survives a restart. Only `site` and `tenant` of the filter count.
    ///
    /// # Errors
    /// [`AcceptError::Poisoned`] where it could not be made durable.
    pub async fn suspend(&self, filter: &Filter) -> Result<(), AcceptError> {
        self.core.set_suspended(filter, true).await
    }

    /// Takes a suspension back.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn resume(&self, filter: &Filter) -> Result<(), AcceptError> {
        self.core.set_suspended(filter, false).await
    }

    /// Makes what waits due now; held recipients too. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn retry(&self, filter: &Filter) -> Result<u64, AcceptError> {
        self.core.retry_now(filter).await
    }

    /// Takes back what is not on the wire and not settled. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn cancel(&self, filter: &Filter) -> Result<u64, AcceptError> {
        // It may have to look at all that waits.
        let canceled = aside(|| self.core.cancel(filter));
        if canceled > 0 {
            self.flush().await?;
        }
        Ok(canceled)
    }

    /// Moves a scheduled message to another time. `None`: no such message, or it is past that.
    ///
    /// # Errors
    /// As for `suspend`; `TooFarAhead`.
    pub async fn reschedule(
        &self,
        id: MessageId,
        send_at: Time,
    ) -> Result<Option<()>, AcceptError> {
        self.core.reschedule(id, send_at).await
    }

    /// The suppression list of a tenant: addresses that get no mail of it, in order.
    #[must_use]
    pub fn suppressions(&self, tenant: &str) -> Vec<Suppression> {
        self.core.suppressions.list(tenant)
    }

    /// Puts an address on a tenant's suppression list. Durable when it returns.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn suppress(
        &self,
        tenant: &str,
        address: &Address,
        reason: &str,
    ) -> Result<(), AcceptError> {
        let (table, now) = (&self.core.table, self.now());
        let added = self
            .core
            .suppressions
            .add(table, tenant, address.as_str(), reason, now);
        durable(added).await
    }

    /// Takes an address off; says whether it was there.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn unsuppress(&self, tenant: &str, address: &Address) -> Result<bool, AcceptError> {
        let removed = self
            .core
            .suppressions
            .remove(&self.core.table, tenant, address.as_str());
        match removed.map_err(|error| table_refusal(&error))? {
            Some(commit) => commit.await.map_err(lost).map(|()| true),
            None => Ok(false),
        }
    }

    /// Returns once the engine has shown that it lives: each schedule answered, and what was recorded
    /// before is durable. For a watchdog: while it cannot do its work, this fails or does not return.
    ///
    /// # Errors
    /// See [`PulseError`].
    pub async fn pulse(&self) -> Result<(), PulseError> {
        self.core.pulse().await
    }

    /// Returns when the journal has failed, and why: nothing is accepted or begun from then on, what is on the
    /// wire ends, and only a restart helps. Whoever owns the process should drain the engine and end.
    ///
    /// # Cancel safety
    /// Can be dropped and asked anew.
    pub async fn failed(&self) -> String {
        loop {
            let failed = self.core.has_failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(why) = self.core.failure() {
                return why.to_owned();
            }
            failed.await;
        }
    }

    /// How the engine is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// Counters and levels.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Waits until every event recorded so far is durable.
    ///
    /// # Errors
    /// [`AcceptError::Poisoned`], [`AcceptError::Full`].
    pub async fn flush(&self) -> Result<(), AcceptError> {
        self.core.spool.journal().flush().await.map_err(lost)
    }

    /// Accepts nothing more, lets what is on the wire end within `grace`, writes what was learned,
    /// and closes the journal. What waits is kept for the next start.
    pub async fn drain(&self, grace: Duration) {
        self.core.drain(grace).await;
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

fn routes(routes: Vec<Route>) -> Result<Routes, OpenError> {
    Routes::new(routes).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        OpenError::Config(errors.join("; "))
    })
}

async fn open_store(config: &Config) -> Result<Store, OpenError> {
    let mut options = StoreOptions {
        cache_bytes_max: config.cache_bytes_max,
        history: config.history.clone(),
        seed: config.seed,
        salvage: config.salvage,
        ..StoreOptions::default()
    };
    let (data_dir, world) = (config.data_dir.clone(), config.world.clone());
    let opened = Desk::of(config.world.as_ref()).run(move || match world {
        None => Store::open(&data_dir, &options, Clock::start(None).now()),
        Some(world) => {
            options.workers = Workers::Caller;
            world.set_up(&mut options);
            let now = world.wall_clock();
            Store::open_on(&move |name| world.folder(name), &options, now)
        }
    });
    let opened = opened.await;
    let path = config.data_dir.display().to_string();
    match opened {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error @ store::store::OpenError::Damaged(..))) => Err(OpenError::Damaged {
            path,
            reason: with_sources(&error),
        }),
        Ok(Err(error)) => Err(OpenError::Data {
            path,
            reason: with_sources(&error),
        }),
        Err(error) => Err(OpenError::Data {
            path,
            reason: error.to_string(),
        }),
    }
}

/// An error and all that caused it, as `error: cause: cause`.
fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    // Some say their source already.
    words.dedup_by(|cause, error| error.ends_with(cause.as_str()));
    words.join(": ")
}

/// A stream of events.
#[derive(Debug)]
pub struct Follower {
    receiver: tokio::sync::broadcast::Receiver<Followed>,
}

/// The follower was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed(pub u64);

impl Follower {
    /// The next event; `None` when the engine has stopped.
    ///
    /// # Errors
    /// [`Missed`]: so many events were lost to this follower; it goes on with the next.
    pub async fn next(&mut self) -> Result<Option<Followed>, Missed> {
        use tokio::sync::broadcast::error::RecvError;
        match self.receiver.recv().await {
            Ok(followed) => Ok(Some(followed)),
            Err(RecvError::Closed) => Ok(None),
            Err(RecvError::Lagged(events)) => Err(Missed(events)),
        }
    }
}
