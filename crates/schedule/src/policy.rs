//! What the operator says: of the engine, of a site, of a tenant.

use std::time::Duration;

use flow::backoff::Backoff;
use flow::rate::RateLimit;
use flow::retry::{ErrorClass, RetryPolicy};
use flow::window::{Law, WindowLimits};

/// Settings of a [`crate::Schedule`]. With several schedules side by side (shards), each gets its share of what is
/// for the whole engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Messages in flight, all sites together; 0 counts as 1.
    pub inflight_max: u32,
    /// Messages a second, all sites together.
    pub rate: Option<RateLimit>,
    /// Grants of one poll, at most: bounds how long a poll takes.
    pub grants_max: usize,
    /// Timers that fire or move in one poll, at most: bounds how long a poll takes.
    pub timers_max: u32,
    /// Every so many grants, the lowest priority that waits goes first.
    pub lowest_every: u8,
    /// How often a job is put back before it counts as an attempt.
    pub put_backs_max: u8,
    /// When to try again, by class of error.
    pub retry: RetryPolicy,
    /// Retries of one site: share of its deliveries, a second besides, and at once; what is beyond comes later.
    pub budget: Budget,
}

/// How many retries a site is worth; see [`flow::budget::RetryBudget`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Retries per delivery, 0 to 1.
    pub share: f64,
    /// Retries a second besides.
    pub floor_per_s: u32,
    /// Retries at once.
    pub capacity: u32,
}

/// Retries as RFC 5321 §4.5.4.1 has them (30 minutes at least, four or five days in all), sooner where it helps: after
/// greylisting in 5 to 6 minutes, after what a site's own load made fail in 5, doubling, up to 4 hours.
/// How long in all is said by the message's `expires_at`.
pub const RETRY: RetryPolicy = {
    const fn curve(minutes: u64) -> Backoff {
        let (base, cap) = (minutes * 60, 4 * 3600);
        Backoff::new(Duration::from_secs(base), Duration::from_secs(cap)).with_jitter(0.25)
    }
    RetryPolicy::new(u32::MAX, curve(15))
        .with_backoff(ErrorClass::Connect, curve(5))
        .with_backoff(ErrorClass::Handshake, curve(5))
        .with_backoff(ErrorClass::Throttled, curve(5))
        .with_backoff(ErrorClass::Greylisted, Backoff::GREYLISTED)
        .with_backoff(ErrorClass::MailboxFull, curve(60))
};

impl Default for Config {
    /// 20,000 in flight, no rate.
    fn default() -> Self {
        Self {
            inflight_max: 20_000,
            rate: None,
            grants_max: 1024,
            timers_max: 4096,
            lowest_every: 16,
            put_backs_max: 8,
            retry: RETRY,
            budget: Budget {
                share: 0.2,
                floor_per_s: 10,
                capacity: 1000,
            },
        }
    }
}

/// How a site's window moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WindowPolicy {
    /// Follows refusals: for strangers, whose latency says nothing about load.
    Refusals(WindowLimits),
    /// Follows latency ([`flow::gradient::Gradient2`]): for a configured relay, whose latency means load.
    Latency {
        /// At least.
        min: u16,
        /// At most.
        max: u16,
    },
}

/// What is said of a site. Sites with equal policies share one in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct SitePolicy {
    /// How many at once.
    pub window: WindowPolicy,
    /// Whether to learn a pace from refusals.
    pub pace: bool,
    /// Messages a second, as far as it is known.
    pub rate: Option<RateLimit>,
    /// Messages at once that `rate` allows after a pause; 0 counts as 1.
    pub burst: u32,
    /// Failed connects or handshakes in a row that open the breaker; 0 counts as 1.
    pub breaker_failures: u32,
    /// How long it stays open the first, second, … time.
    pub breaker_open: Backoff,
}

impl SitePolicy {
    /// For a site found by MX: begins with one connection and finds its limits by itself.
    pub const STRANGER: Self = Self::refusals(1, 100);

    /// For a configured relay: never under eight at once, for where a pace binds few are in flight, and latency then
    /// tells of our own machine's noise.
    ///
    /// * `max`: messages in flight at most.
    #[must_use]
    pub const fn relay(max: u16) -> Self {
        let mut policy = Self::STRANGER;
        let min = if max < 8 { max } else { 8 };
        policy.window = WindowPolicy::Latency { min, max };
        policy
    }

    /// A window that opens with `open` and grows to `max`.
    #[must_use]
    pub const fn refusals(open: u16, max: u16) -> Self {
        Self {
            window: WindowPolicy::Refusals(WindowLimits {
                open,
                max,
                law: Law::PerWindow,
            }),
            pace: true,
            rate: None,
            burst: 1,
            breaker_failures: 5,
            breaker_open: Backoff::new(Duration::from_secs(30), Duration::from_secs(1800))
                .with_jitter(0.25),
        }
    }
}

impl Default for SitePolicy {
    /// [`SitePolicy::STRANGER`].
    fn default() -> Self {
        Self::STRANGER
    }
}

/// What is said of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Its share against that of others; 0 counts as 1.
    pub weight: u16,
    /// Messages a second to all sites.
    pub rate: Option<RateLimit>,
    /// Messages at once that `rate` allows after a pause; 0 counts as 1.
    pub burst: u32,
    /// Messages in flight at most; 0 counts as 1.
    pub inflight_max: u32,
}

impl Default for TenantPolicy {
    /// Weight 1, no limits.
    fn default() -> Self {
        Self {
            weight: 1,
            rate: None,
            burst: 1,
            inflight_max: u32::MAX,
        }
    }
}
