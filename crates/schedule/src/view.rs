//! What is shown of it: which limit binds, and why.

use std::sync::Arc;

use flow::breaker::State;

use crate::job::{SiteId, TenantId};
use crate::schedule::Schedule;
use crate::site::{Limit, UNLINKED};
use crate::slab::NODE_BYTES;

/// A site, now.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteView {
    /// Its id.
    pub id: SiteId,
    /// Its name.
    pub name: Arc<str>,
    /// Jobs that may go as soon as its limits allow.
    pub ready: u32,
    /// Jobs in the retry wheel.
    pub waiting: u32,
    /// Jobs granted and not settled.
    pub inflight: u32,
    /// How many may be in flight.
    pub window: u32,
    /// Learned pace, messages a second; `None` while it has refused nothing.
    pub pace_per_s: Option<f64>,
    /// Configured rate.
    pub rate: Option<flow::rate::RateLimit>,
    /// Whether it is judged down.
    pub breaker: State,
    /// Whether the operator suspended it.
    pub is_suspended: bool,
    /// What keeps it from its next grant.
    pub binding: Limit,
}

/// A tenant, now.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantView {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: Arc<str>,
    /// Jobs that are due.
    pub ready: u32,
    /// Jobs in the retry wheel.
    pub waiting: u32,
    /// Jobs granted and not settled.
    pub inflight: u32,
    /// Whether the operator suspended it.
    pub is_suspended: bool,
}

/// All of it, now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Jobs that are due.
    pub ready: usize,
    /// Jobs in the retry wheel.
    pub waiting: usize,
    /// Jobs granted and not settled.
    pub inflight: u32,
    /// Sites in memory.
    pub sites: usize,
    /// Share of its windows that this machine can bear.
    pub pressure: f64,
    /// Memory held for jobs and timers, in bytes.
    pub job_bytes: usize,
    /// Places looked at by [`Schedule::reschedule_where`] and [`Schedule::remove_where`] since the start.
    pub searched: u64,
}

impl Schedule {
    /// How a site stands. `None`: it is not in memory.
    #[must_use]
    pub fn site_view(&self, id: SiteId) -> Option<SiteView> {
        let site = self
            .sites
            .get(id.0 as usize)
            .filter(|site| !site.is_free())?;
        let policy = &self.policies[site.policy as usize];
        Some(SiteView {
            id,
            name: Arc::clone(&site.name),
            ready: site.ready,
            waiting: site.waiting,
            inflight: site.inflight,
            window: site.window_size(),
            pace_per_s: site.pace.as_ref().map(|pace| pace.per_second()),
            rate: policy.rate,
            breaker: site.breaker_state(),
            is_suspended: site.is_suspended,
            binding: self.binding(id),
        })
    }

    /// All sites in memory, with those that have most to do first if you sort them.
    pub fn sites(&self) -> impl Iterator<Item = SiteView> + '_ {
        (0..self.sites.len() as u32).filter_map(|index| self.site_view(SiteId(index)))
    }

    /// How a tenant stands.
    #[must_use]
    pub fn tenant_view(&self, id: TenantId) -> Option<TenantView> {
        let tenant = self.tenants.get(id.0 as usize)?;
        Some(TenantView {
            id,
            name: Arc::clone(&tenant.name),
            ready: tenant.ready,
            waiting: tenant.waiting,
            inflight: tenant.inflight,
            is_suspended: tenant.is_suspended,
        })
    }

    /// All tenants.
    pub fn tenants(&self) -> impl Iterator<Item = TenantView> + '_ {
        (0..self.tenants.len() as u32).filter_map(|index| self.tenant_view(TenantId(index)))
    }

    /// Sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            ready: self.ready,
            waiting: self.waiting,
            inflight: self.inflight,
            sites: self.site_names.len(),
            pressure: self.pressure,
            job_bytes: self.slab.capacity() * NODE_BYTES,
            searched: self.searched,
        }
    }

    /// Jobs that wait, due or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ready + self.waiting
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn binding(&self, id: SiteId) -> Limit {
        let site = &self.sites[id.0 as usize];
        match site.limit(self.now, self.pressure) {
            Limit::Suspended => Limit::Suspended,
            _ if site.ready == 0 => Limit::NothingToSend,
            Limit::None if site.best_priority().is_none() => Limit::Tenant,
            Limit::None if site.ring != UNLINKED && self.engine_limit().is_err() => Limit::Engine,
            limit => limit,
        }
    }
}
