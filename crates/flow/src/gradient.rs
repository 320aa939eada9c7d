//! How many at once: finds the concurrency at which a relay gives the most without making us wait.
//!
//! A relay with `C` places and service time `s` answers `L` requests in flight after `s` while `L ≤ C`, and after `s × L / C`
//! beyond: more in flight only waits longer. So latency against its unloaded value tells how far past the knee we are,
//! which is the idea of Gradient2 in Netflix's *concurrency-limits* (and of TCP Vegas):
//!
//! ```text
//! gradient = clamp(1.25 × baseline / latency, 0.5, 1)        limit ← limit × gradient + √limit / 2
//! ```
//!
//! The root is the queue that we allow: it makes the limit grow while there is no sign of a queue. The fixed point is
//! `1.25 C + √L / 2`, between C and 2 C for every C. Decreases are smoothed by half; growth is not, it is slow enough.
//!
//! # Where this departs from Gradient2
//! There the baseline is a long running average of the latency. A standing queue, once there, becomes the new normal,
//! the limit grows, the queue with it, and so on without end. Here the baseline is **measured**, by a *probe*: halve the
//! limit until the latency stops falling; what is left is the latency without a queue. A probe runs at the start, after every
//! 100 windows, and at once when the relay has changed: the limit has fallen to half of its peak (slower service and a longer
//! queue look the same, and only a probe can tell), or the baseline to 0.7 of what was measured. Probing costs 1 to 4 % of the
//! throughput. Between probes the baseline only falls.
//!
//! | Phase | Each window | Next |
//! |---|---|---|
//! | probe | halve, while the latency falls by a tenth or more | start (the first time), or steady |
//! | start | double, while the latency is under 1.5 × baseline and the limit under its maximum | steady |
//! | steady | the formula above | probe |
//!
//! # Windows
//! A window is as many samples as the limit, at least 10. Samples of requests that began before the limit last changed
//! are ignored, since they tell of the queue that the old limit made; so each step sees its own effect and the loop cannot
//! run ahead of itself. A latency counts for at most four times the last window's mean: one stalled request is not a trend.
//! A window in which fewer than half of the places were used teaches nothing about the limit and leaves it.
//!
//! # Limits
//! Latency must mean load. Where it means content scanning or tarpitting (strangers' MX hosts), use a window that follows
//! refusals instead. A relay that becomes about twice as fast may be given a queue of twice its places until the next probe.
//! After a collapse (a hundred places become one) what is queued must be answered first, a few times over: some 1,000 samples.

use crate::{Time, nanos};

/// Latency over the baseline that still counts as none.
const TOLERANCE: f64 = 1.25;
/// Latency over the baseline that ends the doubling at the start.
const START_TOLERANCE: f64 = 1.5;
/// Share of a decrease that is applied in one window.
const SMOOTHING: f64 = 0.5;
/// Share of the way that the baseline follows a latency below it, in one window.
const BASELINE_FALL: f64 = 0.3;
/// A probe goes on while halving the limit brings the latency below this share.
const PROBE_FALL: f64 = 0.9;
/// A probe begins only after a window whose latency is under so many times that of the one before: amid a leap, two
/// windows cannot be compared.
const SETTLED: f64 = 2.0;
/// A limit under this share of its peak asks for a probe,
const SLOWER: f64 = 0.5;
/// and so does a baseline under this share of what was measured.
const FASTER: f64 = 0.7;
/// Windows from one probe to the next.
const PROBE_EVERY: u32 = 100;
/// Samples in a window, at least.
const WINDOW_MIN: usize = 10;
/// A sample counts for at most so many times the mean of the last window.
const OUTLIER: f64 = 4.0;
/// What is left of the limit after a drop.
const DROP_FACTOR: f64 = 0.8;
/// What is left of the limit after a report of CPU pressure.
const PRESSURE_FACTOR: f64 = 0.9;
/// Share of the machine's CPU above which there is pressure.
pub const CPU_SHARE_MAX: f64 = 0.80;

