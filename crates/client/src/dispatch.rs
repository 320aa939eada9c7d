//! Who sends what next: the waiting messages, the connections, and what is allowed to start.
//!
//! Plain data under the pool's one lock; nothing here waits. Invariants:
//! * `open` never exceeds the cap: a slot is taken before a connection is dialed and given back
//!   after its stream is gone;
//! * messages start in the order in which they came, and one that came back goes to the front;
//! * a rate's slot is booked when a message starts, so the wire never sees more than the rate.
//!
//! A connection that could take a message registers its waker, as *idle* (without work) or
//! *hungry* (with work, and room for more). Each message that arrives wakes one: an idle one
//! first, then a new connection, then a hungry one. Where the server is near, a connection that was
//! woken is left to sleep a little, so that what comes meanwhile joins its flight ([`Flight`]): what
//! costs there is the flight, not the way.
//!
//! It is long because all that decides who goes next must see the same state under the same lock.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use flow::gradient::Gradient2;
use flow::rate::Gcra;
use tokio::sync::oneshot;

use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::job::Job;
use crate::near::Nearness;
use crate::report::{PoolStats, Timings};

/// How long no connection is dialed after one failed, at first and at most.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Dispatch {
    queue: VecDeque<Job>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Registered as idle or hungry; entries whose slot has moved on are passed over.
    idle: Vec<usize>,
    hungry: Vec<usize>,
    opening: usize,
    /// Connections with a transaction on them.
    active: usize,
    cap: usize,
    min_idle: usize,
    adaptive: Option<Box<Gradient2>>,
    rate: Option<Gcra>,
    /// Transactions that may be unanswered on one connection.
    window: usize,
    nearness: Nearness,
    flights: Vec<Flight>,
    /// The rate lets nothing start before this.
    paced_until: Option<Duration>,
    dial_not_before: Duration,
    dial_pause: Duration,
    is_closing: bool,
    /// When the housekeeper looks next; `None` while there is none.
    house_call_at: Option<Duration>,
    /// Callers of `check` that wait for a connection to become ready.
    checks: Vec<oneshot::Sender<Result<(), Failure>>>,
    pub(crate) stats: PoolStats,
}

/// A connection that was woken and has not taken what it was woken for.
#[derive(Debug)]
struct Flight {
    slot: usize,
    /// How many more may come without anybody being woken for them.
    room: usize,
    /// It has let others go before.
    is_ripe: bool,
}

#[derive(Debug, Default)]
struct Slot {
    standing: Standing,
    waker: Option<Waker>,
    /// It has an entry in `idle` or `hungry`, maybe an outdated one.
    listed: [bool; 2],
}

/// What a connection is doing, as far as handing out work is concerned.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    #[default]
    Free,
    Opening,
    Busy,
    Hungry,
    Idle,
}

/// What somebody has to do now that something changed.
#[derive(Debug)]
#[must_use]
pub(crate) enum Kick {
    Nothing,
    Wake(Waker),
    /// Dial a connection for this slot.
    Open(usize),
}

/// The answer to a connection that asks for work.
#[derive(Debug)]
pub(crate) enum Take {
    Job(Job),
    /// Nothing it could start now; it is registered and will be woken.
    Nothing,
    /// There is work, but no room on this connection.
    Full {
        /// Nobody else was woken for it.
        is_left: bool,
    },
    /// Not yet: let all others run first that are ready, and ask again.
    Later,
    /// The pool is closing.
    Close,
}

/// What the housekeeper has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum HouseCall {
    None,
    /// There is none yet: start it.
    First,
    /// It would look too late.
    Sooner,
}

/// Settings that the dispatch needs.
#[derive(Debug)]
pub(crate) struct DispatchConfig {
    pub(crate) cap: usize,
    pub(crate) min_idle: usize,
    /// Transactions that may be unanswered on one connection.
    pub(crate) window: usize,
    pub(crate) is_adaptive: bool,
    pub(crate) rate: Option<Gcra>,
}

impl Dispatch {
    pub(crate) fn new(config: DispatchConfig) -> Self {
        Self {
            queue: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            hungry: Vec::new(),
            opening: 0,
            active: 0,
            cap: config.cap,
            min_idle: config.min_idle.min(config.cap),
            adaptive: config
                .is_adaptive
                .then(|| Box::new(Gradient2::new(1, config.cap))),
            rate: config.rate,
            window: config.window,
            nearness: Nearness::default(),
            flights: Vec::new(),
            paced_until: None,
            dial_not_before: Duration::ZERO,
            dial_pause: DIAL_PAUSE_MIN,
            is_closing: false,
            house_call_at: None,
            checks: Vec::new(),
            stats: PoolStats::default(),
        }
    }

