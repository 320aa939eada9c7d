//! A tenant within the schedule: its limits, and its flows that wait for them.

use std::sync::Arc;

use flow::Time;
use flow::rate::Gcra;

use crate::flows::Ring;
use crate::job::PRIORITIES;
use crate::policy::TenantPolicy;
use crate::site::next_rate;
use crate::slab::NIL;

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: Arc<str>,
    pub(crate) policy: TenantPolicy,
    rate: Option<Gcra>,
    pub(crate) is_suspended: bool,
    pub(crate) inflight: u32,
    pub(crate) ready: u32,
    pub(crate) waiting: u32,
    /// Flows that wait for this tenant's limits, by priority.
    pub(crate) parked: [Ring; PRIORITIES],
    /// Node of the timer that wakes it; `NIL` if none.
    pub(crate) timer: u32,
}

/// Why a tenant may not send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Suspended,
    Inflight,
    Rate(Time),
}

impl Tenant {
    pub(crate) fn new(name: Arc<str>, policy: TenantPolicy) -> Self {
        let mut tenant = Self {
            name,
            policy: TenantPolicy::default(),
            rate: None,
            is_suspended: false,
            inflight: 0,
            ready: 0,
            waiting: 0,
            parked: [Ring::EMPTY; PRIORITIES],
            timer: NIL,
        };
        tenant.set_policy(policy, Time::ZERO);
        tenant
    }

    /// Another policy; what left counts against the rate.
    pub(crate) fn set_policy(&mut self, policy: TenantPolicy, now: Time) {
        if policy == self.policy {
            return;
        }
        self.rate = next_rate(self.rate.take(), policy.rate, policy.burst, now);
        self.policy = policy;
    }

    pub(crate) fn weight(&self) -> u32 {
        self.policy.weight.max(1).into()
    }

    /// Its weight, while it has something ready or in flight.
    pub(crate) fn busy_weight(&self) -> u64 {
        match self.ready > 0 || self.inflight > 0 {
            true => self.weight().into(),
            false => 0,
        }
    }

    pub(crate) fn held(&self, now: Time) -> Option<Held> {
        if self.is_suspended {
            return Some(Held::Suspended);
        }
        if self.inflight >= self.policy.inflight_max.max(1) {
            return Some(Held::Inflight);
        }
        let slot = self.rate.as_ref()?.next_slot(now);
        (slot > now).then_some(Held::Rate(slot))
    }

    pub(crate) fn grant(&mut self, now: Time) {
        self.inflight += 1;
        if let Some(rate) = &mut self.rate {
            let _ = rate.reserve(now);
        }
    }

    pub(crate) fn parked_count(&self) -> u32 {
        self.parked.iter().map(Ring::len).sum()
    }
}
