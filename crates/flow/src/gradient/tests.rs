//! The limit against a simulated relay, under virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;
use crate::rng::Rng; // proptest has one of its own

mod mixed;

const S: u64 = 1_000_000_000;

/// A relay of `places` parallel servers with one queue before them, behind a link.
struct Relay {
    /// When each place is free, in nanoseconds.
    places: BinaryHeap<Reverse<u64>>,
    service: u64,
    /// Round trip of the link.
    link: u64,
    /// Service times vary by up to this share, both ways, and one in a hundred takes ten times as long.
    noise: f64,
    rng: Rng,
}

impl Relay {
    fn new(places: usize, service: u64) -> Self {
        let places = std::iter::repeat_n(Reverse(0), places).collect();
        Self {
            places,
            service,
            link: 0,
            noise: 0.0,
            rng: Rng::new(11),
        }
    }

    fn set_places(&mut self, count: usize) {
        let mut free_at: Vec<_> = self.places.drain().collect();
        let soonest = free_at.iter().map(|place| place.0).min().unwrap();
        free_at.resize(count, Reverse(soonest));
        self.places = free_at.into();
    }

    /// When a request that begins at `now` is answered.
    fn serve(&mut self, now: u64) -> u64 {
        let Reverse(free) = self.places.pop().unwrap();
        let mut service = self.service as f64;
        if self.noise > 0.0 {
            service *= 1.0 + self.noise * (2.0 * self.rng.next_f64() - 1.0);
            service *= if self.rng.chance(0.01) { 10.0 } else { 1.0 };
        }
        let done = free.max(now) + service as u64;
        self.places.push(Reverse(done));
        done + self.link
    }
}

/// A client with endless work that keeps `limit` requests in flight.
struct Client {
    gradient: Gradient2,
    now: u64,
    /// (end, begin), soonest first.
    inflight: BinaryHeap<Reverse<(u64, u64)>>,
}

#[derive(Debug)]
struct Seen {
    limit_mean: f64,
    latency_mean: f64,
    per_second: f64,
}

impl Client {
    fn new(gradient: Gradient2) -> Self {
        Self {
            gradient,
            now: 0,
            inflight: BinaryHeap::new(),
        }
    }

    fn run_until(&mut self, relay: &mut Relay, reached: impl Fn(&Gradient2) -> bool) {
        let answers = (0..1_000_000).find(|_| {
            self.run(relay, 1);
            reached(&self.gradient)
        });
        assert!(answers.is_some(), "not reached: {:?}", self.gradient);
    }

    /// Runs for so many answers, and says what it saw over them.
    fn run(&mut self, relay: &mut Relay, answers: usize) -> Seen {
        let (began, mut limits, mut latencies) = (self.now, 0.0, 0.0);
        for _ in 0..answers {
            while self.inflight.len() < self.gradient.limit() {
                let end = relay.serve(self.now);
                self.inflight.push(Reverse((end, self.now)));
            }
            let inflight = self.inflight.len();
            let Reverse((end, begin)) = self.inflight.pop().unwrap();
            self.now = end;
            let rtt = Time::from_nanos(end - begin);
            self.gradient
                .sample(Time::from_nanos(end), rtt, inflight, false);
            limits += self.gradient.limit() as f64;
            latencies += rtt.as_secs_f64();
        }
        let n = answers as f64;
        Seen {
            limit_mean: limits / n,
            latency_mean: latencies / n,
            per_second: n / ((self.now - began) as f64 / S as f64),
        }
    }
}

fn fresh_from_a_probe(gradient: &Gradient2) -> bool {
    matches!(gradient.phase, Phase::Steady { windows: 1..=10 })
}

/// Lets a client find its way and asserts that it found the knee: the throughput is there, the latency near the least, and
/// the limit between the places needed to get that throughput and twice as many.
fn assert_finds_the_knee(client: &mut Client, relay: &mut Relay, what: &str) {
    let unloaded = (relay.service + relay.link) as f64 / S as f64;
    let places = relay.places.len();
    let per_second = places as f64 / (relay.service as f64 / S as f64);
    let knee = per_second * unloaded;
    client.run(relay, 100 * (knee as usize + 10));
    let seen = client.run(relay, 200 * (knee as usize + 10));
    let what = format!("{what}: {places} places, {unloaded} s unloaded: {seen:?}");
    assert!(
        seen.per_second > 0.9 * per_second,
        "throughput lost: {what}"
    );
    assert!(
        seen.latency_mean < 2.1 * unloaded,
        "latency ran away: {what}"
    );
    assert!(
        (0.95 * knee..2.1 * knee).contains(&seen.limit_mean),
        "not at the knee: {what}"
    );
}

