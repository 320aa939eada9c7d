//! From a domain to a [`Resolved`], remembered as long as its records hold.
//!
//! Two caches: of domains, for each route that reads MX records, and of the addresses of hosts, which
//! many domains share. A domain or a host is asked for once, however many wait for it, and only so
//! many domains are asked for at a time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use client::Relay;
use futures_util::future::join_all;
use smtp::Domain;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cache::Cache;
use super::dns::{Dns, DnsError, Found};
use super::mx::{self, Addresses, Host, Named, Own, ResolveError, Search};
use super::site::site_name;
use super::{Route, Routes, Via};

/// Where mail for a domain goes.
#[derive(Debug)]
pub struct Resolved {
    /// What windows and limits are kept for.
    pub site: Arc<str>,
    /// The route that led there.
    pub route: Arc<Route>,
    /// By preference; never empty. Smarthosts have no addresses here: `client` looks them up.
    pub hosts: Vec<Host>,
    /// Equal where the same connections serve: hosts, their order and the route's settings.
    pub(crate) shape: u64,
    /// When this was found out: the later one knows better where the hosts are.
    pub(crate) found_at: Instant,
}

type Answer = Result<Arc<Resolved>, ResolveError>;

/// Which addresses of a host are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Families {
    /// IPv6 and IPv4.
    #[default]
    Both,
    /// IPv4 only, as where this machine has no other.
    V4,
    /// IPv6 only.
    V6,
}

/// Settings of a [`Resolver`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ResolverOptions {
    /// Addresses to ask for.
    pub families: Families,
    /// An answer holds as long as it says, within these.
    pub ttl_min: Duration,
    /// See `ttl_min`.
    pub ttl_max: Duration,
    /// The same for the answer that there is nothing.
    pub negative_ttl_min: Duration,
    /// See `negative_ttl_min`.
    pub negative_ttl_max: Duration,
    /// How long nobody asks again after no answer.
    pub failure_ttl: Duration,
    /// What is older than its records allow is used up to this age while there is no answer
    /// (RFC 8767).
    pub stale_max: Duration,
    /// Domains that are remembered for each route, and hosts in all.
    pub entries_max: usize,
    /// Domains that are asked for at once.
    pub concurrency_max: usize,
    /// For all questions about one domain together.
    pub timeout: Duration,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            families: Families::default(),
            ttl_min: Duration::from_secs(30),
            ttl_max: Duration::from_secs(3600),
            negative_ttl_min: Duration::from_secs(30),
            negative_ttl_max: Duration::from_secs(900),
            failure_ttl: Duration::from_secs(15),
            stale_max: Duration::from_secs(24 * 3600),
            entries_max: 100_000,
            concurrency_max: 200,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Finds routes, sites and hosts. Routes can be replaced while it works.
pub struct Resolver {
    table: ArcSwap<Table>,
    zone: Arc<Zone>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// The routes, and what is known by each.
struct Table {
    routes: Arc<Routes>,
    known: Vec<Known>,
}

enum Known {
    Smarthosts(Arc<Resolved>),
    Mx(Cache<Box<str>, Answer>),
}

/// The DNS and what belongs to asking it.
struct Zone {
    dns: Arc<dyn Dns>,
    own: Own,
    options: ResolverOptions,
    addresses: Cache<Domain, Addresses>,
    turns: Semaphore,
}

impl Resolver {
    /// Nothing is asked before somebody wants to know. Needs a tokio runtime's clock.
    #[must_use]
    pub fn new(routes: Routes, dns: Arc<dyn Dns>, own: Own, options: ResolverOptions) -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::new(routes, options.entries_max)),
            zone: Arc::new(Zone {
                dns,
                own,
                options,
                addresses: Cache::new(options.entries_max),
                turns: Semaphore::new(options.concurrency_max.max(1)),
            }),
        }
    }

    /// Other routes from now on.
    pub fn set_routes(&self, routes: Routes) {
        let table = Table::new(routes, self.zone.options.entries_max);
        self.table.store(Arc::new(table));
    }

    /// The routes in force.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.table.load().routes)
    }

    /// The route of a domain's mail, if there is any.
    ///
    /// * `domain`: canonical, as [`smtp::Address::domain`] is; so for the others.
    #[must_use]
    pub fn route(&self, domain: &str, tenant: &str) -> Option<Arc<Route>> {
        let table = self.table.load();
        table
            .routes
            .find(domain, tenant)
            .map(|(_, route)| Arc::clone(route))
    }

    /// What is known without asking anybody.
    ///
    /// # Errors
    /// As for [`Resolver::resolve`].
    #[must_use]
    pub fn known(&self, domain: &str, tenant: &str) -> Option<Answer> {
        let table = self.table.load();
        let (index, _) = table.routes.find(domain, tenant)?;
        match &table.known[index as usize] {
            Known::Smarthosts(resolved) => Some(Ok(Arc::clone(resolved))),
            Known::Mx(cache) => cache.get(domain, Instant::now()),
        }
    }

    /// Where mail for `domain` goes.
    ///
    /// # Errors
    /// See [`ResolveError`]; what is not permanent may be asked again.
    /// # Cancel safety
    /// Who comes next finds the question as far as it had got.
    pub async fn resolve(&self, domain: &str, tenant: &str) -> Answer {
        let table = self.table.load_full();
        let Ok(name) = domain.parse::<Domain>() else {
            return Err(ResolveError::NoServer(domain.into()));
        };
        let Some((index, route)) = table.routes.find(domain, tenant) else {
            return Err(ResolveError::NoRoute(domain.into()));
        };
        match &table.known[index as usize] {
            Known::Smarthosts(resolved) => Ok(Arc::clone(resolved)),
            Known::Mx(cache) => {
                let (zone, route) = (Arc::clone(&self.zone), Arc::clone(route));
                let ask = |before| zone.ask(name, route, before);
                cache.get_or(&Box::from(domain), ask).await
            }
        }
    }
}

