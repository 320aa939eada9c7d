//! Every open connection's deadline, kept without a timer for each.
//!
//! A connection has a [`Seat`]: one number, the tick by which something must have happened. Moving
//! it is one store. Twice a second one task goes over all seats and wakes those that are overdue:
//! deadlines are kept within a second, which is enough for minutes, and ten thousand connections
//! cost ten thousand loads. The same seats wake everybody when the edge drains.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

/// Between two looks at the seats.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// Ticks since the edge was opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Tick(u64);

impl Tick {
    /// So much later; at least one tick.
    pub(crate) fn after(self, time: Duration) -> Self {
        let ticks = time.as_millis().div_ceil(TICK.as_millis());
        Self(self.0 + u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1))
    }

    /// Nanoseconds since the edge was opened, coarsely.
    pub(crate) fn nanos(self) -> u64 {
        self.0 * TICK.as_nanos() as u64
    }
}

/// How far an edge is on its way down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    Open = 0,
    /// Transactions may end, none may begin.
    Draining = 1,
    /// Nothing may go on.
    Stopped = 2,
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The tick by which it must have moved.
    due: AtomicU64,
    waker: AtomicWaker,
    roster: Arc<Roster>,
    index: usize,
}

/// All seats.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    now: AtomicU64,
    phase: AtomicU8,
    seats: Mutex<Seats>,
    /// Told when the last seat is left.
    empty: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Seats {
    taken: Vec<Option<Arc<Seat>>>,
    free: Vec<usize>,
}

impl Seats {
    fn is_empty(&self) -> bool {
        self.free.len() == self.taken.len()
    }
}

impl Roster {
    pub(crate) fn now(&self) -> Tick {
        Tick(self.now.load(Relaxed))
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    /// Goes on to a phase; wakes everybody.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, SeqCst);
        for seat in self.seats().taken.iter().flatten() {
            seat.waker.wake();
        }
    }

    /// One tick has passed; wakes who is overdue.
    pub(crate) fn tick(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        for seat in self.seats().taken.iter().flatten() {
            if seat.due.load(Relaxed) <= now {
                seat.waker.wake();
            }
        }
    }

    /// A seat for a new connection, taken until it is dropped.
    pub(crate) fn sit(self: &Arc<Self>) -> Taken {
        let mut seats = self.seats();
        let index = seats.free.pop().unwrap_or_else(|| {
            seats.taken.push(None);
            seats.taken.len() - 1
        });
        let seat = Arc::new(Seat {
            due: AtomicU64::new(u64::MAX),
            waker: AtomicWaker::new(),
            roster: Arc::clone(self),
            index,
        });
        seats.taken[index] = Some(Arc::clone(&seat));
        Taken(seat)
    }

    /// Returns when nobody sits.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut told = pin!(self.empty.notified());
            told.as_mut().enable();
            if self.seats().is_empty() {
                return;
            }
            told.await;
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat that is taken.
#[derive(Debug)]
pub(crate) struct Taken(Arc<Seat>);

impl Taken {
    pub(crate) fn roster(&self) -> &Roster {
        &self.0.roster
    }

    /// Something must happen before then.
    pub(crate) fn set_due(&self, due: Tick) {
        self.0.due.store(due.0, Relaxed);
    }

    /// The task is woken when it is overdue, or when the phase changes. To be called before either
    /// is looked at.
    pub(crate) fn listen(&self, context: &Context<'_>) {
        self.0.waker.register(context.waker());
    }

    /// Whether what must have happened has not.
    pub(crate) fn is_overdue(&self) -> bool {
        self.0.due.load(Relaxed) <= self.0.roster.now.load(Relaxed)
    }

    /// What `work` gives; `None` if that takes longer than `time`, or the edge stops.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        self.set_due(self.roster().now().after(time));
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            self.listen(context);
            match self.is_overdue() || self.roster().phase() == Phase::Stopped {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let (roster, index) = (&self.0.roster, self.0.index);
        let mut seats = roster.seats();
        seats.taken[index] = None;
        seats.free.push(index);
        if seats.is_empty() {
            roster.empty.notify_waiters();
        }
    }
}
