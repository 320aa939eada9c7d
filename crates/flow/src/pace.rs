//! How fast, where nobody told us: finds the rate that a site takes from what it refuses, and stays just at it.
//!
//! Many limits are rates: so many messages a second, a token bucket with a little burst. A window of connections cannot follow those: the
//! site answers at once, so any window is too fast. A refusal for rate, though, measures: **the bucket is empty now**.
//! Between two such moments the site took exactly what it gives, so
//!
//! ```text
//! limit = messages taken since the last refusal / time since the last refusal
//! ```
//!
//! whatever its burst, to a message. So a pace needs no guess of how deep to cut: it knows. One refusal in some sixty messages buys
//! the next measurement; that is what it costs to know of a change within a second.
//!
//! | Phase | Rate | Until |
//! |---|---|---|
//! | cubic | `plateau × (1 + 0.05 × (x − 1)³)`: from 5 % under the measured limit back to it, lingering there, and over it | x = 2.2 |
//! | search | doubles every tenth of a second (or four messages, or two round trips): the limit was raised | a refusal |
//!
//! `x` counts messages *taken*, in cycles of `CYCLE_MIN` or 0.3 s or four round trips, whichever is longest; so it stands still while there is nothing to
//! send, and never runs ahead of the answers. After `CALM_AFTER` cycles that found the same limit, cycles grow up to four times as long.
//!
//! A refusal cuts to 5 % under the measured limit, or by half where that would be less: then the limit fell, and the search begins from
//! there. Attempts that began before a cut say nothing more.
//!
//! # Refusals that are not about rate
//! Some say 4.7.1 whatever the rate (a reputation, a policy on content). Slowing down does not help there, and that is how they are told: right
//! after a measured cut the pace is under the limit, so what is refused then is not refused for rate. The share of those, as far as it is
//! beyond chance, is the *noise*; so many refusals, and half as many again, are overlooked. The pace never falls under one a second nor under a 64th of what was taken
//! before, and from far below it doubles with every second message that is taken; so nobody is throttled to nothing.
//!
//! # Limits
//! Depends on attempts being spread as told: a site with a burst of one message refuses what jitter brings too close together, and is used to some 70 to 85 %.
//! Noise of a tenth costs half of the rate for the first seconds, of a third nearly all of it for a minute. What others send under the same limit counts
//! as the limit's change.

use crate::{Time, nanos};

const SECOND: f64 = 1e9;
/// It never falls under so many a second,
const RATE_MIN: f64 = 1.0;
/// nor rises over so many.
const RATE_MAX: f64 = 1e6;
/// How far under the measured limit to begin again, as a share.
const DEPTH: f64 = 0.05;
/// Where the search begins, in cycles.
const SEARCH: f64 = 2.2;
/// Messages of a cycle, at least.
const CYCLE_MIN: f64 = 30.0;
/// Seconds of a cycle, at least.
const CYCLE_SECONDS: f64 = 0.3;
/// Cycles that find the same limit before they grow longer.
const CALM_AFTER: u8 = 16;
/// How much longer they grow, in eighths.
const CALM_MAX: u8 = 24;
/// Fewer messages than this measure nothing.
const MEASURE_MIN: u32 = 8;
/// Attempts that tell the noise, at least,
const NOISE_ATTEMPTS_MIN: f64 = 16.0;
/// and at most, so that old ones are forgotten.
const NOISE_ATTEMPTS_MAX: f64 = 1024.0;
/// Share of refusals that counts as noise, at most.
const NOISE_MAX: f64 = 0.6;
/// The rate never falls under this part of what was taken before.
const PEAK_SHARE_MIN: f64 = 64.0;
/// What is left of the memory of the peak after each attempt.
const FADE: f64 = 0.998;
/// An attempt may come so late and those after it still be on time, in nanoseconds.
const SLACK: u64 = 10_000_000;

/// A learned rate; see the module for how it learns.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Messages a second, now.
    rate: f64,
    /// What the site was last seen to take, a second.
    plateau: f64,
    /// `x`
    progress: f64,
    /// When the site was last known to have nothing left, in nanoseconds.
    anchor: u64,
    /// Messages taken since.
    taken: u32,
    /// When the rate was last cut: refusals of attempts that began before are old news.
    cut_at: u64,
    /// When the next may go.
    next_at: u64,
    /// When the last one went.
    booked_at: u64,
    /// Whether it had to wait for its time. Those that catch up after something else held them do not.
    is_binding: bool,
    /// Cycles in a row that found the same limit.
    calm: u8,
    /// Mean time an attempt takes, in seconds.
    rtt: f64,
    /// The highest rate that was taken, a second; fades.
    peak: f64,
    /// Whether `plateau` is the limit, as measured.
    is_known: bool,
    noise: Noise,
}

