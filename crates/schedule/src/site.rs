//! A site within the schedule: its limits, what was learned of them, and its queues.
//!
//! A site that was never refused and has no rate of its own is one small struct; what it learns is allocated when there is something to
//! learn.

use std::sync::Arc;
use std::time::Duration;

use flow::Time;
use flow::breaker::{Breaker, State};
use flow::budget::RetryBudget;
use flow::gradient::Gradient2;
use flow::pace::Pace;
use flow::rate::{Gcra, RateLimit};
use flow::rng::Rng;
use flow::window::{Window, WindowLimits};

use crate::flows::Ring;
use crate::job::{Feedback, Job, PRIORITIES};
use crate::policy::{Budget, SitePolicy, WindowPolicy};
use crate::slab::{Links, NIL};

/// Not in a ring of the schedule.
pub(crate) const UNLINKED: u8 = u8::MAX;

/// Policy of a place that no site is in.
const FREE: u32 = u32::MAX;

// Aligned so that it lies in two lines of the cache and not in three: with a million sites each access is a miss.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Site {
    pub(crate) name: Arc<str>,
    /// Number of its policy.
    pub(crate) policy: u32,
    pub(crate) queues: [Ring; PRIORITIES],
    /// Neighbours among the sites that may have a grant.
    pub(crate) links: Links,
    /// Node of the timer that wakes it; `NIL` if none.
    pub(crate) timer: u32,
    pub(crate) inflight: u32,
    pub(crate) ready: u32,
    pub(crate) waiting: u32,
    /// Seconds since the epoch when it was last asked for or used.
    pub(crate) touched_s: u32,
    pub(crate) window: Window,
    /// Which ring of the schedule it stands in.
    pub(crate) ring: u8,
    pub(crate) is_suspended: bool,
    /// Grants since a lower priority went first.
    pub(crate) turns: u8,
    pub(crate) pace: Option<Box<Pace>>,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only some sites have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    rate: Option<Gcra>,
    gradient: Option<Gradient2>,
    breaker: Option<Breaker>,
    budget: Option<RetryBudget>,
}

/// Which limit keeps a site from its next grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Nothing is ready.
    NothingToSend,
    /// None: it is about to be granted.
    None,
    /// The operator said so.
    Suspended,
    /// The site is judged down.
    Breaker {
        /// When a probe goes out.
        until: Time,
    },
    /// The site is judged down, and a probe is out.
    Probe,
    /// As many as its window are in flight.
    Window,
    /// As many as its window are in flight; it would be wider but for the state of this machine.
    Pressure,
    /// Its configured rate.
    Rate {
        /// When the next may go.
        until: Time,
    },
    /// Its learned pace.
    Pace {
        /// When the next may go.
        until: Time,
    },
    /// All that is ready is of tenants that are suspended or at their limits.
    Tenant,
    /// As much as the whole engine may send is in flight, or its rate is reached.
    Engine,
}

impl Limit {
    /// When the limit ends by itself.
    #[must_use]
    pub const fn until(self) -> Option<Time> {
        match self {
            Self::Breaker { until } | Self::Rate { until } | Self::Pace { until } => Some(until),
            _ => None,
        }
    }
}

impl Site {
    pub(crate) fn new(name: Arc<str>, index: u32, policy: &SitePolicy) -> Self {
        let mut site = Self {
            name,
            policy: index,
            queues: [Ring::EMPTY; PRIORITIES],
            links: Links::NONE,
            timer: NIL,
            inflight: 0,
            ready: 0,
            waiting: 0,
            touched_s: 0,
            window: Window::new(&window_limits(policy)),
            ring: UNLINKED,
            is_suspended: false,
            turns: 0,
            pace: None,
            extra: None,
        };
        site.set_policy(index, policy, Time::ZERO);
        site
    }