const PLACES: [usize; 8] = [1, 2, 4, 10, 20, 50, 100, 300];
const SERVICES: [u64; 4] = [S / 5000, S / 50, S, 30 * S];

#[test]
fn it_finds_the_knee_of_any_relay() {
    for places in PLACES {
        for service in SERVICES {
            let mut client = Client::new(Gradient2::new(1, 1000));
            assert_finds_the_knee(&mut client, &mut Relay::new(places, service), "from new");
        }
    }
}

#[test]
fn it_finds_the_knee_behind_a_long_link() {
    for places in PLACES {
        for link in [S / 50, S / 5] {
            let mut relay = Relay {
                link,
                ..Relay::new(places, S / 10)
            };
            assert_finds_the_knee(
                &mut Client::new(Gradient2::new(1, 2000)),
                &mut relay,
                "link",
            );
        }
    }
}

#[test]
fn it_finds_the_knee_again_when_the_relay_grows_or_shrinks() {
    for before in PLACES {
        for after in PLACES {
            let mut relay = Relay::new(before, S / 50);
            let mut client = Client::new(Gradient2::new(1, 1000));
            client.run(&mut relay, 200 * (before + 10));
            relay.set_places(after);
            client.run(&mut relay, 20 * before); // what the old limit had queued
            assert_finds_the_knee(&mut client, &mut relay, &format!("after {before} places"));
        }
    }
}

#[test]
fn it_finds_the_knee_again_when_the_relay_becomes_slower_or_much_faster() {
    for places in PLACES {
        for (before, after) in [(10, 13), (10, 20), (10, 40), (10, 200), (100, 25), (100, 4)] {
            let mut relay = Relay::new(places, before * S / 1000);
            let mut client = Client::new(Gradient2::new(1, 1000));
            client.run(&mut relay, 200 * (places + 10));
            relay.service = after * S / 1000;
            assert_finds_the_knee(&mut client, &mut relay, &format!("after {before} ms"));
        }
    }
}

#[test]
fn a_standing_queue_never_becomes_the_new_normal() {
    let mut relay = Relay::new(20, S / 50);
    let mut client = Client::new(Gradient2::new(1, 1000));
    for _ in 0..20 {
        client.run(&mut relay, 20_000);
        assert!(client.gradient.limit() <= 45, "{}", client.gradient.limit());
    }
}

#[test]
fn noise_alone_does_not_collapse_it() {
    for noise in [0.3, 0.9] {
        let mut relay = Relay {
            noise,
            ..Relay::new(10_000, S / 50)
        };
        let mut client = Client::new(Gradient2::new(1, 200));
        client.run(&mut relay, 10_000);
        let seen = client.run(&mut relay, 100_000);
        assert!(seen.limit_mean > 150.0, "noise {noise}: {seen:?}");
    }
}

#[test]
fn noise_does_not_hide_the_knee() {
    for noise in [0.3, 0.9] {
        for places in PLACES {
            let mut relay = Relay {
                noise,
                ..Relay::new(places, S / 50)
            };
            let mut client = Client::new(Gradient2::new(1, 1000));
            client.run(&mut relay, 100 * (places + 10));
            let seen = client.run(&mut relay, 500 * (places + 10));
            let knee = places as f64;
            let service = 0.02 * 1.09; // the slow hundredth included
            let what = format!("noise {noise}, {places} places: {seen:?}");
            assert!(
                seen.per_second > 0.85 * knee / service,
                "throughput lost: {what}"
            );
            assert!(
                (0.9 * knee..2.2 * knee + 1.0).contains(&seen.limit_mean),
                "{what}"
            );
        }
    }
}

