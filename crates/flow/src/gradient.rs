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
//! **The baseline is measured.** There it is a long running average of the latency: a standing queue, once there, becomes the new
//! normal, the limit grows, the queue with it, and so on without end. Here a *probe* halves the limit, goes back to see that the
//! latency rises again (what fell by itself, for other content or a stall that ended, does not), and then halves on until it stops
//! falling; what is left is the latency without a queue. Where there was a queue, the limit returns to what that throughput needs: by Little's
//! law `limit × baseline / latency` at the start of the probe. Where there was none, to its highest since the last probe.
//! A probe runs at the start; after 100 windows, and twice as many each time that it finds the same, up to 400; and at once when the relay has
//! changed: the limit fell to 0.6 of its peak, or the latency leapt to 2.5 times the baseline, or fell to 0.7 of it. Slower
//! service and a longer queue look the same, and only a probe can tell. Between probes the baseline only falls.
//!
//! **Growing is the rule, and shrinking needs a proof.** A relay answers small content in 5 ms and large in 60, now and then it stalls, and
//! ten answers tell little of the mean of the next ten. So latencies are averaged as logarithms, in which a few stalls weigh little; each mean knows
//! its standard error; and the `latency` of the formula, the end of the doubling and the steps of a probe count only what is beyond two of
//! them. A window that would shrink the limit and is not sure goes on, up to four times its length. And a rise that comes while
//! the limit has not moved is believed when the next window says the same. So where latency has nothing to do with what is in flight, the limit is at
//! its maximum; a relay that is as noisy *and* queues is given up to twice the queue.
//!
//! | Phase | Each window | Next |
//! |---|---|---|
//! | probe | halve, check, halve on, while the latency falls by a tenth or more | start (the first time), or steady |
//! | start | double, while the latency is under 1.5 × baseline and the limit under its maximum | steady |
//! | steady | the formula above | probe |
//!
//! # Windows
//! A window is as many samples as the limit, at least 10. Samples of requests that began before the limit last changed
//! are ignored, since they tell of the queue that the old limit made; so each step sees its own effect and the loop cannot
//! run ahead of itself. A latency counts for at most 16 times the last window's mean, and for a sixteenth at least.
//! A window in which fewer than half of the places were used teaches nothing about the limit and leaves it.
//!
//! # Limits
//! Latency must mean load, or nothing. Where it means content scanning or tarpitting (strangers' MX hosts), use a window that follows
//! refusals instead. Content of very different cost that comes in runs of about as many messages as four windows looks like a relay that
//! changes all the time, and holds the limit low. After a collapse (a hundred places become one) what is queued must be answered
//! first, a few times over: some thousand samples.

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
const SLOWER: f64 = 0.6;
/// and so does a latency of so many times the baseline, further than growth alone could have brought it,
const LEAP: f64 = 2.5;
/// and one under this share of the baseline that was measured.
const FASTER: f64 = 0.7;
/// Windows from one probe to the next; twice as many each time that a probe finds what the one before found,
const PROBE_EVERY: u32 = 100;
/// up to this.
const PROBE_EVERY_MAX: u32 = 400;
/// It is the same if it differs by no more than this, as a share.
const SAME: f64 = 0.2;
/// Samples in a window, at least,
const WINDOW_MIN: usize = 10;
/// and so many times as many where they differ too much to be sure.
const WINDOW_STRETCH: usize = 4;
/// Standard errors by which a difference is beyond chance.
const SURE: f64 = 2.0;
/// Standard error of a mean that needs no more samples, as a share of it.
const PRECISE: f64 = 0.05;
/// A sample counts for at most so many times the mean of the last window, and at least for that part of it.
const OUTLIER: f64 = 16.0;
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
    /// Latency without a queue.
    baseline: Mean,
    /// `baseline` as the last probe left it.
    measured: Mean,
    /// Of the last window.
    last: Mean,
    /// Highest limit since the last probe.
    peak: f64,
    window: Window,
    /// When `limit` last changed: samples of older requests are ignored.
    changed_at: Option<u64>,
    /// What the last window in the steady phase led to.
    trend: Trend,
    /// Windows from the last probe to the next.
    probe_every: u32,
    under_pressure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trend {
    Grown,
    Level,
    /// The latency was too high, though the limit had not grown: maybe a stall.
    Suspect,
    Shrunk,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The first window: connections are cold and the queue is filling. Teaches nothing.
    Opening,
    /// The second: where the first probe begins.
    Warm,
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
    /// The limit where it began, and the latency there.
    from: f64,
    at_from: Mean,
    /// The deepest step so far from above which latency fell, and the latency there.
    low: Option<(f64, Mean)>,
    /// Back where it began, the latency rose again: it had not fallen by itself.
    is_checked: bool,
    /// The limit to return to.
    resume: f64,
    /// Followed by the start phase.
    is_first: bool,
}

