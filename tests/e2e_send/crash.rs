//! However a run ends, nobody gets a message twice, and whoever perhaps got one is named.

use std::collections::HashMap;

use flow::rng::Rng;
use rustix::process::Signal;
use sink::{Rule, Sink};

use crate::support::*;

const ROWS: usize = 400;

/// A sink slow enough to be killed in front of, and with a record.
fn slow_sink(seed: u64) -> Sink {
    let slow = "at = \"final\", probability = 0.5, delay = \"3ms\"";
    let lost = "at = \"final\", probability = 0.01, do = \"lose-reply\"";
    let rules = [slow, lost].map(|toml| toml.parse::<Rule>().unwrap());
    let builder = Sink::builder().keep_records().seed(seed);
    start(rules.into_iter().fold(builder, sink::Builder::rule))
}

fn copies(sink: &Sink) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for to in recipients(sink) {
        *copies.entry(to).or_default() += 1;
    }
    copies
}

/// Whether a row's last word is this one.
fn rows_with(mailing: &Mailing, event: &str) -> Vec<u64> {
    let last: HashMap<_, _> = mailing.outcomes().into_iter().collect();
    let mut rows: Vec<_> = last
        .into_iter()
        .filter(|(_, last)| last == event)
        .map(|(row, _)| row)
        .collect();
    rows.sort_unstable();
    rows
}