/// An adaptive limit on what is in flight; see the module for how it decides.
///
/// The caller keeps at most [`Gradient2::limit`] requests in flight and reports each that ends.
#[derive(Debug, Clone)]
pub struct Gradient2 {
    min: f64,
    max: f64,
    limit: f64,
    phase: Phase,
    /// Mean latency without a queue, in nanoseconds; infinite until measured.
    baseline: f64,
    /// `baseline` as the last probe left it.
    measured: f64,
    /// Mean latency of the last window, in nanoseconds; infinite before the first.
    last: f64,
    /// Highest limit since the last probe.
    peak: f64,
    window: Window,
    /// When `limit` last changed: samples of older requests are ignored.
    changed_at: u64,
    under_pressure: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The first window: connections are cold and the queue is filling. Teaches nothing.
    Opening,
    Probe(Probe),
    Start,
    Steady {
        /// Since the last probe.
        windows: u32,
    },
}

/// A way down to measure the baseline, and back.
#[derive(Debug, Clone, Copy)]
struct Probe {
    /// Mean latency one step further up.
    before: f64,
    /// The limit to return to.
    resume: f64,
    /// Followed by the start phase.
    first: bool,
}

impl Probe {
    const fn new(before: f64, resume: f64, first: bool) -> Self {
        Self {
            before,
            resume,
            first,
        }
    }
}

/// What the samples so far say.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    latency_sum: f64,
    samples: usize,
    inflight_max: usize,
}

impl Gradient2 {
    /// Opens with 10, brought within the bounds. There is no first guess to give: doubling makes up for a low one in a few
    /// round trips, but the queue that a high one makes must be waited out.
    ///
    /// * `min`, `max`: bounds of the limit; 0 counts as 1, a `max` under `min` as `min`.
    #[must_use]
    pub fn new(min: usize, max: usize) -> Self {
        let min = min.max(1);
        let max = max.max(min);
        let opening = WINDOW_MIN.clamp(min, max) as f64;
        Self {
            min: min as f64,
            max: max as f64,
            limit: opening,
            phase: Phase::Opening,
            baseline: f64::INFINITY,
            measured: f64::INFINITY,
            last: f64::INFINITY,
            peak: opening,
            window: Window::default(),
            changed_at: 0,
            under_pressure: false,
        }
    }

    /// How many may be in flight now: `min..=max`.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Notes a request that ended at `now`.
    ///
    /// * `rtt`: from its first byte written to its final reply; without the wait for a place.
    /// * `inflight`: how many were in flight when it ended, itself included.
    /// * `dropped`: it timed out, or was refused for load or rate (421, 4.7.x). The limit falls by a fifth, once
    ///   for all that were in flight together; its latency does not count.
    pub fn sample(&mut self, now: Time, rtt: Time, inflight: usize, dropped: bool) {
        let (now, rtt) = (nanos(now), nanos(rtt));
        if now.saturating_sub(rtt) < self.changed_at {
            return;
        }
        if dropped {
            self.shrink(now, DROP_FACTOR);
            return;
        }
        self.window.latency_sum += (rtt as f64).min(self.last * OUTLIER);
        self.window.samples += 1;
        self.window.inflight_max = self.window.inflight_max.max(inflight);
        if self.window.samples >= WINDOW_MIN.max(self.limit()) {
            let window = std::mem::take(&mut self.window);
            self.close(now, window);
        }
    }

    /// Notes how busy this machine's CPUs are; call it a few times a second.
    ///
    /// Above [`CPU_SHARE_MAX`] each call takes a tenth off the limit, and nothing grows until a call reports less.
    ///
    /// * `cpu_share`: 0 to 1 of all CPUs.
    pub fn pressure(&mut self, now: Time, cpu_share: f64) {
        self.under_pressure = cpu_share > CPU_SHARE_MAX;
        if self.under_pressure {
            self.shrink(nanos(now), PRESSURE_FACTOR);
        }
    }

