//! How much happened when: history's minutes, put together to longer spans, by tenant or by site.
//!
//! A minute knows what each tenant and what each site saw, not what a tenant's mail saw at a site; so
//! lines are of one or of the other. Only what is asked for is kept while minutes go by: memory is that
//! of the lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use store::history::{Counts, MinuteStats};
use store::{Status, Time};

/// Lines of one answer.
pub const LINES_MAX: usize = 10_000;

const MINUTE: Duration = Duration::from_secs(60);

/// Whose events are counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Of {
    /// All of them, in one line.
    #[default]
    All,
    /// A line for each tenant, or for this one alone.
    Tenants(Option<Arc<str>>),
    /// A line for each site that was tried, or for this one alone.
    Sites(Option<Arc<str>>),
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatisticsQuery {
    /// Minutes that begin then or later,
    pub from: Time,
    /// and before this.
    pub to: Time,
    /// How long a line is: whole minutes, counted from midnight of 1 January 1970 UTC, so that days are
    /// days of UTC.
    pub step: Duration,
    /// Whose events.
    pub of: Of,
}

/// What happened; see [`StatisticsQuery`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// The oldest first, each with something to count.
    pub lines: Vec<StatisticsLine>,
    /// False: a minute had more tenants, or sites, than are counted by name
    /// ([`store::history::NAMES_MAX`]); what is missing here is in the lines of the empty name.
    pub is_complete: bool,
}

/// One span of time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatisticsLine {
    /// When it begins.
    pub at: Time,
    /// The tenant or site; empty for [`Of::All`], and for those that are not counted by name.
    pub name: Arc<str>,
    /// Events by the status that they led to.
    pub counts: Counts,
    /// What took how long; for [`Of::All`] alone.
    pub times: Option<Times>,
}

/// What took how long, summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// Attempts.
    pub attempts: u64,
    /// From acceptance to delivery, over what was delivered.
    pub delivery_us: u64,
    /// Of attempts by stage, in the order of [`store::StageTimes::NAMES`].
    pub stages_us: [u64; 11],
}

/// There would be over [`LINES_MAX`] lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are over {LINES_MAX} lines: take a longer step, or less time")]
pub struct TooManyLines;

/// Lines as minutes are added to them.
pub(crate) struct Fold<'q> {
    query: &'q StatisticsQuery,
    step_s: u64,
    lines: BTreeMap<(Time, Arc<str>), StatisticsLine>,
    is_complete: bool,
    is_over: bool,
}

impl<'q> Fold<'q> {
    pub(crate) fn new(query: &'q StatisticsQuery) -> Self {
        Self {
            query,
            step_s: query.step.max(MINUTE).as_secs() / 60 * 60,
            lines: BTreeMap::new(),
            is_complete: true,
            is_over: false,
        }
    }

    /// Adds a minute, or a part of one.
    pub(crate) fn add(&mut self, minute: &MinuteStats) {
        let at = Time::from_secs(minute.minute.as_secs() / self.step_s * self.step_s);
        let (names, only) = match &self.query.of {
            Of::All => return self.add_all(at, minute),
            Of::Tenants(only) => (&minute.tenants, only),
            Of::Sites(only) => (&minute.sites, only),
        };
        self.is_complete &= !names.contains_key("");
        match only {
            Some(only) => {
                let found = names.get_key_value(&**only);
                found.into_iter().for_each(|it| self.count(at, it));
            }
            None => names.iter().for_each(|it| self.count(at, it)),
        }
    }

    fn add_all(&mut self, at: Time, minute: &MinuteStats) {
        let Some(line) = self.line(at, &Arc::from("")) else {
            return;
        };
        line.counts.add_all(&minute.counts);
        let times = line.times.get_or_insert_default();
        times.attempts += minute.attempts;
        times.delivery_us = times.delivery_us.saturating_add(minute.delivery_us_sum);
        for (sum, us) in times.stages_us.iter_mut().zip(minute.stage_us_sums) {
            *sum = sum.saturating_add(us);
        }
    }

    fn count(&mut self, at: Time, (name, counts): (&Arc<str>, &Counts)) {
        if let Some(line) = self.line(at, name) {
            line.counts.add_all(counts);
        }
    }

    /// Its line; `None` where there are too many.
    fn line(&mut self, at: Time, name: &Arc<str>) -> Option<&mut StatisticsLine> {
        let is_full = self.lines.len() >= LINES_MAX;
        let key = (at, Arc::clone(name));
        if is_full && !self.lines.contains_key(&key) {
            self.is_over = true;
            return None;
        }
        let new = || StatisticsLine {
            at,
            name: Arc::clone(name),
            ..StatisticsLine::default()
        };
        Some(self.lines.entry(key).or_insert_with(new))
    }

