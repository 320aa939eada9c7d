//! The schedule as a whole: what is in it, and what is told to it. What it answers is in `poll`.
//!
//! Over 500 lines, being one type's public face: each method is a few lines over the parts.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::sync::Arc;

use flow::Time;
use flow::rate::Gcra;
use flow::retry::{Decision, ErrorClass};
use flow::rng::Rng;

use crate::flows::{FlowKey, Flows};
use crate::job::{Feedback, Handle, Job, PRIORITIES, PutBack, Retry, SiteId, TenantId};
use crate::learned::Learned;
use crate::policy::{Config, SitePolicy, TenantPolicy};
use crate::poll::Rings;
use crate::site::{Site, UNLINKED, next_rate};
use crate::slab::{Kind, NIL, Node, Slab, nanos};
use crate::tenant::{Held, Tenant};
use crate::wheel::Wheel;

/// Everything that waits for one engine, or for one shard of it. See the crate's documentation.
#[derive(Debug)]
pub struct Schedule {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    /// The latest `now` seen.
    pub(crate) now: Time,
    pub(crate) slab: Slab,
    pub(crate) wheel: Wheel,
    pub(crate) flows: Flows,
    pub(crate) sites: Vec<Site>,
    pub(crate) free_sites: Vec<u32>,
    pub(crate) site_names: HashMap<Arc<str>, u32, Seeded>,
    /// Policies in use, each once.
    pub(crate) policies: Vec<SitePolicy>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) tenant_names: HashMap<Arc<str>, u32, Seeded>,
    /// What was learned of sites that are not in memory.
    pub(crate) learned: HashMap<Arc<str>, Learned, Seeded>,
    /// Sites that are suspended, whether they are in memory or not.
    suspended: HashSet<Arc<str>, Seeded>,
    pub(crate) rings: Rings,
    pub(crate) rate: Option<Gcra>,
    pub(crate) inflight: u32,
    /// Sum of the weights of tenants that have something ready or in flight.
    pub(crate) busy_weight: u64,
    pub(crate) ready: usize,
    pub(crate) waiting: usize,
    /// Share of its windows that this machine can bear.
    pub(crate) pressure: f64,
    /// Places that were looked at to find the jobs somebody meant.
    pub(crate) searched: u64,
}

/// Hashes names under a seed of our own: names are chosen by strangers.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

