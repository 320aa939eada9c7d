//! The relays of a pool: which to dial next, and what is remembered of each.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::backoff::Backoff;
use flow::breaker::Breaker;
use flow::rng::Rng;
use smtp::Domain;
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
    /// By preference.
    all: Vec<Endpoint>,
    /// For each endpoint, what its weight has earned it and it has not yet been given.
    credits: Mutex<Vec<i64>>,
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
    addresses: Vec<IpAddr>,
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
            credentials,
            memory: Mutex::new(Memory {
                breaker: Breaker::new(FAILURES_MAX, BREAKER_BACKOFF, rng.fork()),
                cuts: 0,
                lockstep_until: Duration::ZERO,
                addresses: relay.addresses.clone(),
            }),
            relay,
        };
        let mut all: Vec<_> = relays.into_iter().zip(credentials).map(endpoint).collect();
        all.sort_by_key(|endpoint| endpoint.relay.preference);
        let credits = Mutex::new(vec![0; all.len()]);
        Self { all, credits }
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

    /// Where an endpoint is, as far as is known without looking.
    pub(crate) fn addresses(&self, endpoint: usize) -> Vec<IpAddr> {
        self.memory(endpoint).addresses.clone()
    }

    /// The endpoints of this name and port are there from now on.
    pub(crate) fn set_addresses(&self, host: &Domain, port: u16, addresses: &[IpAddr]) {
        for (index, endpoint) in self.all.iter().enumerate() {
            if endpoint.relay.host == *host && endpoint.relay.port == port {
                self.memory(index).addresses = addresses.to_vec();
            }
        }
    }

    /// Each endpoint once, by preference. Among equals the first place goes round by weight.
    pub(crate) fn order(&self) -> Vec<usize> {
        if self.all.len() == 1 {
            return vec![0];
        }
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        for equals in order.chunk_by_mut(|&a, &b| self.preference(a) == self.preference(b)) {
            let mut total = 0;
            for &endpoint in &*equals {
                credits[endpoint] += self.weight(endpoint);
                total += self.weight(endpoint);
            }
            let richest = (0..equals.len())
                .max_by_key(|&place| (credits[equals[place]], Reverse(place)))
                .unwrap_or_default();
            credits[equals[richest]] -= total;
            equals.rotate_left(richest);
        }
        order
    }

    fn preference(&self, endpoint: usize) -> u16 {
        self.all[endpoint].relay.preference
    }

    fn weight(&self, endpoint: usize) -> i64 {
        i64::from(self.all[endpoint].relay.weight.max(1))
    }

    /// Whether it is worth dialing before those that have failed lately. A yes must be followed by
    /// a dial: it may be the one probe of a host that was down.
    pub(crate) fn is_promising(&self, endpoint: usize, now: Duration) -> bool {
        self.memory(endpoint).breaker.allow(now)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(preferences_and_weights: &[(u16, u16)]) -> Endpoints {
        let relays = preferences_and_weights
            .iter()
            .map(|&(preference, weight)| Relay {
                preference,
                weight,
                ..Relay::plaintext("192.0.2.1:25".parse().unwrap())
            });
        let credentials = vec![None; preferences_and_weights.len()];
        Endpoints::new(relays.collect(), credentials, Rng::new(1))
    }

    #[test]
    fn preference_comes_before_weight_and_each_is_named_once() {
        let endpoints = endpoints(&[(20, 9), (10, 1), (10, 3), (5, 1)]);
        let mut firsts = [0; 4];
        for _ in 0..8 {
            let order = endpoints.order();
            assert_eq!((order[0], order[3]), (0, 3), "{order:?}");
            firsts[order[1]] += 1;
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
        assert_eq!(firsts, [0, 2, 6, 0]);
    }

    #[test]
    fn equals_take_turns() {
        let endpoints = endpoints(&[(0, 1), (0, 1), (0, 0)]);
        let firsts: Vec<_> = (0..6).map(|_| endpoints.order()[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
    }
}
