//! Batches go out, outcomes go into the record.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Accepted, Cause, Failure, Kind, Pool, Report, Scope, Stage, Timings};
use memchr::memmem;
use smtp::{Content, Reply};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::feed::{Batch, Feed, FeedError, Job};
use super::record::{self, Details, Event, Outcome};
use crate::load::{Tally, on_wire};

/// How long messages on the wire may take to finish once the run is to stop.
const GRACE: Duration = Duration::from_secs(60);

/// So many messages refused one after another, for good or already at MAIL, are no matter of their
/// recipients: the relay does not want this sender, or does not relay.
const REFUSALS_IN_A_ROW_MAX: u64 = 100;

/// Why a run stopped before its end.
#[derive(Debug)]
pub(super) enum StopReason {
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// What would befall every further message, in words.
    Relay(String),
    /// The list or the record.
    Feed(FeedError),
}

/// What all deliveries share.
pub(super) struct Delivery {
    pool: Pool,
    feed: Arc<Feed>,
    in_flight_max: usize,
    tally: Mutex<Tally>,
    /// Results in a row that never came as far as MAIL.
    unoffered_in_a_row: AtomicU64,
    /// See [`REFUSALS_IN_A_ROW_MAX`].
    refusals_in_a_row: AtomicU64,
    stop_reason: Mutex<Option<StopReason>>,
    stop: Notify,
}

/// How the delivery went.
pub(super) struct Delivered {
    pub(super) elapsed: Duration,
    /// Waiting for batches while connections could have worked.
    pub(super) starved: Duration,
    pub(super) stop_reason: Option<StopReason>,
}

impl Delivery {
    pub(super) fn new(pool: Pool, feed: Arc<Feed>, in_flight_max: usize) -> Self {
        Self {
            pool,
            feed,
            in_flight_max,
            tally: Mutex::new(Tally::new()),
            unoffered_in_a_row: AtomicU64::new(0),
            refusals_in_a_row: AtomicU64::new(0),
            stop_reason: Mutex::new(None),
            stop: Notify::new(),
        }
    }

    /// What was measured so far.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Sends batches until there are no more, or the run is to stop; what is on the wire then may
    /// finish.
    pub(super) async fn run(self: &Arc<Self>, mut batches: mpsc::Receiver<Batch>) -> Delivered {
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        let mut starved = Duration::ZERO;
        let interrupted = self.stop_on_signals();
        let is_stopped = tokio::select! {
            () = self.send_batches(&mut batches, &mut tasks, &mut starved) => false,
            () = self.stop.notified() => true,
        };
        batches.close();
        while let Some(batch) = batches.recv().await {
            self.give_back(batch);
        }
        self.finish(&mut tasks, is_stopped).await;
        interrupted.abort();
        let feed_error = lock(&self.feed.error).take();
        let stop_reason = lock(&self.stop_reason).take();
        Delivered {
            elapsed: started.elapsed(),
            starved,
            stop_reason: feed_error.map(StopReason::Feed).or(stop_reason),
        }
    }

    async fn send_batches(
        self: &Arc<Self>,
        batches: &mut mpsc::Receiver<Batch>,
        tasks: &mut JoinSet<()>,
        starved: &mut Duration,
    ) {
        let places = Arc::new(Semaphore::new(self.in_flight_max));
        loop {
            let waiting = Instant::now();
            let Some(batch) = batches.recv().await else {
                return;
            };
            *starved += waiting.elapsed();
            let mut rest = GiveBack {
                delivery: self,
                batch: batch.into_iter(),
            };
            while !rest.batch.as_slice().is_empty() {
                let place = Arc::clone(&places).acquire_owned().await;
                let job = rest.batch.next().expect("it is not empty");
                let this = Arc::clone(self);
                tasks.spawn(async move {
                    this.send(job).await;
                    drop(place);
                });
                while tasks.try_join_next().is_some() {}
            }
        }
    }

    /// Waits for what is on the wire: to its end, or for a time of grace once the run is to stop.
    async fn finish(&self, tasks: &mut JoinSet<()>, is_stopped: bool) {
        let all = async { while tasks.join_next().await.is_some() {} };
        let grace = async {
            if !is_stopped {
                self.stop.notified().await;
            }
            tokio::time::sleep(GRACE).await;
        };
        // What has not finished by then stays unknown.
        tokio::select! {
            () = all => {}
            () = grace => {}
        }
    }

    async fn send(&self, job: Job) {
        let report = self.pool.send(job.envelope, job.content.clone()).await;
        let result = report.results.first();
        let verdict = result.map_or(Verdict::of(Event::Unknown), judge);
        if verdict.event == Event::Sent {
            lock(&self.tally).note_sent(&report.timings, on_wire(&report.timings));
        }
        let failure = result.and_then(|result| result.as_ref().err());
        self.stop_where_pointless(&verdict, failure);
        let mut details = result.map(details_of).unwrap_or_default();
        details.attempts = Some(report.attempts);
        add_timings(&mut details, &report);
        let message_id = message_id(&job.content);
        self.settle(job.row, &job.email, verdict.event, details, message_id);
    }

