//! The engine's clock: wall time at the start, monotonic from there.
//!
//! The system's clock may jump; a due time must not. It follows tokio's clock, so that a test that
//! pauses that one pauses this one too.

use std::time::{SystemTime, UNIX_EPOCH};

use store::Time;
use tokio::time::Instant;

/// Tells the time since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun_at: Time,
    begun: Instant,
}

impl Clock {
    /// Begins at this time.
    ///
    /// * `wall_clock`: what the wall clock shows; `None`: the system's.
    pub(crate) fn start(wall_clock: Option<Time>) -> Self {
        let system = || SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            begun_at: wall_clock.unwrap_or_else(|| system().unwrap_or_default()),
            begun: Instant::now(),
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> Time {
        self.begun_at + self.begun.elapsed()
    }

    /// When that will be, for a timer.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.begun + at.saturating_sub(self.begun_at)
    }
}