impl Table {
    fn new(routes: Routes, entries_max: usize) -> Self {
        let known = routes.all().iter().map(|route| match &route.via {
            Via::Smarthosts(relays) => Known::Smarthosts(Arc::new(smarthosts(route, relays))),
            Via::Mx => Known::Mx(Cache::new(entries_max)),
        });
        Self {
            known: known.collect(),
            routes: Arc::new(routes),
        }
    }
}

fn smarthosts(route: &Arc<Route>, relays: &[Relay]) -> Resolved {
    let host = |relay: &Relay| Host {
        name: relay.host.clone(),
        preference: relay.preference,
        addresses: relay.addresses.clone(),
    };
    let hosts: Vec<Host> = relays.iter().map(host).collect();
    Resolved {
        site: Arc::clone(&route.name),
        shape: shape(route, &hosts),
        route: Arc::clone(route),
        hosts,
        found_at: Instant::now(),
    }
}

/// What connections depend on: the settings of the route, passwords too, and the hosts' order.
fn shape(route: &Route, hosts: &[Host]) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{route:?}").hash(&mut hasher);
    if let Via::Smarthosts(relays) = &route.via {
        for password in relays.iter().filter_map(|relay| relay.password.as_ref()) {
            password.expose().hash(&mut hasher);
        }
    }
    for (host, next) in hosts.iter().zip(hosts.iter().skip(1)) {
        (host.preference == next.preference).hash(&mut hasher);
    }
    for host in hosts {
        host.name.hash(&mut hasher);
    }
    hasher.finish()
}

impl Zone {
    /// Everything about one domain, and how long that holds.
    ///
    /// * `before`: what was known, and no longer holds.
    async fn ask(
        self: Arc<Self>,
        domain: Domain,
        route: Arc<Route>,
        before: Option<Answer>,
    ) -> (Answer, Duration) {
        let asked = tokio::time::timeout(self.options.timeout, self.find(&domain, &route));
        let (found, ttl) = asked.await.unwrap_or_else(|_| {
            let why = "the DNS takes too long".into();
            let domain = domain.as_str().into();
            (Err(ResolveError::Failed { domain, why }), Duration::ZERO)
        });
        let options = &self.options;
        if let (Err(ResolveError::Failed { .. }), Some(Ok(before))) = (&found, before)
            && before.found_at.elapsed() < options.stale_max
        {
            return (Ok(before), options.failure_ttl);
        }
        let ttl = match &found {
            Ok(_) => ttl.clamp(options.ttl_min, options.ttl_max.max(options.ttl_min)),
            Err(error) if error.is_permanent() => {
                let max = options.negative_ttl_max.max(options.negative_ttl_min);
                ttl.clamp(options.negative_ttl_min, max)
            }
            Err(_) => options.failure_ttl,
        };
        let answer = found.map(|(site, hosts)| {
            Arc::new(Resolved {
                site: site.into(),
                shape: shape(&route, &hosts),
                route,
                hosts,
                found_at: Instant::now(),
            })
        });
        (answer, ttl)
    }

    async fn find(
        self: &Arc<Self>,
        domain: &Domain,
        route: &Route,
    ) -> (Result<(String, Vec<Host>), ResolveError>, Duration) {
        let search = Search {
            domain,
            own: &self.own,
            port: route.port,
            allow_loopback: route.allow_loopback,
        };
        if domain.is_literal() {
            let hosts = search.literal();
            return (
                hosts.map(|hosts| (domain.to_string(), hosts)),
                Duration::MAX,
            );
        }
        let _turn = self.turns.acquire().await;
        let mx = self.dns.mx(domain).await;
        let mut ttl = ttl_of(&mx);
        let records = mx.as_ref().map(|found| &*found.records);
        let named = match search.named(records) {
            Ok(named) => named,
            Err(error) => return (Err(error), ttl),
        };
        let found = self.locate(&named).await;
        for found in &found {
            ttl = ttl.min(ttl_of(found));
        }
        // Named after all hosts, so that it stays the same while the address of one is not known.
        let site = site_name(named.hosts.iter().map(|(_, host)| host));
        (
            search.located(named, &found).map(|hosts| (site, hosts)),
            ttl,
        )
    }

    async fn locate(self: &Arc<Self>, named: &Named) -> Vec<Addresses> {
        let each = named.hosts.iter().map(|(_, host)| async move {
            let zone = Arc::clone(self);
            let name = host.clone();
            self.addresses
                .get_or(host, |_| zone.addresses_of(name))
                .await
        });
        join_all(each).await
    }

    async fn addresses_of(self: Arc<Self>, host: Domain) -> (Addresses, Duration) {
        let ask = |is_v6| self.dns.addresses(&host, is_v6);
        let addresses = match self.options.families {
            Families::V4 => ask(false).await,
            Families::V6 => ask(true).await,
            Families::Both => {
                let (v6, v4) = tokio::join!(ask(true), ask(false));
                mx::both(v6, v4)
            }
        };
        let ttl = match &addresses {
            Err(DnsError::Failed(_)) => self.options.failure_ttl,
            known => ttl_of(known).clamp(self.options.ttl_min, self.options.ttl_max),
        };
        (addresses, ttl)
    }
}

/// How long an answer holds; no answer holds not at all.
fn ttl_of<T>(answer: &Result<Found<T>, DnsError>) -> Duration {
    match answer {
        Ok(Found { ttl, .. }) | Err(DnsError::NoName { ttl } | DnsError::NoRecord { ttl }) => *ttl,
        Err(DnsError::Failed(_)) => Duration::ZERO,
    }
}
