//! What callers, connections and the housekeeper of one pool share, and what they do together.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use flow::budget::RetryBudget;
use flow::retry::{ErrorClass, RetryPolicy};
use flow::rng::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{Member, Permit};
use crate::config::{Timeouts, Wire};
use crate::connection::{self, Connection, Remains};
use crate::cpu::CpuMeter;
use crate::dial::{Dialed, Dialer, Target};
use crate::dispatch::{Dispatch, HouseCall, Kick, pool_closed};
use crate::endpoint::Endpoints;
use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::report::Accepted;

/// Recipients in one transaction: what every server must take (RFC 5321 §4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// How often the CPU is looked at where concurrency is automatic.
const CPU_TICK: Duration = Duration::from_millis(500);
/// What connections and callers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    is_adaptive: bool,
    dialer: Dialer,
    endpoints: Endpoints,
    start: Instant,
    dispatch: Mutex<Dispatch>,
    /// Wakes the housekeeper: there is something to look at earlier than it thinks.
    changed: Notify,
    /// The pool closes: dials are given up.
    closing: Notify,
    /// A connection has ended.
    pub(crate) ended: Notify,
    /// Lowered by servers that announce less.
    pub(crate) recipients_max: AtomicUsize,
    /// Where `send` tries again by itself.
    pub(crate) retries: Option<Box<Retries>>,
    /// Where other pools have a say in how many connections there are.
    budget: Option<Member>,
}

/// How `send` tries again what failed for now.
pub(crate) struct Retries {
    pub(crate) policy: RetryPolicy,
    pub(crate) state: Mutex<RetryState>,
}

pub(crate) struct RetryState {
    pub(crate) rng: Rng,
    pub(crate) budget: RetryBudget,
}

impl Retries {
    pub(crate) fn new(policy: RetryPolicy, rng: Rng) -> Self {
        let budget = RetryBudget::default();
        let state = Mutex::new(RetryState { rng, budget });
        Self { policy, state }
    }
}

