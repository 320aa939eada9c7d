//! What all parts of a running engine share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use schedule::{Admission, Refusal, TenantId};
use smtp::Domain;
use store::spool::Follower;
use store::{Event, History, Slot, Spool, Status, Table};
use tokio::sync::{Notify, broadcast};
use tokio::task::{JoinHandle, JoinSet};

use crate::accept::AcceptError;
use crate::batches::Batches;
use crate::clock::Clock;
use crate::config::Policy;
use crate::counters::Counters;
use crate::delays::Round;
use crate::deliver::Deliverer;
use crate::gate::Gate;
use crate::held::HeldUntil;
use crate::idempotency::InFlight;
use crate::queue::Shard;
use crate::route::Resolver;
use crate::suppressions::Suppressions;
use crate::views::Followed;
use crate::world::{Desk, World};

/// Events that a follower may be behind.
const FOLLOWED_MAX: usize = 16_384;

pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) host: Domain,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) policy: ArcSwap<Policy>,
    pub(crate) spool: Spool,
    /// Mail that failed, kept to be tried again.
    pub(crate) failed: Spool,
    pub(crate) table: Table,
    pub(crate) history: History,
    pub(crate) shards: Box<[Arc<Shard>]>,
    pub(crate) batches: Batches,
    pub(crate) resolver: Resolver,
    pub(crate) deliverer: Deliverer,
    pub(crate) suppressions: Suppressions,
    pub(crate) claims: InFlight,
    pub(crate) gate: Gate,
    pub(crate) counters: Counters,
    pub(crate) held_until: HeldUntil,
    /// Up to where what waits was looked through for long delays.
    pub(crate) delays: tokio::sync::Mutex<Round>,
    /// An attempt has ended; who drains waits for it.
    pub(crate) attempt_ended: Notify,
    /// The journal was seen to have failed.
    pub(crate) has_failed: Notify,
    tenants: Mutex<Tenants>,
    followers: broadcast::Sender<Followed>,
    followed: AtomicU64,
    /// Held while failed mail is taken up again: once for all who want it.
    pub(crate) taking_up: tokio::sync::Mutex<()>,
    /// Events that the journal had no room for.
    unrecorded: Mutex<Vec<(Slot, Event)>>,
    /// Clocks and housekeeping; they end with the core, or when it is drained.
    beside: Mutex<JoinSet<()>>,
    /// Feeds history.
    _follower: Option<Follower>,
    /// `None`: this machine.
    pub(crate) world: Option<Arc<dyn World>>,
    /// Places of the journal that could not be read.
    unreadable: AtomicU64,
}

/// The front door's counters, and by which number each tenant goes there.
#[derive(Debug, Default)]
struct Tenants {
    ids: FxHashMap<Arc<str>, TenantId>,
    admission: Admission,
}