impl Pace {
    /// Begins at a rate: what was tried when the first refusal came, or what was learned before.
    #[must_use]
    pub fn new(per_second: f64, now: Time) -> Self {
        let now = nanos(now);
        let rate = match per_second.is_nan() {
            true => RATE_MIN,
            false => per_second.clamp(RATE_MIN, RATE_MAX),
        };
        Self {
            rate,
            plateau: rate,
            progress: 0.0,
            anchor: now,
            taken: 0,
            cut_at: 0,
            next_at: now,
            booked_at: 0,
            is_binding: true,
            calm: 0,
            rtt: 0.0,
            peak: 0.0,
            is_known: false,
            noise: Noise::default(),
        }
    }

    /// Messages a second, now.
    #[must_use]
    pub const fn per_second(&self) -> f64 {
        self.rate
    }

    /// What the site was last seen to take, a second: what to begin with after a restart.
    #[must_use]
    pub const fn learned(&self) -> f64 {
        self.plateau
    }

    /// When the next may go: `now` or later.
    #[must_use]
    pub fn next_slot(&self, now: Time) -> Time {
        now.max(Time::from_nanos(self.next_at))
    }

    /// One goes.
    pub fn book(&mut self, now: Time) {
        let now = nanos(now);
        let earliest = now.saturating_sub(SLACK);
        if now > self.booked_at {
            self.is_binding = self.next_at > self.booked_at && self.next_at >= earliest;
            self.booked_at = now;
        }
        self.next_at = self.next_at.max(earliest) + self.interval();
    }

    /// An attempt that began at `began` was not refused for rate.
    pub fn taken(&mut self, now: Time, began: Time) {
        let took = now.saturating_sub(began).as_secs_f64();
        self.rtt += (took - self.rtt) / 8.0;
        self.taken = self.taken.saturating_add(1);
        self.peak *= FADE;
        self.noise.attempt(self.is_sure(), 0.0);
        if !self.is_binding {
            return;
        }
        if self.progress < SEARCH {
            self.progress += 1.0 / self.cycle();
            self.rate = self.plateau * (1.0 + DEPTH * (self.progress - 1.0).powi(3));
            if self.progress > 1.0 {
                self.peak = self.peak.max(self.plateau);
            }
        } else {
            let least = if self.rate < self.peak / 4.0 {
                2.0
            } else {
                4.0
            };
            let doubling = (self.rate * (2.0 * self.rtt).max(0.1)).max(least);
            self.rate *= (1.0 / doubling).exp2();
        }
        self.rate = self.rate.clamp(self.rate_min(), RATE_MAX);
    }

    /// An attempt that began at `began` was refused for rate.
    pub fn refused(&mut self, now: Time, began: Time) {
        if nanos(began) < self.cut_at || self.noise.overlooks(self.is_sure()) {
            return;
        }
        self.peak *= FADE;
        let now = nanos(now);
        let span = now.saturating_sub(self.anchor).max(1) as f64 / SECOND;
        let seen = f64::from(self.taken) / span / (1.0 - self.noise.share());
        let is_measured = self.taken >= MEASURE_MIN;
        let is_search = self.progress >= SEARCH;
        let before = self.plateau;
        self.plateau = seen.clamp(self.rate / 2.0, self.rate).max(self.rate_min());
        self.calm = match (self.plateau / before - 1.0).abs() < 0.1 {
            true => (self.calm + 1).min(CALM_AFTER + CALM_MAX),
            false => 0,
        };
        if is_measured {
            self.peak = self.peak.max(self.plateau);
        }
        self.is_known = is_measured && !is_search && seen >= self.rate / 2.0;
        // Fewer than half of them were taken: the limit is unknown, but below. A search that found something overshot
        // instead, and what was seen is of the time before it.
        let is_lost = seen < self.rate / 2.0 && (!is_search || self.taken == 0)
            || self.rate < self.peak / 4.0 && !is_measured;
        self.progress = if is_lost { SEARCH } else { 0.0 };
        self.rate = (self.plateau * (1.0 - DEPTH)).max(self.rate_min());
        if is_measured || is_search {
            (self.anchor, self.taken) = (now, 0);
        }
        self.cut_at = now;
        self.next_at = now + self.interval();
    }

