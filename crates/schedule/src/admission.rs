//! Tenants at the front door: who may hand in how much.

use flow::Time;
use flow::rate::{Gcra, RateLimit};

use crate::job::TenantId;
use crate::site::next_rate;

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

#[derive(Debug, Default)]
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
    pub fn set(&mut self, tenant: TenantId, quota: Quota, now: Time) {
        let index = tenant.0 as usize;
        if index >= self.doors.len() {
            self.doors.resize_with(index + 1, || None);
        }
        let door = self.doors[index].get_or_insert_default();
        door.rate = next_rate(door.rate.take(), quota.rate, quota.burst, now);
        door.quota = quota;
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

#[cfg(test)]
mod tests {
    use flow::rate::Unit;
    use proptest::prelude::*;

    use super::*;

    const T0: Time = Time::from_secs(1_800_000_000);
    const WHO: TenantId = TenantId(7);

    fn with(quota: Quota) -> Admission {
        let mut admission = Admission::new();
        admission.set(WHO, quota, T0);
        admission
    }

    #[test]
    fn each_limit_refuses_with_its_own_word_and_counts_nothing() {
        let mut admission = with(Quota {
            daily_max: Some(10),
            ..Quota::default()
        });
        assert_eq!(admission.check(WHO, 8, T0), Ok(()));
        let until = Time::from_secs((T0.as_secs() / DAY_S + 1) * DAY_S);
        assert_eq!(admission.check(WHO, 3, T0), Err(Refusal::Daily { until }));
        assert_eq!(admission.check(WHO, 2, T0), Ok(()));
        assert_eq!(admission.check(WHO, 10, until), Ok(()));

        let mut admission = with(Quota {
            stock_max: Some(10),
            ..Quota::default()
        });
        admission.restore(WHO, 9);
        assert_eq!(admission.check(WHO, 2, T0), Err(Refusal::Stock));
        admission.settled(WHO, 5);
        assert_eq!(admission.check(WHO, 2, T0), Ok(()));

        let quota = Quota {
            is_suspended: true,
            ..Quota::default()
        };
        assert_eq!(with(quota).check(WHO, 1, T0), Err(Refusal::Suspended));
        assert_eq!(Admission::new().check(WHO, 1, T0), Err(Refusal::Unknown));
    }

    #[test]
    fn another_quota_keeps_what_was_used() {
        let quota = |max| Quota {
            daily_max: Some(max),
            ..Quota::default()
        };
        let mut admission = with(quota(10));
        assert_eq!(admission.check(WHO, 10, T0), Ok(()));
        admission.set(WHO, quota(15), T0);
        assert!(admission.check(WHO, 6, T0).is_err());
        assert_eq!(admission.check(WHO, 5, T0), Ok(()));
    }

    proptest! {
        /// A message passes if one recipient could; so over any span at most rate, burst and one message go.
        #[test]
        fn a_rate_is_never_exceeded_by_more_than_one_message(
            messages in proptest::collection::vec((0..300_u64, 1..50_u32), 1..200),
            rate in 1..200_u64, burst in 1..20_u32,
        ) {
            let mut admission = with(Quota {
                rate: RateLimit::new(rate, Unit::Second).ok(),
                burst,
                ..Quota::default()
            });
            let (mut now, mut passed) = (T0, Vec::new());
            for (ms, recipients) in messages {
                now += Time::from_millis(ms);
                match admission.check(WHO, recipients, now) {
                    Ok(()) => passed.push((now, recipients)),
                    Err(Refusal::Rate { until }) => prop_assert!(until > now),
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
            for (index, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0.0;
                for (to, recipients) in &passed[index..] {
                    let most = f64::from(burst) + rate as f64 * (*to - *from).as_secs_f64();
                    prop_assert!(sum + 1.0 <= most + 1e-6, "{sum} before {to:?}");
                    sum += f64::from(*recipients);
                }
            }
        }
    }
}
