//! How fast: a rate as people write it, and the arithmetic that keeps it.
//!
//! [`Gcra`] is the generic cell rate algorithm (ITU-T I.371 annex A, there for ATM cells). It keeps one number: the *theoretical
//! arrival time* `tat`, when the next event would be due if all came evenly. With the interval `T = unit / count`
//! and a burst of `b` events, an event may happen at `now` if
//!
//! ```text
//! now ≥ tat − (b − 1) × T        and then        tat ← max(tat, now) + T
//! ```
//!
//! It is a token bucket of depth `b`, without a timer to fill it. Over **any** span of time `t`, however it is laid,
//! there are at most `b + count × t / unit` events; with the default burst of 1 they are evenly spaced. Idling saves up the
//! burst and no more.
//!
//! `T` is kept as whole nanoseconds and a remainder in 1/count of a nanosecond, so no rate drifts: 7/s gives exactly 7,000,000
//! events in a million seconds, to a caller who comes when told. An event's own time is rounded up to the nanosecond, which is the one error there is.
//! Cost: additions and comparisons of `u64`; no division.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Time, nanos};

/// So many events per second, minute, hour or day; from 1/day to 1,000,000,000/s.
///
/// Read from text such as `1000/min`, `50/s`, `10 / sec`, `3600/hour`, `2/day`; shown as `1000/min`, `3600/h`.
/// `60/min` and `1/s` pace alike but are not equal: what was written is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// 1..=nanoseconds of `unit`.
    count: u64,
    unit: Unit,
}

/// What a rate is counted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `s`, `sec`, `second`
    Second,
    /// `min`, `minute`
    Minute,
    /// `h`, `hr`, `hour`
    Hour,
    /// `d`, `day`
    Day,
}

impl Unit {
    const fn nanos(self) -> u64 {
        let seconds = match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        };
        seconds * 1_000_000_000
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
            Self::Day => "day",
        }
    }
}

/// What is wrong with a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// No slash.
    #[error("a rate needs a unit, as in 1000/min: `{0}`")]
    MissingUnit(String),
    /// Before the slash: not a whole number.
    #[error("not a whole number of events: `{0}` (for less than one a second, use min, h or day)")]
    Count(String),
    /// Before the slash: nought.
    #[error("a rate of 0 would never let anything through")]
    Zero,
    /// More than one a nanosecond.
    #[error("{0} is more than 1000000000 a second")]
    TooFast(u64),
    /// After the slash: not a unit of time.
    #[error("unknown unit of time: `{0}` (use s, min, h or day)")]
    Unit(String),
}

impl RateLimit {
    /// `count` events per `unit`.
    ///
    /// # Errors
    /// [`RateError::Zero`], and [`RateError::TooFast`] above one event a nanosecond.
    pub const fn new(count: u64, unit: Unit) -> Result<Self, RateError> {
        match count {
            0 => Err(RateError::Zero),
            count if count > unit.nanos() => Err(RateError::TooFast(count)),
            count => Ok(Self { count, unit }),
        }
    }

    /// Events a second, for displays and estimates.
    #[must_use]
    pub const fn per_second(self) -> f64 {
        self.count as f64 * 1e9 / self.unit.nanos() as f64
    }

    /// The whole events that fit into a span of time: `count_in(100 ms)` of `60/s` is 6.
    #[must_use]
    pub fn count_in(self, span: Duration) -> u64 {
        let count =
            u128::from(nanos(span)) * u128::from(self.count) / u128::from(self.unit.nanos());
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

impl FromStr for RateLimit {
    type Err = RateError;

    /// ASCII case and blanks around the parts do not matter.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, unit) = text
            .split_once('/')
            .ok_or_else(|| RateError::MissingUnit(text.trim().to_owned()))?;
        let (count, unit) = (count.trim(), unit.trim());
        // `u64::from_str` would take a plus sign.
        let count = match count.bytes().all(|b| b.is_ascii_digit()) {
            true => count
                .parse()
                .map_err(|_| RateError::Count(count.to_owned()))?,
            false => return Err(RateError::Count(count.to_owned())),
        };
        let unit = match unit.to_ascii_lowercase().as_str() {
            "s" | "sec" | "second" => Unit::Second,
            "min" | "minute" => Unit::Minute,
            "h" | "hr" | "hour" => Unit::Hour,
            "d" | "day" => Unit::Day,
            _ => return Err(RateError::Unit(unit.to_owned())),
        };
        Self::new(count, unit)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.name())
    }
}

/// A point in time or a span: `ns + part / count` nanoseconds, with `part < count` of the rate in question.
#[derive(Debug, Clone, Copy)]
struct Exact {
    ns: u64,
    part: u64,
}

impl Exact {
    const ZERO: Self = Self { ns: 0, part: 0 };

    /// `events` intervals of the limit; saturates.
    fn intervals(events: u64, limit: RateLimit) -> Self {
        let total = u128::from(events) * u128::from(limit.unit.nanos());
        let (ns, part) = (
            total / u128::from(limit.count),
            total % u128::from(limit.count),
        );
        match u64::try_from(ns) {
            Ok(ns) => Self {
                ns,
                part: part as u64,
            },
            Err(_) => Self {
                ns: u64::MAX,
                part: 0,
            },
        }
    }

    const fn plus(self, other: Self, count: u64) -> Self {
        // `part` < `count` ≤ the nanoseconds of a day: the sum cannot overflow.
        let part = self.part + other.part;
        let carry = part >= count;
        Self {
            ns: self
                .ns
                .saturating_add(other.ns)
                .saturating_add(carry as u64),
            part: if carry { part - count } else { part },
        }
    }