    /// Whether a refusal now is not about rate: the limit was measured, and messages go at a rate under it, evenly.
    fn is_sure(&self) -> bool {
        self.is_known && self.progress < 0.8 && self.is_binding
    }

    fn rate_min(&self) -> f64 {
        RATE_MIN.max(self.peak / PEAK_SHARE_MIN)
    }

    /// Messages of a cycle.
    fn cycle(&self) -> f64 {
        let calm = 1.0 + f64::from(self.calm.saturating_sub(CALM_AFTER)) / 8.0;
        let seconds = (4.0 * self.rtt).max(CYCLE_SECONDS);
        calm * (self.plateau * seconds).max(CYCLE_MIN)
    }

    fn interval(&self) -> u64 {
        (SECOND / self.rate) as u64
    }
}

/// Refusals that do not depend on the rate.
#[derive(Debug, Clone, Copy, Default)]
struct Noise {
    /// Attempts under a limit that was measured,
    attempts: f64,
    /// and those of them that were refused.
    refusals: f64,
    /// Refusals that may be overlooked.
    credit: f64,
}

impl Noise {
    /// Whether to overlook a refusal.
    fn overlooks(&mut self, is_sure: bool) -> bool {
        self.attempt(is_sure, 1.0);
        let overlooks = self.credit >= 1.0;
        if overlooks {
            self.credit -= 1.0;
        }
        overlooks
    }

    fn attempt(&mut self, is_sure: bool, refusals: f64) {
        if is_sure {
            self.attempts += 1.0;
            self.refusals += refusals;
        }
        if self.attempts > NOISE_ATTEMPTS_MAX {
            self.attempts /= 2.0;
            self.refusals /= 2.0;
        }
        let share = self.share();
        self.credit = (self.credit + 1.5 * share).min(20.0 * share + 2.0);
    }

