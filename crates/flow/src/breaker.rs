//! Whether an endpoint is worth connecting to.
//!
//! Counts only what says something about the endpoint itself: connects and handshakes. A recipient's refusal is an answer,
//! and an endpoint that answers is up.
//!
//! | State | `allow` | `success` | `failure` | `abandon` |
//! |---|---|---|---|---|
//! | closed | yes | closed, count 0 | count + 1; open at the threshold | – |
//! | open, before its end | no | closed | – (already known) | – |
//! | open, after its end | yes, and half-open | closed | – | – |
//! | half-open | no: one probe is out | closed | open, for longer | open, but the next `allow` probes |
//!
//! How long it stays open grows by its [`Backoff`] with each opening since it was last closed. A success always closes it,
//! even one from an attempt that began before it opened: the endpoint answered.
//!
//! Limit: the breaker cannot see a probe that was dropped; who asked must report `success`, `failure` or `abandon`,
//! or no further probe is let out.

use crate::Time;
use crate::backoff::Backoff;
use crate::rng::Rng;

/// Keeps connection attempts from an endpoint that fails all of them.
#[derive(Debug, Clone)]
pub struct Breaker {
    threshold: u32,
    backoff: Backoff,
    rng: Rng,
    state: State,
    /// Times opened since last closed; chooses the backoff.
    openings: u32,
}

/// What the breaker thinks of the endpoint; for status displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Fit for use.
    Closed {
        /// Failures in a row so far.
        failures: u32,
    },
    /// Judged down.
    Open {
        /// When a probe may go out.
        until: Time,
    },
    /// One probe is out.
    HalfOpen,
}

impl Breaker {
    /// A closed breaker.
    ///
    /// * `threshold`: failures in a row that open it; 0 counts as 1.
    /// * `backoff`: how long it stays open the first, second, … time.
    /// * `rng`: for the backoff's jitter, so that many clients do not probe at once.
    #[must_use]
    pub const fn new(threshold: u32, backoff: Backoff, rng: Rng) -> Self {
        Self {
            threshold,
            backoff,
            rng,
            state: State::Closed { failures: 0 },
            openings: 0,
        }
    }

