//! Alarms that ring within a tenth of a millisecond.
//!
//! Tokio's timer counts in milliseconds and rounds up; on a link of 20 ms that is 5 to 10 % of the
//! rate a client could reach. So one thread sleeps until the next alarm by a condition variable,
//! whose timeout is precise to about 50 µs. The thread starts with the first alarm.
//!
//! From the end of that sleep until a task runs, more time passes, and on a busy machine much
//! more. The clock measures how late its alarms are heard and rings so much earlier, up to
//! [`LEAD_MAX`], so that the mean delay is the one that was asked for. A single alarm may be heard early by as much.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The most by which an alarm rings early.
const LEAD_MAX: Duration = Duration::from_micros(500);
/// Each observation moves the lead by one part in this many.
const LEAD_SMOOTHING: u64 = 16;

/// Where alarms are set. Clones share one thread; it ends with the last of them.
#[derive(Debug)]
pub(crate) struct Clock(Arc<Face>);

#[derive(Debug, Default)]
struct Face {
    state: Mutex<State>,
    changed: Condvar,
    /// Nanoseconds by which alarms ring early.
    lead_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// When and which. An alarm that was dropped stays here until its time and rings for nobody.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    wakers: HashMap<u64, Waker>,
    alarms: u64,
    started: bool,
    stopped: bool,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// An alarm for `due`; it is set when it is first polled.
    pub(crate) fn alarm(&self, due: Instant) -> Alarm {
        Alarm {
            face: Arc::clone(&self.0),
            due,
            number: None,
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_one();
    }
}

impl Face {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead(&self) -> Duration {
        Duration::from_nanos(self.lead_ns.load(Relaxed))
    }

    /// Learns from an alarm for `due` that was heard `now`. An update lost to another thread does no
    /// harm.
    fn heard(&self, due: Instant, now: Instant) {
        let lead = self.lead();
        let late = lead + now.saturating_duration_since(due);
        let wanted = late.saturating_sub(due.saturating_duration_since(now));
        let wanted = wanted.min(LEAD_MAX).as_nanos() as u64;
        let lead = lead.as_nanos() as u64;
        let next = (lead * (LEAD_SMOOTHING - 1) + wanted) / LEAD_SMOOTHING;
        self.lead_ns.store(next, Relaxed);
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stopped {
            // All times are compared as if it were later by the lead.
            let now = Instant::now() + self.lead();
            let mut ringing = Vec::new();
            let next = loop {
                match state.due.peek() {
                    Some(&Reverse((due, number))) if due <= now => {
                        state.due.pop();
                        ringing.extend(state.wakers.remove(&number));
                    }
                    next => break next.map(|Reverse((due, _))| *due),
                }
            };
            if !ringing.is_empty() {
                drop(state);
                ringing.into_iter().for_each(Waker::wake);
                state = self.lock();
                continue;
            }
            state = match next {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    self.changed
                        .wait_timeout(state, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

/// Ready at its time, give or take the lead.
#[derive(Debug)]
pub(crate) struct Alarm {
    face: Arc<Face>,
    due: Instant,
    /// Its number among the wakers, once set.
    number: Option<u64>,
}

impl Alarm {
    fn arm(&mut self, waker: &Waker) {
        let mut state = self.face.lock();
        if let Some(number) = self.number {
            state.wakers.insert(number, waker.clone());
            return;
        }
        state.alarms += 1;
        let number = state.alarms;
        self.number = Some(number);
        state.wakers.insert(number, waker.clone());
        let is_next = state
            .due
            .peek()
            .is_none_or(|Reverse((first, _))| self.due < *first);
        state.due.push(Reverse((self.due, number)));
        if !state.started {
            state.started = true;
            let face = Arc::clone(&self.face);
            std::thread::spawn(move || face.run());
        } else if is_next {
            self.face.changed.notify_one();
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if now + self.face.lead() >= self.due {
            if self.number.is_some() {
                self.face.heard(self.due, now);
            }
            return Poll::Ready(());
        }
        self.arm(context.waker());
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.face.lock().wakers.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn alarms_ring_in_the_order_of_their_times_not_of_their_setting() {
        let clock = Clock::new();
        // So far ahead that all are set before the first is due.
        let start = Instant::now() + Duration::from_millis(200);
        let rung = Arc::new(Mutex::new(Vec::new()));
        // A task each, for those run in the order in which they were woken.
        let mut tasks = tokio::task::JoinSet::new();
        for ms in [30, 1, 60, 0] {
            let alarm = clock.alarm(start + Duration::from_millis(ms));
            let rung = Arc::clone(&rung);
            tasks.spawn(async move {
                alarm.await;
                rung.lock().unwrap().push(ms);
            });
        }
        tasks.join_all().await;
        assert_eq!(*rung.lock().unwrap(), [0, 1, 30, 60]);
        assert!(Instant::now() + LEAD_MAX >= start + Duration::from_millis(60));
    }

    #[test]
    fn the_lead_approaches_the_lateness_and_never_passes_its_limit() {
        let face = Face::default();
        let due = Instant::now();
        for _ in 0..200 {
            // Heard 100 µs after it rang, which was `lead` early.
            face.heard(due, due + Duration::from_micros(100) - face.lead());
        }
        let error = face.lead().abs_diff(Duration::from_micros(100));
        assert!(error < Duration::from_micros(1), "{error:?}");
        for _ in 0..200 {
            face.heard(due, due + Duration::from_secs(1));
        }
        assert!(face.lead() <= LEAD_MAX);
    }
}