    /// Stops the run if what happened would befall every further message.
    fn stop_where_pointless(&self, verdict: &Verdict, failure: Option<&Failure>) {
        let unoffered = count_in_a_row(&self.unoffered_in_a_row, !verdict.is_offered);
        let refusals = count_in_a_row(&self.refusals_in_a_row, verdict.is_refusal);
        let Some(failure) = failure else { return };
        if reaches_all(failure) || unoffered >= self.in_flight_max.max(16) as u64 {
            self.stop_because(StopReason::Relay(failure.to_string()));
        } else if refusals >= REFUSALS_IN_A_ROW_MAX {
            let words = format!("{refusals} messages refused in a row, the last: {failure}");
            self.stop_because(StopReason::Relay(words));
        }
    }

    fn stop_because(&self, reason: StopReason) {
        lock(&self.stop_reason).get_or_insert(reason);
        self.stop.notify_one();
    }

    fn settle(
        &self,
        row: u64,
        email: &str,
        event: Event,
        details: Details,
        message_id: Option<&str>,
    ) {
        self.feed.counts.add(event, row, email);
        let outcome = Outcome {
            event,
            row,
            email,
            time: record::now(),
            details,
            message_id,
        };
        if let Err(error) = self.feed.record.settle(&outcome) {
            self.feed.note(Err(self.feed.record_error(error)));
            self.stop.notify_one();
        }
    }

    fn give_back(&self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            self.settle(
                job.row,
                &job.email,
                Event::Returned,
                Details::default(),
                None,
            );
        }
    }

    /// The first signal stops the run, the second ends the process at once.
    fn stop_on_signals(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            stop_signal().await;
            eprintln!("\nmailrail: stopping; what is on the wire may finish (once more: at once)");
            this.stop_because(StopReason::Interrupted);
            stop_signal().await;
            // What is on the wire has no outcome in the record, and so counts as unknown.
            std::process::exit(crate::exit::Exit::Temporary as i32);
        })
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Gives back what was not sent of a batch, however the sending ends.
struct GiveBack<'a> {
    delivery: &'a Delivery,
    batch: std::vec::IntoIter<Job>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.delivery.give_back(self.batch.by_ref());
    }
}

/// What a result means for its row.
struct Verdict {
    event: Event,
    /// It came as far as MAIL.
    is_offered: bool,
    /// Refused for good, or already at MAIL.
    is_refusal: bool,
}

impl Verdict {
    fn of(event: Event) -> Self {
        Self {
            event,
            is_offered: true,
            is_refusal: false,
        }
    }
}

fn judge(result: &Result<Accepted, Failure>) -> Verdict {
    let Err(failure) = result else {
        return Verdict::of(Event::Sent);
    };
    let is_offered = failure.stage >= Stage::Mail;
    let event = match (failure.kind, &failure.cause) {
        (Kind::Unknown, _) => Event::Unknown,
        // Not this row's fault: it goes again.
        _ if reaches_all(failure) => Event::Returned,
        (Kind::Transient, _) if !is_offered => Event::Returned,
        // The relay has not even heard of the recipient: it may want this message another day.
        _ if failure.stage == Stage::Mail && failure.reply().is_some() => Event::Failed,
        (Kind::Permanent, _) => Event::Rejected,
        (Kind::Transient, Cause::Timeout(_) | Cause::Deadline) => Event::TimedOut,
        (Kind::Transient, _) => Event::Failed,
    };
    let is_refused_at_mail = event == Event::Failed && failure.stage == Stage::Mail;
    Verdict {
        event,
        is_offered,
        is_refusal: event == Event::Rejected || is_refused_at_mail,
    }
}

fn reaches_all(failure: &Failure) -> bool {
    matches!(failure.scope, Scope::Endpoint | Scope::Account)
}

/// Counts up, or starts anew.
fn count_in_a_row(count: &AtomicU64, is_one_more: bool) -> u64 {
    if is_one_more {
        return count.fetch_add(1, Ordering::Relaxed) + 1;
    }
    count.store(0, Ordering::Relaxed);
    0
}

/// Reply, codes, stage and error, as they stand in record and report.
pub(super) fn details_of(result: &Result<Accepted, Failure>) -> Details {
    let reply = match result {
        Ok(accepted) => Some(&accepted.reply),
        Err(failure) => failure.reply(),
    };
    let failure = result.as_ref().err();
    Details {
        reply: reply.map(ToString::to_string),
        code: reply.map(|reply| reply.code().get()),
        status: reply
            .and_then(Reply::enhanced)
            .map(|status| status.to_string()),
        stage: failure.map(|failure| failure.stage.name()),
        scope: failure.map(|failure| failure.scope.name()),
        error: failure.map(ToString::to_string),
        ..Details::default()
    }
}

fn add_timings(details: &mut Details, report: &Report) {
    let timings: &Timings = &report.timings;
    for (name, stage) in timings.stages() {
        if !stage.is_zero() {
            let ms = (stage.as_secs_f64() * 1e6).round() / 1e3;
            details.ms.insert(name.to_owned(), ms.into());
        }
    }
    details.reused = Some(timings.reused);
    details.tls_resumed = timings.tls_resumed;
}

/// The value of Message-ID, which the composer writes on one line.
fn message_id(content: &Content) -> Option<&str> {
    let bytes = content.as_bytes();
    let header = &bytes[..memmem::find(bytes, b"\r\n\r\n")?];
    let at = memmem::find(header, b"Message-ID: ")? + b"Message-ID: ".len();
    let value = header[at..].split(|&b| b == b'\r').next()?;
    std::str::from_utf8(value).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
