//! Fixed-size nodes for everything that waits, and the numbers that name them.
//!
//! A node is a waiting job or a timer. It can stand in two lists at once, linked by the numbers within it: the wheel (every node
//! that has a time: when due, or when it expires), and a site queue (a ready job). So nothing is allocated per job but its node, and
//! a job is taken out of the middle of both lists in constant time.

use flow::Time;

use crate::job::{Job, PRIORITIES, SiteId, TenantId};

/// No node.
pub(crate) const NIL: u32 = u32::MAX;

/// A node's neighbours in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    pub(crate) prev: u32,
    pub(crate) next: u32,
}

impl Links {
    pub(crate) const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nothing; `key` is the next free node.
    Free,
    /// A job in the wheel until it is due or expires.
    Waiting,
    /// A job in a site queue, and in the wheel until it expires.
    Ready,
    /// Wakes the site `site`.
    SiteTimer,
    /// Wakes the tenant `tenant`.
    TenantTimer,
}

/// One waiting job or timer.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: u64,
    /// Nanoseconds since the epoch.
    pub(crate) due: u64,
    /// Nanoseconds since the epoch.
    pub(crate) expires: u64,
    pub(crate) site: u32,
    pub(crate) tenant: u32,
    pub(crate) wheel: Links,
    pub(crate) queue: Links,
    pub(crate) cost: u16,
    pub(crate) attempts: u16,
    /// Which list of the wheel it stands in; `wheel::NOWHERE` if none.
    pub(crate) slot: u16,
    pub(crate) kind: Kind,
    /// Priority in the low two bits, refusals above.
    bits: u8,
}

/// Bytes of a node: what a waiting job takes in memory.
pub(crate) const NODE_BYTES: usize = size_of::<Node>();

impl Node {
    const REFUSALS_MAX: u8 = 63;

    pub(crate) fn of_job(job: &Job, kind: Kind) -> Self {
        Self {
            key: job.key,
            due: nanos(job.due_at),
            expires: nanos(job.expires_at),
            site: job.site.0,
            tenant: job.tenant.0,
            wheel: Links::NONE,
            queue: Links::NONE,
            cost: job.cost.max(1),
            attempts: job.attempts,
            slot: crate::wheel::NOWHERE,
            kind,
            bits: job.priority.min(PRIORITIES as u8 - 1)
                | job.refusals.min(Self::REFUSALS_MAX) << 2,
        }
    }

    pub(crate) fn of_timer(kind: Kind, owner: u32) -> Self {
        let job = Job {
            site: SiteId(owner),
            tenant: TenantId(owner),
            ..Job::default()
        };
        Self::of_job(&job, kind)
    }

    /// Whether the job was granted before, and put back.
    pub(crate) const fn is_put_back(&self) -> bool {
        self.bits >> 2 > 0
    }

    pub(crate) const fn priority(&self) -> usize {
        (self.bits & 3) as usize
    }

    /// When the wheel should let it go, in nanoseconds.
    pub(crate) fn fires_at(&self) -> u64 {
        match self.kind {
            Kind::Ready => self.expires,
            Kind::Waiting => self.due.min(self.expires),
            Kind::Free | Kind::SiteTimer | Kind::TenantTimer => self.due,
        }
    }

    pub(crate) const fn job(&self) -> Job {
        Job {
            key: self.key,
            site: SiteId(self.site),
            tenant: TenantId(self.tenant),
            priority: self.bits & 3,
            cost: self.cost,
            attempts: self.attempts,
            refusals: self.bits >> 2,
            due_at: Time::from_nanos(self.due),
            expires_at: Time::from_nanos(self.expires),
            granted_at: Time::ZERO,
        }
    }
}

/// All nodes, in one allocation that grows; freed ones are used again.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    nodes: Vec<Node>,
    free: Option<u32>,
    used: usize,
}

impl Slab {
    pub(crate) fn insert(&mut self, node: Node) -> u32 {
        self.used += 1;
        match self.free {
            Some(index) => {
                let place = &mut self.nodes[index as usize];
                self.free = (place.key != u64::from(NIL)).then_some(place.key as u32);
                *place = node;
                index
            }
            None => {
                let index = u32::try_from(self.nodes.len()).unwrap_or(NIL);
                assert!(index != NIL, "more than 4 billion jobs");
                self.nodes.push(node);
                index
            }
        }
    }

    pub(crate) fn remove(&mut self, index: u32) {
        self.used -= 1;
        let node = &mut self.nodes[index as usize];
        debug_assert!(node.kind != Kind::Free && node.slot == crate::wheel::NOWHERE);
        node.kind = Kind::Free;
        node.key = self.free.unwrap_or(NIL).into();
        self.free = Some(index);
    }

    pub(crate) fn get(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    /// Numbers of all places, used or free.
    pub(crate) fn indexes(&self) -> std::ops::Range<u32> {
        0..self.nodes.len() as u32
    }

    /// How many places there are, used or free.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn capacity(&self) -> usize {
        self.nodes.capacity()
    }
}

/// Whole nanoseconds; saturates after 584 years.
pub(crate) fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
