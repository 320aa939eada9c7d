//! Pure flow control: how fast, how many at once, when again, and when not.
//!
//! Everything here is arithmetic on a time that the caller passes in. Nothing owns a clock, a socket, a thread or a
//! source of randomness, so each type runs under virtual time in a test exactly as it runs in a pool.
//!
//! | Question | Type |
//! |---|---|
//! | When may the next message go? | [`rate::Gcra`], set by a [`rate::RateLimit`] |
//! | How long to wait after a failure? | [`backoff::Backoff`] |
//! | Is this failure worth another try? | [`retry::RetryPolicy`] |
//! | May *anything* be retried now, or would that feed the fire? | [`budget::RetryBudget`] |
//! | How many at once? | [`gradient::Gradient2`] |
//! | Is this endpoint worth connecting to? | [`breaker::Breaker`] |
//!
//! Invariants: no call allocates, blocks or panics, whatever the arguments; a `now` that runs backwards is taken as the
//! latest one seen and never grants more than a steady clock would. Limits: times are kept in 64 bits of nanoseconds, so an
//! epoch may lie at most 584 years back; later times saturate.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod gradient;
pub mod pace;
pub mod rate;
pub mod retry;
pub mod rng;
pub mod window;

/// A point in time: how long ago the caller's epoch was.
///
/// A caller with a clock picks an epoch once and passes `instant.duration_since(epoch)`; a test counts up from zero.
/// All values given to one object must share one epoch.
pub type Time = std::time::Duration;

/// Whole nanoseconds since the epoch; saturates after 584 years.
fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
