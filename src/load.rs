//! The same message again and again through a pool, as cheaply as can be: what `bench` and `demo` measure with.
//!
//! A fixed set of tasks loops for the whole run (no spawn per message); all share one content and
//! one envelope. What is measured goes into one tally per thread; its size does not depend on the
//! number of messages or tasks.

mod pacer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Kind, Pool, Report, Timings};
use flow::rate::RateLimit;
use hdrhistogram::Histogram;
use smtp::{Content, Envelope};
use tokio::task::JoinSet;

use crate::machine;
use pacer::Pacer;

/// A task that fails this often in a row ends the run: nothing can be measured here.
const FAILURES_IN_A_ROW_MAX: u32 = 32;
/// Number of stages in [`Timings`].
const STAGES: usize = 11;

/// How much, and by how many at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Messages in hand at once.
    pub(crate) tasks: usize,
    /// Tallies; one per thread of the runtime.
    pub(crate) threads: usize,
    /// Ends after so many messages …
    pub(crate) messages_max: u64,
    /// … or when this time is over.
    pub(crate) duration_max: Option<Duration>,
    /// Messages fall due at this rate, whether or not the server keeps up (open loop); without one, a task begins
    /// the next when one is answered. A latency that is `Whole` then counts from when the message was due.
    pub(crate) rate: Option<RateLimit>,
    /// What counts as a message's latency.
    pub(crate) latency: Latency,
}

/// Where a latency begins; it ends with the last reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Latency {
    /// With the call of `send`, or when the message was due; the wait for a connection included.
    Whole,
    /// With the first octet written for the message, or for its new connection.
    OnWire,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Messages that every recipient got.
    pub(crate) sent: u64,
    /// Messages that some recipient did not get.
    pub(crate) failed: u64,
    /// Messages whose fate is unknown.
    pub(crate) unknown: u64,
    /// Of those sent, in ns, 3 digits.
    pub(crate) latency: Histogram<u64>,
    /// Sums in ns over those sent, in the order of [`Timings::stages`].
    pub(crate) stage_ns: [u64; STAGES],
    /// The first failure in words.
    pub(crate) first_failure: Option<String>,
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct LoadReport {
    pub(crate) tally: Tally,
    /// From the first `send` to the last reply.
    pub(crate) elapsed: Duration,
    /// CPU of the whole process in that time.
    pub(crate) cpu: Duration,
}

impl LoadReport {
    /// Messages sent a second.
    pub(crate) fn messages_per_second(&self) -> f64 {
        self.tally.sent as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU of the process per message sent, in µs.
    pub(crate) fn cpu_us_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.tally.sent.max(1) as f64
    }
}

impl Tally {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        let hour_ns = 3_600_000_000_000;
        let latency = Histogram::new_with_bounds(1000, hour_ns, 3).expect("bounds are in order");
        Self {
            sent: 0,
            failed: 0,
            unknown: 0,
            latency,
            stage_ns: [0; STAGES],
            first_failure: None,
        }
    }

    fn note(&mut self, report: &Report, took: Duration) {
        let Some(failure) = report.first_failure() else {
            self.note_sent(&report.timings, took);
            return;
        };
        let is_unknown = |result: &Result<_, client::Failure>| {
            result.as_ref().is_err_and(|f| f.kind == Kind::Unknown)
        };
        if report.results.iter().any(is_unknown) {
            self.unknown += 1;
        } else {
            self.failed += 1;
        }
        if self.first_failure.is_none() {
            self.first_failure = Some(failure.to_string());
        }
    }

    /// Counts one message sent.
    pub(crate) fn note_sent(&mut self, timings: &Timings, took: Duration) {
        self.sent += 1;
        self.latency.saturating_record(nanos(took));
        for (sum, (_, stage)) in self.stage_ns.iter_mut().zip(timings.stages()) {
            *sum += nanos(stage);
        }
    }

    /// Adds what another has seen.
    fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.latency
            .add(&other.latency)
            .expect("all tallies have the same bounds");
        for (sum, more) in self.stage_ns.iter_mut().zip(other.stage_ns) {
            *sum += more;
        }
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    /// A percentile of the latency in ms.
    pub(crate) fn latency_ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1e6
    }

    /// Mean of each stage in ms, in their order.
    pub(crate) fn stages_ms(&self) -> Vec<(&'static str, f64)> {
        let names = Timings::default().stages().map(|(name, _)| name);
        let mean_ms = |sum: u64| sum as f64 / 1e6 / self.sent.max(1) as f64;
        names.into_iter().zip(self.stage_ns.map(mean_ms)).collect()
    }
}

