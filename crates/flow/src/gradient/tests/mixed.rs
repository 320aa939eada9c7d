//! Relays whose answers are not alike: quick refusals between slow deliveries, large content between small, stalls.

use super::*;

const MS: u64 = 1_000_000;

/// What a relay makes of an attempt while `inflight` are under way: how long it takes, and whether it is delivered.
type Answers<'a> = dyn FnMut(&mut Rng, usize) -> (u64, bool) + 'a;

/// Somebody with endless work, to whom refused attempts say nothing.
struct Sender {
    gradient: Gradient2,
    now: u64,
    rng: Rng,
    /// (end, begin, delivered), soonest first.
    inflight: BinaryHeap<Reverse<(u64, u64, bool)>>,
}

impl Sender {
    fn new(max: usize, seed: u64) -> Self {
        Self {
            gradient: Gradient2::new(1, max),
            now: 0,
            rng: Rng::new(seed),
            inflight: BinaryHeap::new(),
        }
    }

    /// Runs for so many deliveries.
    ///
    /// * returns: mean limit over time, deliveries a second, geometric mean of their latency in nanoseconds.
    fn run(&mut self, deliveries: usize, answers: &mut Answers<'_>) -> Outcome {
        let began = self.now;
        let (mut limits, mut logs, mut delivered) = (0.0, 0.0, 0);
        while delivered < deliveries {
            while self.inflight.len() < self.gradient.limit() {
                let inflight = self.inflight.len() + 1;
                let (took, is_delivered) = answers(&mut self.rng, inflight);
                let end = self.now + took;
                self.inflight.push(Reverse((end, self.now, is_delivered)));
            }
            let inflight = self.inflight.len();
            let Reverse((end, begin, is_delivered)) = self.inflight.pop().unwrap();
            limits += self.gradient.limit() as f64 * (end - self.now) as f64;
            self.now = end;
            if is_delivered {
                delivered += 1;
                logs += ((end - begin) as f64).ln();
                let rtt = Time::from_nanos(end - begin);
                self.gradient
                    .sample(Time::from_nanos(end), rtt, inflight, false);
            }
        }
        let elapsed = (self.now - began) as f64;
        Outcome {
            limit: limits / elapsed,
            per_second: delivered as f64 * S as f64 / elapsed,
            latency: (logs / delivered as f64).exp(),
        }
    }
}

#[derive(Debug)]
struct Outcome {
    limit: f64,
    per_second: f64,
    latency: f64,
}

fn between(rng: &mut Rng, least: u64, most: u64) -> u64 {
    least + (rng.next_f64() * (most - least) as f64) as u64
}

/// Delivers after 5 to 60 ms, and refuses that share after a millisecond, whatever is in flight.
fn refusing(share: f64) -> impl FnMut(&mut Rng, usize) -> (u64, bool) {
    move |rng, _| match rng.chance(share) {
        true => (MS, false),
        false => (between(rng, 5 * MS, 60 * MS), true),
    }
}

#[test]
fn where_latency_does_not_follow_load_the_limit_reaches_its_ceiling_whatever_is_refused() {
    for seed in 0..8 {
        for max in [4, 20, 100, 400] {
            for share in [0.0, 0.3, 0.9] {
                let mut sender = Sender::new(max, seed);
                sender.run(40 * max + 400, &mut refusing(share));
                let seen = sender.run(3000, &mut refusing(share));
                let what = format!("seed {seed}, at most {max}, {share} refused: {seen:?}");
                assert!(seen.limit > 0.9 * max as f64, "{what}");
            }
        }
    }
}

/// Takes `base` while fewer than its capacity are in flight, and beyond that as long as its capacity makes it.
fn bounded(base: u64, per_second: f64, noise: f64) -> impl FnMut(&mut Rng, usize) -> (u64, bool) {
    move |rng, inflight| {
        let took = (base as f64).max(inflight as f64 / per_second * S as f64);
        (
            (took * (1.0 + noise * (2.0 * rng.next_f64() - 1.0))) as u64,
            true,
        )
    }
}

#[test]
fn where_capacity_is_bounded_it_is_used_without_a_long_queue() {
    for noise in [0.0, 0.3, 0.8] {
        for (base, per_second) in [
            (20, 100.0),
            (20, 500.0),
            (20, 2500.0),
            (500, 100.0),
            (1, 10_000.0),
        ] {
            for seed in 0..5 {
                let mut relay = bounded(base * MS, per_second, noise);
                let mut sender = Sender::new(400, seed);
                sender.run(5_000, &mut relay);
                let seen = sender.run(10_000, &mut relay);
                let what =
                    format!("{base} ms, {per_second}/s, noise {noise}, seed {seed}: {seen:?}");
                assert!(seen.per_second > 0.95 * per_second, "{what}");
                assert!(seen.latency < 2.5 * (base * MS) as f64, "{what}");
            }
        }
    }
}

#[test]
fn stalls_of_a_few_messages_do_not_shrink_it_for_long() {
    for seed in 0..10 {
        let mut stalls = 0;
        let mut relay = |rng: &mut Rng, _| {
            // Some come alone, some together.
            if stalls == 0 && rng.chance(0.002) {
                stalls = 1 + (rng.next_f64() * 10.0) as u32;
            }
            let factor = if stalls > 0 { 50 } else { 1 };
            stalls = stalls.saturating_sub(1);
            (factor * between(rng, 10 * MS, 30 * MS), true)
        };
        let mut sender = Sender::new(20, seed);
        sender.run(1000, &mut relay);
        let (mut low, rounds) = (0, 300);
        for _ in 0..rounds {
            let seen = sender.run(100, &mut relay);
            low += usize::from(seen.limit < 15.0);
        }
        assert!(low < rounds / 10, "seed {seed}: {low}");
    }
}

#[test]
fn after_a_change_of_latency_the_limit_comes_back() {
    for seed in 0..10 {
        for (before, after) in [(5, 50), (50, 5), (20, 30), (30, 20), (1, 1000)] {
            let about = |ms: u64| {
                move |rng: &mut Rng, _: usize| (between(rng, ms * MS / 2, ms * MS * 3 / 2), true)
            };
            let mut sender = Sender::new(20, seed);
            sender.run(3000, &mut about(before));
            sender.run(800, &mut about(after));
            let seen = sender.run(500, &mut about(after));
            assert!(
                seen.limit > 17.0,
                "seed {seed}, {before} ms, then {after} ms: {seen:?}"
            );
        }
    }
}

#[test]
fn large_content_in_runs_between_small_does_not_halve_the_limit() {
    for seed in 0..10 {
        for run in [1, 10, 1000, 5000] {
            let mut sent = 0;
            let mut relay = |rng: &mut Rng, _| {
                sent += 1;
                match sent / run % 2 {
                    0 => (between(rng, 2 * MS, 8 * MS), true),
                    _ => (between(rng, 100 * MS, 300 * MS), true),
                }
            };
            let mut sender = Sender::new(20, seed);
            sender.run(1000, &mut relay);
            let seen = sender.run(10_000, &mut relay);
            assert!(seen.limit > 15.0, "seed {seed}, runs of {run}: {seen:?}");
        }
    }
}