#[test]
fn an_idle_client_learns_nothing_and_keeps_its_limit() {
    let mut relay = Relay::new(50, S / 50);
    let mut client = Client::new(Gradient2::new(1, 1000));
    client.run_until(&mut relay, fresh_from_a_probe);
    // A trickle, ten times slower than before: nothing to do with how many are in flight.
    let limit = client.gradient.limit();
    for n in 0..10_000 {
        let now = Time::from_nanos(client.now + n * S);
        client
            .gradient
            .sample(now, Time::from_millis(200), 2, false);
    }
    assert_eq!(limit, client.gradient.limit());
}

#[test]
fn one_stalled_answer_costs_nothing() {
    let mut relay = Relay::new(1000, S / 50);
    let mut client = Client::new(Gradient2::new(1, 100));
    client.run(&mut relay, 2_000);
    client.run_until(&mut relay, fresh_from_a_probe);
    let stalled = Time::from_nanos(client.now + 300 * S);
    client
        .gradient
        .sample(stalled, Time::from_secs(300), 100, false);
    for _ in 0..500 {
        client.run(&mut relay, 1);
        assert_eq!(100, client.gradient.limit());
    }
}

#[test]
fn a_drop_cuts_once_for_all_that_were_in_flight_together() {
    let mut relay = Relay::new(1000, S / 50);
    let mut client = Client::new(Gradient2::new(1, 100));
    client.run(&mut relay, 10_000);
    assert_eq!(100, client.gradient.limit());
    let now = Time::from_nanos(client.now);
    for _ in 0..50 {
        client
            .gradient
            .sample(now, Time::from_millis(20), 100, true);
    }
    assert_eq!(80, client.gradient.limit());
    client
        .gradient
        .sample(now + Time::from_millis(30), Time::from_millis(20), 80, true);
    assert_eq!(64, client.gradient.limit());
    client.run(&mut relay, 10_000);
    assert_eq!(100, client.gradient.limit(), "it recovers by itself");
}

#[test]
fn cpu_pressure_shrinks_the_limit_until_it_is_over_and_then_it_recovers() {
    let mut relay = Relay::new(40, S / 50);
    let mut client = Client::new(Gradient2::new(2, 1000));
    client.run(&mut relay, 20_000);
    let before = client.gradient.limit();
    for _ in 0..10 {
        let limit = client.gradient.limit();
        client.gradient.pressure(Time::from_nanos(client.now), 0.95);
        assert!(client.gradient.limit() < limit);
        let limit = client.gradient.limit();
        client.run(&mut relay, 500);
        assert!(
            client.gradient.limit() <= limit,
            "nothing grows under pressure"
        );
    }
    assert!(client.gradient.limit() < before / 2);
    client.gradient.pressure(Time::from_nanos(client.now), 0.5);
    assert_finds_the_knee(&mut client, &mut relay, "after pressure");
}

#[test]
fn recovery_from_pressure_begins_at_once() {
    let mut relay = Relay::new(1000, S / 50);
    let mut client = Client::new(Gradient2::new(1, 100));
    client.run(&mut relay, 2_000);
    client.run_until(&mut relay, fresh_from_a_probe);
    for _ in 0..10 {
        client.gradient.pressure(Time::from_nanos(client.now), 0.9);
    }
    client.gradient.pressure(Time::from_nanos(client.now), 0.1);
    let mut limit = client.gradient.limit();
    assert!(limit < 40);
    // No probe, which would halve it first: the relay is not what changed.
    for _ in 0..500 {
        client.run(&mut relay, 1);
        assert!(client.gradient.limit() >= limit);
        limit = client.gradient.limit();
    }
    assert!(limit > 45);
}

#[test]
fn pressure_during_a_probe_does_not_lose_the_limit_to_return_to() {
    let mut relay = Relay::new(1000, S / 50);
    let mut client = Client::new(Gradient2::new(1, 100));
    client.run(&mut relay, 2_000);
    client.run_until(&mut relay, |gradient| {
        matches!(gradient.phase, Phase::Probe(_))
    });
    client.gradient.pressure(Time::from_nanos(client.now), 0.9);
    client.run(&mut relay, 1_000);
    assert!(client.gradient.limit() < 50);
    client.gradient.pressure(Time::from_nanos(client.now), 0.1);
    client.run(&mut relay, 150);
    assert!(
        (90..100).contains(&client.gradient.limit()),
        "{}",
        client.gradient.limit()
    );
}

