//! Attempts: one message's recipients at one site, over the connections kept for it.
//!
//! A pool serves what has one shape: the same hosts in the same order, by the same route, from the
//! same egress source. A site may have several, as where the address of one of its hosts is not known
//! for a while; they share the number of its connections. Pools are made when they are needed and
//! forgotten when they are not. Nothing here is spawned or cloned for a message; the pool's connections
//! do the work.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll, ready};
use std::time::Duration;

use client::{
    Budget, BuildError, Cause, Concurrency, Failure, Kind, Network, Pool, PoolStats, Recall, Relay,
    Report, Scope, Sending, Stage, Timings, TlsContext,
};
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use smtp::{Content, Envelope};
use store::{Outcome, StageTimes};
use tokio::time::Instant;

use crate::dispose::{self, Feedback, Verdict};
use crate::route::{Resolved, Source, Via};

/// How long a message may wait inside the pool for a connection. The schedule grants what the window
/// allows, so this ends only what got stuck: it is longer than any step of making a connection, whose
/// failure says more than that nothing came.
const WAIT_MAX: Duration = Duration::from_secs(330);

/// Makes attempts. Shared by all who deliver.
pub struct Deliverer {
    sites: Mutex<FxHashMap<Key, Site>>,
    tls: TlsContext,
    /// `None`: TCP.
    network: Option<Arc<dyn Network>>,
    seed: u64,
    start: Instant,
}

/// A site, and the egress source's name.
type Key = (Arc<str>, Arc<str>);

/// Connections to one site from one egress source.
#[derive(Default)]
struct Site {
    budget: Budget,
    pools: Vec<Arc<Entry>>,
}

struct Entry {
    shape: u64,
    pool: Pool,
    /// Milliseconds since the start: when it was last used, and of when its addresses are.
    used_ms: AtomicU64,
    addresses_ms: AtomicU64,
}

/// One message for recipients of one site.
#[derive(Debug)]
pub struct Outgoing {
    /// From whom to whom.
    pub envelope: Arc<Envelope>,
    /// Leaves memory when it is written.
    pub content: Content,
    /// How long it may wait for a connection.
    pub wait_max: Duration,
}

/// What became of one recipient in one attempt.
#[derive(Clone, PartialEq, Debug)]
pub struct Attempt {
    /// What it means.
    pub verdict: Verdict,
    /// What happened; `attempt` is left at 0.
    pub outcome: Outcome,
    /// A server took the recipient that offers no DSN: a notice of success that was asked for is ours
    /// to write.
    pub is_blind: bool,
}

/// What became of a message's recipients at one site.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivery {
    /// One per recipient of the envelope, in its order.
    pub attempts: Vec<Attempt>,
    /// What all of them say of the site.
    pub feedback: Feedback,
}

/// One pool, to be shown.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The site it was made for.
    pub site: Arc<str>,
    /// Its egress source.
    pub source: Arc<str>,
    /// Its connections.
    pub stats: PoolStats,
}

impl fmt::Debug for Deliverer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites = self.sites().len();
        f.debug_struct("Deliverer")
            .field("sites", &sites)
            .finish_non_exhaustive()
    }
}

impl Deliverer {
    /// No connection is opened before there is a message. Needs a tokio runtime.
    ///
    /// * `network`: dials; `None`: TCP.
    /// * `seed`: of all that is random in it.
    #[must_use]
    pub fn new(tls: TlsContext, network: Option<Arc<dyn Network>>, seed: u64) -> Self {
        Self {
            sites: Mutex::default(),
            tls,
            network,
            seed,
            start: Instant::now(),
        }
    }

