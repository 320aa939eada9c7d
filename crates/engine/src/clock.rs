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
    /// Begins at the system's time, or at `not_before` where the system's clock was set back behind
    /// what the data folder has seen.
    pub(crate) fn start(not_before: Time) -> Self {
        let system = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            begun_at: system.unwrap_or_default().max(not_before),
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