    /// Another policy; what was learned stays, and what left counts against the rate.
    pub(crate) fn set_policy(&mut self, index: u32, policy: &SitePolicy, now: Time) {
        self.policy = index;
        let gradient = match policy.window {
            WindowPolicy::Latency { min, max } => Some(Gradient2::new(min.into(), max.into())),
            WindowPolicy::Refusals(_) => None,
        };
        let rate = self.extra.as_mut().and_then(|extra| extra.rate.take());
        let rate = next_rate(rate, policy.rate, policy.burst, now);
        if gradient.is_some() || rate.is_some() || self.extra.is_some() {
            let extra = self.extra.get_or_insert_default();
            (extra.gradient, extra.rate) = (gradient, rate);
        }
        let size = self.window.size();
        self.window = Window::at(size, &window_limits(policy));
        if !policy.pace {
            self.pace = None;
        }
    }

    /// Whether it may be forgotten: not while what left holds its rate back.
    pub(crate) fn is_idle(&self, now: Time) -> bool {
        let rate = self.extra.as_ref().and_then(|extra| extra.rate.as_ref());
        let is_rested = rate.is_none_or(|rate| rate.is_rested(now));
        let has_none = self.inflight == 0 && self.ready == 0 && self.waiting == 0;
        has_none && !self.is_suspended && is_rested
    }

    /// Makes its place free for another.
    pub(crate) fn free(&mut self) {
        self.policy = FREE;
        (self.pace, self.extra) = (None, None);
    }

    pub(crate) fn is_free(&self) -> bool {
        self.policy == FREE
    }

    /// How many may be in flight.
    pub(crate) fn window_size(&self) -> u32 {
        match self
            .extra
            .as_ref()
            .and_then(|extra| extra.gradient.as_ref())
        {
            Some(gradient) => gradient.limit() as u32,
            None => self.window.size().into(),
        }
    }

    pub(crate) fn breaker_state(&self) -> State {
        let breaker = self.extra.as_ref().and_then(|extra| extra.breaker.as_ref());
        breaker.map_or(State::Closed { failures: 0 }, Breaker::state)
    }

    /// What keeps it from a grant now, of its own limits.
    ///
    /// * `pressure`: share of its window that this machine can bear.
    pub(crate) fn limit(&self, now: Time, pressure: f64) -> Limit {
        if self.is_suspended {
            return Limit::Suspended;
        }
        match self.breaker_state() {
            State::Closed { .. } => {}
            State::HalfOpen => return Limit::Probe,
            State::Open { until } if until > now => return Limit::Breaker { until },
            State::Open { .. } => {}
        }
        let window = self.window_size();
        if self.inflight >= window {
            return Limit::Window;
        }
        if pressure < 1.0 && self.inflight >= ((f64::from(window) * pressure) as u32).max(1) {
            return Limit::Pressure;
        }
        let rate = self.extra.as_ref().and_then(|extra| extra.rate.as_ref());
        match rate.map(|rate| rate.next_slot(now)) {
            Some(until) if until > now => return Limit::Rate { until },
            _ => {}
        }
        match self.pace.as_ref().map(|pace| pace.next_slot(now)) {
            Some(until) if until > now => Limit::Pace { until },
            _ => Limit::None,
        }
    }

    /// One goes. Only when [`Site::limit`] says `None`.
    pub(crate) fn grant(&mut self, now: Time) {
        self.inflight += 1;
        if let Some(pace) = &mut self.pace {
            pace.book(now);
        }
        let Some(extra) = &mut self.extra else { return };
        if let Some(rate) = &mut extra.rate {
            let _ = rate.reserve(now);
        }
        if let Some(breaker) = &mut extra.breaker {
            let _probe = breaker.allow(now);
        }
    }

    /// One that was granted ended.
    pub(crate) fn settle(
        &mut self,
        now: Time,
        job: &Job,
        feedback: Feedback,
        policy: &SitePolicy,
        rng: &mut Rng,
    ) {
        let inflight = self.inflight;
        self.inflight = inflight.saturating_sub(1);
        self.move_window(now, job, feedback, inflight, policy);
        self.move_pace(now, job, feedback, inflight, policy);
        self.move_breaker(now, feedback, inflight, policy, rng);
        if let Feedback::Delivered { .. } = feedback
            && let Some(budget) = self.extra.as_mut().and_then(|extra| extra.budget.as_mut())
        {
            budget.deposit(now);
        }
    }