    /// Sends one message to recipients of one site, once; it is in the pool's queue when this returns.
    ///
    /// * `original`: where the content can be read again; see [`Pool::send_recalling`].
    ///
    /// # Cancel safety
    /// What is on the wire when this is dropped goes on, and nobody hears how it went.
    pub fn deliver<R: Recall + 'static>(
        &self,
        resolved: &Arc<Resolved>,
        source: &Arc<Source>,
        outgoing: Outgoing,
        original: R,
    ) -> Delivering<R> {
        let Outgoing {
            envelope,
            content,
            wait_max,
        } = outgoing;
        let recipients = envelope.recipients().len();
        let begun = match self.entry(resolved, source) {
            Ok(entry) => {
                let pool = &entry.pool;
                let sending = pool.send_recalling(envelope, content, wait_max, original);
                Begun::Sending {
                    sending,
                    _held: entry,
                }
            }
            Err(error) => Begun::Unusable(Box::new(unusable(&error, recipients))),
        };
        Delivering {
            resolved: Arc::clone(resolved),
            source: Arc::clone(source),
            begun,
        }
    }

    /// Closes the pools that no message used for `idle_max`; to be called every minute or so.
    pub fn tidy(&self, idle_max: Duration) {
        let now_ms = self.ms(Instant::now());
        let idle_ms = idle_max.as_millis() as u64;
        let is_used = |entry: &Arc<Entry>| {
            let used_ms = entry.used_ms.load(Ordering::Relaxed);
            Arc::strong_count(entry) > 1 || now_ms < used_ms + idle_ms
        };
        self.sites().retain(|_, site| {
            site.pools.retain(is_used);
            !site.pools.is_empty() || site.budget.connections() > 0
        });
    }

    /// All pools there are.
    #[must_use]
    pub fn views(&self) -> Vec<PoolView> {
        let mut views = Vec::new();
        for ((site, source), pools) in &*self.sites() {
            views.extend(pools.pools.iter().map(|entry| PoolView {
                site: Arc::clone(site),
                source: Arc::clone(source),
                stats: entry.pool.stats(),
            }));
        }
        views
    }

    /// Lets what is on the wire finish and closes all connections.
    pub async fn close(&self) {
        let pools: Vec<Pool> = self
            .sites()
            .drain()
            .flat_map(|(_, site)| site.pools)
            .map(|entry| entry.pool.clone())
            .collect();
        join_all(pools.iter().map(Pool::close)).await;
    }

    fn sites(&self) -> MutexGuard<'_, FxHashMap<Key, Site>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }

    fn entry(&self, resolved: &Resolved, source: &Source) -> Result<Arc<Entry>, BuildError> {
        let key = (Arc::clone(&resolved.site), Arc::clone(&source.name));
        let now_ms = self.ms(Instant::now());
        let found_ms = self.ms(resolved.found_at);
        let mut sites = self.sites();
        let site = sites.entry(key).or_default();
        let is_it = |entry: &&Arc<Entry>| entry.shape == resolved.shape;
        if let Some(entry) = site.pools.iter().find(is_it) {
            entry.used_ms.store(now_ms, Ordering::Relaxed);
            if entry.addresses_ms.fetch_max(found_ms, Ordering::Relaxed) < found_ms {
                entry.move_to(resolved);
            }
            return Ok(Arc::clone(entry));
        }
        let entry = Arc::new(Entry {
            shape: resolved.shape,
            pool: self.pool(resolved, source, site.budget.clone())?,
            used_ms: AtomicU64::new(now_ms),
            addresses_ms: AtomicU64::new(found_ms),
        });
        site.pools.push(Arc::clone(&entry));
        Ok(entry)
    }

    fn pool(
        &self,
        resolved: &Resolved,
        source: &Source,
        budget: Budget,
    ) -> Result<Pool, BuildError> {
        let route = &resolved.route;
        let relays = match &route.via {
            Via::Smarthosts(relays) => relays.clone(),
            Via::Mx => mx_relays(resolved),
        };
        let mut relays = relays.into_iter();
        // A route has a smarthost and a resolved domain a host; see `Routes::new` and `Resolved`.
        let first = relays.next().expect("a resolved domain has a host");
        let mut builder = relays.fold(Pool::builder(first), client::PoolBuilder::relay);
        if let Some(ip) = source.ip {
            builder = builder.local_ip(ip);
        }
        builder = if route.roots.is_empty() {
            builder.tls_context(self.tls.clone())
        } else {
            builder.roots(route.roots.clone())
        };
        if let Some(network) = &self.network {
            builder = builder.network(Arc::clone(network));
        }
        if route.allow_plaintext_auth {
            builder = builder.allow_plaintext_auth();
        }
        // The schedule lets them go at the rate; those that had to wait for a connection leave at it, too.
        if let Some(rate) = route.rate {
            builder = builder.rate(rate);
        }
        builder
            .budget(budget)
            .wire(route.wire)
            .concurrency(Concurrency::Fixed(route.connections_max))
            .messages_per_connection(route.messages_per_connection)
            .wait_max(WAIT_MAX)
            .timeouts(Arc::clone(&route.timeouts))
            .ehlo_name(source.ehlo_name.clone())
            .retry_seed(self.seed ^ resolved.shape)
            .build()
    }
}

