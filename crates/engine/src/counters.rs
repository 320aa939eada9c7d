//! What the engine counts since its start.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`crate::views::Stats`] for what each counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) delivered: Counter,
    pub(crate) deferred: Counter,
    pub(crate) bounced: Counter,
    pub(crate) expired: Counter,
    pub(crate) suppressed: Counter,
    pub(crate) canceled: Counter,
    pub(crate) held: Counter,
    pub(crate) unknown: Counter,
    pub(crate) rate_refused: Counter,
    pub(crate) notices: Counter,
    pub(crate) in_flight: Counter,
}