    fn times(self, factor: u64, count: u64) -> Self {
        let part = u128::from(self.part) * u128::from(factor);
        let ns = u128::from(self.ns) * u128::from(factor) + part / u128::from(count);
        Self {
            ns: u64::try_from(ns).unwrap_or(u64::MAX),
            part: (part % u128::from(count)) as u64,
        }
    }

    /// Not before zero.
    const fn minus(self, other: Self, count: u64) -> Self {
        let borrow = self.part < other.part;
        match self.ns.checked_sub(other.ns) {
            Some(0) | None if borrow => Self::ZERO,
            None => Self::ZERO,
            Some(ns) if borrow => Self {
                ns: ns - 1,
                part: self.part + count - other.part,
            },
            Some(ns) => Self {
                ns,
                part: self.part - other.part,
            },
        }
    }

    /// The first whole nanosecond that is not earlier.
    const fn rounded_up(self) -> u64 {
        self.ns.saturating_add((self.part > 0) as u64)
    }
}

/// Lets events through at a [`RateLimit`], exactly; see the module for the algorithm.
///
/// Shared behind a lock it paces many callers as one: each books its own slot.
#[derive(Debug, Clone)]
pub struct Gcra {
    count: u64,
    /// `T`.
    interval: Exact,
    /// `(b − 1) × T`: how far ahead of the even spacing an event may be.
    tolerance: Exact,
    tat: Exact,
}

impl Gcra {
    /// Evenly spaced: no two events closer than the interval of the limit.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Self::with_burst(limit, 1)
    }

    /// A token bucket: after idling, up to `burst` events at once, then the limit.
    ///
    /// * `burst`: 0 counts as 1. A tenth of a second's worth is
    ///   `limit.count_in(Duration::from_millis(100))`.
    #[must_use]
    pub fn with_burst(limit: RateLimit, burst: u64) -> Self {
        Self {
            count: limit.count,
            interval: Exact::intervals(1, limit),
            tolerance: Exact::intervals(burst.saturating_sub(1), limit),
            tat: Exact::ZERO,
        }
    }

    /// Goes on at another limit, with no burst saved up: the next event is one interval of it after the last.
    /// The same limit changes nothing.
    ///
    /// * `burst`: as in [`Gcra::with_burst`].
    pub fn set_limit(&mut self, limit: RateLimit, burst: u64, now: Time) {
        let next = Self::with_burst(limit, burst);
        if next.is_same_limit(self) {
            return;
        }
        // Of a burst, as if it had ended just now.
        let last = self.tat.minus(self.interval, self.count).rounded_up();
        let last = Exact {
            ns: last.min(nanos(now)),
            part: 0,
        };
        let was_used = self.tat.ns > 0;
        *self = next;
        if was_used {
            self.tat = last.plus(self.interval, self.count);
            self.tat = self.tat.plus(self.tolerance, self.count);
        }
    }

    fn is_same_limit(&self, other: &Self) -> bool {
        let of = |it: &Self| {
            let (interval, tolerance) = (it.interval, it.tolerance);
            (
                it.count,
                interval.ns,
                interval.part,
                tolerance.ns,
                tolerance.part,
            )
        };
        of(self) == of(other)
    }

    /// Whether nothing that happened before matters any more: as good as new.
    #[must_use]
    pub fn is_rested(&self, now: Time) -> bool {
        self.tat.rounded_up() <= nanos(now)
    }

    /// Books the next slot for an event that will certainly happen.
    ///
    /// * returns: when it may happen: `now`, or later. Slots are handed out in order; a booked one cannot be given back,
    ///   for a later one may be booked already, so an event that is dropped leaves a gap.
    #[must_use = "the event may not happen before the returned time"]
    pub fn reserve(&mut self, now: Time) -> Time {
        let slot = self.next_slot(now);
        self.book(now);
        slot
    }

    /// Lets an event happen now, or says when to ask again.
    ///
    /// # Errors
    /// The earliest time at which one could pass. Nothing is booked: another caller may come first.
    pub fn check(&mut self, now: Time) -> Result<(), Time> {
        self.reserve_before(now, now).map(|_| ())
    }

    /// Lets `count` events happen together now, or says when to ask again. They pass if one could, and the next wait for all of
    /// them: more than the burst at once is possible, more than the rate in the long run is not.
    ///
    /// # Errors
    /// The earliest time at which one could pass. Nothing is booked.
    pub fn check_many(&mut self, now: Time, count: u64) -> Result<(), Time> {
        if count == 0 {
            return Ok(());
        }
        self.check(now)?;
        if count > 1 {
            let rest = self.interval.times(count - 1, self.count);
            self.tat = self.tat.plus(rest, self.count);
        }
        Ok(())
    }

    /// Books the next slot unless it lies after the deadline.
    ///
    /// # Errors
    /// When the slot would have been. Nothing is booked.
    pub fn reserve_before(&mut self, now: Time, deadline: Time) -> Result<Time, Time> {
        let slot = self.next_slot(now);
        if slot > deadline {
            return Err(slot);
        }
        self.book(now);
        Ok(slot)
    }

    /// When the next event could happen.
    #[must_use]
    pub fn next_slot(&self, now: Time) -> Time {
        let earliest = self.tat.minus(self.tolerance, self.count).rounded_up();
        now.max(Time::from_nanos(earliest))
    }

    fn book(&mut self, now: Time) {
        // Who comes in the very nanosecond into which `tat` falls is on time: counting from the exact `tat`, not
        // from its rounded value, is what keeps the rate from drifting.
        let ns = nanos(now);
        let base = match ns > self.tat.rounded_up() {
            true => Exact { ns, part: 0 },
            false => self.tat,
        };
        self.tat = base.plus(self.interval, self.count);
    }
}

#[cfg(test)]
mod tests;