    /// The share of attempts that is refused whatever the rate: as much as is beyond chance.
    fn share(&self) -> f64 {
        let refusals = self.refusals - self.refusals.sqrt();
        (refusals / self.attempts.max(NOISE_ATTEMPTS_MIN)).clamp(0.0, NOISE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Time = Time::from_secs(1_000_000);

    /// A site that takes so many a second with so many at once, and one sender who does as it is told.
    struct World {
        pace: Pace,
        now: Time,
        limit: f64,
        tokens: f64,
        taken: u32,
        refused: u32,
    }

    impl World {
        fn new(guess: f64, limit: f64) -> Self {
            Self {
                pace: Pace::new(guess, EPOCH),
                now: EPOCH,
                limit,
                tokens: limit / 10.0,
                taken: 0,
                refused: 0,
            }
        }

        fn run(&mut self, seconds: f64) {
            let end = self.now + Time::from_secs_f64(seconds);
            loop {
                let next = self.pace.next_slot(self.now);
                if next >= end {
                    self.idle_until(end);
                    return;
                }
                self.idle_until(next);
                self.pace.book(self.now);
                let began = self.now;
                self.idle_until(began + Time::from_micros(500));
                if self.tokens >= 1.0 {
                    self.tokens -= 1.0;
                    self.taken += 1;
                    self.pace.taken(self.now, began);
                } else {
                    self.refused += 1;
                    self.pace.refused(self.now, began);
                }
            }
        }

        fn idle_until(&mut self, at: Time) {
            let elapsed = at.saturating_sub(self.now).as_secs_f64();
            self.tokens = (self.tokens + elapsed * self.limit).min(self.limit / 10.0);
            self.now = self.now.max(at);
        }

        fn is_near(&self, rate: f64) -> bool {
            (self.pace.per_second() / rate - 1.0).abs() < 0.15
        }
    }

    #[test]
    fn a_limit_is_found_within_a_second_and_kept() {
        for limit in [20.0, 100.0, 1500.0] {
            let mut world = World::new(10_000.0, limit);
            world.run(1.0);
            assert!(world.is_near(limit), "{limit}: {}", world.pace.per_second());
            (world.taken, world.refused) = (0, 0);
            world.run(20.0);
            let (taken, refused) = (f64::from(world.taken), f64::from(world.refused));
            assert!(taken > 0.97 * 20.0 * limit, "{limit}: {taken}");
            assert!(refused < 0.03 * taken, "{limit}: {refused}");
        }
    }

    #[test]
    fn a_limit_that_moves_is_followed_both_ways() {
        let mut world = World::new(100.0, 100.0);
        world.run(10.0);
        world.limit = 300.0;
        world.run(2.0);
        assert!(world.is_near(300.0), "{}", world.pace.per_second());
        world.limit = 60.0;
        world.run(1.5);
        assert!(world.is_near(60.0), "{}", world.pace.per_second());
    }

    #[test]
    fn a_site_that_takes_nothing_is_asked_slowly_and_taken_up_again_when_it_does() {
        let mut world = World::new(100.0, 100.0);
        world.run(5.0);
        (world.limit, world.tokens, world.refused) = (0.0, 0.0, 0);
        world.run(60.0);
        assert!(world.refused < 120, "{}", world.refused);
        world.limit = 100.0;
        world.run(5.0);
        assert!(world.is_near(100.0), "{}", world.pace.per_second());
    }

    #[test]
    fn refusals_of_what_began_before_the_cut_change_nothing() {
        let mut pace = Pace::new(100.0, EPOCH);
        let later = EPOCH + Time::from_millis(50);
        pace.refused(later, EPOCH);
        let once = pace.per_second();
        for _ in 0..10 {
            pace.refused(later + Time::from_millis(1), EPOCH);
        }
        assert_eq!(pace.per_second(), once);
    }

    #[test]
    fn a_sender_with_little_to_send_learns_nothing_of_the_limit() {
        let mut pace = Pace::new(100.0, EPOCH);
        let before = pace.per_second();
        for second in 1..1000 {
            let now = EPOCH + Time::from_secs(second);
            assert_eq!(pace.next_slot(now), now);
            pace.book(now);
            pace.taken(now, now);
        }
        assert_eq!(pace.per_second(), before);
    }

    #[test]
    fn what_catches_up_after_something_else_held_it_teaches_nothing() {
        let mut pace = Pace::new(100.0, EPOCH);
        let (before, mut now) = (pace.per_second(), EPOCH);
        for _ in 0..200 {
            // A window of three, whose answers come together.
            now += Time::from_millis(40);
            for _ in 0..3 {
                now += Time::from_micros(100);
                if pace.next_slot(now) <= now {
                    pace.book(now);
                }
            }
            pace.taken(now, now);
        }
        assert!(pace.per_second() <= before, "{}", pace.per_second());
    }

    proptest! {
        #[test]
        fn whatever_comes_the_pace_stays_within_its_bounds(
            guess: f64, events in proptest::collection::vec((0..4_u8, 0..10_000_000_000_u64), 1..400),
        ) {
            let mut pace = Pace::new(guess, EPOCH);
            let mut now = EPOCH;
            for (event, ns) in events {
                let then = now;
                now += Time::from_nanos(if event == 3 { ns } else { ns % 10_000_000 });
                match event {
                    0 => pace.refused(now, then),
                    1 => pace.book(now),
                    _ => pace.taken(now, then),
                }
                prop_assert!((RATE_MIN..=RATE_MAX).contains(&pace.per_second()));
                prop_assert!(pace.next_slot(now) <= now + Time::from_secs(1000));
            }
        }

        #[test]
        fn no_more_go_than_the_pace_and_its_slack_allow(
            rate in 1.0..500.0_f64, gaps in proptest::collection::vec(0..20_000_u64, 1..60),
        ) {
            let mut pace = Pace::new(rate, EPOCH);
            let (mut now, mut gone) = (EPOCH, Vec::new());
            for gap in gaps {
                now += Time::from_micros(gap);
                while pace.next_slot(now) <= now {
                    pace.book(now);
                    gone.push(now);
                }
            }
            for (index, from) in gone.iter().enumerate() {
                for (count, to) in gone[index..].iter().enumerate() {
                    let span = (*to - *from).as_secs_f64();
                    prop_assert!(count as f64 <= rate * (span + SLACK as f64 / SECOND) + 1.001);
                }
            }
        }
    }
}
