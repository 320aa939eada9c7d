//! Rates under virtual time.

use proptest::prelude::*;

use super::*;

fn limit(text: &str) -> RateLimit {
    text.parse().unwrap()
}

fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

#[test]
fn rates_are_read_as_people_write_them() {
    for (text, count, unit) in [
        ("1000/min", 1000, Unit::Minute),
        ("50/s", 50, Unit::Second),
        ("10/sec", 10, Unit::Second),
        ("1/second", 1, Unit::Second),
        (" 10 / Minute ", 10, Unit::Minute),
        ("3600/hour", 3600, Unit::Hour),
        ("1000/h", 1000, Unit::Hour),
        ("2/day", 2, Unit::Day),
        ("1000000000/s", 1_000_000_000, Unit::Second),
        ("86400000000000/d", 86_400_000_000_000, Unit::Day),
    ] {
        assert_eq!(RateLimit::new(count, unit), text.parse(), "{text}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    for (text, error) in [
        ("", "a rate needs a unit, as in 1000/min: ``"),
        ("1000", "a rate needs a unit, as in 1000/min: `1000`"),
        (
            "/s",
            "not a whole number of events: `` (for less than one a second, use min, h or day)",
        ),
        (
            "0.5/s",
            "not a whole number of events: `0.5` (for less than one a second, use min, h or day)",
        ),
        (
            "-1/s",
            "not a whole number of events: `-1` (for less than one a second, use min, h or day)",
        ),
        (
            "+1/s",
            "not a whole number of events: `+1` (for less than one a second, use min, h or day)",
        ),
        (
            "99999999999999999999/s",
            "not a whole number of events: `99999999999999999999` (for less than one a second, use min, h or day)",
        ),
        ("0/s", "a rate of 0 would never let anything through"),
        (
            "1000000001/s",
            "1000000001 is more than 1000000000 a second",
        ),
        ("5/", "unknown unit of time: `` (use s, min, h or day)"),
        (
            "5/month",
            "unknown unit of time: `month` (use s, min, h or day)",
        ),
        (
            "5/s/s",
            "unknown unit of time: `s/s` (use s, min, h or day)",
        ),
    ] {
        assert_eq!(
            error,
            text.parse::<RateLimit>().unwrap_err().to_string(),
            "{text}"
        );
    }
}

#[test]
fn a_tenth_of_a_second_of_60_per_second_is_6() {
    assert_eq!(6, limit("60/s").count_in(ms(100)));
    assert_eq!(1, limit("1000/min").count_in(ms(100)));
    assert_eq!(0, limit("1/day").count_in(ms(100)));
}

#[test]
fn a_thousand_a_minute_is_one_every_60_ms() {
    let mut gcra = Gcra::new(limit("1000/min"));
    for n in 0..5000 {
        assert_eq!(ms(60 * n), gcra.reserve(ms(0)));
    }
}

#[test]
fn seven_a_second_does_not_drift() {
    let mut gcra = Gcra::new(limit("7/s"));
    for n in 0..700_000_u64 {
        let exact = (n * 1_000_000_000).div_ceil(7);
        assert_eq!(Time::from_nanos(exact), gcra.reserve(Time::ZERO));
    }
    assert_eq!(Time::from_secs(100_000), gcra.next_slot(Time::ZERO));
}

#[test]
fn a_caller_who_asks_when_told_does_not_drift_either() {
    let mut gcra = Gcra::new(limit("7/s"));
    let mut now = Time::ZERO;
    for _ in 0..700_000 {
        assert_eq!(Ok(()), gcra.check(now));
        now = gcra.check(now).unwrap_err();
    }
    assert_eq!(Time::from_secs(100_000), now);
}

#[test]
fn idling_saves_up_nothing_without_a_burst() {
    let mut gcra = Gcra::new(limit("10/s"));
    let later = Time::from_secs(1000);
    assert_eq!(later, gcra.reserve(later));
    assert_eq!(later + ms(100), gcra.reserve(later));
}

#[test]
fn idling_saves_up_the_burst_and_no_more() {
    let mut gcra = Gcra::with_burst(limit("60/s"), 6);
    for start in [Time::ZERO, Time::from_secs(1000)] {
        let admitted = (0..100).filter(|_| gcra.check(start).is_ok()).count();
        assert_eq!(6, admitted);
        assert_eq!(Err(start + Time::from_nanos(16_666_667)), gcra.check(start));
    }
}

#[test]
fn a_slot_past_the_deadline_is_not_booked() {
    let mut gcra = Gcra::new(limit("10/s"));
    assert_eq!(ms(0), gcra.reserve(ms(0)));
    assert_eq!(Err(ms(100)), gcra.reserve_before(ms(0), ms(99)));
    assert_eq!(Ok(ms(100)), gcra.reserve_before(ms(0), ms(100)));
}

fn any_limit() -> impl Strategy<Value = RateLimit> {
    let unit = proptest::sample::select(vec![Unit::Second, Unit::Minute, Unit::Hour, Unit::Day]);
    let count = prop_oneof![1..20_u64, 1..2000_u64, 1..1_000_000_000_u64];
    (count, unit).prop_map(|(count, unit)| RateLimit::new(count, unit).unwrap())
}

proptest! {
    #[test]
    fn what_is_shown_reads_back(limit in any_limit()) {
        prop_assert_eq!(Ok(limit), limit.to_string().parse());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[ 0-9+-]{0,20}/?[a-zA-Z]{0,7}") {
        if let Ok(limit) = text.parse::<RateLimit>() {
            prop_assert_eq!(Ok(limit), limit.to_string().parse());
        }
    }

    /// The promise, over every pair of events: from the i-th to the j-th there is room for all between them but the burst.
    #[test]
    fn no_span_of_time_holds_more_than_the_burst_and_the_rate(
        limit in any_limit(),
        burst in 0..20_u64,
        // How far the clock moves before each event, in 1/16 of the interval; and whether it is booked or checked.
        steps in proptest::collection::vec((0..64_u64, any::<bool>()), 2..120),
    ) {
        let mut gcra = Gcra::with_burst(limit, burst);
        let sixteenth = (limit.unit.nanos() / limit.count / 16).max(1);
        let (mut now, mut events) = (0, Vec::new());
        for (step, book) in steps {
            now += step * sixteenth;
            let now = Time::from_nanos(now);
            match book {
                true => events.push(gcra.reserve(now)),
                false if gcra.check(now).is_ok() => events.push(now),
                false => {}
            }
        }
        let burst = u128::from(burst.max(1));
        let (count, unit) = (u128::from(limit.count), u128::from(limit.unit.nanos()));
        for (i, first) in events.iter().enumerate() {
            for (events_after, last) in (1_u128..).zip(&events[i + 1..]) {
                prop_assert!(first <= last, "slots in order");
                let span = (*last - *first).as_nanos() + 1; // one nanosecond for rounding up
                prop_assert!((events_after + 1 - burst.min(events_after + 1)) * unit <= span * count);
            }
        }
    }

    /// The other side of the promise: nothing is held back longer than needed.
    #[test]
    fn a_busy_caller_gets_the_whole_rate(limit in any_limit(), burst in 1..20_u64, events in 1..500_u64) {
        let mut gcra = Gcra::with_burst(limit, burst);
        let last = (0..events).map(|_| gcra.reserve(Time::ZERO)).last().unwrap();
        let waiting = u128::from(events.saturating_sub(burst)) * u128::from(limit.unit.nanos());
        prop_assert_eq!(waiting.div_ceil(u128::from(limit.count)), last.as_nanos());
    }

    #[test]
    fn a_refused_check_passes_at_the_time_it_was_told(limit in any_limit(), burst in 1..20_u64, start: u32) {
        let mut gcra = Gcra::with_burst(limit, burst);
        let now = Time::from_nanos(start.into());
        while gcra.check(now).is_ok() {}
        let told = gcra.check(now).unwrap_err();
        prop_assert!(gcra.check(told - Time::from_nanos(1)).is_err());
        prop_assert_eq!(Ok(()), gcra.check(told));
    }

    /// Neither what came before is forgotten, nor does the old limit hold anything back.
    #[test]
    fn another_limit_goes_on_one_interval_after_the_last_event(
        old in any_limit(), new in any_limit(), burst in 1..20_u64, events in 1..40_u64, start in 1_u64 << 50..1 << 60,
    ) {
        let now = Time::from_nanos(start);
        let mut gcra = Gcra::with_burst(old, burst);
        let last = (0..events).filter(|_| gcra.check(now).is_ok()).map(|_| now).last().unwrap();
        let same = gcra.next_slot(now);
        gcra.set_limit(old, burst, now);
        prop_assert_eq!(gcra.next_slot(now), same);
        if (old, burst) != (new, 3) {
            gcra.set_limit(new, 3, now);
            let interval = u128::from(new.unit.nanos()).div_ceil(u128::from(new.count)) as u64;
            let next = gcra.next_slot(now);
            prop_assert!(next <= last + Time::from_nanos(interval), "held back");
            // The last one of the old limit may have come an interval before the rounding.
            prop_assert!(next + Time::from_nanos(1) >= last + Time::from_nanos(interval), "too soon");
        }
    }

    #[test]
    fn it_is_rested_when_the_burst_is_saved_up_again(limit in any_limit(), burst in 1..20_u64, events in 1..20_u64) {
        let mut gcra = Gcra::with_burst(limit, burst);
        let now = Time::from_secs(1 << 30);
        prop_assert!(gcra.is_rested(now));
        let count = (0..events).filter(|_| gcra.check(now).is_ok()).count() as u64;
        prop_assert!(!gcra.is_rested(now));
        let interval = limit.unit.nanos().div_ceil(limit.count);
        prop_assert!(gcra.is_rested(now + Time::from_nanos(count * interval)));
    }

    #[test]
    fn extreme_times_and_bursts_do_not_panic(limit in any_limit(), burst: u64, secs: u64) {
        let mut gcra = Gcra::with_burst(limit, burst);
        let now = Time::from_secs(secs);
        prop_assert!(gcra.reserve(now) >= now);
        prop_assert!(gcra.reserve(Time::MAX) >= Time::MAX);
        let _ = gcra.check(Time::ZERO);
    }
}