    /// Connections that may work at once.
    pub(crate) fn limit(&self) -> usize {
        self.adaptive
            .as_ref()
            .map_or(self.cap, |adaptive| adaptive.limit())
    }

    /// Connections that may be open.
    pub(crate) fn cap(&self) -> usize {
        self.cap
    }

    /// The waker of a connection without work.
    pub(crate) fn wake_idle(&mut self) -> Option<Waker> {
        self.pop(Standing::Idle).map(|(_, waker)| waker)
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let is_idle = |slot: &&Slot| slot.standing == Standing::Idle;
        PoolStats {
            connections_idle: self.slots.iter().filter(is_idle).count(),
            waiting: self.queue.len(),
            concurrency: self.limit(),
            ..self.stats
        }
    }

    /// Lines a message up: behind all others, or where it stood before.
    pub(crate) fn submit(&mut self, job: Job, now: Duration) -> Kick {
        if self.is_closing {
            job.claim.fail(&pool_closed(), Timings::default());
            return Kick::Nothing;
        }
        let queued_at = job.claim.place.queued_at;
        let is_later = |other: &Job| other.claim.place.queued_at > queued_at;
        if self.queue.back().is_some_and(is_later) {
            let place = self.queue.partition_point(|other| !is_later(other));
            self.queue.insert(place, job);
        } else {
            self.queue.push_back(job);
        }
        self.kick(now)
    }

