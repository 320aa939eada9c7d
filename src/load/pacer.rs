//! Open loop: messages fall due evenly, whether or not the server keeps up.
//!
//! A closed loop sends the next message when one is answered, so a server that stalls is asked less just
//! then, and its stall shows in few latencies (*coordinated omission*). Here the time at which message `n` is
//! due is fixed from the start, and its latency counts from then: whatever has to wait for a stall says so.
//!
//! A thread of its own lets them go, since the runtime's timers tell milliseconds only. Being late by some
//! 0.1 ms, it makes latencies look that much worse, never better.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flow::rate::RateLimit;
use tokio::sync::Semaphore;

use super::Load;

/// What falls due within so short a time goes together: bounds the wake-ups a second.
const TICK: Duration = Duration::from_micros(100);
/// How soon it is noticed that the run is to stop.
const STOP_NOTICED: Duration = Duration::from_millis(20);

/// Lets messages go when they are due.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: RateLimit,
    started: Instant,
    /// Messages due and not yet taken up.
    due: Semaphore,
    taken: AtomicU64,
    /// How many there are in all; known once the last has fallen due.
    messages: AtomicU64,
}

impl Pacer {
    /// Lets the first message go now. Ends with the load's number or time, or once `stop` is set.
    pub(super) fn start(
        rate: RateLimit,
        load: Load,
        started: Instant,
        stop: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let pacer = Arc::new(Self {
            rate,
            started,
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            messages: AtomicU64::new(u64::MAX),
        });
        let paced = Arc::clone(&pacer);
        std::thread::spawn(move || paced.run(load, &stop));
        pacer
    }

    /// When the next message was due, which has come by now; `None` after the last.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.messages.load(Ordering::Acquire)).then(|| self.due_at(number))
    }

    fn run(&self, load: Load, stop: &AtomicBool) {
        let mut released = 0;
        while released < load.messages_max && !stop.load(Ordering::Relaxed) {
            let elapsed = self.started.elapsed();
            if load.duration_max.is_some_and(|max| elapsed >= max) {
                break;
            }
            let due = (self.rate.count_in(elapsed) + 1).min(load.messages_max);
            self.release(due - released);
            released = due;
            let wait = self
                .due_at(released)
                .saturating_duration_since(Instant::now());
            std::thread::sleep(wait.clamp(TICK, STOP_NOTICED));
        }
        self.messages.store(released, Ordering::Release);
        // Nobody waits for a message that will not come.
        self.release(load.tasks as u64);
    }

    fn release(&self, messages: u64) {
        let messages = usize::try_from(messages).unwrap_or(usize::MAX);
        self.due
            .add_permits(messages.min(Semaphore::MAX_PERMITS / 2));
    }

    fn due_at(&self, number: u64) -> Instant {
        self.started + Duration::from_secs_f64(number as f64 / self.rate.per_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Latency;

    fn load(messages_max: u64, duration_max: Option<Duration>) -> Load {
        Load {
            tasks: 2,
            threads: 1,
            messages_max,
            duration_max,
            rate: None,
            latency: Latency::Whole,
        }
    }

    async fn due(load: Load) -> Vec<Duration> {
        let (started, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let rate = "1000/s".parse().unwrap();
        let pacer = Pacer::start(rate, load, started, stop);
        let mut due = Vec::new();
        while let Some(at) = pacer.next().await {
            assert!(at <= Instant::now(), "let go before it was due");
            due.push(at - started);
        }
        // Each task is told of the end.
        assert_eq!(pacer.next().await, None);
        due
    }

    #[tokio::test]
    async fn messages_fall_due_evenly_however_late_they_are_taken_up() {
        let due = due(load(30, None)).await;
        let even: Vec<_> = (0..30).map(Duration::from_millis).collect();
        assert_eq!(due, even);
    }

    #[tokio::test]
    async fn no_message_falls_due_after_the_end_of_the_time() {
        let due = due(load(u64::MAX, Some(Duration::from_millis(20)))).await;
        assert!(!due.is_empty() && due.iter().all(|at| *at < Duration::from_millis(20)));
    }
}
