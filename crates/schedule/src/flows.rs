//! Site queues: whose job goes next at a site.
//!
//! A *flow* is what one tenant has ready for one site at one priority: a list of jobs in the order in which they became ready. The flows of a
//! site and priority stand in a ring that is served by **deficit round robin** (Shreedhar and Varghese 1995): a flow whose turn it is gets
//! its weight added to its deficit, and jobs leave as long as their cost (recipients) is covered; so tenants share a site by weight in
//! recipients, in constant time a job. A flow whose tenant is held back is *parked*: out of its site's ring and in
//! its tenant's, until the tenant may go on.
//!
//! A flow is found by walking the ring while that is short, and else by a hash map; so a site with one tenant costs nothing but
//! the flow, and one with ten thousand is no slower.

use rustc_hash::FxHashMap;

use crate::slab::{NIL, Slab};

/// Rings up to this length are walked.
const WALK_MAX: u32 = 4;
/// How far a job that is put back looks for its place among the others that were.
const PUT_BACK_WALK_MAX: usize = 256;

/// A ring of flows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// Whose turn it is.
    head: u32,
    len: u32,
}

impl Ring {
    pub(crate) const EMPTY: Self = Self { head: NIL, len: 0 };

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn head(&self) -> Option<u32> {
        if self.len == 0 { None } else { Some(self.head) }
    }
}

/// Names a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) site: u32,
    pub(crate) tenant: u32,
    pub(crate) priority: u8,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) is_parked: bool,
    is_mapped: bool,
    head: u32,
    tail: u32,
    /// Neighbours in the ring of the site, or of the tenant if parked; the next free place if free.
    prev: u32,
    next: u32,
    deficit: u32,
}

/// All flows.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    flows: Vec<Flow>,
    free: Option<u32>,
    /// Flows of long rings, and parked ones.
    map: FxHashMap<FlowKey, u32>,
}

impl Flows {
    pub(crate) fn get(&self, index: u32) -> &Flow {
        &self.flows[index as usize]
    }

    fn get_mut(&mut self, index: u32) -> &mut Flow {
        &mut self.flows[index as usize]
    }

    pub(crate) fn first(&self, index: u32) -> u32 {
        self.get(index).head
    }

    /// The flow with that key: in `ring`, or parked.
    pub(crate) fn find(&self, ring: &Ring, key: FlowKey) -> Option<u32> {
        if ring.len > WALK_MAX {
            return self.map.get(&key).copied();
        }
        let mut index = ring.head;
        for _ in 0..ring.len {
            let flow = self.get(index);
            if flow.key == key {
                return Some(index);
            }
            index = flow.next;
        }
        match self.map.is_empty() {
            true => None,
            false => self.map.get(&key).copied(),
        }
    }

    /// Makes an empty flow at the end of the ring, which is last in turn.
    pub(crate) fn add(&mut self, ring: &mut Ring, key: FlowKey) -> u32 {
        let flow = Flow {
            key,
            is_parked: false,
            is_mapped: false,
            head: NIL,
            tail: NIL,
            prev: NIL,
            next: NIL,
            deficit: 0,
        };
        let index = match self.free {
            Some(index) => {
                let next = self.get(index).next;
                self.free = (next != NIL).then_some(next);
                self.flows[index as usize] = flow;
                index
            }
            None => {
                self.flows.push(flow);
                self.flows.len() as u32 - 1
            }
        };
        self.enter(ring, index);
        if ring.len > WALK_MAX {
            self.map_ring(ring);
        }
        index
    }

    /// Maps what the ring has while it was short; the newest alone when it was long already.
    fn map_ring(&mut self, ring: &Ring) {
        let mut index = self.get(ring.head).prev;
        for _ in 0..ring.len {
            if self.get(index).is_mapped && ring.len > WALK_MAX + 1 {
                break;
            }
            self.map(index);
            index = self.get(index).prev;
        }
    }

    fn map(&mut self, index: u32) {
        let flow = self.get_mut(index);
        if !std::mem::replace(&mut flow.is_mapped, true) {
            let key = flow.key;
            self.map.insert(key, index);
        }
    }

    /// Takes an empty flow out of its ring and out of being.
    pub(crate) fn remove(&mut self, ring: &mut Ring, index: u32) {
        self.leave(ring, index);
        let free = self.free.replace(index).unwrap_or(NIL);
        let flow = self.get_mut(index);
        debug_assert!(flow.head == NIL);
        flow.next = free;
        if flow.is_mapped {
            let key = flow.key;
            self.map.remove(&key);
        }
    }

    /// Moves a flow from its site's ring to its tenant's.
    pub(crate) fn park(&mut self, site: &mut Ring, tenant: &mut Ring, index: u32) {
        self.leave(site, index);
        self.enter(tenant, index);
        self.get_mut(index).is_parked = true;
        self.map(index);
    }

    /// Moves a flow from its tenant's ring back to its site's.
    pub(crate) fn unpark(&mut self, site: &mut Ring, tenant: &mut Ring, index: u32) {
        self.leave(tenant, index);
        self.enter(site, index);
        self.get_mut(index).is_parked = false;
        if site.len > WALK_MAX {
            self.map_ring(site);
        }
    }