/// Settings that are used while the pool runs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) wire: Wire,
    pub(crate) messages_per_connection: u32,
    pub(crate) age_max: Duration,
    pub(crate) idle_max: Duration,
    pub(crate) wait_max: Duration,
    /// The shortest timeout: how often a connection looks at its deadline.
    pub(crate) tick: Duration,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        dialer: Dialer,
        endpoints: Endpoints,
        dispatch: Dispatch,
        retries: Option<Box<Retries>>,
        budget: Option<Member>,
    ) -> Self {
        Self {
            is_adaptive: dispatch.is_adaptive(),
            config,
            dialer,
            endpoints,
            start: Instant::now(),
            dispatch: Mutex::new(dispatch),
            changed: Notify::new(),
            closing: Notify::new(),
            ended: Notify::new(),
            recipients_max: AtomicUsize::new(RECIPIENTS_MAX),
            retries,
            budget,
        }
    }

    /// Time since the pool was made.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A moment of the pool's clock, for a timer.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// The lock is held for a few steps at a time and never across an await; a panic under it is
    /// our bug, and what it guards is then still whole enough to close.
    pub(crate) fn dispatch(&self) -> MutexGuard<'_, Dispatch> {
        self.dispatch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn endpoint_name(&self, endpoint: usize) -> Arc<str> {
        self.endpoints.name(endpoint)
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.dialer.timeouts
    }

    /// Feeds the adaptive limit. A refusal, quick or slow, says nothing of what a message takes.
    pub(crate) fn sample(
        &self,
        latency: Duration,
        results: &[Result<Accepted, Failure>],
        now: Duration,
    ) {
        if self.is_adaptive {
            let dropped = results.iter().any(
                |result| matches!(result, Err(failure) if failure.class() == ErrorClass::Throttled),
            );
            if dropped || results.iter().all(Result::is_ok) {
                self.dispatch().sample(latency, dropped, now);
            }
        }
    }

    /// After one message started, or a connection came to rest: maybe the next can start too.
    pub(crate) fn hand_on(self: &Arc<Self>, now: Duration) {
        self.decide(now, |dispatch| {
            if dispatch.hands_on() {
                dispatch.kick(now)
            } else {
                Kick::Nothing
            }
        });
    }

    /// Changes something under the lock and does what follows from it without.
    pub(crate) fn decide(
        self: &Arc<Self>,
        now: Duration,
        change: impl FnOnce(&mut Dispatch) -> Kick,
    ) {
        let (kick, call) = {
            let mut dispatch = self.dispatch();
            let kick = change(&mut dispatch);
            (kick, dispatch.house_call(now))
        };
        self.act(kick);
        match call {
            HouseCall::None => {}
            HouseCall::Sooner => self.changed.notify_one(),
            HouseCall::First => {
                self.warm_up();
                tokio::spawn(keep_house(Arc::downgrade(self)));
            }
        }
    }

    /// A connection takes no more: the message that may just have woken it goes elsewhere.
    pub(crate) fn leave(self: &Arc<Self>, slot: usize, now: Duration) {
        self.decide(now, |dispatch| {
            dispatch.leave(slot);
            dispatch.kick(now)
        });
    }

    fn act(self: &Arc<Self>, kick: Kick) {
        match kick {
            Kick::Nothing => {}
            Kick::Wake(waker) => waker.wake(),
            Kick::Open(slot) => self.open(slot),
        }
    }

    fn open(self: &Arc<Self>, slot: usize) {
        tokio::spawn(connect_and_run(SlotGuard {
            shared: Arc::clone(self),
            slot,
            state: SlotState::Opening,
        }));
    }

    pub(crate) fn warm_up(self: &Arc<Self>) {
        loop {
            let slot = self.dispatch().warm_up(self.now());
            match slot {
                Some(slot) => self.open(slot),
                None => return,
            }
        }
    }

    pub(crate) fn start_closing(&self) {
        let wakers = self.dispatch().close();
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.changed.notify_one();
        self.closing.notify_waiters();
    }

    /// Whether another pool waits for what one of our connections takes up.
    pub(crate) fn is_wanted_elsewhere(&self) -> bool {
        self.budget.as_ref().is_some_and(Member::is_wanted)
    }

    /// Lets a connection without work look whether it is wanted elsewhere.
    pub(crate) fn wake_idle(&self) {
        let idle = self.dispatch().wake_idle();
        idle.into_iter().for_each(std::task::Waker::wake);
    }

    async fn until_closing(&self) {
        let closing = self.closing.notified();
        tokio::pin!(closing);
        // From here on it hears; a pool that was closed before does not call again.
        closing.as_mut().enable();
        if !self.dispatch().is_closing() {
            closing.await;
        }
    }

    /// One round: expires waiters, starts what the rate allows now, warms up. When to come again.
    fn round(self: &Arc<Self>, cpu: &mut CpuMeter) -> Duration {
        let now = self.now();
        let next = {
            let mut dispatch = self.dispatch();
            if self.is_adaptive
                && let Some(share) = cpu.sample(now, CPU_TICK)
            {
                dispatch.pressure(share, now);
            }
            dispatch.expire(now)
        };
        let kick = self.dispatch().kick(now);
        self.act(kick);
        self.warm_up();
        let idle = if self.is_adaptive {
            CPU_TICK
        } else {
            Duration::from_secs(3600)
        };
        next.unwrap_or(now + idle).min(now + idle)
    }
}

/// The housekeeper: wakes for deadlines, rates and warm-up, and ends with the pool.
async fn keep_house(shared: Weak<Shared>) {
    let mut cpu = CpuMeter::default();
    while let Some(strong) = shared.upgrade() {
        let next = strong.round(&mut cpu);
        if strong.dispatch().arm(next) {
            return;
        }
        let at = strong.instant(next);
        let changed = strong.changed.notified();
        tokio::select! {
            biased;
            () = changed => {}
            () = tokio::time::sleep_until(at) => {}
        }
    }
}

/// Gives its slot back however the connection's task ends.
struct SlotGuard {
    shared: Arc<Shared>,
    slot: usize,
    state: SlotState,
}

enum SlotState {
    Opening,
    Open,
    Ended,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        match self.state {
            SlotState::Opening => {
                self.shared
                    .dispatch()
                    .dial_failed(self.slot, &gone(), self.shared.now());
            }
            SlotState::Open => self.shared.dispatch().closed(self.slot, false),
            SlotState::Ended => {}
        }
        self.shared.ended.notify_waiters();
    }
}

