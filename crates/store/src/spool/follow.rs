//! Telling history what is committed, and making digests, by reading the journal behind its end.
//!
//! What is told is what a restart would read, in the same order, and nothing is kept in memory for
//! it. The bytes were written a moment ago, so reading them back costs no disk.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use journal::{Journal, Position};

use super::digest::Builder;
use super::{Inner, Spool};
use crate::codec::{self, DecodeError, Kind};
use crate::{Event, EventSink, EventSource, Head, Heading, Status};

pub(super) struct Following {
    sink: Option<Arc<dyn EventSink>>,
    progress: Mutex<Progress>,
    /// Where the part ends that history has made durable.
    durable: Mutex<Option<Position>>,
    /// Something was appended since the follower last looked.
    is_behind: AtomicBool,
    /// Where the newest record stands that has events.
    newest: AtomicU64,
    /// Wakes the follower.
    wake: OnceLock<Wake>,
}

type Wake = Box<dyn Fn() + Send + Sync>;

struct Progress {
    /// From where on history has not been told; `None`: from the start.
    next: Option<Position>,
    /// The digest of the segment that is being read, if it was read from its beginning.
    digest: Option<Builder>,
}

impl Progress {
    /// Notes a record for its segment's digest.
    fn note(&mut self, inner: &Inner, at: Position, kind: u8, record: &[u8]) {
        self.turn_to(inner, at.segment());
        if let Some(digest) = &mut self.digest {
            digest.add(at, kind, record);
        }
    }

    /// What comes next stands in this segment: if it is another, the one before is complete, and
    /// this one is read from its beginning.
    fn turn_to(&mut self, inner: &Inner, segment: u32) {
        let Some(files) = &inner.digests else {
            return;
        };
        if self.next.map(Position::segment) == Some(segment) {
            return;
        }
        // Recovery makes those of segments that were sealed before the start.
        let is_new = segment >= inner.start.segment();
        let new = is_new.then(|| Builder::new(files, segment));
        let complete = std::mem::replace(&mut self.digest, new);
        if let Some(Err(error)) = complete.map(Builder::finish) {
            tracing::warn!(%error, "no digest was made: the next start takes longer");
        }
    }
}

impl Following {
    pub(super) fn new(sink: Option<Arc<dyn EventSink>>, from: Option<Position>) -> Self {
        Self {
            sink,
            progress: Mutex::new(Progress {
                next: from,
                digest: None,
            }),
            durable: Mutex::new(from),
            is_behind: AtomicBool::new(true),
            newest: AtomicU64::new(0),
            wake: OnceLock::new(),
        }
    }

    /// The segment from which on history still needs the journal.
    pub(super) fn needed_from(&self) -> Option<u32> {
        self.sink.as_ref()?;
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        Some(durable.map_or(0, Position::segment))
    }

    pub(super) fn appended(&self, at: Position) {
        self.newest.fetch_max(at.to_u64(), Ordering::AcqRel);
        if !self.is_behind.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}

/// The thread that tells history. Stops, having told all that is durable, when it is dropped.
#[derive(Debug)]
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Spool {
    /// Tells history of events that were committed since the last call, in the journal's order, and
    /// makes digests of segments that are complete. Returns up to where it has come.
    ///
    /// Records that cannot be understood are logged and passed over: recovery has reported them.
    pub fn follow(&self) -> Option<Position> {
        let inner = &*self.inner;
        let following = &inner.following;
        if following.sink.is_none() && inner.digests.is_none() {
            return None;
        }
        let progress = following.progress.lock();
        let mut progress = progress.unwrap_or_else(PoisonError::into_inner);
        let from = from_or_first(&inner.journal, progress.next);
        // Segments of which something was passed over since the last record.
        let damaged = RefCell::new(Vec::new());
        let each = &mut |at: Position, kind, record: &[u8]| {
            let damaged = damaged.take();
            if !damaged.is_empty() {
                progress.digest = None;
            }
            progress.note(inner, at, kind, record);
            if damaged.contains(&at.segment()) {
                progress.digest = None;
            }
            if let Some(sink) = &following.sink {
                let _ = told(at, kind, record, &mut |event| {
                    sink.committed(at, event);
                    ControlFlow::Continue(())
                });
            }
            progress.next = Some(at);
            ControlFlow::Continue(())
        };
        let scanned = inner.journal.scan_over_damage(from, each, &mut |damage| {
            damaged.borrow_mut().push(damage.segment);
            tracing::error!(%damage, "history is not told of what stood there");
        });
        let damaged = damaged.take();
        if !damaged.is_empty() {
            progress.digest = None;
        }
        match scanned {
            Ok(end) => {
                progress.turn_to(inner, end.segment());
                if damaged.contains(&end.segment()) {
                    progress.digest = None;
                }
                progress.next = Some(end);
            }
            Err(error) => {
                tracing::error!(%error, "history is not told of all events");
                progress.digest = None;
            }
        }
        progress.next
    }

    /// Follows on a thread of its own, as long as the handle lives.
    ///
    /// * `every`: events wait at most this long, and the journal's linger time, to be told.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn spawn_follower(&self, every: Duration) -> std::io::Result<Follower> {
        let (spool, stop) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let run = move || {
            crate::stand_behind();
            let following = &spool.inner.following;
            let thread = thread::current();
            let _ = following.wake.set(Box::new(move || thread.unpark()));
            while !stopped.load(Ordering::Acquire) {
                if !following.is_behind.swap(false, Ordering::AcqRel) {
                    thread::park();
                    continue;
                }
                // So that there is more than one event to tell.
                thread::sleep(every);
                spool.follow();
                let journal = &spool.inner.journal;
                if journal.durable() < journal.end() {
                    following.is_behind.store(true, Ordering::Release);
                }
            }
            spool.follow();
        };
        let thread = thread::Builder::new().name("spool-follower".into());
        Ok(Follower {
            stop,
            thread: Some(thread.spawn(run)?),
        })
    }

