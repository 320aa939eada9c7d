//! The pool: what callers hold, and what all its connections share.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use flow::budget::RetryBudget;
use flow::rate::Gcra;
use flow::retry::RetryPolicy;
use flow::rng::Rng;
use smtp::client::Credentials;
use smtp::{Content, Envelope};
use tokio::sync::{Notify, oneshot};

use crate::config::{BuildError, Concurrency, PoolBuilder, Wire};
use crate::connection::{self, Connection, Remains};
use crate::cpu::CpuMeter;
use crate::dial::{Dialed, Dialer};
use crate::dispatch::{Dispatch, DispatchConfig, HouseCall, Kick};
use crate::endpoint::Endpoints;
use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::job::{Job, Outcome};
use crate::relay::{Relay, TlsMode};
use crate::report::{Accepted, PoolStats, Report, Timings};
use crate::tls::TlsClients;

/// Recipients in one transaction: what every server must take (RFC 5321 §4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// How often the CPU is looked at where concurrency is automatic.
const CPU_TICK: Duration = Duration::from_millis(500);
/// The rate may run behind by this much and catch up, since a timer fires late.
const RATE_SLACK: Duration = Duration::from_millis(5);

/// Warm connections to one relay or several. Cheap to clone; all clones share the connections,
/// which close when the last clone is dropped.
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// Closes the pool when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.start_closing();
    }
}

/// What connections and callers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    dialer: Dialer,
    endpoints: Endpoints,
    start: Instant,
    dispatch: Mutex<Dispatch>,
    /// Wakes the housekeeper: there is something to look at earlier than it thinks.
    changed: Notify,
    /// A connection has ended.
    ended: Notify,
    /// Lowered by servers that announce less.
    recipients_max: AtomicUsize,
    retry: Mutex<RetryState>,
}

struct RetryState {
    rng: Rng,
    budget: RetryBudget,
}

