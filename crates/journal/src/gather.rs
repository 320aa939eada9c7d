//! When a group goes to the disk: how many to wait for, and for how long.
//!
//! Those who wait for a commit come back together when it ends, and each sync that is not made is one
//! saved. So a group waits for those who are likely to come, as long as they keep coming: for all of
//! them where the disk is busy, and for half where it has time, so that one half is synced while the
//! other half's next messages are made (ADRs 51, 105). Who comes alone never waits.

use std::time::{Duration, Instant};

/// The longest pause between two who belong together; half a sync, where that is less.
const PAUSE_MAX: Duration = Duration::from_micros(250);
/// A disk that syncs for one part in so many of the time is busy.
const BUSY_SHARE: u32 = 4;
/// A group gathers for so many pauses at most.
const PAUSES_MAX: u32 = 4;

/// What was learned from the groups so far.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// How many are likely to come.
    expected: u32,
    /// What a sync takes, smoothed.
    sync_time: Duration,
}

/// A group that is being gathered.
#[derive(Debug)]
pub(crate) struct Round {
    awaited: u32,
    /// Nobody has come for a pause then.
    quiet_at: Instant,
    ends_at: Instant,
}

impl Gathering {
    /// How many have to wait before a group goes at once; at least one.
    pub(crate) fn expected(&self) -> u32 {
        self.expected.max(1)
    }

    /// A group was synced.
    ///
    /// * `awaited`: how many waited for it.
    /// * `meanwhile`: how many have come for the next one since it was taken.
    /// * `interval`: from the start of the group before to the start of this one.
    pub(crate) fn synced(
        &mut self,
        awaited: u32,
        meanwhile: u32,
        sync_time: Duration,
        interval: Duration,
    ) {
        let all = awaited.saturating_add(meanwhile);
        let is_busy = sync_time * BUSY_SHARE > interval;
        self.expected = match is_busy {
            true => all.max(self.expected - self.expected.div_ceil(8)),
            false => all.div_ceil(2),
        };
        self.sync_time = self.sync_time * 7 / 8 + sync_time / 8;
    }

    /// How much longer to wait for others, where `awaited` wait already.
    pub(crate) fn left(&self, round: &mut Option<Round>, awaited: u32, now: Instant) -> Duration {
        let pause = (self.sync_time / 2).min(PAUSE_MAX);
        let begin = || Round {
            awaited: 0,
            quiet_at: now,
            ends_at: now + pause * PAUSES_MAX,
        };
        let round = round.get_or_insert_with(begin);
        if awaited > round.awaited {
            round.awaited = awaited;
            round.quiet_at = now + pause;
        }
        round
            .quiet_at
            .min(round.ends_at)
            .saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PAUSE: Duration = Duration::from_micros(250);

    /// * `groups`: how many waited for each, and how many came while it was synced.
    /// * `interval`: between them, where a sync takes a millisecond.
    fn after(groups: &[(u32, u32)], interval: Duration) -> Gathering {
        let mut gathering = Gathering::default();
        for (awaited, meanwhile) in groups {
            gathering.synced(*awaited, *meanwhile, MS, interval);
        }
        gathering
    }

    #[test]
    fn who_comes_alone_is_all_that_is_expected() {
        assert_eq!(Gathering::default().expected(), 1);
        for interval in [MS, 100 * MS] {
            assert_eq!(after(&[(1, 0); 20], interval).expected(), 1);
        }
    }

    #[test]
    fn where_the_disk_is_busy_all_share_a_sync() {
        assert_eq!(after(&[(3, 2)], 2 * MS).expected(), 5);
        assert_eq!(after(&[(20, 0)], 2 * MS).expected(), 20);
    }

    #[test]
    fn where_it_has_time_one_half_waits_while_the_other_works() {
        assert_eq!(after(&[(20, 0)], 10 * MS).expected(), 10);
        assert_eq!(after(&[(10, 9)], 10 * MS).expected(), 10);
    }

    #[test]
    fn those_who_left_are_soon_expected_no_more() {
        let gone = after(&[(100, 0)], 2 * MS);
        let groups = (1..).scan(gone, |gathering, _| {
            gathering.synced(1, 0, MS, 2 * MS);
            Some(gathering.expected())
        });
        let groups = groups.take_while(|expected| *expected > 1).count();
        assert!(groups < 40, "{groups}");
    }

    #[test]
    fn each_newcomer_prolongs_the_wait_by_a_pause_up_to_its_end() {
        let gathering = after(&[(9, 0); 20], MS);
        let (start, mut round) = (Instant::now(), None);
        assert_eq!(gathering.left(&mut round, 1, start), PAUSE);
        let mut now = start + PAUSE / 2;
        assert_eq!(gathering.left(&mut round, 1, now), PAUSE / 2);
        for awaited in 2..5 {
            assert_eq!(gathering.left(&mut round, awaited, now), PAUSE);
            now += PAUSE;
        }
        assert_eq!(gathering.left(&mut round, 5, now), PAUSE / 2);
        assert_eq!(gathering.left(&mut round, 6, start + MS), Duration::ZERO);
    }

    #[test]
    fn a_pause_is_half_a_sync_at_most() {
        let mut gathering = Gathering::default();
        for _ in 0..100 {
            gathering.synced(9, 0, Duration::from_micros(80), MS);
        }
        let left = gathering.left(&mut None, 1, Instant::now());
        assert!(left <= Duration::from_micros(40), "{left:?}");
    }
}
