//! Taking connections while the system has none to give, as without file descriptors: the same
//! trouble comes back with every try, as long as it lasts.

use std::io;
use std::time::{Duration, Instant};

/// Between two tries: connections that end free descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two lines in the log.
const QUIET: Duration = Duration::from_secs(10);

/// The tries of one listener that failed.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    told_at: Option<Instant>,
    untold: u64,
}

impl Failures {
    /// Notes that no connection could be taken, and waits before the next try.
    ///
    /// * `edge`: which listener, for the log.
    pub(crate) async fn pause(&mut self, edge: &'static str, error: &io::Error) {
        if let Some(tries) = self.count(Instant::now()) {
            tracing::warn!(%error, edge, tries, "no connection can be taken");
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// Counts a failure; gives how many to tell of, where it is time to.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let is_quiet = |told_at: Instant| now.duration_since(told_at) < QUIET;
        if self.told_at.is_some_and(is_quiet) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_told_at_once_and_then_how_many_there_were_every_ten_seconds() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let tries = (0..601).map(|number| start + PAUSE * number);
        let told: Vec<u64> = tries.filter_map(|now| failures.count(now)).collect();
        assert_eq!(told, [1, 200, 200, 200]);
    }
}
