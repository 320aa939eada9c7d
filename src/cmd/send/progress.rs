//! What a run has done so far: counted here, shown as a bar on a terminal and as lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::record::Event;

/// Unknown rows that are named in the summary; the record names all.
const NAMED_MAX: usize = 20;
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks of the bar at the counts.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Outcomes of this run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    unknown: AtomicU64,
    skipped: AtomicU64,
    returned: AtomicU64,
    /// The first of the unknown: row and address.
    unknown_rows: Mutex<Vec<(u64, String)>>,
}

impl Counts {
    pub(super) fn add(&self, event: Event, row: u64, email: &str) {
        self.of(event).fetch_add(1, Ordering::Relaxed);
        if event == Event::Unknown {
            let mut rows = self.lock_unknown_rows();
            if rows.len() < NAMED_MAX {
                rows.push((row, email.to_owned()));
            }
        }
    }

    /// The first [`NAMED_MAX`] of the unknown.
    pub(super) fn unknown_rows(&self) -> Vec<(u64, String)> {
        self.lock_unknown_rows().clone()
    }

    fn lock_unknown_rows(&self) -> MutexGuard<'_, Vec<(u64, String)>> {
        self.unknown_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, event: Event) -> u64 {
        self.of(event).load(Ordering::Relaxed)
    }

    fn of(&self, event: Event) -> &AtomicU64 {
        match event {
            Event::Sent => &self.sent,
            Event::Rejected => &self.rejected,
            Event::Failed => &self.failed,
            Event::TimedOut => &self.timed_out,
            Event::Unknown => &self.unknown,
            Event::Skipped => &self.skipped,
            Event::Returned => &self.returned,
        }
    }

    /// Rows with an outcome.
    fn done(&self) -> u64 {
        use Event::{Failed, Rejected, Sent, Skipped, TimedOut, Unknown};
        [Sent, Rejected, Failed, TimedOut, Unknown, Skipped]
            .into_iter()
            .map(|event| self.get(event))
            .sum()
    }

    fn not_sent(&self) -> u64 {
        self.done() - self.get(Event::Sent).min(self.done())
    }
}

/// Shows the counts until it is dropped.
pub(super) struct Progress {
    task: tokio::task::JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// * `total`: rows there are to do.
    pub(super) fn start(counts: &Arc<Counts>, total: u64, is_quiet: bool) -> Self {
        let bar = (!is_quiet && std::io::stderr().is_terminal()).then(|| new_bar(total));
        let counts = Arc::clone(counts);
        let task = match &bar {
            Some(bar) => tokio::spawn(move_bar(bar.clone(), counts)),
            None if is_quiet => tokio::spawn(async {}),
            None => tokio::spawn(print_lines(counts, total)),
        };
        Self { task, bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(total: u64) -> ProgressBar {
    let template = "{bar:32.green} {pos}/{len} · {msg} · ETA {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::new(total).with_style(style)
}

async fn move_bar(bar: ProgressBar, counts: Arc<Counts>) {
    let mut ticks = tokio::time::interval(BAR_INTERVAL);
    loop {
        ticks.tick().await;
        bar.set_position(counts.done());
        let (sent, not_sent) = (counts.get(Event::Sent), counts.not_sent());
        let rate = bar.per_sec();
        bar.set_message(format!("{sent} sent · {not_sent} not · {rate:.0}/s"));
    }
}

async fn print_lines(counts: Arc<Counts>, total: u64) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(LINE_INTERVAL);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let done = counts.done();
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let eta_s = total.saturating_sub(done) as f64 / rate.max(1e-9);
        let eta = if done == 0 {
            "unknown".to_owned()
        } else {
            format!("{eta_s:.0} s")
        };
        eprintln!(
            "{done}/{total} done · {} sent · {} not · {rate:.0}/s · ETA {eta}",
            counts.get(Event::Sent),
            counts.not_sent(),
        );
    }
}