/// Kills run after run, until one comes to its end.
fn kill_until_done(mailing: &Mailing, sink: &Sink, window: &str, rng: &mut Rng) -> usize {
    let mut kills = 0;
    loop {
        let resume: &[&str] = if mailing.has_record() {
            &["--resume"]
        } else {
            &[]
        };
        let wire = ["--connections", "3", "--retries", "0", "--window", window];
        let more = [&wire, resume].concat();
        let mut child = mailing.spawn(&url(sink), &more);
        let enough = sink.report().messages + 1 + rng.up_to(90);
        let mut ended = None;
        wait_until("the sink has taken more", || {
            ended = child.try_wait().unwrap();
            ended.is_some() || sink.report().messages >= enough
        });
        if let Some(status) = ended {
            let output = child.wait_with_output().unwrap();
            assert!(matches!(status.code(), Some(0 | 75)), "{output:?}");
            return kills;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        if rng.chance(0.5) {
            cut_power(mailing, rng);
        }
    }
}

/// What a power cut may leave besides: of what came after the last line that must be synced before
/// anything else happens, any part may be missing.
fn cut_power(mailing: &Mailing, rng: &mut Rng) {
    let record = std::fs::read(&mailing.record).unwrap();
    let mark = b"\n{\"event\":\"attempting\"";
    let marked = record
        .windows(mark.len())
        .rposition(|window| window == mark);
    let Some(marked) = marked else { return };
    let line_end = record[marked + 1..].iter().position(|&b| b == b'\n');
    let synced = line_end.map_or(record.len(), |end| marked + 1 + end + 1);
    let left = synced as u64 + rng.up_to((record.len() - synced) as u64);
    let file = std::fs::File::options().write(true).open(&mailing.record);
    file.unwrap().set_len(left).unwrap();
}

#[test]
fn killed_again_and_again_a_mailing_sends_nothing_twice_and_names_what_is_unknown() {
    for (seed, window) in [(1, "1"), (2, "1"), (3, "4")] {
        let (sink, mailing) = (slow_sink(seed), Mailing::of(ROWS));
        let kills = kill_until_done(&mailing, &sink, window, &mut Rng::new(seed));
        assert!(kills >= 2, "seed {seed}: {kills} kills prove nothing");
        let copies = copies(&sink);
        let (sent, unknown) = (rows_with(&mailing, "sent"), rows_with(&mailing, "unknown"));
        for row in 2..ROWS as u64 + 2 {
            let taken = copies
                .get(&format!("p{row}@x.example"))
                .copied()
                .unwrap_or(0);
            let (is_sent, is_unknown) = (sent.contains(&row), unknown.contains(&row));
            assert!(is_sent || is_unknown, "seed {seed}: row {row} is forgotten");
            assert!(taken <= 1, "seed {seed}: row {row} was sent twice");
            assert!(
                taken == 1 || is_unknown,
                "seed {seed}: row {row} was never sent"
            );
        }
        // With leave, the unknown go again; then all have it, and only those may have it twice.
        let run = mailing.send(&url(&sink), &["--resend-unknown", "--retries", "0"]);
        assert!(matches!(run.code, Some(0 | 75)), "{run:?}");
        let copies = self::copies(&sink);
        for row in 2..ROWS as u64 + 2 {
            let taken = copies
                .get(&format!("p{row}@x.example"))
                .copied()
                .unwrap_or(0);
            let most = if unknown.contains(&row) { 2 } else { 1 };
            assert!(
                (1..=most).contains(&taken),
                "seed {seed}: row {row} was sent {taken} times"
            );
        }
    }
}

#[test]
fn ctrl_c_or_sigterm_lets_the_wire_finish_and_resume_goes_on() {
    stop_and_resume(Signal::INT);
    stop_and_resume(Signal::TERM);
}

fn stop_and_resume(by: Signal) {
    let (sink, mailing) = (slow_sink(9), Mailing::of(ROWS));
    let child = mailing.spawn(&url(&sink), &["--connections", "2", "--retries", "0"]);
    wait_until("some are sent", || sink.report().messages >= 20);
    signal(&child, by);
    let run: Run = child.wait_with_output().unwrap().into();
    run.expect(75, "--resume goes on").expect(75, "interrupted");
    // Whatever the sink took has its outcome.
    let known = rows_with(&mailing, "sent").len() + rows_with(&mailing, "unknown").len();
    let taken = usize::try_from(sink.report().messages).unwrap();
    assert!(known >= taken && taken < ROWS, "{known} of {taken}");
    mailing.send(&url(&sink), &["--resume", "--retries", "0"]);
    assert!(copies(&sink).values().all(|&count| count == 1));
    let known = rows_with(&mailing, "sent").len() + rows_with(&mailing, "unknown").len();
    assert_eq!(known, ROWS);
}

#[test]
fn a_record_in_use_is_refused_to_a_second_run() {
    let (sink, mailing) = (slow_sink(5), Mailing::of(ROWS));
    let mut child = mailing.spawn(&url(&sink), &["--connections", "1"]);
    wait_until("some are sent", || sink.report().messages >= 5);
    mailing
        .send(&url(&sink), &["--resume"])
        .expect(75, "is in use by another run");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_relay_that_dies_stops_the_run_early_and_another_takes_the_rest() {
    let (first, mailing) = (slow_sink(6), Mailing::of(ROWS));
    let child = mailing.spawn(&url(&first), &["--connections", "2", "--retries", "1"]);
    wait_until("some are sent", || first.report().messages >= 20);
    let taken_before = {
        let copies = copies(&first);
        drop(first);
        copies
    };
    let run: Run = child.wait_with_output().unwrap().into();
    run.expect(75, "not attempted");
    assert!(mailing.count("failed") < 50, "it burned through the list");
    let second = slow_sink(7);
    mailing.send(
        &url(&second),
        &["--resume", "--retry-failed", "--retries", "0"],
    );
    let taken_after = copies(&second);
    for row in 2..ROWS as u64 + 2 {
        let to = format!("p{row}@x.example");
        let both = [&taken_before, &taken_after].map(|taken| taken.get(&to).copied().unwrap_or(0));
        assert!(both[0] + both[1] <= 1, "row {row} was sent twice");
    }
    let known = rows_with(&mailing, "sent").len() + rows_with(&mailing, "unknown").len();
    assert_eq!(known, ROWS);
}