/// Settings that are used while the pool runs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) wire: Wire,
    pub(crate) messages_per_connection: u32,
    pub(crate) age_max: Duration,
    pub(crate) idle_max: Duration,
    pub(crate) wait_max: Duration,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) timeouts: crate::Timeouts,
    /// The shortest timeout: how often a connection looks at its deadline.
    pub(crate) tick: Duration,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Settings for a pool; [`PoolBuilder::build`] makes it.
    #[must_use]
    pub fn builder(relay: Relay) -> PoolBuilder {
        PoolBuilder::new(relay)
    }

    /// Sends one message and says what became of each recipient. More recipients than a server
    /// takes at once travel in several transactions.
    ///
    /// # Cancel safety
    /// Dropping the future never harms a connection. A message still waiting is not sent; one
    /// already on the wire goes on, and whether it arrives is not told.
    pub async fn send(&self, envelope: impl Into<Arc<Envelope>>, content: Content) -> Report {
        let envelope = envelope.into();
        let shared = &self.handle.shared;
        let mut report = shared.send_all(&envelope, &content).await;
        if let Some(policy) = shared.config.retry {
            // Boxed, as all rare paths here are: a future is as large as its largest path.
            Box::pin(shared.send_again(&envelope, &content, policy, &mut report)).await;
        }
        report
    }

    /// Makes one connection ready, so that an unreachable relay, a refused certificate or a wrong
    /// password is known before the first message.
    ///
    /// # Errors
    /// What `send` would say of every message.
    pub async fn check(&self) -> Result<(), Failure> {
        let (told, hears) = oneshot::channel();
        let shared = &self.handle.shared;
        let now = shared.now();
        shared.decide(now, |dispatch| dispatch.check(told, now));
        hears.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Opens the connections that `min_idle` asks for, without waiting for them. [`Pool::send`]
    /// does so too; this lets it happen before the first message.
    pub fn warm_up(&self) {
        self.handle.shared.warm_up();
    }

    /// What it has done and holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.handle.shared.dispatch().stats()
    }

    /// Lets what is on the wire finish, says QUIT on every connection and waits for their end.
    /// Messages that still wait get [`Cause::PoolClosed`].
    pub async fn close(&self) {
        let shared = &self.handle.shared;
        shared.start_closing();
        loop {
            let ended = shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if shared.dispatch().stats.connections_open == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl PoolBuilder {
    /// Checks the settings and makes the pool. Connections are opened when there is work.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Pool, BuildError> {
        let credentials = self
            .relays
            .iter()
            .map(credentials)
            .collect::<Result<Vec<_>, _>>()?;
        let checks = |relay: &Relay| matches!(relay.tls, TlsMode::Required | TlsMode::Implicit);
        let needs_roots = self.relays.iter().any(checks) && !self.tls.accept_any_certificate;
        let dispatch = Dispatch::new(DispatchConfig {
            cap: self.concurrency.cap(),
            min_idle: self.min_idle,
            is_adaptive: matches!(self.concurrency, Concurrency::Auto { .. }),
            rate: self
                .rate
                .map(|rate| Gcra::with_burst(rate, 1 + rate.count_in(RATE_SLACK))),
        });
        let mut retry_rng = Rng::new(self.retry_seed);
        let shared = Arc::new(Shared {
            endpoints: Endpoints::new(self.relays, credentials, retry_rng.fork()),
            dialer: Dialer {
                tls: TlsClients::new(&self.tls, needs_roots)?,
                timeouts: self.timeouts,
                ehlo_name: self.ehlo_name,
                allow_plaintext_auth: self.allow_plaintext_auth,
                local_ip: self.local_ip,
            },
            config: Config {
                wire: self.wire,
                messages_per_connection: self.messages_per_connection,
                age_max: self.age_max,
                idle_max: self.idle_max,
                wait_max: self.wait_max,
                retry: self.retry,
                tick: self.timeouts.shortest().min(self.idle_max),
                timeouts: self.timeouts,
            },
            start: Instant::now(),
            dispatch: Mutex::new(dispatch),
            changed: Notify::new(),
            ended: Notify::new(),
            recipients_max: AtomicUsize::new(RECIPIENTS_MAX),
            retry: Mutex::new(RetryState {
                rng: retry_rng,
                budget: RetryBudget::default(),
            }),
        });
        Ok(Pool {
            handle: Arc::new(Handle { shared }),
        })
    }
}

fn credentials(relay: &Relay) -> Result<Option<Credentials>, BuildError> {
    let Some(user) = &relay.user else {
        return Ok(None);
    };
    let password = relay
        .password
        .as_ref()
        .ok_or_else(|| BuildError::NoPassword(relay.to_string()))?;
    Credentials::new(user, password.expose())
        .map(Some)
        .map_err(|_| BuildError::Credentials(relay.to_string()))
}

impl Shared {
    /// Time since the pool was made.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A moment of the pool's clock, as tokio has it.
    pub(crate) fn instant(&self, at: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + at)
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

    /// All recipients once, in transactions of what the server takes.
    async fn send_all(self: &Arc<Self>, envelope: &Arc<Envelope>, content: &Content) -> Report {
        let recipients = envelope.recipients().len();
        let recipients_max = self.recipients_max.load(Ordering::Relaxed);
        if recipients <= recipients_max {
            match self.send_one(envelope, content).await {
                Outcome::Done { results, timings } => return report(results, timings),
                Outcome::Split { recipients_max } => {
                    let recipients_max = recipients_max.max(1);
                    self.recipients_max
                        .fetch_min(recipients_max, Ordering::Relaxed);
                }
            }
        }
        Box::pin(self.send_split(envelope, content)).await
    }

    /// In transactions of what the server takes.
    async fn send_split(self: &Arc<Self>, envelope: &Arc<Envelope>, content: &Content) -> Report {
        let recipients = envelope.recipients().len();
        let recipients_max = self.recipients_max.load(Ordering::Relaxed);
        let indexes: Vec<usize> = (0..recipients).collect();
        let parts = indexes
            .chunks(recipients_max)
            .filter_map(|part| envelope.narrowed(part));
        let sends = parts.map(|part| async move {
            let part = Arc::new(part);
            match self.send_one(&part, content).await {
                Outcome::Done { results, timings } => (results, timings),
                // The limit sank meanwhile; the caller's retry will be split by the new one.
                Outcome::Split { .. } => (
                    vec![Err(gone()); part.recipients().len()],
                    Timings::default(),
                ),
            }
        });
        let mut results = Vec::with_capacity(recipients);
        let mut timings = Timings::default();
        for (part, part_timings) in futures_util::future::join_all(sends).await {
            results.extend(part);
            timings = part_timings;
        }
        report(results, timings)
    }

    async fn send_one(self: &Arc<Self>, envelope: &Arc<Envelope>, content: &Content) -> Outcome {
        let (outcome, hears) = oneshot::channel();
        let now = self.now();
        let job = Job {
            envelope: Arc::clone(envelope),
            content: content.clone(),
            outcome,
            queued_at: now,
            deadline: now + self.config.wait_max,
            returns: 0,
        };
        self.decide(now, |dispatch| dispatch.submit(job, now));
        hears.await.unwrap_or_else(|_| Outcome::Done {
            results: vec![Err(gone()); envelope.recipients().len()],
            timings: Timings::default(),
        })
    }

    /// Tries those again that failed for now, as the policy and the budget allow.
    async fn send_again(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: &Content,
        policy: RetryPolicy,
        report: &mut Report,
    ) {
        while let Some((wait, again)) = self.plan_retry(policy, report) {
            tokio::time::sleep(wait).await;
            let Some(narrowed) = envelope.narrowed(&again) else {
                return;
            };
            let retried = self.send_all(&Arc::new(narrowed), content).await;
            for (index, result) in again.into_iter().zip(retried.results) {
                report.results[index] = result;
            }
            report.timings = retried.timings;
            report.attempts += 1;
        }
    }

    /// How long to wait, and which recipients to try again; `None` when there is nothing to do.
    fn plan_retry(&self, policy: RetryPolicy, report: &Report) -> Option<(Duration, Vec<usize>)> {
        use flow::retry::Decision;
        let now = self.now();
        let mut retry = self
            .retry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut wait = Duration::ZERO;
        let mut again = Vec::new();
        for (index, result) in report.results.iter().enumerate() {
            let Err(failure) = result else { continue };
            if matches!(failure.cause, Cause::PoolClosed | Cause::Deadline) {
                continue;
            }
            let decision = policy.decide(failure.class(), report.attempts, &mut retry.rng);
            if let Decision::RetryAfter(delay) = decision {
                wait = wait.max(delay);
                again.push(index);
            }
        }
        if again.is_empty() {
            retry.budget.deposit(now);
            return None;
        }
        retry.budget.withdraw(now).then_some((wait, again))
    }

    /// Feeds the adaptive limit.
    pub(crate) fn sample(
        &self,
        latency: Duration,
        results: &[Result<Accepted, Failure>],
        now: Duration,
    ) {
        let mut dispatch = self.dispatch();
        if dispatch.is_adaptive() {
            let dropped = results.iter().any(|result| {
                matches!(result, Err(failure) if failure.class() == flow::retry::ErrorClass::Throttled)
            });
            dispatch.sample(latency, dropped, now);
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
    fn decide(self: &Arc<Self>, now: Duration, change: impl FnOnce(&mut Dispatch) -> Kick) {
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
        let kick = {
            let mut dispatch = self.dispatch();
            dispatch.leave(slot);
            dispatch.kick(now)
        };
        self.act(kick);
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

    fn warm_up(self: &Arc<Self>) {
        loop {
            let slot = self.dispatch().warm_up(self.now());
            match slot {
                Some(slot) => self.open(slot),
                None => return,
            }
        }
    }

    fn start_closing(&self) {
        let wakers = self.dispatch().close();
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.changed.notify_one();
    }

    /// One round: expires waiters, starts what the rate allows now, warms up. When to come again.
    fn round(self: &Arc<Self>, cpu: &mut CpuMeter) -> Duration {
        let now = self.now();
        let (next, is_adaptive) = {
            let mut dispatch = self.dispatch();
            if dispatch.is_adaptive()
                && let Some(share) = cpu.sample(now, CPU_TICK)
            {
                dispatch.pressure(share, now);
            }
            let next = dispatch.expire(now);
            (next, dispatch.is_adaptive())
        };
        let kick = self.dispatch().kick(now);
        self.act(kick);
        self.warm_up();
        let idle = if is_adaptive {
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
    let shared = Arc::clone(&guard.shared);
    let slot = guard.slot;
    // Boxed, so that an open connection does not hold the room that dialing took.
    let dialed = Box::pin(shared.dial()).await;
    let now = shared.now();
    let (endpoint, dialed) = match dialed {
        Ok(dialed) => dialed,
        Err(failure) => {
            guard.state = SlotState::Ended;
            shared.decide(now, |dispatch| {
                dispatch.dial_failed(slot, &failure, now);
                Kick::Nothing
            });
            return;
        }
    };
    guard.state = SlotState::Open;
    shared.dispatch().opened(slot, dialed.timings.tls_resumed);
    let connection = Connection::new(Arc::clone(&shared), slot, endpoint, dialed);
    let remains = Box::new(connection).run().await;
    guard.state = SlotState::Ended;
    shared
        .endpoints
        .connection_ended(endpoint, &remains, shared.now());
    let Remains {
        returned,
        was_active,
        ..
    } = remains;
    let now = shared.now();
    shared.decide(now, |dispatch| {
        dispatch.stats.stale_retries += returned.len() as u64;
        dispatch.give_back(returned);
        dispatch.closed(slot, was_active);
        dispatch.kick(now)
    });
}

impl Shared {
    /// Dials the endpoints in order of preference until one answers; gives the first failure that
    /// is not the host's own, or else the last.
    async fn dial(&self) -> Result<(usize, Dialed), Failure> {
        let mut last = gone();
        for endpoint in self.endpoints.preference(self.now()) {
            let (relay, credentials) = self.endpoints.relay(endpoint);
            let wire = if self.endpoints.is_lockstep(endpoint, self.now()) {
                Wire::Lockstep
            } else {
                self.config.wire
            };
            match self
                .dialer
                .dial(relay, credentials, connection::mode(wire))
                .await
            {
                Ok(dialed) => {
                    self.endpoints.dial_succeeded(endpoint);
                    return Ok((endpoint, dialed));
                }
                Err(failure) => {
                    self.endpoints.dial_failed(endpoint, self.now());
                    let name = self.endpoints.name(endpoint);
                    tracing::debug!(endpoint = %name, %failure, "connection failed");
                    last = Failure {
                        endpoint: Some(name),
                        ..failure
                    };
                }
            }
        }
        Err(last)
    }
}

fn report(results: Vec<Result<Accepted, Failure>>, timings: Timings) -> Report {
    Report {
        results,
        timings,
        attempts: 1,
    }
}

/// The connection's task has vanished, as when its runtime shuts down: what it did is not known.
fn gone() -> Failure {
    Failure {
        stage: Stage::Queue,
        scope: Scope::Connection,
        kind: Kind::Unknown,
        endpoint: None,
        cause: Cause::PoolClosed,
    }
}