impl Probe {
    /// Where it began there was a queue, so as much was done as the relay can do; this many in flight, each for as long as
    /// the baseline, do that too.
    fn knee_max(&self, baseline: Mean) -> f64 {
        self.from / self.at_from.surely_over(baseline)
    }
}

/// A geometric mean of latencies, and how far chance may have moved it.
#[derive(Debug, Clone, Copy)]
struct Mean {
    /// Logarithm of nanoseconds; infinite until measured.
    log: f64,
    /// Square of its standard error.
    error: f64,
}

impl Mean {
    const UNKNOWN: Self = Self {
        log: f64::INFINITY,
        error: 0.0,
    };

    const fn is_known(self) -> bool {
        self.log < f64::INFINITY
    }

    /// By what factor it is at least above another, beyond chance; under 1 if that is not sure.
    fn surely_over(self, other: Self) -> f64 {
        (self.log - other.log - SURE * (self.error + other.error).sqrt()).exp()
    }

    fn over(self, other: Self) -> f64 {
        (self.log - other.log).exp()
    }

    /// The lower of the two, or both together where they are the same.
    fn unless_above(self, other: Self) -> Self {
        if self.surely_over(other) > 1.0 {
            other
        } else if other.surely_over(self) > 1.0 {
            self
        } else {
            self.with(other)
        }
    }

    /// Both together, each as far as it is precise.
    fn with(self, other: Self) -> Self {
        let weight = |mean: Self| 1.0 / (mean.error + 1e-9);
        let (mine, others) = (weight(self), weight(other));
        Self {
            log: (self.log * mine + other.log * others) / (mine + others),
            error: 1.0 / (mine + others),
        }
    }
}

/// What the samples so far say.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    samples: usize,
    /// Mean of their logarithms,
    mean: f64,
    /// and the sum of the squares of what they are off it.
    squares: f64,
    inflight_max: usize,
}

impl Window {
    fn add(&mut self, log: f64, inflight: usize) {
        self.samples += 1;
        let off = log - self.mean;
        self.mean += off / self.samples as f64;
        self.squares += off * (log - self.mean);
        self.inflight_max = self.inflight_max.max(inflight);
    }

