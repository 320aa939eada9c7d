//! The whole engine in a made-up world, through storms that a seed decides.
//!
//! The real engine on the real store, on disks in memory that lose what was not synced; the real
//! client, on a network in memory that delays, cuts and tears; real SMTP server machines that refuse,
//! hang up, drip and think for too long; lives of the engine that end by kill, by power cut in the middle of
//! any call, by a failing disk or in good order, and wall clocks that jump in between; operators who
//! cancel, suspend and read the configuration again. All of it on one thread whose clock stands still
//! while anything is to be done, so a seed is the whole storm: what a seed finds, it finds again.
//!
//! ```text
//! MAILRAIL_STORMS=10000 cargo test -p mailrail-engine --test simulation
//! MAILRAIL_STORM=17     cargo test -p mailrail-engine --test simulation quarter -- --nocapture
//! ```
//!
//! Not simulated: TLS, threads that really run beside each other.

mod check;
mod net;
mod peer;
mod plan;
mod storm;
mod trace;
mod world;

use std::time::Duration;

use client::TlsContext;

use crate::plan::{Blow, Plan};

/// Storms of one run, unless `MAILRAIL_STORMS` says otherwise.
const STORMS: u64 = 200;

fn tls() -> TlsContext {
    TlsContext::new(Vec::new()).unwrap()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// A quarter of all storms; the quarters run beside each other.
#[track_caller]
fn quarter(quarter: u64) {
    let seeds = match number("MAILRAIL_STORM") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MAILRAIL_STORMS").unwrap_or(STORMS),
    };
    let (tls, is_alone) = (tls(), seeds.end - seeds.start == 1);
    let mut wrong = Vec::new();
    for seed in seeds.filter(|seed| seed % 4 == quarter) {
        let report = storm::blow(Plan::new(seed), &tls, is_alone);
        let each = report.wrong.into_iter();
        wrong.extend(each.map(|what| format!("MAILRAIL_STORM={seed}: {what}")));
    }
    assert!(
        wrong.is_empty(),
        "\n{}\nto repeat one: MAILRAIL_STORM=… cargo test -p mailrail-engine --test simulation quarter -- --nocapture",
        wrong.join("\n")
    );
}

// What is lost, sent twice without a reason, sent before its time or told to nobody, is named.

#[test]
fn storms_of_the_first_quarter_hold_the_invariants() {
    quarter(0);
}

#[test]
fn storms_of_the_second_quarter_hold_the_invariants() {
    quarter(1);
}

#[test]
fn storms_of_the_third_quarter_hold_the_invariants() {
    quarter(2);
}

#[test]
fn storms_of_the_fourth_quarter_hold_the_invariants() {
    quarter(3);
}

#[test]
fn a_seed_is_the_whole_storm() {
    let tls = tls();
    for seed in 1000..1005 {
        let [first, second] = [(); 2].map(|()| storm::blow(Plan::new(seed), &tls, false));
        assert_eq!(first.digest, second.digest, "storm {seed}");
    }
}

#[track_caller]
fn holds(plan: Plan) {
    let wrong = storm::blow(plan, &tls(), true).wrong;
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_crash_at_the_acknowledgement_does_not_undo_a_suppression() {
    let mut plan = Plan::fair(1);
    plan.messages[0].suppressed = Some(0);
    plan.fatal_acks.insert(0);
    holds(plan);
}

#[test]
fn nothing_begins_once_the_disk_has_failed() {
    let mut plan = Plan::fair(40);
    for planned in plan.messages.iter_mut().step_by(2) {
        planned.delay = Some(Duration::from_secs(15));
    }
    plan.blows
        .push((Duration::from_secs(10), Blow::DiskFailsAt(0)));
    holds(plan);
}

#[test]
fn who_has_no_room_for_another_segment_does_not_call_itself_ready() {
    let mut plan = Plan::fair(200);
    for (number, planned) in plan.messages.iter_mut().enumerate() {
        planned.at = Duration::from_millis(100 * number as u64);
    }
    let full = Blow::DiskFull(0, Duration::from_secs(30));
    plan.blows.push((Duration::from_secs(1), full));
    holds(plan);
}

#[test]
fn who_is_on_the_way_when_it_is_to_stop_gets_there() {
    let mut plan = Plan::fair(30);
    for planned in &mut plan.messages {
        planned.at = Duration::from_secs(1);
    }
    for route in &mut plan.routes {
        // So that most of them wait for the only connection.
        (route.connections_max, route.wire) = (1, client::Wire::Windowed(4));
    }
    let grace = Duration::from_secs(60);
    plan.blows
        .push((Duration::from_millis(1100), Blow::Drain(grace)));
    holds(plan);
}
