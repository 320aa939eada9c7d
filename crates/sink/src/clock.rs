//! Alarms that ring within a tenth of a millisecond.
//!
//! Tokio's timer counts in milliseconds and rounds up; on a link of 20 ms that is 5 to 10 % of the
//! rate a client could reach. So one thread sleeps until the next alarm by a condition variable,
//! whose timeout is precise to about 50 µs. The thread starts with the first alarm.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Where alarms are set. Clones share one thread; it ends with the last of them.
#[derive(Debug)]
pub(crate) struct Clock(Arc<Face>);

#[derive(Debug, Default)]
struct Face {
    state: Mutex<State>,
    changed: Condvar,
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

    fn run(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
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

/// Ready at its time, not before.
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
        if Instant::now() >= self.due {
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
