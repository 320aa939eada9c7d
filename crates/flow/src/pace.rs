//! How fast, where nobody told us: finds the rate at which a site takes messages from what it refuses.

use crate::{Time, nanos};

const SECOND: f64 = 1e9;

/// A learned rate.
#[derive(Debug, Clone)]
pub struct Pace {
    rate: f64,
    /// Around which the rate lingers: what the site was last seen to take.
    plateau: f64,
    depth: f64,
    progress: f64,
    /// When the site last had nothing left to give, in nanoseconds.
    anchor: u64,
    /// Taken since.
    taken: u32,
    /// Refusals of attempts that began before this are old news.
    cut_at: u64,
    next_at: u64,
    /// Mean time an attempt takes, in nanoseconds.
    rtt: f64,
}

/// Under this many a second it never falls.
const RATE_MIN: f64 = 1.0;
const RATE_MAX: f64 = 1e6;
/// An attempt may be so much late and the ones after it still on time, in nanoseconds.
const SLACK: u64 = 3_000_000;

impl Pace {
    /// Begins at a rate: what was tried when the first refusal came, or what was learned before.
    #[must_use]
    pub fn new(per_second: f64, now: Time) -> Self {
        let now = nanos(now);
        let rate = per_second.clamp(RATE_MIN, RATE_MAX);
        Self {
            rate,
            plateau: rate,
            depth: 0.05,
            progress: 0.0,
            anchor: now,
            taken: 0,
            cut_at: 0,
            next_at: now,
            rtt: 0.0,
        }
    }

    /// Messages a second, now.
    #[must_use]
    pub const fn per_second(&self) -> f64 {
        self.rate
    }

    /// What the site was last seen to take, a second: what to remember.
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
        let earliest = nanos(now).saturating_sub(SLACK);
        self.next_at = self.next_at.max(earliest) + (SECOND / self.rate) as u64;
    }

    /// An attempt that began at `began` was not refused for rate.
    pub fn taken(&mut self, now: Time, began: Time) {
        let rtt = nanos(now.saturating_sub(began)) as f64;
        self.rtt += (rtt - self.rtt) / 8.0;
        self.taken = self.taken.saturating_add(1);
        let cycle = 30.0_f64
            .max(self.plateau * 0.3)
            .max(self.plateau * 4.0 * self.rtt / SECOND);
        self.progress += 1.0 / cycle;
        if self.progress < 2.2 {
            self.rate = self.plateau * (1.0 + self.depth * (self.progress - 1.0).powi(3));
        } else {
            let double = 4.0_f64
                .max(self.rate * 0.1)
                .max(self.rate * 2.0 * self.rtt / SECOND);
            self.rate *= (1.0 / double).exp2();
        }
        self.rate = self.rate.clamp(RATE_MIN, RATE_MAX);
    }

    /// An attempt that began at `began` was refused for rate.
    pub fn refused(&mut self, now: Time, began: Time) {
        let at = nanos(now);
        if nanos(began) < self.cut_at {
            return;
        }
        let span = (at.saturating_sub(self.anchor)) as f64 / SECOND;
        let seen = f64::from(self.taken) / span.max(1e-6);
        self.plateau = seen
            .clamp(self.rate / 2.0, self.rate)
            .clamp(RATE_MIN, RATE_MAX);
        if self.taken >= 8 || self.progress >= 2.2 {
            self.anchor = at;
            self.taken = 0;
        }
        self.progress = 0.0;
        self.rate = (self.plateau * (1.0 - self.depth)).max(RATE_MIN);
        self.cut_at = at;
        self.next_at = at + (SECOND / self.rate) as u64;
    }
}
