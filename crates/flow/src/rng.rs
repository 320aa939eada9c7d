//! A small seeded random number generator, so that every random choice can be replayed from its seed.
//!
//! SplitMix64 (Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014): eight bytes of state,
//! period 2^64, three multiplications and shifts a number, passes BigCrush. Not for secrets: an observer of one output
//! can compute all the others.

use std::time::Duration;

/// The odd constant nearest to 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of pseudo-random numbers fully determined by its seed.
///
/// Not `Copy`: a copy made by accident would repeat the same choices. Use [`Rng::fork`] for another stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Any seed is as good as any other, 0 included.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Splits off a generator for a part of the work (a connection, say), so that the order in which the parts run
    /// does not change what each of them draws.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// Uniform over all of `u64`.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        let z = self.state;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, in steps of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * STEP
    }

    /// Uniform in `0..=max`, without the bias of a remainder.
    ///
    /// Multiplies instead of dividing, and draws again in the rare case that would favour some values
    /// (Lemire: *Fast Random Integer Generation in an Interval*, 2019).
    pub fn up_to(&mut self, max: u64) -> u64 {
        let Some(count) = max.checked_add(1) else {
            return self.next_u64();
        };
        let mut product = u128::from(self.next_u64()) * u128::from(count);
        if (product as u64) < count {
            let unfair = count.wrapping_neg() % count;
            while (product as u64) < unfair {
                product = u128::from(self.next_u64()) * u128::from(count);
            }
        }
        (product >> 64) as u64
    }

    /// Uniform in `0..=max`, to the nanosecond.
    pub fn duration_up_to(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.up_to(crate::nanos(max)))
    }

    /// True with the given probability: never for 0 or less (or NaN), always for 1 or more.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.next_f64() < probability
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Duration, Rng};

    #[test]
    fn seed_zero_gives_the_published_sequence() {
        let mut rng = Rng::new(0);
        let published = [
            0xE220_A839_7B1D_CDAF,
            0x6E78_9E6A_A1B9_65F4,
            0x06C4_5D18_8009_454F,
        ];
        assert_eq!(published, [rng.next_u64(), rng.next_u64(), rng.next_u64()]);
    }

    #[test]
    fn seed_1234567_gives_the_published_sequence() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!(6_457_827_717_110_365_317, rng.next_u64());
        assert_eq!(3_203_168_211_198_807_973, rng.next_u64());
    }

    #[test]
    fn every_value_of_a_small_range_is_equally_likely() {
        let mut rng = Rng::new(7);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[rng.up_to(5) as usize] += 1;
        }
        // Standard deviation 91; six of them is beyond chance.
        assert!(
            counts.iter().all(|&n| n.abs_diff(10_000) < 550),
            "{counts:?}"
        );
    }

    #[test]
    fn chance_comes_true_as_often_as_it_says() {
        let mut rng = Rng::new(7);
        let hits = (0..100_000).filter(|_| rng.chance(0.3)).count();
        assert!(hits.abs_diff(30_000) < 900, "{hits}");
    }

    #[test]
    fn chance_knows_never_and_always() {
        let mut rng = Rng::new(7);
        assert!((0..1000).all(|_| !rng.chance(0.0) && !rng.chance(-1.0) && !rng.chance(f64::NAN)));
        assert!((0..1000).all(|_| rng.chance(1.0) && rng.chance(2.0)));
    }

    #[test]
    fn forks_do_not_follow_their_parent() {
        let mut parent = Rng::new(7);
        let mut child = parent.fork();
        assert!((0..1000).all(|_| parent.next_u64() != child.next_u64()));
    }

    proptest! {
        #[test]
        fn draws_stay_in_their_range(seed: u64, max: u64) {
            let mut rng = Rng::new(seed);
            prop_assert!(rng.up_to(max) <= max);
            prop_assert!((0.0..1.0).contains(&rng.next_f64()));
            let max = Duration::from_nanos(max);
            prop_assert!(rng.duration_up_to(max) <= max);
        }
    }
}
