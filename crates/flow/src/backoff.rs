//! How long to wait before the next try.
//!
//! The n-th delay is `base × factor^(n−1)`, at most `cap`, plus a random share of itself: with jitter 1, uniformly between
//! once and twice the delay. The random part is added rather than taken away, so a peer that asked for quiet gets at
//! least the delay, and callers that failed together do not come back together.

use std::time::Duration;

use crate::rng::Rng;

/// Exponential backoff with a cap and additive jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    factor: u32,
    cap: Duration,
    jitter: f64,
}

impl Backoff {
    /// For a relay that blinked: 100, 200, 400 ms, …, at most 10 s, each plus up to as much again.
    pub const SEND: Self = Self::new(Duration::from_millis(100), Duration::from_secs(10));

    /// For greylisting: always 5 to 6 minutes, which satisfies the usual five-minute hold (RFC 6647 §2.1 knows holds
    /// from one minute up).
    pub const GREYLISTED: Self =
        Self::new(Duration::from_secs(300), Duration::from_secs(300)).with_jitter(0.2);

    /// Doubles from `base` up to `cap`; jitter 1.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            factor: 2,
            cap,
            jitter: 1.0,
        }
    }

    /// Multiplies by `factor` instead of 2; 1 (or 0) keeps the delay constant.
    #[must_use]
    pub const fn with_factor(mut self, factor: u32) -> Self {
        self.factor = if factor == 0 { 1 } else { factor };
        self
    }

    /// Adds up to this share of the delay, uniformly: 0 for none, 1 for up to as much again. Negative or not a number
    /// counts as 0.
    #[must_use]
    pub const fn with_jitter(mut self, share: f64) -> Self {
        self.jitter = if share > 0.0 { share } else { 0.0 };
        self
    }

    /// The delay after the `failures`-th failure in a row, jitter included.
    ///
    /// * `failures`: counts from 1; 0 is taken as 1.
    /// * returns: between the plain delay and `1 + jitter` times it; so `cap` bounds the delay before jitter.
    #[must_use]
    pub fn delay(&self, failures: u32, rng: &mut Rng) -> Duration {
        let plain = self.delay_without_jitter(failures);
        let spread = Duration::try_from_secs_f64(plain.as_secs_f64() * self.jitter);
        plain.saturating_add(rng.duration_up_to(spread.unwrap_or(Duration::MAX)))
    }

    /// The least delay after the `failures`-th failure in a row.
    #[must_use]
    pub fn delay_without_jitter(&self, failures: u32) -> Duration {
        let mut delay = self.base.min(self.cap);
        // A factor of 2 reaches any cap in at most 94 rounds; a factor of 1 must not spin through u32::MAX of them.
        for _ in 1..failures {
            let next = delay.saturating_mul(self.factor).min(self.cap);
            if next == delay {
                break;
            }
            delay = next;
        }
        delay
    }
}

impl Default for Backoff {
    /// [`Backoff::SEND`].
    fn default() -> Self {
        Self::SEND
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng; // proptest has one of its own

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn send_doubles_from_100_ms_and_stops_at_its_cap() {
        let delays: Vec<_> = (1..=9)
            .map(|n| Backoff::SEND.delay_without_jitter(n))
            .collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].map(ms);
        assert_eq!(expected.as_slice(), delays);
    }

    #[test]
    fn the_zeroth_failure_counts_as_the_first() {
        assert_eq!(ms(100), Backoff::SEND.delay_without_jitter(0));
    }

    #[test]
    fn greylisted_comes_back_after_five_to_six_minutes_every_time() {
        let mut rng = Rng::new(1);
        for failures in 1..100 {
            let delay = Backoff::GREYLISTED.delay(failures, &mut rng);
            assert!((Duration::from_secs(300)..=Duration::from_secs(360)).contains(&delay));
        }
    }

    #[test]
    fn jitter_is_spread_evenly() {
        let mut rng = Rng::new(1);
        let upper_half = (0..10_000)
            .filter(|_| Backoff::SEND.delay(1, &mut rng) > ms(150))
            .count();
        assert!(upper_half.abs_diff(5_000) < 300, "{upper_half}");
    }

    #[test]
    fn no_jitter_is_exact() {
        let backoff = Backoff::SEND.with_jitter(0.0).with_factor(3);
        assert_eq!(ms(900), backoff.delay(3, &mut Rng::new(1)));
    }

    proptest! {
        #[test]
        fn delay_lies_between_plain_and_plain_plus_jitter(
            base: u32, cap: u32, factor: u32, jitter in -1.0..4.0_f64, failures: u32, seed: u64,
        ) {
            let (base, cap) = (Duration::from_micros(base.into()), Duration::from_micros(cap.into()));
            let backoff = Backoff::new(base, cap).with_factor(factor).with_jitter(jitter);
            let plain = backoff.delay_without_jitter(failures);
            let delay = backoff.delay(failures, &mut Rng::new(seed));
            prop_assert!(plain <= cap);
            prop_assert!(plain <= delay);
            prop_assert!(delay <= plain + plain.mul_f64(jitter.max(0.0)) + Duration::from_nanos(1));
        }

        #[test]
        fn plain_delays_never_shrink(base: u32, cap: u32, factor: u32, failures in 1..200_u32) {
            let backoff = Backoff::new(ms(base.into()), ms(cap.into())).with_factor(factor);
            let delay = backoff.delay_without_jitter(failures);
            prop_assert!(delay <= backoff.delay_without_jitter(failures + 1));
        }

        #[test]
        fn extreme_settings_do_not_panic(secs: u64, factor: u32, jitter: f64, failures: u32, seed: u64) {
            let backoff = Backoff::new(Duration::from_secs(secs), Duration::MAX)
                .with_factor(factor)
                .with_jitter(jitter);
            let _ = backoff.delay(failures, &mut Rng::new(seed));
        }
    }
}