#[test]
fn a_relay_that_collapses_during_a_probe_does_not_raise_the_baseline() {
    let mut relay = Relay::new(100, S / 50);
    let mut client = Client::new(Gradient2::new(1, 1000));
    client.run(&mut relay, 5_000);
    client.run_until(&mut relay, |gradient| {
        matches!(gradient.phase, Phase::Probe(_))
    });
    relay.set_places(1);
    client.run_until(&mut relay, |gradient| {
        !matches!(gradient.phase, Phase::Probe(_))
    });
    let baseline = client.gradient.baseline.log.exp() / (S / 50) as f64;
    assert!(baseline < 1.6, "{baseline}");
}

#[test]
fn a_drop_ends_the_doubling_of_the_start() {
    let mut relay = Relay::new(1000, S / 50);
    let mut client = Client::new(Gradient2::new(1, 1000));
    client.run_until(&mut relay, |gradient| gradient.limit() >= 80);
    assert!(matches!(client.gradient.phase, Phase::Start));
    let now = Time::from_nanos(client.now + 1);
    client.gradient.sample(now, Time::ZERO, 80, true);
    client.run(&mut relay, 300);
    assert!(
        (64..100).contains(&client.gradient.limit()),
        "{}",
        client.gradient.limit()
    );
}

#[test]
fn endless_pressure_stops_at_the_minimum() {
    let mut gradient = Gradient2::new(3, 1000);
    for ms in 0..100 {
        gradient.pressure(Time::from_millis(ms), 1.0);
    }
    assert_eq!(3, gradient.limit());
}

#[test]
fn a_cpu_share_at_the_limit_or_not_a_number_is_no_pressure() {
    let mut gradient = Gradient2::new(1, 1000);
    for cpu_share in [0.0, CPU_SHARE_MAX, f64::NAN] {
        gradient.pressure(Time::ZERO, cpu_share);
    }
    assert_eq!(10, gradient.limit());
}

#[derive(Debug, Clone)]
enum Event {
    Sample {
        rtt: u64,
        inflight: usize,
        dropped: bool,
    },
    Pressure(f64),
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let rtt = prop_oneof![Just(0), 1..S, Just(u64::MAX)];
    let sample = (rtt, 0..3000_usize, proptest::bool::weighted(0.05)).prop_map(
        |(rtt, inflight, dropped)| Event::Sample {
            rtt,
            inflight,
            dropped,
        },
    );
    let share = prop_oneof![
        0.0..1.0_f64,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0)
    ];
    let event = prop_oneof![40 => sample, 1 => share.prop_map(Event::Pressure)];
    (0..S, event)
}

proptest! {
    #[test]
    fn the_limit_stays_within_its_bounds_and_pressure_only_shrinks_it(
        min in 0..50_usize,
        max in 0..2000_usize,
        events in proptest::collection::vec(event(), 1..500),
    ) {
        let mut gradient = Gradient2::new(min, max);
        let (min, max) = (min.max(1), max.max(min).max(1));
        let (mut now, mut under_pressure, mut peak) = (0, false, gradient.limit());
        for (elapsed, event) in events {
            now += elapsed;
            let (time, limit) = (Time::from_nanos(now), gradient.limit());
            match event {
                Event::Sample { rtt, inflight, dropped } => {
                    gradient.sample(time, Time::from_nanos(rtt), inflight, dropped);
                    prop_assert!(!under_pressure || gradient.limit() <= limit);
                    prop_assert!(!dropped || gradient.limit() <= limit);
                    // A probe returns from far below.
                    prop_assert!(gradient.limit() <= ((limit + 1) * 4).max(peak));
                    peak = peak.max(gradient.limit());
                }
                Event::Pressure(cpu_share) => {
                    gradient.pressure(time, cpu_share);
                    under_pressure = cpu_share > CPU_SHARE_MAX;
                    let expected = if under_pressure { limit - usize::from(limit > min) } else { limit };
                    prop_assert!(gradient.limit() <= expected);
                }
            }
            prop_assert!((min..=max).contains(&gradient.limit()));
        }
    }
}