    fn enter(&mut self, ring: &mut Ring, index: u32) {
        ring.len += 1;
        if ring.len == 1 {
            ring.head = index;
            let flow = self.get_mut(index);
            (flow.prev, flow.next) = (index, index);
            return;
        }
        let (next, prev) = (ring.head, self.get(ring.head).prev);
        self.get_mut(next).prev = index;
        self.get_mut(prev).next = index;
        let flow = self.get_mut(index);
        (flow.prev, flow.next) = (prev, next);
    }

    fn leave(&mut self, ring: &mut Ring, index: u32) {
        let (prev, next) = {
            let flow = self.get(index);
            (flow.prev, flow.next)
        };
        ring.len -= 1;
        self.get_mut(prev).next = next;
        self.get_mut(next).prev = prev;
        if ring.head == index {
            ring.head = next;
        }
    }

    /// Adds a job as the last of its flow.
    pub(crate) fn push_back(&mut self, slab: &mut Slab, index: u32, job: u32) {
        let flow = self.get_mut(index);
        let tail = std::mem::replace(&mut flow.tail, job);
        match tail {
            NIL => flow.head = job,
            tail => slab.get_mut(tail).queue.next = job,
        }
        let links = &mut slab.get_mut(job).queue;
        (links.prev, links.next) = (tail, NIL);
    }

    /// Adds a job that was granted before at the head of its flow: behind those put back that were due before it. Gives the flow
    /// its next turn, and back what the grant took.
    pub(crate) fn put_back(&mut self, slab: &mut Slab, ring: &mut Ring, index: u32, job: u32) {
        let (due, cost) = (slab.get(job).due, slab.get(job).cost);
        let (mut prev, mut next) = (NIL, self.get(index).head);
        for _ in 0..PUT_BACK_WALK_MAX {
            if next == NIL || !slab.get(next).is_put_back() || slab.get(next).due > due {
                break;
            }
            (prev, next) = (next, slab.get(next).queue.next);
        }
        let links = &mut slab.get_mut(job).queue;
        (links.prev, links.next) = (prev, next);
        let flow = self.get_mut(index);
        match prev {
            NIL => flow.head = job,
            prev => slab.get_mut(prev).queue.next = job,
        }
        match next {
            NIL => flow.tail = job,
            next => slab.get_mut(next).queue.prev = job,
        }
        flow.deficit = flow.deficit.saturating_add(cost.into());
        if !flow.is_parked {
            ring.head = index;
        }
    }

    /// Takes a job out of its flow, from wherever it stands in it.
    ///
    /// * returns: whether the flow is empty now.
    pub(crate) fn unlink(&mut self, slab: &mut Slab, index: u32, job: u32) -> bool {
        let links = slab.get(job).queue;
        let flow = self.get_mut(index);
        match links.prev {
            NIL => flow.head = links.next,
            prev => slab.get_mut(prev).queue.next = links.next,
        }
        match links.next {
            NIL => flow.tail = links.prev,
            next => slab.get_mut(next).queue.prev = links.prev,
        }
        flow.head == NIL
    }

    /// Whose turn it is in a ring that is not empty: turns it until a flow can pay for its first job.
    ///
    /// * `weight`: of a tenant.
    pub(crate) fn turn(
        &mut self,
        slab: &Slab,
        ring: &mut Ring,
        weight: impl Fn(u32) -> u32,
    ) -> u32 {
        if ring.len == 1 {
            return ring.head;
        }
        for _ in 0..ring.len {
            if self.owed(slab, ring.head) == 0 {
                return ring.head;
            }
            let flow = self.get_mut(ring.head);
            let credit = weight(flow.key.tenant);
            flow.deficit = flow.deficit.saturating_add(credit);
            let head = ring.head;
            if self.owed(slab, head) == 0 {
                return head;
            }
            ring.head = self.get(head).next;
        }
        self.skip_rounds(slab, ring, &weight);
        self.turn(slab, ring, weight)
    }

    /// Nobody could pay after a whole round: as many rounds at once as the quickest of them needs.
    fn skip_rounds(&mut self, slab: &Slab, ring: &Ring, weight: &impl Fn(u32) -> u32) {
        let flow_rounds = |flows: &Self, index: u32| {
            let flow = flows.get(index);
            flows.owed(slab, index).div_ceil(weight(flow.key.tenant))
        };
        let mut rounds = u32::MAX;
        let mut index = ring.head;
        for _ in 0..ring.len {
            rounds = rounds.min(flow_rounds(self, index));
            index = self.get(index).next;
        }
        for _ in 0..ring.len {
            let flow = self.get_mut(index);
            let credit = weight(flow.key.tenant).saturating_mul(rounds.saturating_sub(1));
            flow.deficit = flow.deficit.saturating_add(credit);
            index = flow.next;
        }
    }

    /// What the flow lacks to pay for its first job.
    fn owed(&self, slab: &Slab, index: u32) -> u32 {
        let flow = self.get(index);
        u32::from(slab.get(flow.head).cost).saturating_sub(flow.deficit)
    }

    /// A job of that cost leaves; the next flow has its turn if this one cannot pay for another of the kind.
    pub(crate) fn charge(&mut self, slab: &Slab, ring: &mut Ring, index: u32, cost: u16) {
        let flow = self.get_mut(index);
        flow.deficit = flow.deficit.saturating_sub(cost.into());
        let (next, is_empty) = (flow.next, flow.head == NIL);
        if !is_empty && ring.len > 1 && self.owed(slab, index) > 0 {
            ring.head = next;
        }
    }
}