    pub(crate) fn end(self) -> Result<Statistics, TooManyLines> {
        if self.is_over {
            return Err(TooManyLines);
        }
        Ok(Statistics {
            lines: self.lines.into_values().collect(),
            is_complete: self.is_complete,
        })
    }
}

impl StatisticsLine {
    /// From acceptance to delivery, on average; `None` where it is not known, or nothing was delivered.
    #[must_use]
    pub fn delivery_us_mean(&self) -> Option<u64> {
        let delivered = self.counts.of(Status::Delivered);
        self.times?.delivery_us.checked_div(delivered)
    }

    /// What each stage of an attempt took, on average; `None` where it is not known, or none was made.
    #[must_use]
    pub fn stage_us_means(&self) -> Option<[u64; 11]> {
        let times = self.times.filter(|times| times.attempts > 0)?;
        Some(times.stages_us.map(|sum| sum / times.attempts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(number: u64, tenants: &[(&str, u64)]) -> MinuteStats {
        let mut stats = MinuteStats::new(MINUTE * u32::try_from(number).unwrap());
        for (name, delivered) in tenants {
            let counts = stats.tenants.entry(Arc::from(*name)).or_default();
            counts.0[Status::Delivered as usize - 1] += delivered;
            stats.counts.0[Status::Delivered as usize - 1] += delivered;
            stats.attempts += delivered;
            stats.delivery_us_sum += delivered * 10;
        }
        stats
    }

    fn ask(step: u32, of: Of, minutes: &[MinuteStats]) -> Result<Statistics, TooManyLines> {
        let query = StatisticsQuery {
            from: Time::ZERO,
            to: Time::MAX,
            step: MINUTE * step,
            of,
        };
        let mut fold = Fold::new(&query);
        minutes.iter().for_each(|minute| fold.add(minute));
        fold.end()
    }

    fn delivered(found: &Statistics) -> Vec<(u64, &str, u64)> {
        let lines = found.lines.iter();
        lines
            .map(|it| {
                (
                    it.at.as_secs() / 60,
                    &*it.name,
                    it.counts.of(Status::Delivered),
                )
            })
            .collect()
    }

    #[test]
    fn minutes_and_their_parts_add_up_to_steps_that_begin_at_whole_ones() {
        let minutes = [
            minute(61, &[("a", 1)]),
            minute(7, &[("a", 2)]),
            minute(7, &[("b", 4)]),
            minute(119, &[("b", 8)]),
        ];
        let by_minute = ask(1, Of::All, &minutes).unwrap();
        assert_eq!(
            delivered(&by_minute),
            [(7, "", 6), (61, "", 1), (119, "", 8)]
        );
        let by_hour = ask(60, Of::All, &minutes).unwrap();
        assert_eq!(delivered(&by_hour), [(0, "", 6), (60, "", 9)]);
        assert_eq!(by_hour.lines[1].delivery_us_mean(), Some(10));
        assert_eq!(by_hour.lines[1].times.unwrap().attempts, 9);
        assert_eq!(ask(1, Of::All, &[]).unwrap().lines, []);
    }

    #[test]
    fn each_tenant_has_its_line_or_one_alone_and_what_is_not_counted_by_name_is_said() {
        let minutes = [minute(1, &[("a", 1), ("b", 2)]), minute(2, &[("a", 4)])];
        let all = ask(60, Of::Tenants(None), &minutes).unwrap();
        assert_eq!(delivered(&all), [(0, "a", 5), (0, "b", 2)]);
        assert_eq!((all.is_complete, all.lines[0].times), (true, None));
        let one = Of::Tenants(Some("b".into()));
        let found = ask(1, one.clone(), &minutes).unwrap();
        assert_eq!(delivered(&found), [(1, "b", 2)]);
        assert_eq!(ask(1, Of::Sites(None), &minutes).unwrap().lines, []);
        let many = [minute(1, &[("", 9), ("b", 2)])];
        let found = ask(1, one, &many).unwrap();
        assert_eq!(
            (delivered(&found), found.is_complete),
            (vec![(1, "b", 2)], false)
        );
    }

    #[test]
    fn more_lines_than_are_kept_are_refused() {
        let minutes: Vec<_> = (0..=LINES_MAX as u64)
            .map(|number| minute(number, &[("a", 1)]))
            .collect();
        assert!(ask(1, Of::All, &minutes[1..]).is_ok());
        assert_eq!(ask(1, Of::All, &minutes), Err(TooManyLines));
        assert_eq!(
            ask(2, Of::All, &minutes).unwrap().lines.len(),
            LINES_MAX / 2 + 1
        );
    }
}