async fn connect_and_run(mut guard: SlotGuard) {
    // Boxed, so that an open connection does not hold the room that dialing took.
    let Some((permit, connection)) = Box::pin(guard.connect()).await else {
        return;
    };
    let (shared, slot) = (&guard.shared, guard.slot);
    let endpoint = connection.endpoint();
    let remains = connection.run().await;
    // Before the slot: who takes that finds the permit there.
    drop(permit);
    guard.state = SlotState::Ended;
    let Remains {
        returned,
        recalled,
        was_active,
        ending,
    } = remains;
    let now = shared.now();
    shared.endpoints.connection_ended(endpoint, ending, now);
    shared.decide(now, |dispatch| {
        dispatch.stats.stale_retries += (returned.len() + recalled) as u64;
        dispatch.give_back(returned);
        dispatch.closed(slot, was_active);
        dispatch.kick(now)
    });
}

impl SlotGuard {
    /// `None`: it failed, and who waited for it was told.
    async fn connect(&mut self) -> Option<(Option<Permit>, Box<Connection>)> {
        let (shared, slot) = (&self.shared, self.slot);
        let dialed = tokio::select! {
            biased;
            dialed = shared.dial_in_budget() => dialed,
            () = shared.until_closing() => Err(pool_closed()),
        };
        let now = shared.now();
        let (permit, endpoint, dialed) = match dialed {
            Ok(dialed) => dialed,
            Err(failure) => {
                self.state = SlotState::Ended;
                shared.decide(now, |dispatch| {
                    dispatch.dial_failed(slot, &failure, now);
                    Kick::Nothing
                });
                return None;
            }
        };
        self.state = SlotState::Open;
        shared.decide(now, |dispatch| {
            dispatch.opened(slot, dialed.timings.tls_resumed);
            dispatch.grow(now)
        });
        let connection = Connection::new(Arc::clone(shared), slot, endpoint, dialed);
        Some((permit, Box::new(connection)))
    }
}

impl Shared {
    async fn dial_in_budget(&self) -> Result<(Option<Permit>, usize, Dialed), Failure> {
        let permit = match &self.budget {
            Some(budget) => {
                let cap = self.dispatch().cap();
                Some(budget.permit(cap).await)
            }
            None => None,
        };
        let (endpoint, dialed) = self.dial().await?;
        Ok((permit, endpoint, dialed))
    }

    /// Dials the endpoints in order of preference until one answers, those that have failed lately
    /// after all others; gives the last failure. Who waits for this connection hears of a failure
    /// before his deadline: no further endpoint is tried in the second half of that time.
    async fn dial(&self) -> Result<(usize, Dialed), Failure> {
        let start = self.now();
        let mut failure = gone();
        let mut untried = self.endpoints.order();
        for is_last_round in [false, true] {
            for endpoint in std::mem::take(&mut untried) {
                let now = self.now();
                if !is_last_round && !self.endpoints.is_promising(endpoint, now) {
                    untried.push(endpoint);
                    continue;
                }
                if now - start > self.config.wait_max / 2 {
                    return Err(failure);
                }
                match self.dial_endpoint(endpoint).await {
                    Ok(dialed) => return Ok((endpoint, dialed)),
                    Err(last) => failure = last,
                }
            }
        }
        Err(failure)
    }

    async fn dial_endpoint(&self, endpoint: usize) -> Result<Dialed, Failure> {
        let (relay, credentials) = self.endpoints.relay(endpoint);
        let wire = if self.endpoints.is_lockstep(endpoint, self.now()) {
            Wire::Lockstep
        } else {
            self.config.wire
        };
        let target = Target {
            relay,
            addresses: self.endpoints.addresses(endpoint),
            credentials,
            mode: connection::mode(wire),
        };
        match self.dialer.dial(&target).await {
            Ok(dialed) => {
                self.endpoints.dial_succeeded(endpoint);
                Ok(dialed)
            }
            Err(failure) => {
                self.endpoints.dial_failed(endpoint, self.now());
                let name = self.endpoints.name(endpoint);
                tracing::debug!(endpoint = %name, %failure, "connection failed");
                Err(Failure {
                    endpoint: Some(name),
                    ..failure
                })
            }
        }
    }

    pub(crate) fn set_addresses(&self, host: &smtp::Domain, port: u16, addresses: &[IpAddr]) {
        self.endpoints.set_addresses(host, port, addresses);
    }
}

/// The connection's task has vanished, as when its runtime shuts down: what it did is not known.
pub(crate) fn gone() -> Failure {
    Failure::new(
        Stage::Queue,
        Scope::Connection,
        Kind::Unknown,
        Cause::PoolClosed,
    )
}
