//! The second pass over a list: rows become messages on threads of their own, and are begun in the
//! record before they are handed on.
//!
//! ```text
//! reader ── chunks of rows ──▶ makers (render, sign, begin: write + sync) ── batches ──▶ deliver
//! ```
//!
//! A maker reserves its place in the channel of batches before it begins their rows, so that few
//! rows are begun and not yet sent: those would be unknown after a crash. While one batch is on the
//! wire, the next is being made and synced.

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use jiff::Timestamp;
use message::Mailing;
use smtp::{Address, Content, Envelope};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::check::SeenAddresses;
use super::list::{List, Row};
use super::progress::Counts;
use super::record::{self, Details, Event, Outcome, Record, RowState, States, TAKE_UPS_MAX};
use super::settings::{Bulk, Start};

/// A batch is handed on when its contents are this long, in bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// A row ready to be sent.
pub(super) struct Job {
    pub(super) row: u64,
    pub(super) email: String,
    pub(super) envelope: Envelope,
    pub(super) content: Content,
}

/// Rows that the record says are being attempted.
pub(super) type Batch = Vec<Job>;

/// Why the feed ended before the list did.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error(transparent)]
    List(#[from] super::list::ListError),
    #[error("the record {path} cannot be written: {error}")]
    Record { path: String, error: std::io::Error },
}

/// Where the makers' time went, in ns; all threads together.
#[derive(Debug, Default)]
pub(super) struct FeedTimes {
    pub(super) making: AtomicU64,
    pub(super) syncing: AtomicU64,
}

/// What all threads of a feed share.
pub(super) struct Feed {
    pub(super) record: Arc<Record>,
    pub(super) counts: Arc<Counts>,
    pub(super) times: Arc<FeedTimes>,
    pub(super) from: Address,
    pub(super) mailing: Arc<Mailing>,
    /// The first error, which ends the run.
    pub(super) error: Mutex<Option<FeedError>>,
}

/// Starts reader and makers; the channel closes when the list is at its end, or after an error.
/// They stop when the channel's other end is closed.
pub(super) fn start(
    feed: &Arc<Feed>,
    bulk: &Bulk,
    states: Option<States>,
    batch_rows: usize,
) -> mpsc::Receiver<Batch> {
    let (chunks, chunks_end) = sync_channel(1);
    let chunks_end = Arc::new(Mutex::new(chunks_end));
    let (batches, batches_end) = mpsc::channel(1);
    let makers = thread::available_parallelism().map_or(1, NonZero::get);
    for _ in 0..makers {
        let (feed, chunks) = (Arc::clone(feed), Arc::clone(&chunks_end));
        let (batches, runtime) = (batches.clone(), Handle::current());
        thread::spawn(move || feed.make_batches(&chunks, &batches, &runtime));
    }
    let chooser = Chooser {
        feed: Arc::clone(feed),
        states,
        start: bulk.start,
        seen: bulk.skip_duplicates.then(SeenAddresses::default),
        left: bulk.limit,
    };
    let path = bulk.list.clone();
    thread::spawn(move || chooser.read(&path, batch_rows, &chunks));
    batches_end
}

/// Reads the list and chooses the rows to be sent.
struct Chooser {
    feed: Arc<Feed>,
    states: Option<States>,
    start: Start,
    seen: Option<SeenAddresses>,
    /// Rows that may still be chosen.
    left: u64,
}

impl Chooser {
    fn read(mut self, path: &Path, chunk_rows: usize, chunks: &SyncSender<Vec<Row>>) {
        let result = self.read_all(path, chunk_rows, chunks);
        self.feed.note(result);
    }

    fn read_all(
        &mut self,
        path: &Path,
        chunk_rows: usize,
        chunks: &SyncSender<Vec<Row>>,
    ) -> Result<(), FeedError> {
        let mut list = List::open(path)?;
        let mut chunk = Vec::with_capacity(chunk_rows);
        while self.left > 0 {
            let Some(row) = list.next_row()? else { break };
            if !self.is_chosen(&row)? {
                continue;
            }
            self.left -= 1;
            chunk.push(row);
            if chunk.len() == chunk_rows && chunks.send(std::mem::take(&mut chunk)).is_err() {
                return Ok(());
            }
        }
        // The makers end with this, or have ended.
        let _ = chunks.send(chunk);
        Ok(())
    }