    /// Puts messages back to the front, in their order.
    pub(crate) fn give_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            if self.is_closing {
                job.claim.fail(&pool_closed(), Timings::default());
            } else {
                self.queue.push_front(job);
            }
        }
    }

    /// Finds somebody for the message at the front.
    pub(crate) fn kick(&mut self, now: Duration) -> Kick {
        if self.queue.is_empty() || self.paced_until.is_some_and(|until| until > now) {
            return Kick::Nothing;
        }
        if let Some(flight) = self.flights.last_mut()
            && flight.room > 0
        {
            flight.room -= 1;
            return Kick::Nothing;
        }
        if self.active < self.limit()
            && let Some((slot, waker)) = self.pop(Standing::Idle)
        {
            if self.window > 1 && self.nearness.is_near() {
                self.flights.push(Flight {
                    slot,
                    room: self.window - 1,
                    is_ripe: false,
                });
            }
            return Kick::Wake(waker);
        }
        if self.opening < self.queue.len()
            && let Some(slot) = self.open_slot(now)
        {
            return Kick::Open(slot);
        }
        let hungry = self.pop(Standing::Hungry);
        hungry.map_or(Kick::Nothing, |(_, waker)| Kick::Wake(waker))
    }

    /// Takes a slot for one more connection if the cap and the pause after failures allow.
    fn open_slot(&mut self, now: Duration) -> Option<usize> {
        let may_open = self.stats.connections_open < self.limit() && now >= self.dial_not_before;
        if self.is_closing || !may_open {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[slot].standing = Standing::Opening;
        self.opening += 1;
        self.stats.connections_open += 1;
        self.stats.connections_open_max = self
            .stats
            .connections_open_max
            .max(self.stats.connections_open);
        Some(slot)
    }

    /// One more slot if fewer than `min_idle` connections are open.
    pub(crate) fn warm_up(&mut self, now: Duration) -> Option<usize> {
        let is_short = self.stats.connections_open < self.min_idle;
        is_short.then(|| self.open_slot(now)).flatten()
    }

    /// Waits for a connection to become ready, opening one if there is none.
    pub(crate) fn check(
        &mut self,
        told: oneshot::Sender<Result<(), Failure>>,
        now: Duration,
    ) -> Kick {
        if self.is_closing {
            let _ = told.send(Err(pool_closed()));
            return Kick::Nothing;
        }
        if self.stats.connections_open > self.opening {
            let _ = told.send(Ok(()));
            return Kick::Nothing;
        }
        self.checks.push(told);
        if self.opening > 0 {
            return Kick::Nothing;
        }
        self.dial_not_before = now;
        self.open_slot(now).map_or(Kick::Nothing, Kick::Open)
    }

    /// A connection became ready.
    pub(crate) fn opened(&mut self, slot: usize, tls_resumed: Option<bool>) {
        self.opening -= 1;
        self.slots[slot].standing = Standing::Busy;
        self.dial_pause = DIAL_PAUSE_MIN;
        self.stats.connections_opened += 1;
        match tls_resumed {
            Some(true) => self.stats.tls_resumed += 1,
            Some(false) => self.stats.tls_full += 1,
            None => {}
        }
        for told in self.checks.drain(..) {
            let _ = told.send(Ok(()));
        }
    }

    /// One more connection if more messages wait than those that are being opened will take first:
    /// messages open connections as they arrive, but none in place of those that failed.
    pub(crate) fn grow(&mut self, now: Duration) -> Kick {
        let is_paced = self.paced_until.is_some_and(|until| until > now);
        if is_paced || self.queue.len() <= self.opening + 1 {
            return Kick::Nothing;
        }
        self.open_slot(now).map_or(Kick::Nothing, Kick::Open)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// A dial failed. Where no other connection lives to serve them, the messages that wait fail
    /// with it: their callers decide whether to come again.
    pub(crate) fn dial_failed(&mut self, slot: usize, failure: &Failure, now: Duration) {
        self.opening -= 1;
        self.release(slot);
        self.stats.connections_failed += 1;
        // Dials that failed together are one reason to pause, not many.
        if self.dial_not_before <= now {
            self.dial_not_before = now + self.dial_pause;
            self.dial_pause = (self.dial_pause * 2).min(DIAL_PAUSE_MAX);
        }
        for told in self.checks.drain(..) {
            let _ = told.send(Err(failure.clone()));
        }
        if self.stats.connections_open == 0 {
            // The next message may dial at once: it is its caller that waits between tries.
            self.dial_not_before = now;
            for job in self.queue.drain(..) {
                job.claim.fail(failure, Timings::default());
            }
        }
    }

    /// A connection takes no more messages, and is not to be woken for any.
    pub(crate) fn leave(&mut self, slot: usize) {
        self.end_flight(slot);
        self.slots[slot].standing = Standing::Busy;
    }

    /// A connection that had been ready is gone.
    pub(crate) fn closed(&mut self, slot: usize, was_active: bool) {
        self.active -= usize::from(was_active);
        self.release(slot);
    }

    fn release(&mut self, slot: usize) {
        self.end_flight(slot);
        self.slots[slot].standing = Standing::Free;
        self.slots[slot].waker = None;
        self.free.push(slot);
        self.stats.connections_open -= 1;
    }

    /// A connection asks for a message.
    ///
    /// * `is_active`: it has one already;
    /// * `may_begin`: whether it could start one with content of this many octets.
    pub(crate) fn take(
        &mut self,
        slot: usize,
        is_active: bool,
        may_begin: impl FnOnce(usize) -> bool,
        now: Duration,
        waker: &Waker,
    ) -> Take {
        let flight = self.flights.iter_mut().find(|flight| flight.slot == slot);
        if flight.is_some_and(|flight| !std::mem::replace(&mut flight.is_ripe, true)) {
            return Take::Later;
        }
        let Some(len) = self.front_len(now) else {
            let close = self.is_closing;
            self.rest(slot, is_active, waker);
            return if close { Take::Close } else { Take::Nothing };
        };
        if !may_begin(len) {
            self.slots[slot].standing = Standing::Busy;
            let is_left = self.end_flight(slot);
            return Take::Full { is_left };
        }
        if !is_active && self.active >= self.limit() {
            self.rest(slot, is_active, waker);
            return Take::Nothing;
        }
        if let Some(rate) = &mut self.rate
            && let Err(until) = rate.check(now)
        {
            self.paced_until = Some(until);
            self.rest(slot, is_active, waker);
            return Take::Nothing;
        }
        self.active += usize::from(!is_active);
        self.slots[slot].standing = Standing::Busy;
        let taken = self.queue.pop_front();
        if self.queue.is_empty() {
            // A pool waits most of the time, with nothing in it.
            self.queue = VecDeque::new();
        }
        taken.map_or(Take::Nothing, Take::Job)
    }

    /// The length of the first message that somebody still waits for.
    fn front_len(&mut self, now: Duration) -> Option<usize> {
        loop {
            let front = self.queue.front()?;
            if front.claim.outcome.is_closed() {
                self.queue.pop_front();
            } else if front.claim.place.deadline <= now {
                let late = self.queue.pop_front()?;
                late.claim.fail(&deadline(), Timings::default());
            } else {
                return Some(front.content.len());
            }
        }
    }

    /// The connection has taken what it was woken for, or takes nothing any more. Says whether one
    /// was woken for several.
    fn end_flight(&mut self, slot: usize) -> bool {
        let place = self.flights.iter().position(|flight| flight.slot == slot);
        place.map(|place| self.flights.remove(place)).is_some()
    }

    /// Registers a connection that has room.
    fn rest(&mut self, slot: usize, is_active: bool, waker: &Waker) {
        self.end_flight(slot);
        let standing = if is_active {
            Standing::Hungry
        } else {
            Standing::Idle
        };
        let entry = &mut self.slots[slot];
        entry.standing = standing;
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            None => entry.waker = Some(waker.clone()),
        }
        let listed = &mut entry.listed[usize::from(is_active)];
        if !std::mem::replace(listed, true) {
            self.list(standing).push(slot);
        }
    }

    fn list(&mut self, standing: Standing) -> &mut Vec<usize> {
        if standing == Standing::Hungry {
            &mut self.hungry
        } else {
            &mut self.idle
        }
    }

    /// A connection of this standing and its waker, the one that rested last.
    fn pop(&mut self, standing: Standing) -> Option<(usize, Waker)> {
        loop {
            let slot = self.list(standing).pop()?;
            let entry = &mut self.slots[slot];
            entry.listed[usize::from(standing == Standing::Hungry)] = false;
            if entry.standing == standing {
                entry.standing = Standing::Busy;
                return Some((slot, entry.waker.clone()?));
            }
        }
    }

    /// A connection has no transaction any more.
    ///
    /// * `latency`: what the last one took, if it was answered.
    pub(crate) fn became_inactive(&mut self, latency: Option<Duration>) {
        self.active -= 1;
        if let Some(latency) = latency {
            self.nearness.answered(latency);
        }
    }

    /// One transaction's latency, for the adaptive limit.
    ///
    /// * `dropped`: it was refused for load or rate, or timed out.
    pub(crate) fn sample(&mut self, latency: Duration, dropped: bool, now: Duration) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.sample(now, latency, self.active, dropped);
        }
    }

    /// How busy this machine's CPUs are, 0 to 1.
    pub(crate) fn pressure(&mut self, cpu_share: f64, now: Duration) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.pressure(now, cpu_share);
        }
    }

    pub(crate) fn is_adaptive(&self) -> bool {
        self.adaptive.is_some()
    }

    /// Whether a connection that has been idle long enough should close: not where that would
    /// leave fewer than `min_idle`.
    pub(crate) fn may_retire(&self) -> bool {
        self.is_closing || self.stats.connections_open > self.min_idle
    }

    /// Fails those that have waited too long; gives when to look again.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<Duration> {
        if self.queue.iter().any(|job| job.claim.place.deadline <= now) {
            for job in std::mem::take(&mut self.queue) {
                if job.claim.place.deadline <= now {
                    job.claim.fail(&deadline(), Timings::default());
                } else {
                    self.queue.push_back(job);
                }
            }
        }
        let deadline = self.queue.iter().map(|job| job.claim.place.deadline).min();
        let paced = self.paced_until.filter(|_| !self.queue.is_empty());
        let paced = paced.filter(|until| *until > now);
        [deadline, paced, self.dial_due(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the pause after a failed dial ends, if somebody waits for that.
    fn dial_due(&self, now: Duration) -> Option<Duration> {
        let is_wanted = self.stats.connections_open < self.min_idle || !self.queue.is_empty();
        is_wanted
            .then_some(self.dial_not_before)
            .filter(|at| *at > now)
    }

    /// Whether starting one message may let another start elsewhere: where a rate or a moving
    /// limit, and not only the arrival of messages, decides.
    pub(crate) fn hands_on(&self) -> bool {
        (self.rate.is_some() || self.adaptive.is_some()) && !self.queue.is_empty()
    }

    /// What the housekeeper has to be told after a change.
    pub(crate) fn house_call(&mut self, now: Duration) -> HouseCall {
        let Some(at) = self.house_call_at else {
            self.house_call_at = Some(now);
            return HouseCall::First;
        };
        let deadline = self.queue.back().map(|job| job.claim.place.deadline);
        let paced = self
            .paced_until
            .filter(|until| *until > now && !self.queue.is_empty());
        let is_early = |next: Option<Duration>| next.is_some_and(|next| next < at);
        if is_early(deadline) || is_early(paced) || is_early(self.dial_due(now)) {
            HouseCall::Sooner
        } else {
            HouseCall::None
        }
    }

    /// Notes when the housekeeper looks next; says whether it is to end.
    pub(crate) fn arm(&mut self, next: Duration) -> bool {
        self.house_call_at = Some(next);
        self.is_closing && self.stats.connections_open == 0
    }

    /// Takes no more messages and fails those that wait; gives the wakers of all connections.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        self.is_closing = true;
        for job in self.queue.drain(..) {
            job.claim.fail(&pool_closed(), Timings::default());
        }
        for told in self.checks.drain(..) {
            let _ = told.send(Err(pool_closed()));
        }
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.waker.take())
            .collect()
    }
}

fn queue_failure(cause: Cause) -> Failure {
    Failure::new(Stage::Queue, Scope::Connection, Kind::Transient, cause)
}

pub(crate) fn pool_closed() -> Failure {
    queue_failure(Cause::PoolClosed)
}

fn deadline() -> Failure {
    queue_failure(Cause::Deadline)
}

#[cfg(test)]
mod tests;
