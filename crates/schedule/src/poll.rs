//! What may go now.
//!
//! Sites that may have a grant stand in rings, by the priority of the best that they have ready and by whether the tenant whose turn it is
//! there has its share of what is in flight already; so a tenant with mail for ten thousand sites leaves room for
//! another's only message. A poll serves them in turn and takes
//! those that meet a limit out, until the limit ends: by a timer in the wheel (rate, pace, breaker), or when one of theirs is
//! settled (window, probe). So no poll looks at a site that has nothing to hope for.

use flow::Time;

use crate::job::{Job, PRIORITIES};
use crate::schedule::{Schedule, flow_key};
use crate::site::{Limit, Site, UNLINKED};
use crate::slab::{Kind, Links, NIL, nanos};
use crate::tenant::Tenant;

/// Grants to a site before the next has its turn.
const SITE_TURN: u32 = 8;

const RINGS: usize = PRIORITIES * 2;

/// The sites that may have a grant.
#[derive(Debug)]
pub(crate) struct Rings {
    /// Two for each priority: first those where it is the turn of a tenant that has less than its share in flight.
    lists: [Links; RINGS],
    turns: u8,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            lists: [Links::NONE; RINGS],
            turns: 0,
        }
    }
}

impl Rings {
    /// Adds a site at the end. Of a list's links, `next` is its head and `prev` its tail.
    pub(crate) fn push(&mut self, sites: &mut [Site], ring: usize, index: u32) {
        let list = &mut self.lists[ring];
        let tail = std::mem::replace(&mut list.prev, index);
        match tail {
            NIL => list.next = index,
            tail => sites[tail as usize].links.next = index,
        }
        let site = &mut sites[index as usize];
        site.ring = ring as u8;
        site.links = Links {
            prev: tail,
            next: NIL,
        };
    }

    /// Takes out a site that is in.
    pub(crate) fn remove(&mut self, sites: &mut [Site], index: u32) {
        let site = &mut sites[index as usize];
        let list = &mut self.lists[usize::from(site.ring)];
        site.ring = UNLINKED;
        let links = std::mem::replace(&mut site.links, Links::NONE);
        match links.prev {
            NIL => list.next = links.next,
            prev => sites[prev as usize].links.next = links.next,
        }
        match links.next {
            NIL => list.prev = links.prev,
            next => sites[next as usize].links.prev = links.prev,
        }
    }

    /// Whether a ring is for tenants that have less than their share in flight.
    fn is_first(ring: u8) -> bool {
        ring.is_multiple_of(2)
    }

    /// The site whose turn it is: of the highest priority, but every so often of the lowest.
    fn first(&mut self, lowest_every: u8) -> Option<u32> {
        let lists = &self.lists;
        let head = |p: &usize| match lists[p * 2].next {
            NIL => lists[p * 2 + 1].next,
            site => site,
        };
        let priority = choose(&mut self.turns, lowest_every, |p| head(p) != NIL)?;
        Some(head(&priority))
    }
}

/// The first priority that has something, or every so many times the last one.
fn choose(turns: &mut u8, lowest_every: u8, has: impl Fn(&usize) -> bool) -> Option<usize> {
    let best = (0..PRIORITIES).find(&has)?;
    let worst = (best + 1..PRIORITIES).rev().find(&has);
    let Some(worst) = worst else {
        return Some(best);
    };
    *turns = turns.saturating_add(1);
    if *turns < lowest_every.max(2) {
        return Some(best);
    }
    *turns = 0;
    Some(worst)
}

impl Site {
    pub(crate) fn best_priority(&self) -> Option<usize> {
        (0..PRIORITIES).find(|p| !self.queues[*p].is_empty())
    }

    fn choose_priority(&mut self, lowest_every: u8) -> Option<usize> {
        let queues = &self.queues;
        choose(&mut self.turns, lowest_every, |p| !queues[*p].is_empty())
    }
}

impl Schedule {
    /// What may go now, and what has expired.
    ///
    /// * `grants`: gets jobs that may go; [`Schedule::settle`] each.
    /// * `expired`: gets jobs that have waited until their `expires_at`.
    /// * returns: when to poll next if nothing is inserted, settled or resumed before; `now` if there is more to do than one poll may.
    pub fn poll(
        &mut self,
        now: Time,
        grants: &mut Vec<Job>,
        expired: &mut Vec<Job>,
    ) -> Option<Time> {
        self.clock(now);
        let is_done = self.fire(expired);
        let (until, is_full) = self.grant(grants, expired);
        if !is_done || is_full {
            return Some(self.now);
        }
        let wheel = self.wheel.next_at().map(Time::from_nanos);
        match (wheel, until) {
            (Some(wheel), Some(until)) => Some(wheel.min(until)),
            (wheel, until) => wheel.or(until),
        }
    }