impl Entry {
    /// The hosts have other addresses now.
    fn move_to(&self, resolved: &Resolved) {
        for host in resolved
            .hosts
            .iter()
            .filter(|host| !host.addresses.is_empty())
        {
            self.pool
                .set_addresses(&host.name, resolved.route.port, &host.addresses);
        }
    }
}

fn mx_relays(resolved: &Resolved) -> Vec<Relay> {
    let relay = |host: &crate::route::Host| Relay {
        host: host.name.clone(),
        port: resolved.route.port,
        tls: resolved.route.tls,
        user: None,
        password: None,
        mechanism: None,
        preference: host.preference,
        weight: 1,
        addresses: host.addresses.clone(),
    };
    resolved.hosts.iter().map(relay).collect()
}

/// The report of a pool that cannot be made, for a certificate or password that is none.
fn unusable(error: &BuildError, recipients: usize) -> Report {
    let failure = Failure {
        stage: Stage::Auth,
        scope: Scope::Account,
        kind: Kind::Transient,
        endpoint: None,
        cause: Cause::Local(error.to_string()),
    };
    Report {
        results: vec![Err(failure); recipients],
        timings: Timings::default(),
        attempts: 0,
    }
}

/// A message on its way to recipients of one site. A struct, since so many may be at once that their
/// size counts.
#[must_use]
pub struct Delivering<R> {
    resolved: Arc<Resolved>,
    source: Arc<Source>,
    begun: Begun<R>,
}

enum Begun<R> {
    Sending {
        sending: Sending<'static, R>,
        /// A pool that somebody holds is not forgotten.
        _held: Arc<Entry>,
    },
    Unusable(Box<Report>),
}

impl<R> fmt::Debug for Delivering<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivering")
            .field("site", &self.resolved.site)
            .finish_non_exhaustive()
    }
}

impl<R: Recall + 'static> Future for Delivering<R> {
    type Output = Delivery;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Delivery> {
        let this = &mut *self;
        let report = match &mut this.begun {
            Begun::Sending { sending, .. } => ready!(Pin::new(sending).poll(context)),
            Begun::Unusable(report) => Report::clone(report),
        };
        Poll::Ready(this.delivery(&report))
    }
}

impl<R> Delivering<R> {
    /// Where it goes.
    #[must_use]
    pub fn resolved(&self) -> &Arc<Resolved> {
        &self.resolved
    }

    fn delivery(&self, report: &Report) -> Delivery {
        let unknown = self.resolved.route.unknown;
        let times = stage_times(&report.timings);
        let has_progress = report.results.iter().any(Result::is_ok);
        let mut feedback = Feedback::Withdrawn;
        let attempt = |result| {
            let verdict = dispose::judge(result, &report.timings, unknown, has_progress);
            feedback = feedback.and(verdict.feedback);
            Attempt {
                verdict,
                outcome: self.outcome(result, times),
                is_blind: result.as_ref().is_ok_and(|taken| !taken.offers_dsn),
            }
        };
        Delivery {
            attempts: report.results.iter().map(attempt).collect(),
            feedback,
        }
    }

    fn outcome(&self, result: &Result<client::Accepted, Failure>, times: StageTimes) -> Outcome {
        let (host, stage, class) = match result {
            Ok(accepted) => (Some(&accepted.endpoint), "", 0xff),
            Err(failure) => (
                failure.endpoint.as_ref(),
                failure.stage.name(),
                failure.class() as u8,
            ),
        };
        Outcome {
            attempt: 0,
            site: Arc::clone(&self.resolved.site),
            host: host.map(Arc::clone).unwrap_or_default(),
            source: Arc::clone(&self.source.name),
            stage: stage.into(),
            class,
            said: dispose::said(result),
            times,
        }
    }
}

/// Microseconds, at most 71 minutes each.
fn stage_times(timings: &Timings) -> StageTimes {
    let micros = |(_, time): (_, Duration)| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    StageTimes(timings.stages().map(micros))
}

#[cfg(test)]
mod tests;