    /// Where its events can be read again, as long as it is open.
    #[must_use]
    pub fn source(&self) -> Weak<dyn EventSource> {
        let source: Arc<dyn EventSource> = self.inner.source.clone();
        Arc::downgrade(&source)
    }

    /// In place of a follower's thread: `wake` is called when there is work for [`step`](Self::step).
    pub fn on_append(&self, wake: impl Fn() + Send + Sync + 'static) {
        let following = &self.inner.following;
        let is_first = following.wake.set(Box::new(wake)).is_ok();
        if let Some(wake) = following.wake.get().filter(|_| is_first) {
            wake();
        }
    }

    /// Does once what the threads of journal and follower do: makes durable what was appended, and
    /// tells history.
    pub fn step(&self) {
        let following = &self.inner.following;
        following.is_behind.store(false, Ordering::Release);
        while self.inner.journal.turn() {}
        self.follow();
    }

    /// Whether history was told of every event that was recorded before this was asked.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        let following = &self.inner.following;
        let newest = following.newest.load(Ordering::Acquire);
        // Who holds it is telling.
        let progress = following.progress.try_lock();
        progress.is_ok_and(|it| newest == 0 || it.next.is_some_and(|it| newest < it.to_u64()))
    }

    /// History has made durable what lies before this position; the journal may let go of it.
    pub fn history_durable(&self, until: Option<Position>) {
        let durable = &self.inner.following.durable;
        *durable.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// The journal alone: whoever reads it keeps neither the spool nor history alive by that.
pub(super) struct Source(pub(super) Journal);

impl EventSource for Source {
    fn replay(
        &self,
        from: Option<Position>,
        each: &mut dyn FnMut(Position, Event) -> ControlFlow<()>,
    ) -> std::io::Result<()> {
        let ended = replay(&self.0, from, each);
        ended.map(|_| ()).map_err(std::io::Error::other)
    }
}

/// Calls `each` for every committed event from a record on, or from the first that is left.
fn replay(
    journal: &Journal,
    from: Option<Position>,
    each: &mut dyn FnMut(Position, Event) -> ControlFlow<()>,
) -> Result<Position, journal::ReadError> {
    let from = from_or_first(journal, from);
    let each_record = &mut |at: Position, kind, record: &[u8]| {
        told(at, kind, record, &mut |event| each(at, event))
    };
    // What is damaged was told when it was met first.
    journal.scan_over_damage(from, each_record, &mut |_| {})
}

fn from_or_first(journal: &Journal, from: Option<Position>) -> Position {
    let first = crate::first_of(journal);
    from.map_or(first, |from| from.max(first))
}

/// Calls `each` for the events of one record.
fn told(
    at: Position,
    kind: u8,
    record: &[u8],
    each: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> ControlFlow<()> {
    events_of(kind, record, each).unwrap_or_else(|error| {
        tracing::error!(%at, %error, "a record cannot be told to history");
        ControlFlow::Continue(())
    })
}

fn events_of(
    kind: u8,
    bytes: &[u8],
    each: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, DecodeError> {
    match Kind::from_number(kind) {
        Some(Kind::Event) => Ok(each(codec::decode_event(bytes)?)),
        Some(Kind::Accepted) => Ok(acceptances(codec::decode_head(bytes)?.head, each)),
        _ => Ok(ControlFlow::Continue(())),
    }
}

/// The events that an accepted message implies, one for each recipient.
fn acceptances(head: Head, each: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
    let heading = Arc::new(Heading::new(&head.envelope, head.subject));
    for (recipient, to) in (0..).zip(head.envelope.recipients()) {
        each(Event {
            at: head.accepted_at,
            message: head.id,
            recipient,
            address: to.address.as_str().into(),
            tenant: head.tenant.clone(),
            tags: head.tags.clone(),
            status: Status::Accepted,
            due_at: Some(head.due_at),
            outcome: None,
            heading: Some(Arc::clone(&heading)),
        })?;
    }
    ControlFlow::Continue(())
}
