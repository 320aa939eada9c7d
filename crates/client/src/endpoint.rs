//! The relays of a pool: which to dial next, and what is remembered of each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::backoff::Backoff;
use flow::breaker::Breaker;
use flow::rng::Rng;
use smtp::client::Credentials;

use crate::relay::Relay;

/// Failures in a row after which others are dialed first.
const FAILURES_MAX: u32 = 2;
const BREAKER_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Connections cut in mid-flight, with none between that ended well, after which pipelining is
/// suspected. One or two are what any restart of a relay does.
const CUTS_MAX: u32 = 3;
/// How long a suspect is spoken to in lockstep.
const LOCKSTEP_FOR: Duration = Duration::from_secs(24 * 3600);

/// How a connection ended, as far as it tells about its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With nothing due, or by a 421.
    Well,
    /// While replies were due.
    Cut,
    /// With a reply that breaks the protocol's order.
    Odd,
}

/// All relays of a pool.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    /// Where the next round begins, so that connections spread.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Endpoint {
    relay: Relay,
    credentials: Option<Credentials>,
    name: Arc<str>,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    breaker: Breaker,
    cuts: u32,
    lockstep_until: Duration,
}

impl Endpoints {
    /// `credentials` belong to `relays` one by one.
    pub(crate) fn new(
        relays: Vec<Relay>,
        credentials: Vec<Option<Credentials>>,
        mut rng: Rng,
    ) -> Self {
        let endpoint = |(relay, credentials): (Relay, _)| Endpoint {
            name: relay.to_string().into(),
            relay,
            credentials,
            memory: Mutex::new(Memory {
                breaker: Breaker::new(FAILURES_MAX, BREAKER_BACKOFF, rng.fork()),
                cuts: 0,
                lockstep_until: Duration::ZERO,
            }),
        };
        let all = relays.into_iter().zip(credentials).map(endpoint).collect();
        Self {
            all,
            next: AtomicUsize::new(0),
        }
    }

    pub(crate) fn name(&self, endpoint: usize) -> Arc<str> {
        Arc::clone(&self.all[endpoint].name)
    }

    pub(crate) fn relay(&self, endpoint: usize) -> (&Relay, Option<&Credentials>) {
        (
            &self.all[endpoint].relay,
            self.all[endpoint].credentials.as_ref(),
        )
    }

    /// Each endpoint once: those that answer in turn, then those that have failed lately.
    pub(crate) fn preference(&self, now: Duration) -> Vec<usize> {
        if self.all.len() == 1 {
            return vec![0];
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = (0..self.all.len()).map(|step| (start + step) % self.all.len());
        let (mut first, rest): (Vec<_>, Vec<_>) =
            turn.partition(|&endpoint| self.memory(endpoint).breaker.allow(now));
        first.extend(rest);
        first
    }

    pub(crate) fn dial_succeeded(&self, endpoint: usize) {
        self.memory(endpoint).breaker.success();
    }

    pub(crate) fn dial_failed(&self, endpoint: usize, now: Duration) {
        self.memory(endpoint).breaker.failure(now);
    }

    /// Learns from how a connection ended whether this host can be pipelined to.
    pub(crate) fn connection_ended(&self, endpoint: usize, ending: Ending, now: Duration) {
        let mut memory = self.memory(endpoint);
        memory.cuts = match ending {
            Ending::Well | Ending::Odd => 0,
            Ending::Cut => memory.cuts + 1,
        };
        if ending == Ending::Odd || memory.cuts >= CUTS_MAX {
            tracing::info!(endpoint = %self.all[endpoint].name, "lost step: lockstep for a day");
            memory.cuts = 0;
            memory.lockstep_until = now + LOCKSTEP_FOR;
        }
    }

    pub(crate) fn is_lockstep(&self, endpoint: usize, now: Duration) -> bool {
        self.memory(endpoint).lockstep_until > now
    }

    fn memory(&self, endpoint: usize) -> MutexGuard<'_, Memory> {
        self.all[endpoint]
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