/// What all tasks of a run share.
struct Shared {
    pool: Pool,
    envelope: Arc<Envelope>,
    content: Content,
    taken: AtomicU64,
    messages_max: u64,
    deadline: Option<Instant>,
    pacer: Option<Arc<Pacer>>,
    latency: Latency,
    stop: Arc<AtomicBool>,
}

/// Runs the load; ends early once `stop` is set or the relay takes nothing.
pub(crate) async fn run(
    pool: &Pool,
    envelope: Arc<Envelope>,
    content: Content,
    load: Load,
    stop: Arc<AtomicBool>,
) -> LoadReport {
    let started = Instant::now();
    let cpu_before = machine::cpu_time();
    let pacer = load
        .rate
        .map(|rate| Pacer::start(rate, load, started, Arc::clone(&stop)));
    let shared = Arc::new(Shared {
        pool: pool.clone(),
        envelope,
        content,
        taken: AtomicU64::new(0),
        messages_max: load.messages_max,
        deadline: load.duration_max.map(|duration| started + duration),
        pacer,
        latency: load.latency,
        stop,
    });
    let tallies: Vec<_> = (0..load.threads.max(1))
        .map(|_| Arc::new(Mutex::new(Tally::new())))
        .collect();
    let mut tasks = JoinSet::new();
    for index in 0..load.tasks {
        let tally = Arc::clone(&tallies[index % tallies.len()]);
        tasks.spawn(send_until_done(Arc::clone(&shared), tally));
    }
    while tasks.join_next().await.is_some() {}
    let elapsed = started.elapsed();
    let cpu = machine::cpu_time().saturating_sub(cpu_before);
    let mut tally = Tally::new();
    for other in &tallies {
        tally.merge(&lock(other));
    }
    LoadReport {
        tally,
        elapsed,
        cpu,
    }
}

async fn send_until_done(shared: Arc<Shared>, tally: Arc<Mutex<Tally>>) {
    let mut failures_in_a_row = 0;
    let mut now = Instant::now();
    while let Some(due) = shared.next(now).await {
        let sending = shared
            .pool
            .send(Arc::clone(&shared.envelope), shared.content.clone());
        let report = sending.await;
        let done = Instant::now();
        let latency = match shared.latency {
            Latency::Whole => done - due,
            Latency::OnWire => on_wire(&report.timings),
        };
        lock(&tally).note(&report, latency);
        now = done;
        failures_in_a_row = match report.first_failure() {
            None => 0,
            Some(_) => failures_in_a_row + 1,
        };
        if failures_in_a_row >= FAILURES_IN_A_ROW_MAX {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// When the next message is due: `now`, or as its pace has it. `None` at the end.
    async fn next(&self, now: Instant) -> Option<Instant> {
        match &self.pacer {
            None => self.may_go_on(now).then_some(now),
            Some(_) if self.stop.load(Ordering::Relaxed) => None,
            Some(pacer) => pacer.next().await,
        }
    }

    fn may_go_on(&self, now: Instant) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && self.deadline.is_none_or(|deadline| now < deadline)
            && self.taken.fetch_add(1, Ordering::Relaxed) < self.messages_max
    }
}

/// From the first octet, of a new connection if need be, to the last reply.
pub(crate) fn on_wire(timings: &Timings) -> Duration {
    timings.total().saturating_sub(timings.queue)
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