    /// Lets go what the wheel has for now.
    ///
    /// * returns: false if there is more.
    fn fire(&mut self, expired: &mut Vec<Job>) -> bool {
        let now = nanos(self.now);
        let mut budget = self.config.timers_max.max(16);
        while let Some(index) = self.wheel.pop(&mut self.slab, now, &mut budget) {
            let node = self.slab.get(index);
            match node.kind {
                Kind::SiteTimer => {
                    let site = node.site;
                    self.sites[site as usize].timer = NIL;
                    self.slab.remove(index);
                    self.activate(site);
                }
                Kind::TenantTimer => {
                    let tenant = node.tenant;
                    self.tenants[tenant as usize].timer = NIL;
                    self.slab.remove(index);
                    self.wake_tenant(tenant);
                }
                Kind::Waiting | Kind::Ready if node.expires <= now => {
                    expired.push(node.job());
                    self.displace(index);
                    self.slab.remove(index);
                }
                Kind::Waiting => {
                    self.count_waiting_less(flow_key(node));
                    self.place(index);
                }
                Kind::Ready | Kind::Free => debug_assert!(false, "fired without cause"),
            }
        }
        budget > 0
    }

    /// Serves sites in turn.
    ///
    /// * returns: when the engine's own rate allows more, and whether there was more than `grants_max`.
    fn grant(&mut self, grants: &mut Vec<Job>, expired: &mut Vec<Job>) -> (Option<Time>, bool) {
        let full = grants.len() + self.config.grants_max.max(1);
        loop {
            if let Err(until) = self.engine_limit() {
                return (until, false);
            }
            let Some(site) = self.rings.first(self.config.lowest_every) else {
                return (None, false);
            };
            if grants.len() >= full {
                return (None, true);
            }
            let is_first = Rings::is_first(self.sites[site as usize].ring);
            if !is_first || !self.is_over_share(site) {
                self.serve(site, full, grants, expired);
            }
            // To the end of the ring where it belongs now.
            if self.sites[site as usize].ring != UNLINKED {
                self.deactivate(site);
                self.activate(site);
            }
        }
    }

    /// Gives a site its turn: a few grants, as far as the limits allow.
    fn serve(&mut self, site: u32, full: usize, grants: &mut Vec<Job>, expired: &mut Vec<Job>) {
        for _ in 0..SITE_TURN {
            if grants.len() >= full || self.engine_limit().is_err() {
                return;
            }
            let limit = self.sites[site as usize].limit(self.now, self.pressure);
            if limit != Limit::None {
                self.deactivate(site);
                if let Some(until) = limit.until() {
                    self.wake_site_at(site, until);
                }
                return;
            }
            match self.take(site, expired) {
                Some(job) => grants.push(job),
                None => return self.deactivate(site),
            }
        }
    }

    /// Whether the tenant whose turn it is at a site has more in flight than its share, by weight, among those that
    /// have something to send.
    fn is_over_share(&self, site: u32) -> bool {
        let site = &self.sites[site as usize];
        let queue = site.best_priority().and_then(|p| site.queues[p].head());
        let Some(flow) = queue else { return false };
        let tenant = &self.tenants[self.flows.get(flow).key.tenant as usize];
        u64::from(tenant.inflight) * self.busy_weight
            > u64::from(self.inflight) * u64::from(tenant.weight())
    }

    /// The ring for a site whose best ready job is of that priority.
    pub(crate) fn ring_for(&self, site: u32, priority: usize) -> usize {
        priority * 2 + usize::from(self.is_over_share(site))
    }

    /// Whether the engine as a whole may send one more.
    ///
    /// # Errors
    /// When to ask again; `None`: when one is settled.
    pub(crate) fn engine_limit(&self) -> Result<(), Option<Time>> {
        if self.is_engine_full() {
            return Err(None);
        }
        match self.rate.as_ref().map(|rate| rate.next_slot(self.now)) {
            Some(slot) if slot > self.now => Err(Some(slot)),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_engine_full(&self) -> bool {
        let max = f64::from(self.config.inflight_max) * self.pressure;
        self.inflight >= (max as u32).max(1)
    }

    /// The next job of a site that has no limit of its own: by priority, then by tenant.
    fn take(&mut self, index: u32, expired: &mut Vec<Job>) -> Option<Job> {
        loop {
            let site = &mut self.sites[index as usize];
            let priority = site.choose_priority(self.config.lowest_every)?;
            let queue = &mut site.queues[priority];
            let tenants = &self.tenants;
            let weight = |tenant: u32| tenants[tenant as usize].weight();
            let flow = self.flows.turn(&self.slab, queue, weight);
            let tenant = self.flows.get(flow).key.tenant;
            if self.tenants[tenant as usize].held(self.now).is_some() {
                let parked = &mut self.tenants[tenant as usize].parked[priority];
                self.flows.park(queue, parked, flow);
                self.wake_tenant_later(tenant);
                continue;
            }
            let node = self.flows.first(flow);
            let mut job = self.slab.get(node).job();
            self.wheel.remove(&mut self.slab, node);
            let is_left = self.unqueue(flow, node);
            self.slab.remove(node);
            if job.expires_at <= self.now {
                expired.push(job);
                continue;
            }
            job.granted_at = self.now;
            if is_left {
                let queue = &mut self.sites[index as usize].queues[priority];
                self.flows.charge(&self.slab, queue, flow, job.cost);
            }
            self.note_grant(&job);
            return Some(job);
        }
    }

    fn note_grant(&mut self, job: &Job) {
        self.sites[job.site.0 as usize].grant(self.now);
        self.with_tenant(job.tenant.0, Tenant::grant);
        self.inflight += 1;
        if let Some(rate) = &mut self.rate {
            let _ = rate.reserve(self.now);
        }
    }
}
