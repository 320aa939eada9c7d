//! Where mail for a domain goes: routes, MX records, and the sites that follow from them.
//!
//! [`Routes`] says by which [`Route`] a domain's mail leaves. [`Resolver`] makes of a domain a
//! [`Resolved`]: a site, its hosts in order of preference, and the route. A site is what acts as one
//! remote: a route's smarthosts, or a set of MX hosts, whichever domains name it.

mod cache;
mod dns;
mod hickory;
mod mx;
mod pattern;
mod resolver;
mod site;
mod system;
mod table;
#[cfg(test)]
pub(crate) mod zone;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Relay, TlsMode, Wire};
use flow::rate::RateLimit;
use rustls_pki_types::CertificateDer;
use smtp::{ClientName, Domain};

pub use dns::{Dns, DnsError, Found, Mx};
pub use hickory::{HickoryDns, HickoryError};
pub use mx::{Host, Own, ResolveError};
pub use pattern::{Pattern, PatternError};
pub use resolver::{Families, Resolved, Resolver, ResolverOptions};
pub use system::SystemDns;
pub use table::{RouteError, Routes};

/// How mail for some domains leaves; checked, with everything said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Route {
    /// Its name, and with smarthosts the site's name.
    pub name: Arc<str>,
    /// The domains it is for: any of these.
    pub domains: Vec<Pattern>,
    /// Only for this tenant's mail.
    pub tenant: Option<Arc<str>>,
    /// By whom.
    pub via: Via,
    /// Authorities to trust in place of the system's; empty: those.
    pub roots: Vec<CertificateDer<'static>>,
    /// Credentials may go over a connection without encryption.
    pub allow_plaintext_auth: bool,
    /// Encryption towards MX hosts; a smarthost's is its own ([`Relay::tls`]).
    pub tls: TlsMode,
    /// Grouping of commands.
    pub wire: Wire,
    /// Where it leaves from: the weighted egress pool; never empty.
    pub sources: Vec<(Arc<Source>, u32)>,
    /// Connections to one site from one source.
    pub connections_max: usize,
    /// Messages on one connection; 0: no end.
    pub messages_per_connection: u32,
    /// Messages to one site from one source.
    pub rate: Option<RateLimit>,
    /// What to do where the reply to content was lost.
    pub unknown: UnknownPolicy,
    /// Lets MX records lead to loopback addresses and to ourselves.
    pub allow_loopback: bool,
    /// Port of MX hosts.
    pub port: u16,
    /// Given up after this long, in place of the engine's own limit.
    pub max_age: Option<Duration>,
    /// How long each step may take; one for many routes.
    pub timeouts: Arc<client::Timeouts>,
}

/// By whom mail of a route is taken.
#[derive(Clone, Debug)]
pub enum Via {
    /// These, whatever the domain; never empty. See [`Relay::preference`] and [`Relay::weight`].
    Smarthosts(Vec<Relay>),
    /// The domain's own hosts (RFC 5321 §5.1).
    Mx,
}

/// An egress source: what the other side sees of us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its name; empty for the default.
    pub name: Arc<str>,
    /// The local address; `None` leaves it to the system.
    pub ip: Option<IpAddr>,
    /// What we say in EHLO.
    pub ehlo_name: ClientName,
}

/// What to do with a message that may or may not have been taken (RFC 1047).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownPolicy {
    /// Send it again: it may arrive twice.
    #[default]
    Retry,
    /// Leave it until somebody decides: it may not arrive.
    Hold,
}

impl Source {
    /// The default: any address, and our own name.
    #[must_use]
    pub fn any(ehlo_name: impl Into<ClientName>) -> Self {
        Self {
            name: Arc::from(""),
            ip: None,
            ehlo_name: ehlo_name.into(),
        }
    }
}

impl Route {
    /// Connections of a site unless set otherwise.
    pub const CONNECTIONS_MAX: usize = 20;

    /// Messages that may be unanswered on one connection to a smarthost unless set otherwise; a
    /// stranger gets its next one when it has answered.
    pub const WINDOW: u8 = 8;

    /// A route for all domains, from one source, with defaults for the rest.
    ///
    /// * `host`: our name in EHLO.
    #[must_use]
    pub fn new(name: &str, via: Via, host: Domain) -> Self {
        let tls = match &via {
            Via::Smarthosts(relays) => relays
                .first()
                .map_or(TlsMode::Opportunistic, |relay| relay.tls),
            Via::Mx => TlsMode::Opportunistic,
        };
        let wire = match &via {
            Via::Smarthosts(_) => Wire::Windowed(Self::WINDOW),
            Via::Mx => Wire::Overlapped,
        };
        Self {
            name: name.into(),
            domains: vec![Pattern::All],
            tenant: None,
            via,
            roots: Vec::new(),
            allow_plaintext_auth: false,
            tls,
            wire,
            sources: vec![(Arc::new(Source::any(host)), 1)],
            connections_max: Self::CONNECTIONS_MAX,
            messages_per_connection: 1000,
            rate: None,
            unknown: UnknownPolicy::default(),
            allow_loopback: false,
            port: 25,
            max_age: None,
            timeouts: Arc::default(),
        }
    }

    /// The source that a message leaves from: by weight over all messages, and always the same for
    /// one message, since who greylists knows us by it.
    ///
    /// * `key`: of the message, as its id.
    #[must_use]
    pub fn source(&self, key: u128) -> &Arc<Source> {
        let total: u64 = self
            .sources
            .iter()
            .map(|(_, weight)| u64::from(*weight))
            .sum();
        let folded = (key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = ((u128::from(folded) * u128::from(total)) >> 64) as u64;
        for (source, weight) in &self.sources {
            let weight = u64::from(*weight);
            if place < weight {
                return source;
            }
            place -= weight;
        }
        &self.sources[0].0
    }
}

#[cfg(test)]
mod tests;