    fn latency(&self) -> Mean {
        let samples = self.samples as f64;
        Mean {
            log: self.mean,
            error: self.squares / (samples * (samples - 1.0).max(1.0)),
        }
    }
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
            baseline: Mean::UNKNOWN,
            measured: Mean::UNKNOWN,
            last: Mean::UNKNOWN,
            peak: opening,
            window: Window::default(),
            changed_at: None,
            trend: Trend::Level,
            probe_every: PROBE_EVERY,
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
        if self
            .changed_at
            .is_some_and(|at| now.saturating_sub(rtt) <= at)
        {
            return;
        }
        if dropped {
            self.shrink(now, DROP_FACTOR);
            return;
        }
        let mut log = (rtt.max(1) as f64).ln();
        if self.last.is_known() {
            let most = OUTLIER.ln();
            log = log.clamp(self.last.log - most, self.last.log + most);
        }
        self.window.add(log, inflight);
        if self.is_complete() {
            let window = std::mem::take(&mut self.window);
            self.close(
                now,
                window.latency(),
                window.inflight_max * 2 >= self.limit(),
            );
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

    /// Whether the window says enough: growing needs no more than a round, but what would bring the limit down, or set the
    /// baseline, is to be beyond chance.
    fn is_complete(&self) -> bool {
        let round = WINDOW_MIN.max(self.limit());
        if self.window.samples < round {
            return false;
        }
        let latency = self.window.latency();
        if self.window.samples >= round * WINDOW_STRETCH || latency.error <= PRECISE * PRECISE {
            return true;
        }
        match self.phase {
            Phase::Opening => true,
            Phase::Warm | Phase::Probe(_) => false,
            Phase::Start | Phase::Steady { .. } => {
                latency.over(self.baseline) <= TOLERANCE
                    || latency.surely_over(self.baseline) > TOLERANCE
            }
        }
    }

    /// Draws the conclusion from a full window.
    fn close(&mut self, now: u64, latency: Mean, is_used: bool) {
        let rise = latency.surely_over(self.last);
        let is_settled = latency.over(self.last) < SETTLED;
        self.last = latency;
        if self.baseline.surely_over(latency) > 1.0 && self.baseline.is_known() {
            self.baseline.log += (latency.log - self.baseline.log) * BASELINE_FALL;
        }
        match self.phase {
            Phase::Opening => self.phase = Phase::Warm,
            Phase::Warm => self.begin_probe(now, latency, self.limit, true),
            // What this machine adds to the latency is not the relay's.
            Phase::Probe(_) if self.under_pressure => {}
            Phase::Probe(probe) => self.probe(now, latency, probe),
            _ if !is_used => {}
            Phase::Start
                if latency.surely_over(self.baseline) < START_TOLERANCE
                    && self.limit < self.max =>
            {
                self.change(now, self.limit * 2.0);
            }
            Phase::Steady { windows }
                if is_settled && !self.under_pressure && self.is_stale(latency, windows) =>
            {
                self.begin_probe(now, latency, self.peak, false);
            }
            Phase::Start => self.follow(now, latency, rise, 0),
            Phase::Steady { windows } => self.follow(now, latency, rise, windows + 1),
        }
    }

    /// Whether the baseline is to be measured again.
    fn is_stale(&self, latency: Mean, windows: u32) -> bool {
        let is_slower = self.limit < self.peak * SLOWER;
        let has_leapt = self.trend == Trend::Suspect && latency.surely_over(self.baseline) > LEAP;
        let is_faster = self.measured.surely_over(latency) > 1.0 / FASTER;
        windows >= self.probe_every || is_slower || has_leapt || is_faster
    }

    fn begin_probe(&mut self, now: u64, latency: Mean, resume: f64, is_first: bool) {
        self.phase = Phase::Probe(Probe {
            from: self.limit,
            at_from: latency,
            low: None,
            is_checked: false,
            resume,
            is_first,
        });
        self.change(now, self.limit / 2.0);
    }

    /// One window of a probe: goes deeper while that helps, otherwise notes the baseline and returns.
    fn probe(&mut self, now: u64, latency: Mean, mut probe: Probe) {
        let has_fallen = |before: Mean, after: Mean| before.surely_over(after) > 1.0 / PROBE_FALL;
        let Some((mut low, at_low)) = probe.low else {
            if !has_fallen(probe.at_from, latency) {
                return self.end_probe(now, probe, latency.unless_above(probe.at_from));
            }
            probe.low = Some((self.limit, latency));
            self.phase = Phase::Probe(probe);
            return self.change(now, probe.from);
        };
        if !probe.is_checked {
            if !has_fallen(latency, at_low) {
                probe.low = None;
                return self.end_probe(now, probe, at_low.unless_above(latency));
            }
            (probe.at_from, probe.is_checked) = (latency, true);
        } else if has_fallen(at_low, latency) {
            low = self.limit;
            probe.low = Some((low, latency));
        } else {
            return self.end_probe(now, probe, latency.unless_above(at_low));
        }
        self.phase = Phase::Probe(probe);
        if low > self.min {
            self.change(now, low / 2.0);
        } else if let Some((_, at_low)) = probe.low {
            self.end_probe(now, probe, at_low);
        }
    }

    fn end_probe(&mut self, now: u64, probe: Probe, baseline: Mean) {
        let is_same = (baseline.over(self.measured) - 1.0).abs() < SAME;
        self.probe_every = match is_same {
            true => (self.probe_every * 2).min(PROBE_EVERY_MAX),
            false => PROBE_EVERY,
        };
        (self.baseline, self.measured) = (baseline, baseline);
        self.phase = match probe.is_first {
            true => Phase::Start,
            false => Phase::Steady { windows: 0 },
        };
        self.trend = Trend::Level;
        self.peak = self.min;
        let resume = match probe.low {
            Some((low, _)) => (probe.knee_max(baseline) * TOLERANCE)
                .max(low)
                .min(probe.resume),
            None => probe.resume,
        };
        self.change(now, resume);
    }

    /// One window of the steady phase.
    fn follow(&mut self, now: u64, latency: Mean, rise: f64, windows: u32) {
        self.phase = Phase::Steady { windows };
        let gradient = (TOLERANCE / latency.surely_over(self.baseline)).clamp(0.5, 1.0);
        let step = self.limit * gradient + self.limit.sqrt() / 2.0 - self.limit;
        let before = self.limit;
        // What the limit did not do may be a stall: it is believed when the next window says the same.
        let is_doubtful = step < 0.0 && (self.trend == Trend::Level || rise > LEAP);
        if !is_doubtful {
            let step = if step < 0.0 { step * SMOOTHING } else { step };
            self.change(now, self.limit + step);
        }
        self.trend = if self.limit > before {
            Trend::Grown
        } else if self.limit < before {
            Trend::Shrunk
        } else if is_doubtful {
            Trend::Suspect
        } else {
            Trend::Level
        };
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
            self.changed_at = Some(now);
            self.window = Window::default();
        }
    }

    /// Takes at least one place away, whatever the phase, down to the minimum.
    fn shrink(&mut self, now: u64, factor: f64) {
        match &mut self.phase {
            Phase::Probe(probe) => probe.resume *= factor,
            Phase::Start => self.phase = Phase::Steady { windows: 0 },
            Phase::Opening | Phase::Warm | Phase::Steady { .. } => {}
        }
        // This was no gradient's doing, so it must not call for a probe.
        self.peak *= factor;
        self.change(now, self.limit.floor() * factor);
        self.changed_at = Some(now);
        self.window = Window::default();
    }
}

#[cfg(test)]
mod tests;
