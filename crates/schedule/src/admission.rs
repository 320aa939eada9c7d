//! Tenants at the front door: who may hand in how much.

use flow::Time;
use flow::rate::{Gcra, RateLimit};

use crate::job::TenantId;

/// What a tenant may hand in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quota {
    /// Recipients a second, minute, hour or day.
    pub rate: Option<RateLimit>,
    /// Recipients at once that `rate` allows after a pause; 0 counts as 1.
    pub burst: u32,
    /// Recipients a day (of UTC).
    pub daily_max: Option<u64>,
    /// Recipients that may wait, unsettled.
    pub stock_max: Option<u64>,
    /// Whether it may hand in nothing at all.
    pub is_suspended: bool,
}

/// Why a tenant may not hand in a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such tenant was set.
    #[error("unknown tenant")]
    Unknown,
    /// By the operator.
    #[error("tenant is suspended")]
    Suspended,
    /// Its rate.
    #[error("rate of the tenant exceeded")]
    Rate {
        /// When to try again.
        until: Time,
    },
    /// Its day's quota.
    #[error("daily quota of the tenant used up")]
    Daily {
        /// The next day.
        until: Time,
    },
    /// Too much of its mail waits.
    #[error("too much mail of the tenant is waiting")]
    Stock,
}

/// Checks tenants as they hand in mail; one for the whole engine.
#[derive(Debug, Default)]
pub struct Admission {
    doors: Vec<Option<Door>>,
}

#[derive(Debug)]
struct Door {
    quota: Quota,
    rate: Option<Gcra>,
    /// Days since the epoch, and what was handed in on that one.
    day: u64,
    today: u64,
    stock: u64,
}

const DAY_S: u64 = 86_400;

impl Admission {
    /// Knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a tenant may; what it has used stays.
    pub fn set(&mut self, tenant: TenantId, quota: Quota) {
        let index = tenant.0 as usize;
        if index >= self.doors.len() {
            self.doors.resize_with(index + 1, || None);
        }
        let rate = quota
            .rate
            .map(|rate| Gcra::with_burst(rate, quota.burst.into()));
        let place = &mut self.doors[index];
        match place {
            Some(door) if door.quota.rate == quota.rate && door.quota.burst == quota.burst => {
                door.quota = quota;
            }
            Some(door) => (door.quota, door.rate) = (quota, rate),
            None => {
                *place = Some(Door {
                    quota,
                    rate,
                    day: 0,
                    today: 0,
                    stock: 0,
                });
            }
        }
    }

    /// Lets a message for so many recipients in, and counts it.
    ///
    /// # Errors
    /// Why not; then nothing is counted.
    pub fn check(&mut self, tenant: TenantId, recipients: u32, now: Time) -> Result<(), Refusal> {
        let door = self.doors.get_mut(tenant.0 as usize);
        let door = door.and_then(Option::as_mut).ok_or(Refusal::Unknown)?;
        door.check(recipients.into(), now)
    }

    /// Recipients were settled: they wait no more.
    pub fn settled(&mut self, tenant: TenantId, recipients: u32) {
        if let Some(Some(door)) = self.doors.get_mut(tenant.0 as usize) {
            door.stock = door.stock.saturating_sub(recipients.into());
        }
    }

    /// Recipients wait that were let in before (a restart).
    pub fn restore(&mut self, tenant: TenantId, recipients: u32) {
        if let Some(Some(door)) = self.doors.get_mut(tenant.0 as usize) {
            door.stock = door.stock.saturating_add(recipients.into());
        }
    }
}

impl Door {
    fn check(&mut self, recipients: u64, now: Time) -> Result<(), Refusal> {
        if self.quota.is_suspended {
            return Err(Refusal::Suspended);
        }
        let stock = self.stock.saturating_add(recipients);
        if self.quota.stock_max.is_some_and(|max| stock > max) {
            return Err(Refusal::Stock);
        }
        let day = now.as_secs() / DAY_S;
        let today = if day == self.day { self.today } else { 0 }.saturating_add(recipients);
        if self.quota.daily_max.is_some_and(|max| today > max) {
            let until = Time::from_secs((day + 1) * DAY_S);
            return Err(Refusal::Daily { until });
        }
        if let Some(rate) = &mut self.rate {
            rate.check_many(now, recipients)
                .map_err(|until| Refusal::Rate { until })?;
        }
        (self.day, self.today, self.stock) = (day, today, stock);
        Ok(())
    }
}