impl Schedule {
    /// An empty schedule.
    ///
    /// * `seed`: of all that is random in it. Let strangers not know it.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let hasher = Seeded(rng.next_u64());
        Self {
            rate: config.rate.map(Gcra::new),
            config,
            rng,
            now: Time::ZERO,
            slab: Slab::default(),
            wheel: Wheel::new(),
            flows: Flows::default(),
            sites: Vec::new(),
            free_sites: Vec::new(),
            site_names: HashMap::with_hasher(hasher.clone()),
            policies: Vec::new(),
            tenants: Vec::new(),
            tenant_names: HashMap::with_hasher(hasher.clone()),
            learned: HashMap::with_hasher(hasher.clone()),
            suspended: HashSet::with_hasher(hasher),
            rings: Rings::default(),
            inflight: 0,
            busy_weight: 0,
            ready: 0,
            waiting: 0,
            pressure: 1.0,
            searched: 0,
        }
    }

    /// The site of that name, made if it is new; gets this policy.
    ///
    /// The id holds while the site has jobs, and else until the next [`Schedule::forget_idle`]: ask
    /// again before each insert unless you know that none came between.
    pub fn site(&mut self, name: &str, policy: &SitePolicy) -> SiteId {
        let number = self.policy_number(policy);
        let touched_s = self.now.as_secs() as u32;
        if let Some(&index) = self.site_names.get(name) {
            let site = &mut self.sites[index as usize];
            site.touched_s = touched_s;
            if site.policy != number {
                site.set_policy(number, policy, self.now);
                // It may allow more.
                self.activate(index);
            }
            return SiteId(index);
        }
        let name: Arc<str> = name.into();
        let mut site = Site::new(Arc::clone(&name), number, policy);
        site.touched_s = touched_s;
        site.is_suspended = self.suspended.contains(&name);
        // So that not all sites let their bulk go at once.
        site.turns = self.rng.up_to(u64::from(self.config.lowest_every)) as u8;
        if let Some(learned) = self.learned.remove(&name) {
            learned.apply(&mut site, policy, self.now);
        }
        let index = match self.free_sites.pop() {
            Some(index) => {
                self.sites[index as usize] = site;
                index
            }
            None => {
                self.sites.push(site);
                self.sites.len() as u32 - 1
            }
        };
        self.site_names.insert(name, index);
        SiteId(index)
    }

    /// The site of that name, if it is in memory.
    #[must_use]
    pub fn find_site(&self, name: &str) -> Option<SiteId> {
        self.site_names.get(name).copied().map(SiteId)
    }

    /// The tenant of that name, made if it is new; gets this policy.
    pub fn tenant(&mut self, name: &str, policy: &TenantPolicy) -> TenantId {
        if let Some(&index) = self.tenant_names.get(name) {
            self.with_tenant(index, |tenant, now| tenant.set_policy(policy.clone(), now));
            self.wake_tenant(index);
            return TenantId(index);
        }
        let name: Arc<str> = name.into();
        self.tenants
            .push(Tenant::new(Arc::clone(&name), policy.clone()));
        let index = self.tenants.len() as u32 - 1;
        self.tenant_names.insert(name, index);
        TenantId(index)
    }

    /// Takes other settings; what is in flight, and what left, counts against them.
    pub fn configure(&mut self, config: Config) {
        self.rate = next_rate(self.rate.take(), config.rate, 1, self.now);
        self.config = config;
    }

    /// Takes a job in: into the retry wheel until it is due, or at once into its site's queue.
    ///
    /// # Panics
    /// If its site or tenant is not one of this schedule.
    pub fn insert(&mut self, mut job: Job, now: Time) -> Handle {
        self.clock(now);
        job.refusals = 0;
        assert!(
            (job.tenant.0 as usize) < self.tenants.len(),
            "unknown tenant"
        );
        assert!(!self.sites[job.site.0 as usize].is_free(), "unknown site");
        let index = self.slab.insert(Node::of_job(&job, Kind::Waiting));
        self.place(index);
        Handle(index)
    }

    /// Takes a granted job back to the head of its site's ready jobs, before all of its priority there but those put back that
    /// were due earlier. Costs no attempt. Settle it first.
    pub fn put_back(&mut self, mut job: Job, now: Time) -> PutBack {
        self.clock(now);
        if job.refusals >= self.config.put_backs_max {
            return PutBack::Spent;
        }
        job.refusals += 1;
        let index = self.slab.insert(Node::of_job(&job, Kind::Ready));
        let flow = self.enqueue(index);
        let queue = &mut self.sites[job.site.0 as usize].queues[usize::from(job.priority)];
        self.flows.put_back(&mut self.slab, queue, flow, index);
        self.activate(job.site.0);
        PutBack::Kept(Handle(index))
    }

    /// Ends a grant: its places are free, and its site's limits move by what was seen. `job` as it was granted.
    pub fn settle(&mut self, now: Time, job: &Job, feedback: Feedback) {
        self.clock(now);
        self.inflight = self.inflight.saturating_sub(1);
        let site = &mut self.sites[job.site.0 as usize];
        let policy = &self.policies[site.policy as usize];
        site.settle(self.now, job, feedback, policy, &mut self.rng);
        site.touched_s = self.now.as_secs() as u32;
        self.activate(job.site.0);
        self.with_tenant(job.tenant.0, |tenant, _| {
            tenant.inflight = tenant.inflight.saturating_sub(1);
        });
        self.wake_tenant(job.tenant.0);
    }

    /// When to try again after an attempt that failed with `class`; `job.attempts` counts it already.
    ///
    /// A site that has used up its budget of retries is not given up, but waited for twice as long. What answers for a
    /// single recipient (greylisting, a full mailbox) is outside that budget. A delay that would
    /// end past the job's `expires_at` is shortened for one last try just before.
    pub fn retry_at(&mut self, job: &Job, class: ErrorClass, now: Time) -> Retry {
        self.clock(now);
        let attempts = u32::from(job.attempts.max(1));
        let mut delay = match self.config.retry.decide(class, attempts, &mut self.rng) {
            Decision::GiveUp(reason) => return Retry::GiveUp(reason),
            Decision::RetryAfter(delay) => delay,
        };
        let is_personal = matches!(class, ErrorClass::Greylisted | ErrorClass::MailboxFull);
        let site = &mut self.sites[job.site.0 as usize];
        if !is_personal && !site.withdraw_retry(self.now, &self.config.budget) {
            delay += self.rng.duration_up_to(delay).max(delay / 2);
        }
        let left = job.expires_at.saturating_sub(self.now);
        if delay < left {
            return Retry::At(self.now + delay);
        }
        let last = left - (left / 10).min(Time::from_secs(60));
        match last > delay / 4 && !left.is_zero() {
            true => Retry::At(self.now + last),
            false => Retry::Expired,
        }
    }

    /// Grants nothing more for a site until it is resumed, also if it has yet to come. Its jobs
    /// still expire.
    pub fn suspend_site(&mut self, name: &str) {
        self.suspended.insert(name.into());
        if let Some(SiteId(index)) = self.find_site(name) {
            self.sites[index as usize].is_suspended = true;
            self.deactivate(index);
        }
    }

    /// Ends [`Schedule::suspend_site`].
    pub fn resume_site(&mut self, name: &str) {
        self.suspended.remove(name);
        if let Some(SiteId(index)) = self.find_site(name) {
            self.sites[index as usize].is_suspended = false;
            self.activate(index);
        }
    }

    /// Grants nothing more of a tenant until it is resumed. Its jobs still expire.
    pub fn suspend_tenant(&mut self, tenant: TenantId) {
        self.tenants[tenant.0 as usize].is_suspended = true;
    }

    /// Ends [`Schedule::suspend_tenant`].
    pub fn resume_tenant(&mut self, tenant: TenantId) {
        self.tenants[tenant.0 as usize].is_suspended = false;
        self.wake_tenant(tenant.0);
    }

    /// Says how much of its windows this machine can bear: 1 all, 0 one message at a time in all.
    pub fn pressure(&mut self, factor: f64) {
        let before = self.pressure;
        self.pressure = if factor.is_nan() {
            1.0
        } else {
            factor.clamp(0.0, 1.0)
        };
        // What was held back by less may go on.
        if self.pressure > before {
            for index in 0..self.sites.len() as u32 {
                self.activate(index);
            }
        }
    }

    /// A job that waits, found by where it stands; `None` if that key's job does not stand there.
    #[must_use]
    pub fn get(&self, handle: Handle, key: u64) -> Option<Job> {
        let is_known = (handle.0 as usize) < self.slab.len();
        let job = is_known.then(|| self.waiting_job(handle.0)).flatten();
        job.filter(|job| job.key == key)
    }

    /// Takes one job out, found as by [`Schedule::get`].
    pub fn remove(&mut self, handle: Handle, key: u64) -> Option<Job> {
        let job = self.get(handle, key)?;
        self.take_out(handle.0);
        Some(job)
    }

    /// Gives one job another time, found as by [`Schedule::get`].
    ///
    /// * returns: whether it was there.
    pub fn reschedule(&mut self, handle: Handle, key: u64, due_at: Time, now: Time) -> bool {
        self.clock(now);
        let is_there = self.get(handle, key).is_some();
        if is_there {
            self.put_at(handle.0, due_at);
        }
        is_there
    }

    /// Gives jobs another time. Looks at every one that waits.
    ///
    /// * `change`: the new `due_at`; `None` leaves it.
    /// * returns: how many were changed.
    pub fn reschedule_where(
        &mut self,
        now: Time,
        mut change: impl FnMut(&Job) -> Option<Time>,
    ) -> usize {
        self.clock(now);
        let mut changed = 0;
        self.searched += self.slab.len() as u64;
        for index in self.slab.indexes() {
            if let Some(due_at) = self.waiting_job(index).and_then(|job| change(&job)) {
                self.put_at(index, due_at);
                changed += 1;
            }
        }
        changed
    }

    fn put_at(&mut self, index: u32, due_at: Time) {
        self.displace(index);
        self.slab.get_mut(index).due = nanos(due_at);
        self.place(index);
    }

    /// Takes jobs out. Looks at every one that waits; what is in flight is not among them.
    ///
    /// * returns: how many.
    pub fn remove_where(&mut self, mut is_meant: impl FnMut(&Job) -> bool) -> usize {
        let mut removed = 0;
        self.searched += self.slab.len() as u64;
        for index in self.slab.indexes() {
            if self.waiting_job(index).is_some_and(|job| is_meant(&job)) {
                self.take_out(index);
                removed += 1;
            }
        }
        removed
    }

    fn take_out(&mut self, index: u32) {
        self.displace(index);
        self.slab.remove(index);
    }

    /// Shows every job that waits.
    pub fn for_each(&self, mut see: impl FnMut(&Job)) {
        for index in self.slab.indexes() {
            if let Some(job) = self.waiting_job(index) {
                see(&job);
            }
        }
    }

    /// Forgets sites that have had nothing to do for that long; what was learned of them is kept.
    ///
    /// * returns: how many. Their ids are void: they may come to mean other sites.
    pub fn forget_idle(&mut self, now: Time, idle: std::time::Duration) -> usize {
        self.clock(now);
        let before_s = self.now.saturating_sub(idle).as_secs() as u32;
        let mut forgotten = 0;
        for index in 0..self.sites.len() as u32 {
            let site = &self.sites[index as usize];
            if site.is_free() || !site.is_idle(self.now) || site.touched_s > before_s {
                continue;
            }
            self.deactivate(index);
            self.stop_timer(index);
            let site = &mut self.sites[index as usize];
            if let Some(learned) = Learned::of(site, &self.policies[site.policy as usize], self.now)
            {
                self.learned.insert(Arc::clone(&site.name), learned);
            }
            self.site_names.remove(&site.name);
            site.free();
            self.free_sites.push(index);
            forgotten += 1;
        }
        forgotten
    }

    /// A clock that runs backwards stands still.
    pub(crate) fn clock(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.slab.used() == 0 {
            self.wheel.restart(nanos(self.now));
        }
    }

    fn policy_number(&mut self, policy: &SitePolicy) -> u32 {
        let found = self.policies.iter().position(|known| known == policy);
        found.unwrap_or_else(|| {
            self.policies.push(policy.clone());
            self.policies.len() - 1
        }) as u32
    }

    /// The job at this place of the slab, if there is one.
    fn waiting_job(&self, index: u32) -> Option<Job> {
        let node = self.slab.get(index);
        matches!(node.kind, Kind::Waiting | Kind::Ready).then(|| node.job())
    }

    /// Puts a job that stands nowhere where it belongs now.
    pub(crate) fn place(&mut self, index: u32) {
        let node = self.slab.get_mut(index);
        let (site, tenant) = (node.site, node.tenant);
        let now = nanos(self.now);
        // What has expired comes out by way of the wheel, in the next poll.
        if node.due > now || node.expires <= now {
            node.kind = Kind::Waiting;
            let at = node.fires_at();
            self.wheel.insert(&mut self.slab, index, at);
            self.sites[site as usize].waiting += 1;
            self.tenants[tenant as usize].waiting += 1;
            self.waiting += 1;
            return;
        }
        node.kind = Kind::Ready;
        let flow = self.enqueue(index);
        self.flows.push_back(&mut self.slab, flow, index);
        self.activate(site);
    }

    /// Counts a job as ready, and finds or makes its flow.
    fn enqueue(&mut self, index: u32) -> u32 {
        let node = self.slab.get(index);
        let (key, expires) = (flow_key(node), node.expires);
        self.wheel.insert(&mut self.slab, index, expires);
        let site = &mut self.sites[key.site as usize];
        site.ready += 1;
        self.ready += 1;
        self.with_tenant(key.tenant, |tenant, _| tenant.ready += 1);
        let queue = &mut self.sites[key.site as usize].queues[usize::from(key.priority)];
        match self.flows.find(queue, key) {
            Some(flow) => flow,
            None => self.flows.add(queue, key),
        }
    }

    /// Takes a job out of every list.
    pub(crate) fn displace(&mut self, index: u32) {
        self.wheel.remove(&mut self.slab, index);
        let node = self.slab.get(index);
        let key = flow_key(node);
        match node.kind {
            Kind::Waiting => self.count_waiting_less(key),
            Kind::Ready => {
                let queue = &self.sites[key.site as usize].queues[usize::from(key.priority)];
                if let Some(flow) = self.flows.find(queue, key) {
                    self.unqueue(flow, index);
                }
            }
            Kind::Free | Kind::SiteTimer | Kind::TenantTimer => {}
        }
    }

    pub(crate) fn count_waiting_less(&mut self, key: FlowKey) {
        self.sites[key.site as usize].waiting -= 1;
        self.tenants[key.tenant as usize].waiting -= 1;
        self.waiting -= 1;
    }

    /// Takes a ready job out of its flow, and the flow out of being if that was its last.
    ///
    /// * returns: whether the flow is still there.
    pub(crate) fn unqueue(&mut self, flow: u32, index: u32) -> bool {
        let FlowKey {
            site,
            tenant,
            priority,
        } = self.flows.get(flow).key;
        self.with_tenant(tenant, |tenant, _| tenant.ready -= 1);
        let (site, tenant) = (
            &mut self.sites[site as usize],
            &mut self.tenants[tenant as usize],
        );
        site.ready -= 1;
        self.ready -= 1;
        if self.flows.unlink(&mut self.slab, flow, index) {
            let priority = usize::from(priority);
            let ring = match self.flows.get(flow).is_parked {
                true => &mut tenant.parked[priority],
                false => &mut site.queues[priority],
            };
            self.flows.remove(ring, flow);
            return false;
        }
        true
    }

    /// Lets a site be looked at by the next poll, if it has something that might go.
    pub(crate) fn activate(&mut self, index: u32) {
        let site = &self.sites[index as usize];
        let Some(priority) = site.best_priority() else {
            return;
        };
        if site.is_suspended || usize::from(site.ring) / 2 == priority {
            return;
        }
        if site.ring != UNLINKED {
            self.deactivate(index);
        }
        let ring = self.ring_for(index, priority);
        self.rings.push(&mut self.sites, ring, index);
    }

    pub(crate) fn deactivate(&mut self, index: u32) {
        if self.sites[index as usize].ring != UNLINKED {
            self.rings.remove(&mut self.sites, index);
        }
    }

    /// Has a site looked at again at `at`.
    pub(crate) fn wake_site_at(&mut self, index: u32, at: Time) {
        let timer = self.sites[index as usize].timer;
        let timer = self.start_timer(timer, Kind::SiteTimer, index, at);
        self.sites[index as usize].timer = timer;
    }

    fn wake_tenant_at(&mut self, index: u32, at: Time) {
        let timer = self.tenants[index as usize].timer;
        let timer = self.start_timer(timer, Kind::TenantTimer, index, at);
        self.tenants[index as usize].timer = timer;
    }

    fn start_timer(&mut self, timer: u32, kind: Kind, owner: u32, at: Time) -> u32 {
        let timer = match timer {
            NIL => self.slab.insert(Node::of_timer(kind, owner)),
            timer => {
                self.wheel.remove(&mut self.slab, timer);
                timer
            }
        };
        self.slab.get_mut(timer).due = nanos(at);
        self.wheel.insert(&mut self.slab, timer, nanos(at));
        timer
    }

    fn stop_timer(&mut self, index: u32) {
        let timer = std::mem::replace(&mut self.sites[index as usize].timer, NIL);
        if timer != NIL {
            self.wheel.remove(&mut self.slab, timer);
            self.slab.remove(timer);
        }
    }

    /// Changes a tenant, and keeps count of who is busy.
    pub(crate) fn with_tenant(&mut self, index: u32, change: impl FnOnce(&mut Tenant, Time)) {
        let tenant = &mut self.tenants[index as usize];
        self.busy_weight -= tenant.busy_weight();
        change(tenant, self.now);
        self.busy_weight += tenant.busy_weight();
    }

    /// Brings flows of a tenant back to their sites, as far as it may send again.
    pub(crate) fn wake_tenant(&mut self, index: u32) {
        const GRAIN: Time = Time::from_millis(2);
        let tenant = &self.tenants[index as usize];
        if tenant.parked_count() == 0 {
            return;
        }
        match tenant.held(self.now) {
            Some(Held::Rate(until)) => return self.wake_tenant_at(index, until),
            Some(_) => return,
            None => {}
        }
        let rate = tenant.policy.rate.map_or(0, |rate| rate.count_in(GRAIN));
        for _ in 0..rate + 4 {
            if !self.unpark_one(index) {
                return;
            }
        }
        self.wake_tenant_at(index, self.now + GRAIN / 2);
    }

    /// Sets the timer of a tenant that one of its flows was just parked for.
    pub(crate) fn wake_tenant_later(&mut self, index: u32) {
        let tenant = &self.tenants[index as usize];
        if let (NIL, Some(Held::Rate(until))) = (tenant.timer, tenant.held(self.now)) {
            self.wake_tenant_at(index, until);
        }
    }

    fn unpark_one(&mut self, index: u32) -> bool {
        let tenant = &mut self.tenants[index as usize];
        let parked = (0..PRIORITIES).find_map(|p| Some((p, tenant.parked[p].head()?)));
        let Some((priority, flow)) = parked else {
            return false;
        };
        let site = self.flows.get(flow).key.site;
        let queue = &mut self.sites[site as usize].queues[priority];
        self.flows.unpark(queue, &mut tenant.parked[priority], flow);
        self.activate(site);
        true
    }
}

pub(crate) fn flow_key(node: &Node) -> FlowKey {
    FlowKey {
        site: node.site,
        tenant: node.tenant,
        priority: node.priority() as u8,
    }
}
