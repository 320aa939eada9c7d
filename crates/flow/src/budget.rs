//! How much retrying in all, so that retries cannot multiply the load on a peer that is already failing.
//!
//! With three tries each, a peer that refuses everything would see three times the traffic just when it can bear least.
//! The budget ties retries to successes: a bucket of tokens, one for each retry, which every success fills by a share of
//! a token and time fills at a floor rate, up to its capacity. Over any span of `t` seconds with `s` successes therefore
//!
//! ```text
//! retries ≤ capacity + floor × t + share × s
//! ```
//!
//! The idea is Finagle's `RetryBudget`; there the successes of the last ten seconds count, here the capacity is what
//! forgets, which takes three words instead of a ring of counters. Tokens are kept as whole nano-tokens, so a floor of
//! `n` a second adds exactly `n` nano-tokens a nanosecond and nothing is lost to rounding.

use crate::{Time, nanos};

/// One token.
const TOKEN: u64 = 1_000_000_000;

/// A shared allowance for retries; see the module for its arithmetic.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    /// Nano-tokens that one success brings.
    share: u64,
    /// Nano-tokens that a nanosecond brings; also tokens a second.
    floor_per_s: u64,
    /// Nano-tokens at most.
    capacity: u64,
    balance: u64,
    /// Up to when the floor has been paid in, in nanoseconds.
    paid_until: u64,
}

impl RetryBudget {
    /// A full budget.
    ///
    /// * `share`: retries per success, 0 to 1 (0.2: one retry for every five successes); values outside are clamped,
    ///   NaN counts as 0.
    /// * `floor_per_s`: retries a second that are allowed even without any success.
    /// * `capacity`: retries at most in one burst; also the opening balance.
    #[must_use]
    pub fn new(share: f64, floor_per_s: u32, capacity: u32) -> Self {
        let capacity = u64::from(capacity) * TOKEN;
        Self {
            // A cast from NaN gives 0.
            share: (share.clamp(0.0, 1.0) * TOKEN as f64).round() as u64,
            floor_per_s: u64::from(floor_per_s),
            capacity,
            balance: capacity,
            paid_until: 0,
        }
    }

    /// Notes a success.
    pub fn deposit(&mut self, now: Time) {
        self.pay_floor(now);
        self.add(self.share);
    }

    /// Takes the token for one retry.
    ///
    /// * returns: false if there is none; then the failure should stand as if all tries had been used up.
    #[must_use = "false means: do not retry"]
    pub fn withdraw(&mut self, now: Time) -> bool {
        self.pay_floor(now);
        match self.balance.checked_sub(TOKEN) {
            Some(rest) => {
                self.balance = rest;
                true
            }
            None => false,
        }
    }

    /// Retries that could be taken at once now.
    #[must_use]
    pub fn balance(&mut self, now: Time) -> u32 {
        self.pay_floor(now);
        // At most `capacity`, which came from a u32.
        (self.balance / TOKEN) as u32
    }

    fn pay_floor(&mut self, now: Time) {
        let now = nanos(now);
        let elapsed = now.saturating_sub(self.paid_until);
        self.paid_until = self.paid_until.max(now);
        self.add(elapsed.saturating_mul(self.floor_per_s));
    }

    fn add(&mut self, nano_tokens: u64) {
        self.balance = self.balance.saturating_add(nano_tokens).min(self.capacity);
    }
}

impl Default for RetryBudget {
    /// A fifth of the successes, and ten a second besides; bursts of a hundred.
    fn default() -> Self {
        Self::new(0.2, 10, 100)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: Time = Time::ZERO;

    #[test]
    fn a_dead_peer_gets_the_burst_and_then_the_floor() {
        let mut budget = RetryBudget::new(0.2, 10, 100);
        let granted = (0..60_000)
            .filter(|&ms| budget.withdraw(Time::from_millis(ms)))
            .count();
        assert_eq!(100 + 599, granted); // 59.999 s at 10/s
    }

    #[test]
    fn five_successes_pay_for_one_retry() {
        let mut budget = RetryBudget::new(0.2, 0, 1);
        assert!(budget.withdraw(T0));
        for _ in 0..4 {
            budget.deposit(T0);
            assert!(!budget.withdraw(T0));
        }
        budget.deposit(T0);
        assert!(budget.withdraw(T0));
    }

    #[test]
    fn idling_saves_no_more_than_the_capacity() {
        let mut budget = RetryBudget::new(0.2, 10, 100);
        assert_eq!(100, budget.balance(Time::from_secs(1_000_000)));
    }

    #[test]
    fn a_floor_paid_in_many_small_steps_is_not_rounded_away() {
        let mut budget = RetryBudget::new(0.0, 1, 5);
        while budget.withdraw(T0) {}
        for step in 1..=3_000_000_u64 {
            budget.deposit(Time::from_nanos(step * 1000));
        }
        assert_eq!(3, budget.balance(Time::from_secs(3)));
    }

    #[test]
    fn a_share_that_is_not_a_number_pays_nothing() {
        let mut budget = RetryBudget::new(f64::NAN, 0, 1);
        assert!(budget.withdraw(T0));
        budget.deposit(T0);
        assert!(!budget.withdraw(T0));
    }

    proptest! {
        #[test]
        fn retries_stay_within_capacity_plus_floor_plus_share(
            share in 0.0..=1.0_f64,
            floor in 0..1000_u32,
            capacity in 0..1000_u32,
            // (nanoseconds since the last one, success or retry?); clocks that stand still included.
            events in proptest::collection::vec((0..50_000_000_u64, any::<bool>()), 1..500),
        ) {
            let mut budget = RetryBudget::new(share, floor, capacity);
            let (mut now, mut successes, mut retries) = (0, 0_u32, 0_u32);
            for (elapsed, success) in events {
                now += elapsed;
                if success {
                    successes += 1;
                    budget.deposit(Time::from_nanos(now));
                } else {
                    retries += u32::from(budget.withdraw(Time::from_nanos(now)));
                }
                let allowed = f64::from(capacity)
                    + f64::from(floor) * now as f64 / 1e9
                    + share * f64::from(successes);
                prop_assert!(f64::from(retries) <= allowed + 1e-6);
            }
        }

        #[test]
        fn a_clock_that_jumps_back_grants_nothing_extra(
            jumps in proptest::collection::vec(0..1_000_u64, 1..200),
        ) {
            let mut budget = RetryBudget::new(0.0, 10, 5);
            let granted = jumps.iter().filter(|&&ms| budget.withdraw(Time::from_millis(ms))).count();
            prop_assert!(granted <= 5 + 10);
        }
    }
}
