//! What a journal has done, in figures.

use std::time::Duration;

/// Buckets of [`SyncTimes`].
pub const SYNC_BUCKETS: usize = 24;

/// How a journal does. Counters begin at its opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records made durable.
    pub records: u64,
    /// Groups made durable: writes and syncs.
    pub groups: u64,
    /// Written, with headers.
    pub bytes: u64,
    /// What writing took.
    pub write_time: Duration,
    /// What syncing took.
    pub sync: SyncTimes,
    /// Appended, and not yet durable.
    pub backlog_bytes: usize,
    /// Segments, the one made ready included.
    pub segments: usize,
    /// What segments and spares take in the folder.
    pub used_bytes: u64,
    /// Segments made of spares.
    pub segments_reused: u64,
    /// There is no room: only lazily appended records are taken.
    pub is_full: bool,
    /// A write or sync has failed.
    pub is_poisoned: bool,
}

/// Times of syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SyncTimes {
    /// Of the last one.
    pub last: Duration,
    /// Of the longest.
    pub max: Duration,
    /// Of all.
    pub sum: Duration,
    /// Bucket `i` counts those below `2^i` µs and not below half of it; the last one all above.
    pub buckets: [u64; SYNC_BUCKETS],
}

impl SyncTimes {
    pub(crate) fn add(&mut self, time: Duration) {
        self.last = time;
        self.max = self.max.max(time);
        self.sum += time;
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bits = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bits.min(SYNC_BUCKETS - 1)] += 1;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