    /// Draws the conclusion from a full window.
    fn close(&mut self, now: u64, window: Window) {
        // Never 0, so that it can be divided by.
        let latency = (window.latency_sum / window.samples as f64).max(1.0);
        let settled = latency < self.last * SETTLED;
        self.last = latency;
        if latency < self.baseline && self.baseline.is_finite() {
            self.baseline += (latency - self.baseline) * BASELINE_FALL;
        }
        let used = window.inflight_max * 2 >= self.limit();
        match self.phase {
            Phase::Opening => {
                self.phase = Phase::Probe(Probe::new(f64::INFINITY, self.limit, true));
            }
            // What this machine adds to the latency is not the relay's.
            Phase::Probe(_) if self.under_pressure => {}
            Phase::Probe(probe) => self.probe(now, latency, probe),
            _ if !used => {}
            Phase::Start if latency < self.baseline * START_TOLERANCE && self.limit < self.max => {
                self.change(now, self.limit * 2.0);
            }
            Phase::Steady { windows }
                if settled && !self.under_pressure && self.baseline_is_stale(windows) =>
            {
                self.phase = Phase::Probe(Probe::new(latency, self.limit, false));
                self.change(now, self.limit / 2.0);
            }
            Phase::Start => self.follow(now, latency, 0),
            Phase::Steady { windows } => self.follow(now, latency, windows + 1),
        }
    }

    fn baseline_is_stale(&self, windows: u32) -> bool {
        let slower = self.limit < self.peak * SLOWER;
        let faster = self.baseline < self.measured * FASTER;
        windows >= PROBE_EVERY || slower || faster
    }

    /// One window of a probe: goes deeper while that helps, otherwise notes the baseline and returns.
    fn probe(&mut self, now: u64, latency: f64, probe: Probe) {
        if latency < probe.before * PROBE_FALL && self.limit > self.min {
            self.phase = Phase::Probe(Probe {
                before: latency,
                ..probe
            });
            return self.change(now, self.limit / 2.0);
        }
        self.baseline = latency.min(probe.before);
        self.measured = self.baseline;
        self.phase = if probe.first {
            Phase::Start
        } else {
            Phase::Steady { windows: 0 }
        };
        // Latency fell on the way to twice this limit and not from there: the knee lies below four times it.
        self.peak = self.min;
        self.change(now, probe.resume.min(self.limit * 4.0));
    }

    /// One window of the steady phase.
    fn follow(&mut self, now: u64, latency: f64, windows: u32) {
        self.phase = Phase::Steady { windows };
        let gradient = (TOLERANCE * self.baseline / latency).clamp(0.5, 1.0);
        let step = self.limit * gradient + self.limit.sqrt() / 2.0 - self.limit;
        let step = if step < 0.0 { step * SMOOTHING } else { step };
        self.change(now, self.limit + step);
    }

    fn change(&mut self, now: u64, limit: f64) {
        let before = self.limit();
        let ceiling = if self.under_pressure {
            self.limit
        } else {
            self.max
        };
        self.limit = limit.min(ceiling).max(self.min);
        self.peak = self.peak.max(self.limit);
        if self.limit() != before {
            self.changed_at = now;
            self.window = Window::default();
        }
    }

    /// Takes at least one place away, whatever the phase, down to the minimum.
    fn shrink(&mut self, now: u64, factor: f64) {
        match &mut self.phase {
            Phase::Probe(probe) => probe.resume *= factor,
            Phase::Start => self.phase = Phase::Steady { windows: 0 },
            Phase::Opening | Phase::Steady { .. } => {}
        }
        // This was no gradient's doing, so it must not call for a probe.
        self.peak *= factor;
        self.change(now, self.limit.floor() * factor);
        self.changed_at = now;
        self.window = Window::default();
    }
}

#[cfg(test)]
mod tests;
