//! What may go now.
//!
//! Sites that may have a grant stand in rings, one for each priority of the best that they have ready; a poll serves them in turn and takes
//! those that meet a limit out, until the limit ends: by a timer in the wheel (rate, pace, breaker), or when one of theirs is
//! settled (window, probe). So no poll looks at a site that has nothing to hope for.

use flow::Time;

use crate::job::{Job, PRIORITIES};
use crate::schedule::{Schedule, flow_key};
use crate::site::{Limit, Site, UNLINKED};
use crate::slab::{Kind, Links, NIL, nanos};

/// Grants to a site before the next has its turn.
const SITE_TURN: u32 = 8;

/// The sites that may have a grant.
#[derive(Debug)]
pub(crate) struct Rings {
    lists: [Links; PRIORITIES],
    turns: u8,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            lists: [Links::NONE; PRIORITIES],
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

    /// The site whose turn it is: of the highest priority, but every so often of the lowest.
    fn first(&mut self, lowest_every: u8) -> Option<u32> {
        let list = |p: &usize| self.lists[*p].next != NIL;
        let ring = choose(&mut self.turns, lowest_every, list)?;
        Some(self.lists[ring].next)
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
        let room = self.config.grants_max.max(1);
        let (until, is_full) = self.grant(room, grants, expired);
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
    /// * returns: when the engine's own rate allows more, and whether there was more than `room`.
    fn grant(
        &mut self,
        mut room: usize,
        grants: &mut Vec<Job>,
        expired: &mut Vec<Job>,
    ) -> (Option<Time>, bool) {
        while let Some(site) = self.rings.first(self.config.lowest_every) {
            for turn in 0.. {
                if room == 0 {
                    return (None, true);
                }
                match self.engine_limit() {
                    Ok(()) => {}
                    Err(until) => return (until, false),
                }
                if turn == SITE_TURN {
                    break;
                }
                let limit = self.sites[site as usize].limit(self.now, self.pressure);
                if limit != Limit::None {
                    self.deactivate(site);
                    if let Some(until) = limit.until() {
                        self.wake_site_at(site, until);
                    }
                    break;
                }
                let Some(job) = self.take(site, expired) else {
                    self.deactivate(site);
                    break;
                };
                grants.push(job);
                room -= 1;
            }
            if self.sites[site as usize].ring != UNLINKED {
                self.deactivate(site);
                self.activate(site);
            }
        }
        (None, false)
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
        self.tenants[job.tenant.0 as usize].grant(self.now);
        self.inflight += 1;
        if let Some(rate) = &mut self.rate {
            let _ = rate.reserve(self.now);
        }
    }
}