    /// Whether an attempt may begin now. When half-open, the first caller alone gets a yes: its attempt is the probe.
    #[must_use = "false means: do not connect"]
    pub fn allow(&mut self, now: Time) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } if now >= until => {
                self.state = State::HalfOpen;
                true
            }
            State::Open { .. } | State::HalfOpen => false,
        }
    }

    /// An attempt connected and shook hands.
    pub const fn success(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.openings = 0;
    }

    /// An attempt failed to connect or to shake hands.
    pub fn failure(&mut self, now: Time) {
        match self.state {
            State::Closed { failures } if failures.saturating_add(1) < self.threshold => {
                self.state = State::Closed {
                    failures: failures + 1,
                };
            }
            State::Closed { .. } | State::HalfOpen => self.open(now),
            State::Open { .. } => {}
        }
    }

    /// An attempt ended without a verdict (cancelled, say). A probe's place goes to the next caller of
    /// [`Breaker::allow`].
    pub const fn abandon(&mut self) {
        if matches!(self.state, State::HalfOpen) {
            self.state = State::Open { until: Time::ZERO };
        }
    }

    /// What the breaker thinks of the endpoint. `Open` may be over: only [`Breaker::allow`] moves on.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    fn open(&mut self, now: Time) {
        self.openings = self.openings.saturating_add(1);
        let delay = self.backoff.delay(self.openings, &mut self.rng);
        self.state = State::Open {
            until: now.saturating_add(delay),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng; // proptest has one of its own

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Allow,
        Success,
        Failure,
        Abandon,
    }

    /// Opens after three failures, for 10 s, 20 s, …
    fn breaker() -> Breaker {
        let backoff = Backoff::new(secs(10), secs(60)).with_jitter(0.0);
        Breaker::new(3, backoff, Rng::new(5))
    }

    fn secs(n: u64) -> Time {
        Time::from_secs(n)
    }

    fn check(name: &str, before: State, event: Event, allowed: Option<bool>, after: State) {
        let mut breaker = breaker();
        breaker.state = before;
        breaker.openings = u32::from(!matches!(before, State::Closed { .. }));
        let now = secs(100);
        match event {
            Event::Allow => assert_eq!(allowed, Some(breaker.allow(now)), "{name}"),
            Event::Success => breaker.success(),
            Event::Failure => breaker.failure(now),
            Event::Abandon => breaker.abandon(),
        }
        assert_eq!(after, breaker.state(), "{name}");
    }

    #[test]
    fn every_state_meets_every_event() {
        use Event::{Abandon, Allow, Failure, Success};
        use State::HalfOpen;
        let closed = |failures| State::Closed { failures };
        let open = |until| State::Open { until: secs(until) };

        check(
            "closed lets through",
            closed(2),
            Allow,
            Some(true),
            closed(2),
        );
        check(
            "success forgets failures",
            closed(2),
            Success,
            None,
            closed(0),
        );
        check("failure is counted", closed(0), Failure, None, closed(1));
        check(
            "the third failure opens",
            closed(2),
            Failure,
            None,
            open(110),
        );
        check(
            "closed has nothing to abandon",
            closed(1),
            Abandon,
            None,
            closed(1),
        );

        check("open refuses", open(101), Allow, Some(false), open(101));
        check("a late success closes", open(101), Success, None, closed(0));
        check(
            "a late failure does not prolong",
            open(101),
            Failure,
            None,
            open(101),
        );
        check(
            "open has no probe to abandon",
            open(101),
            Abandon,
            None,
            open(101),
        );
        check(
            "its end lets a probe out",
            open(100),
            Allow,
            Some(true),
            HalfOpen,
        );

        check("one probe only", HalfOpen, Allow, Some(false), HalfOpen);
        check("the probe succeeds", HalfOpen, Success, None, closed(0));
        check(
            "the probe fails: open for longer",
            HalfOpen,
            Failure,
            None,
            open(120),
        );
        check("the probe is dropped", HalfOpen, Abandon, None, open(0));
    }

    #[test]
    fn once_closed_it_opens_for_the_first_delay_again() {
        let mut breaker = breaker();
        breaker.openings = 5;
        breaker.success();
        (0..3).for_each(|_| breaker.failure(secs(0)));
        assert_eq!(State::Open { until: secs(10) }, breaker.state());
    }

    #[test]
    fn many_breakers_do_not_probe_at_once() {
        let backoff = Backoff::new(secs(10), secs(60));
        let mut ends: Vec<_> = (0..100)
            .map(|seed| {
                let mut breaker = Breaker::new(1, backoff, Rng::new(seed));
                breaker.failure(secs(0));
                breaker.state()
            })
            .map(|state| match state {
                State::Open { until } => until,
                state => panic!("not open: {state:?}"),
            })
            .collect();
        ends.sort_unstable();
        ends.dedup();
        assert!(ends.len() > 95);
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        use Event::{Abandon, Allow, Failure, Success};
        let kinds = vec![
            Allow, Allow, Allow, Success, Failure, Failure, Failure, Abandon,
        ];
        (0..8_u64, proptest::sample::select(kinds))
    }

    proptest! {
        /// Checked against the rules as an outsider would put them, not against the states.
        #[test]
        fn opens_only_after_enough_failures_and_lets_one_probe_out(
            events in proptest::collection::vec(event(), 1..300),
        ) {
            let mut breaker = breaker();
            let (mut now, mut failures_in_a_row, mut probe_out) = (0, 0, false);
            for (elapsed, event) in events {
                now += elapsed;
                match event {
                    Event::Allow => {
                        let allowed = breaker.allow(secs(now));
                        prop_assert!(allowed || failures_in_a_row >= 3, "refused without cause");
                        prop_assert!(!(allowed && probe_out), "a second probe");
                        probe_out |= allowed && failures_in_a_row >= 3;
                    }
                    Event::Success => {
                        breaker.success();
                        (failures_in_a_row, probe_out) = (0, false);
                    }
                    Event::Failure => {
                        breaker.failure(secs(now));
                        failures_in_a_row += 1;
                        probe_out = false;
                    }
                    Event::Abandon => {
                        breaker.abandon();
                        probe_out = false;
                    }
                }
            }
            // Whatever happened, the endpoint gets another chance within a bounded time.
            breaker.abandon();
            prop_assert!(breaker.allow(secs(now + 60)));
        }
    }
}