    fn is_chosen(&mut self, row: &Row) -> Result<bool, FeedError> {
        let is_duplicate = match (&mut self.seen, &row.person) {
            (Some(seen), Ok(person)) => seen.is_duplicate(person.to.address()),
            _ => false,
        };
        let (state, take_ups) = match &self.states {
            Some(states) => states.get(row.number),
            None => (RowState::Fresh, 0),
        };
        let (retry_failed, resend_unknown) = match self.start {
            Start::Afresh => (false, false),
            Start::Resume {
                retry_failed,
                resend_unknown,
            } => (retry_failed, resend_unknown),
        };
        match state {
            RowState::Settled => Ok(false),
            RowState::Failed => Ok(retry_failed && take_ups < TAKE_UPS_MAX),
            RowState::Unknown if resend_unknown => Ok(true),
            RowState::Unknown => {
                let error = "an earlier run ended before its outcome was known";
                self.feed.settle_unsent(row, Event::Unknown, error)?;
                Ok(false)
            }
            RowState::Fresh if is_duplicate => {
                let error = "an earlier row has the same address";
                self.feed.settle_unsent(row, Event::Skipped, error)?;
                Ok(false)
            }
            RowState::Fresh => Ok(true),
        }
    }
}

impl Feed {
    fn make_batches(
        &self,
        chunks: &Mutex<Receiver<Vec<Row>>>,
        batches: &mpsc::Sender<Batch>,
        runtime: &Handle,
    ) {
        loop {
            let chunk = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(chunk) = chunk else { return };
            let made = self.make_chunk(chunk, batches, runtime);
            let go_on = matches!(made, Ok(true));
            self.note(made.map(|_| ()));
            if !go_on {
                return;
            }
        }
    }

    /// `false` where nobody takes batches any more.
    fn make_chunk(
        &self,
        chunk: Vec<Row>,
        batches: &mpsc::Sender<Batch>,
        runtime: &Handle,
    ) -> Result<bool, FeedError> {
        let (mut batch, mut bytes) = (Batch::with_capacity(chunk.len()), 0);
        for row in chunk {
            let started = Instant::now();
            let made = self.make(&row);
            add(&self.times.making, started);
            match made {
                Err(problem) => self.settle_unsent(&row, Event::Rejected, &problem)?,
                Ok(job) => {
                    bytes += job.content.len();
                    batch.push(job);
                }
            }
            if bytes >= BATCH_BYTES {
                bytes = 0;
                if !self.hand_on(std::mem::take(&mut batch), batches, runtime)? {
                    return Ok(false);
                }
            }
        }
        self.hand_on(batch, batches, runtime)
    }

    fn make(&self, row: &Row) -> Result<Job, String> {
        let person = row.person.as_ref().map_err(String::clone)?;
        let now = Timestamp::now();
        let content = self
            .mailing
            .content(&person.to, &person.variables, Some(row.number), now)
            .map_err(|error| error.to_string())?;
        Ok(Job {
            row: row.number,
            email: row.email.clone(),
            envelope: Envelope::single(self.from.clone(), person.to.address().clone()),
            content,
        })
    }

    /// Begins the rows once there is place for them.
    fn hand_on(
        &self,
        batch: Batch,
        batches: &mpsc::Sender<Batch>,
        runtime: &Handle,
    ) -> Result<bool, FeedError> {
        if batch.is_empty() {
            return Ok(true);
        }
        let Ok(place) = runtime.block_on(batches.reserve()) else {
            return Ok(false);
        };
        let rows: Vec<_> = batch.iter().map(|job| job.row).collect();
        let started = Instant::now();
        self.record
            .begin(&rows)
            .map_err(|error| self.record_error(error))?;
        add(&self.times.syncing, started);
        place.send(batch);
        Ok(true)
    }

    /// Records what was never offered to a relay.
    fn settle_unsent(&self, row: &Row, event: Event, error: &str) -> Result<(), FeedError> {
        self.counts.add(event, row.number, &row.email);
        let outcome = Outcome {
            event,
            row: row.number,
            email: &row.email,
            time: record::now(),
            details: Details {
                error: Some(error.to_owned()),
                ..Details::default()
            },
            message_id: None,
        };
        self.record
            .settle(&outcome)
            .map_err(|error| self.record_error(error))
    }

    /// What is told where the record fails.
    pub(super) fn record_error(&self, error: std::io::Error) -> FeedError {
        FeedError::Record {
            path: self.record.path().display().to_string(),
            error,
        }
    }

    /// Keeps the first error.
    pub(super) fn note(&self, result: Result<(), FeedError>) {
        if let Err(error) = result {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    }
}

fn add(sum: &AtomicU64, since: Instant) {
    let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    sum.fetch_add(ns, Ordering::Relaxed);
}
