//! What happened in each minute, counted as it happens.
//!
//! Names are bounded: a minute counts at most [`NAMES_MAX`] tenants and as many sites by name, the
//! rest under the empty name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::column::{Corrupt, Reader, Result, put_bytes, put_u64};
use crate::{Event, Status, Time};

/// Tenants, and sites, that one minute counts by name.
pub const NAMES_MAX: usize = 256;

/// Events by the status that they led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts(pub [u64; Status::ALL.len()]);

impl Counts {
    /// Events that led to this status.
    #[must_use]
    pub fn of(&self, status: Status) -> u64 {
        self.0[status as usize - 1]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn add(&mut self, status: Status) {
        self.0[status as usize - 1] += 1;
    }

    /// Adds all of other counts.
    pub fn add_all(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }
}

/// What happened in one minute.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MinuteStats {
    /// When it began.
    pub minute: Time,
    /// Events by status.
    pub counts: Counts,
    /// The same for each tenant; the empty name stands for those over [`NAMES_MAX`].
    pub tenants: BTreeMap<Arc<str>, Counts>,
    /// The same for each site that was tried; the empty name stands for those over [`NAMES_MAX`].
    pub sites: BTreeMap<Arc<str>, Counts>,
    /// Attempts: events that have an outcome.
    pub attempts: u64,
    /// From acceptance to delivery, summed over what was delivered.
    pub delivery_us_sum: u64,
    /// Time of attempts by stage, in the order of `StageTimes::NAMES`.
    pub stage_us_sums: [u64; 11],
}

impl MinuteStats {
    /// Begins an empty minute; `at` is any moment in it.
    #[must_use]
    pub fn new(at: Time) -> Self {
        Self {
            minute: start_of(at),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, event: &Event) {
        self.counts.add(event.status);
        count(&mut self.tenants, &event.tenant).add(event.status);
        if event.status == Status::Delivered {
            let latency = event.at.saturating_sub(event.message.time());
            let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.delivery_us_sum = self.delivery_us_sum.saturating_add(latency_us);
        }
        let Some(outcome) = &event.outcome else {
            return;
        };
        self.attempts += 1;
        count(&mut self.sites, &outcome.site).add(event.status);
        for (sum, us) in self.stage_us_sums.iter_mut().zip(outcome.times.0) {
            *sum = sum.saturating_add(us.into());
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.add_all(&other.counts);
        for (name, counts) in &other.tenants {
            count(&mut self.tenants, name).add_all(counts);
        }
        for (name, counts) in &other.sites {
            count(&mut self.sites, name).add_all(counts);
        }
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.delivery_us_sum = self.delivery_us_sum.saturating_add(other.delivery_us_sum);
        for (sum, us) in self.stage_us_sums.iter_mut().zip(other.stage_us_sums) {
            *sum = sum.saturating_add(us);
        }
    }
}

/// Minutes by when they began.
pub(super) type Minutes = BTreeMap<Time, MinuteStats>;

/// Adds minutes to others.
pub(super) fn merge(into: &mut Minutes, from: &Minutes) {
    for (minute, stats) in from {
        at(into, *minute).merge(stats);
    }
}

/// The minute that began then.
pub(super) fn at(minutes: &mut Minutes, minute: Time) -> &mut MinuteStats {
    let new = || MinuteStats::new(minute);
    minutes.entry(minute).or_insert_with(new)
}

/// Appends minutes: their count, then each.
pub(super) fn write(minutes: &Minutes, out: &mut Vec<u8>) {
    put_u64(out, minutes.len() as u64);
    for stats in minutes.values() {
        put_u64(out, stats.minute.as_secs() / 60);
        put_counts(out, &stats.counts);
        for names in [&stats.tenants, &stats.sites] {
            put_u64(out, names.len() as u64);
            for (name, counts) in names {
                put_bytes(out, name.as_bytes());
                put_counts(out, counts);
            }
        }
        put_u64(out, stats.attempts);
        put_u64(out, stats.delivery_us_sum);
        for sum in stats.stage_us_sums {
            put_u64(out, sum);
        }
    }
}

fn put_counts(out: &mut Vec<u8>, counts: &Counts) {
    for count in counts.0 {
        put_u64(out, count);
    }
}

/// Reads what [`write()`] wrote.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Minutes> {
    let mut minutes = Minutes::new();
    for _ in 0..reader.count()? {
        let seconds = reader.u64()?.checked_mul(60).ok_or(Corrupt)?;
        let mut stats = MinuteStats::new(Duration::from_secs(seconds));
        stats.counts = read_counts(reader)?;
        stats.tenants = read_names(reader)?;
        stats.sites = read_names(reader)?;
        stats.attempts = reader.u64()?;
        stats.delivery_us_sum = reader.u64()?;
        for sum in &mut stats.stage_us_sums {
            *sum = reader.u64()?;
        }
        minutes.insert(stats.minute, stats);
    }
    Ok(minutes)
}

fn read_names(reader: &mut Reader<'_>) -> Result<BTreeMap<Arc<str>, Counts>> {
    let count = reader.count()?;
    (0..count)
        .map(|_| Ok((reader.text()?.into(), read_counts(reader)?)))
        .collect()
}

fn read_counts(reader: &mut Reader<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    for count in &mut counts.0 {
        *count = reader.u64()?;
    }
    Ok(counts)
}

/// When the minute of `at` began.
pub(super) fn start_of(at: Time) -> Time {
    Duration::from_secs(at.as_secs() / 60 * 60)
}

fn count<'a>(names: &'a mut BTreeMap<Arc<str>, Counts>, name: &Arc<str>) -> &'a mut Counts {
    let is_known = names.contains_key(&**name);
    let has_room = || names.len() - usize::from(names.contains_key("")) < NAMES_MAX;
    let name = if is_known || has_room() {
        Arc::clone(name)
    } else {
        Arc::from("")
    };
    names.entry(name).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_over_the_limit_are_counted_together() {
        let mut names = BTreeMap::new();
        for index in 0..NAMES_MAX + 3 {
            count(&mut names, &format!("t{index}").into()).add(Status::Accepted);
        }
        assert_eq!(names.len(), NAMES_MAX + 1);
        assert_eq!(names[""].of(Status::Accepted), 3);
    }

    #[test]
    fn a_minute_of_many_names_put_together_of_its_parts_is_the_same() {
        let mut minute = MinuteStats::default();
        for index in 0..NAMES_MAX + 3 {
            count(&mut minute.tenants, &format!("t{index}").into()).add(Status::Accepted);
        }
        let mut again = MinuteStats::default();
        again.merge(&minute);
        assert_eq!(again, minute);
    }
}