/// What an engine is made of when it is opened.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) host: Domain,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) policy: Policy,
    pub(crate) spool: Spool,
    pub(crate) failed: Spool,
    pub(crate) table: Table,
    pub(crate) history: History,
    pub(crate) follower: Option<Follower>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) resolver: Resolver,
    pub(crate) deliverer: Deliverer,
    pub(crate) world: Option<Arc<dyn World>>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            suppressions: Suppressions::load(&parts.table),
            clock: parts.clock,
            host: parts.host,
            data_dir: parts.data_dir,
            policy: ArcSwap::from_pointee(parts.policy),
            spool: parts.spool,
            failed: parts.failed,
            table: parts.table,
            history: parts.history,
            _follower: parts.follower,
            world: parts.world,
            unreadable: AtomicU64::new(0),
            shards: parts.shards.into_iter().map(Arc::new).collect(),
            batches: Batches::default(),
            resolver: parts.resolver,
            deliverer: parts.deliverer,
            claims: InFlight::default(),
            gate: Gate::default(),
            counters: Counters::default(),
            held_until: HeldUntil::default(),
            delays: tokio::sync::Mutex::default(),
            attempt_ended: Notify::new(),
            has_failed: Notify::new(),
            tenants: Mutex::default(),
            followers: broadcast::channel(FOLLOWED_MAX).0,
            followed: AtomicU64::new(0),
            taking_up: tokio::sync::Mutex::default(),
            unrecorded: Mutex::default(),
            beside: Mutex::default(),
        }
    }

    /// Has work done that may block.
    pub(crate) fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        Desk::of(self.world.as_ref()).run(work)
    }

    /// Lets a message for so many recipients through a tenant's front door, and counts it.
    pub(crate) fn admit_tenant(&self, tenant: &str, recipients: usize) -> Result<(), AcceptError> {
        let now = self.clock.now();
        let mut tenants = self.tenants();
        let id = self.tenant_id(&mut tenants, tenant);
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        let checked = tenants.admission.check(id, recipients, now);
        checked.map_err(|refusal| match refusal {
            Refusal::Rate { until } => AcceptError::Rate {
                retry_after: until.saturating_sub(now),
            },
            Refusal::Daily { until } => AcceptError::Quota {
                retry_after: until.saturating_sub(now),
            },
            Refusal::Stock => AcceptError::Quota {
                retry_after: std::time::Duration::from_secs(60),
            },
            _ => AcceptError::TenantSuspended,
        })
    }

    /// Whether the operator lets this tenant hand in mail; counts nothing.
    pub(crate) fn check_tenant(&self, tenant: &str) -> Result<(), AcceptError> {
        let policy = self.policy.load();
        if policy.tenant(tenant).quota.is_suspended {
            return Err(AcceptError::TenantSuspended);
        }
        Ok(())
    }

    /// Recipients of a tenant wait that did not come through its front door just now: they were let
    /// in before this start, or the mail is ours.
    pub(crate) fn enter_stock(&self, tenant: &str, recipients: usize) {
        let mut tenants = self.tenants();
        let id = self.tenant_id(&mut tenants, tenant);
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        tenants.admission.restore(id, recipients);
    }

    /// Recipients of a tenant wait no more.
    pub(crate) fn leave_stock(&self, tenant: &str, recipients: usize) {
        let mut tenants = self.tenants();
        let id = self.tenant_id(&mut tenants, tenant);
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        tenants.admission.settled(id, recipients);
    }

    /// Takes what a new policy says of tenants.
    pub(crate) fn set_tenants(&self) {
        let (mut tenants, now) = (self.tenants(), self.clock.now());
        let policy = self.policy.load();
        let Tenants { ids, admission } = &mut *tenants;
        for (name, id) in ids {
            admission.set(*id, policy.tenant(name).quota.clone(), now);
        }
    }

    /// Whether the configuration or the state has anything of this tenant, or mail of it was handed in
    /// since the start or waited then.
    pub(crate) fn knows_tenant(&self, name: &str) -> bool {
        self.policy.load().tenants.contains_key(name)
            || self.tenants().ids.contains_key(name)
            || self.is_tenant_suspended(name)
            || !self.suppressions.list(name).is_empty()
    }

    fn tenant_id(&self, tenants: &mut Tenants, name: &str) -> TenantId {
        if let Some(id) = tenants.ids.get(name) {
            return *id;
        }
        let id = TenantId(tenants.ids.len() as u32);
        tenants.ids.insert(name.into(), id);
        let quota = self.policy.load().tenant(name).quota.clone();
        tenants.admission.set(id, quota, self.clock.now());
        id
    }

    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the journal of the mail has failed, if it has: then nothing is begun any more, for what comes
    /// of it could not be recorded.
    pub(crate) fn failure(&self) -> Option<&str> {
        let why = self.spool.journal().failure()?;
        if self.gate.poison() {
            tracing::error!(
                why,
                "the journal has failed: nothing is accepted or begun until a restart"
            );
            self.has_failed.notify_waiters();
        }
        Some(why)
    }

    /// So many places of the journal could not be read.
    pub(crate) fn note_unreadable(&self, places: u64) {
        self.unreadable.fetch_add(places, Ordering::Relaxed);
    }

    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub(crate) fn beside(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unrecorded(&self) -> MutexGuard<'_, Vec<(Slot, Event)>> {
        let unrecorded = self.unrecorded.lock();
        unrecorded.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether telling of events is worth the trouble.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.receiver_count() > 0
    }

    pub(crate) fn follow(&self) -> broadcast::Receiver<Followed> {
        self.followers.subscribe()
    }

    /// Tells who follows.
    pub(crate) fn announce(&self, event: Event) {
        if self.is_followed() {
            let sequence = self.followed.fetch_add(1, Ordering::Relaxed) + 1;
            let event = Arc::new(event);
            // Nobody may be left by now.
            let _ = self.followers.send(Followed { sequence, event });
        }
    }

    /// Counts a recipient's new state, and gives its place in the tenant's stock back at its end.
    pub(crate) fn count(&self, before: Status, event: &Event) {
        let counters = &self.counters;
        let counter = match event.status {
            Status::Accepted => return,
            Status::Deferred => &counters.deferred,
            Status::Held => {
                counters.held.add(u64::from(before != Status::Held));
                return;
            }
            Status::Delivered => &counters.delivered,
            Status::Bounced => &counters.bounced,
            Status::Expired => &counters.expired,
            Status::Suppressed => &counters.suppressed,
            Status::Canceled => &counters.canceled,
        };
        counter.add(1);
        counters.held.sub(u64::from(before == Status::Held));
        if event.status.is_terminal() {
            self.leave_stock(&event.tenant, 1);
        }
    }
}