    fn move_window(
        &mut self,
        now: Time,
        job: &Job,
        feedback: Feedback,
        inflight: u32,
        policy: &SitePolicy,
    ) {
        let limits = window_limits(policy);
        let mut sample = |rtt: Duration, dropped| {
            if let Some(gradient) = self
                .extra
                .as_mut()
                .and_then(|extra| extra.gradient.as_mut())
            {
                gradient.sample(now, rtt, inflight as usize, dropped);
            }
        };
        match feedback {
            Feedback::Delivered { rtt } => {
                sample(rtt, false);
                self.window.delivered(inflight, &limits);
            }
            // A refusal for rate is the pace's to answer, where there is one.
            Feedback::RateRefused if policy.pace => {}
            Feedback::RateRefused | Feedback::ConnectFailed | Feedback::Lost => {
                sample(now.saturating_sub(job.granted_at), true);
                self.window.refused(&limits);
            }
            Feedback::ConnectionRefused => {
                sample(now.saturating_sub(job.granted_at), true);
                self.window
                    .refused_beyond(inflight.saturating_sub(1), &limits);
            }
            Feedback::Refused | Feedback::HandshakeFailed | Feedback::Withdrawn => {}
        }
    }

    fn move_pace(
        &mut self,
        now: Time,
        job: &Job,
        feedback: Feedback,
        inflight: u32,
        policy: &SitePolicy,
    ) {
        let began = job.granted_at;
        match (feedback, &mut self.pace) {
            (Feedback::Delivered { .. } | Feedback::Refused, Some(pace)) => {
                pace.taken(now, began);
            }
            (Feedback::RateRefused, Some(pace)) => pace.refused(now, began),
            (Feedback::RateRefused, None) if policy.pace => {
                // Little's law: what is in flight over how long it is gives the rate that was too much.
                let took = now.saturating_sub(began).as_secs_f64().max(1e-4);
                let mut pace = Pace::new(f64::from(inflight) / took, now);
                pace.refused(now, now);
                self.pace = Some(Box::new(pace));
            }
            _ => {}
        }
    }

    fn move_breaker(
        &mut self,
        now: Time,
        feedback: Feedback,
        inflight: u32,
        policy: &SitePolicy,
        rng: &mut Rng,
    ) {
        let failed = match feedback {
            Feedback::ConnectFailed | Feedback::HandshakeFailed => true,
            Feedback::ConnectionRefused => inflight <= 1,
            _ => false,
        };
        if failed {
            let breaker = &mut self.extra.get_or_insert_default().breaker;
            let new = || Breaker::new(policy.breaker_failures, policy.breaker_open, rng.fork());
            breaker.get_or_insert_with(new).failure(now);
            return;
        }
        let Some(breaker) = self.extra.as_mut().and_then(|extra| extra.breaker.as_mut()) else {
            return;
        };
        match feedback {
            Feedback::Withdrawn | Feedback::Lost => breaker.abandon(),
            _ => breaker.success(),
        }
    }

    /// Takes one from its budget for retries.
    ///
    /// * returns: false if there is none.
    pub(crate) fn withdraw_retry(&mut self, now: Time, budget: &Budget) -> bool {
        let new = || RetryBudget::new(budget.share, budget.floor_per_s, budget.capacity);
        let extra = self.extra.get_or_insert_default();
        extra.budget.get_or_insert_with(new).withdraw(now)
    }
}

/// A rate that may be another now; it goes on from where it was.
pub(crate) fn next_rate(
    rate: Option<Gcra>,
    limit: Option<RateLimit>,
    burst: u32,
    now: Time,
) -> Option<Gcra> {
    let limit = limit?;
    let Some(mut rate) = rate else {
        return Some(Gcra::with_burst(limit, burst.into()));
    };
    rate.set_limit(limit, burst.into(), now);
    Some(rate)
}

pub(crate) fn window_limits(policy: &SitePolicy) -> WindowLimits {
    match policy.window {
        WindowPolicy::Refusals(limits) => limits,
        WindowPolicy::Latency { min, max } => WindowLimits {
            open: min,
            max,
            law: flow::window::Law::Fixed,
        },
    }
}
