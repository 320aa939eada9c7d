//! From MX and address records to the hosts that mail for a domain goes to (RFC 5321 §5.1).
//!
//! | Found | Means |
//! |---|---|
//! | no such name | 5.1.2: the domain does not exist |
//! | only the null MX | 5.1.10: it takes no mail (RFC 7505) |
//! | MX records | their hosts by preference, never the domain's own address |
//! | no MX record | the domain itself, as if it were its one MX |
//! | ourselves among the hosts | only those more preferred than us; none left: a loop, 5.4.6 |
//! | hosts without any address | 5.4.4 |
//! | hosts at addresses that are nobody's | 5.4.4 |
//! | no answer about the name, or about all of its hosts | for now: 4.4.3 |

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use smtp::{Domain, EnhancedStatus};
use store::Said;

use super::dns::{DnsError, Found, Mx};

/// Hosts of one domain that are looked at.
const HOSTS_MAX: usize = 16;
/// Addresses of one host that are kept.
const ADDRESSES_MAX: usize = 8;

/// Why there is nowhere to send mail for a domain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No route is for it; there was one when the message came.
    #[error("no route leads to {0}")]
    NoRoute(Box<str>),
    /// There is no such name.
    #[error("the domain {0} does not exist")]
    NoDomain(Box<str>),
    /// It has neither MX nor address records, or is a literal of no kind that is known.
    #[error("the domain {0} has no mail server")]
    NoServer(Box<str>),
    /// It says so itself (RFC 7505).
    #[error("the domain {0} takes no mail (null MX)")]
    NullMx(Box<str>),
    /// It has MX records, and none of their hosts has an address.
    #[error("none of the mail servers of {0} has an address")]
    NoAddress(Box<str>),
    /// The addresses are loopback, unspecified or the like.
    #[error("the mail servers of {0} are at addresses that mail cannot go to")]
    Unroutable(Box<str>),
    /// Mail for it comes to us, and we are to send it to ourselves.
    #[error("mail for {0} loops back to this server")]
    Loop(Box<str>),
    /// The DNS did not answer.
    #[error("the mail servers of {domain} cannot be found out now: {why}")]
    Failed {
        /// Whose.
        domain: Box<str>,
        /// What went wrong.
        why: Box<str>,
    },
}

impl ResolveError {
    /// Whether asking again is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::NoRoute(_) | Self::Failed { .. })
    }

    /// Reply code and enhanced status code, as if a server had said so, and the text.
    #[must_use]
    pub fn said(&self) -> Said {
        let (code, class, subject, detail) = match self {
            Self::NoRoute(_) => (451, 4, 4, 4),
            Self::NoDomain(_) | Self::NoServer(_) => (550, 5, 1, 2),
            Self::NullMx(_) => (556, 5, 1, 10),
            Self::NoAddress(_) | Self::Unroutable(_) => (550, 5, 4, 4),
            Self::Loop(_) => (554, 5, 4, 6),
            Self::Failed { .. } => (451, 4, 4, 3),
        };
        Said {
            code,
            enhanced: EnhancedStatus::new(class, subject, detail),
            text: self.to_string().into(),
        }
    }
}

/// A server that takes a domain's mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its name, or an address literal.
    pub name: Domain,
    /// Lower is tried first.
    pub preference: u16,
    /// Where it is: IPv6 and IPv4 in turn; at least one.
    pub addresses: Vec<IpAddr>,
}

/// Who we are, lest we send to ourselves.
#[derive(Clone, Default, Debug)]
pub struct Own {
    /// Our names: what we say in EHLO, and what the world calls us.
    pub names: Vec<Domain>,
    /// Where we listen.
    pub listening: Vec<SocketAddr>,
}

impl Own {
    fn is_name(&self, name: &Domain) -> bool {
        self.names.contains(name)
    }

    fn is_address(&self, ip: IpAddr, port: u16) -> bool {
        self.listening.iter().any(|own| {
            own.port() == port && (own.ip() == ip || own.ip().is_unspecified() && is_local(ip))
        })
    }
}

/// Whether an address is one of this machine's: only those can be bound.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether some host of the Internet or of a private network could be there.
fn is_routable(ip: IpAddr) -> bool {
    let is_nobodys = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(is_nobodys || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// The search for one domain's hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    pub(super) domain: &'a Domain,
    pub(super) own: &'a Own,
    pub(super) port: u16,
    pub(super) allow_loopback: bool,
}

/// The hosts that a domain names, before it is known where they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) hosts: Vec<(u16, Domain)>,
    /// The domain itself, for want of MX records.
    is_implicit: bool,
    /// Ourselves and those less preferred were taken out.
    is_cut: bool,
}

/// What is known of where a host is.
pub(super) type Addresses = Result<Found<IpAddr>, DnsError>;

impl Search<'_> {
    /// The hosts by preference, down to ourselves.
    pub(super) fn named(&self, mx: Result<&[Mx], &DnsError>) -> Result<Named, ResolveError> {
        let domain = || Box::from(self.domain.as_str());
        let is_implicit = mx.is_err();
        let mut hosts = match mx {
            Ok(records) => {
                let host = |mx: &Mx| Some((mx.preference, mx.host.clone()?));
                let hosts: Vec<_> = records.iter().filter_map(host).collect();
                if hosts.is_empty() && !records.is_empty() {
                    return Err(ResolveError::NullMx(domain()));
                }
                hosts
            }
            Err(DnsError::NoRecord { .. }) => vec![(0, self.domain.clone())],
            Err(DnsError::NoName { .. }) => return Err(ResolveError::NoDomain(domain())),
            Err(DnsError::Failed(why)) => return Err(self.failed(why)),
        };
        hosts.sort();
        let mut seen = Vec::with_capacity(hosts.len());
        hosts.retain(|(_, host)| {
            !seen.contains(host) && {
                seen.push(host.clone());
                true
            }
        });
        let is_own = |(_, host): &&(u16, Domain)| !self.allow_loopback && self.own.is_name(host);
        let own = hosts.iter().find(is_own).map(|(preference, _)| *preference);
        if let Some(own) = own {
            hosts.retain(|(preference, _)| *preference < own);
        }
        hosts.truncate(HOSTS_MAX);
        let named = Named {
            hosts,
            is_implicit,
            is_cut: own.is_some(),
        };
        match named.hosts.is_empty() {
            true if named.is_cut => Err(ResolveError::Loop(domain())),
            true => Err(ResolveError::NoAddress(domain())),
            false => Ok(named),
        }
    }

    /// The hosts with their addresses, those that can be used.
    ///
    /// * `found`: for each host in `named`.
    pub(super) fn located(
        &self,
        named: Named,
        found: &[Addresses],
    ) -> Result<Vec<Host>, ResolveError> {
        let mut is_cut = named.is_cut;
        let mut is_unroutable = false;
        let mut hosts: Vec<Host> = Vec::with_capacity(found.len());
        for ((preference, name), found) in named.hosts.into_iter().zip(found) {
            let Ok(found) = found else { continue };
            let records = found.records.iter().map(IpAddr::to_canonical);
            let mut addresses: Vec<IpAddr> = records.take(ADDRESSES_MAX).collect();
            if !self.allow_loopback {
                if addresses
                    .iter()
                    .any(|ip| self.own.is_address(*ip, self.port))
                {
                    is_cut = true;
                    hosts.retain(|host| host.preference < preference);
                    break;
                }
                addresses.retain(|ip| is_routable(*ip));
            }
            if addresses.is_empty() {
                is_unroutable = true;
                continue;
            }
            hosts.push(Host {
                name,
                preference,
                addresses,
            });
        }
        if !hosts.is_empty() {
            return Ok(hosts);
        }
        let failed = found.iter().find_map(|found| match found {
            Err(DnsError::Failed(why)) => Some(why),
            _ => None,
        });
        let domain = Box::from(self.domain.as_str());
        Err(match failed {
            _ if is_cut => ResolveError::Loop(domain),
            Some(why) => self.failed(why),
            None if is_unroutable => ResolveError::Unroutable(domain),
            None if named.is_implicit => ResolveError::NoServer(domain),
            None => ResolveError::NoAddress(domain),
        })
    }

    /// The host of an address literal (RFC 5321 §4.1.3).
    pub(super) fn literal(&self) -> Result<Vec<Host>, ResolveError> {
        let Some(ip) = self.domain.ip() else {
            return Err(ResolveError::NoServer(self.domain.as_str().into()));
        };
        let named = Named {
            hosts: vec![(0, self.domain.clone())],
            is_implicit: true,
            is_cut: false,
        };
        let found = Found {
            records: vec![ip],
            ttl: Duration::MAX,
        };
        self.located(named, &[Ok(found)])
    }

    fn failed(&self, why: &str) -> ResolveError {
        ResolveError::Failed {
            domain: self.domain.as_str().into(),
            why: why.into(),
        }
    }
}

/// Both families' addresses as one answer: in turn, the sixth version first (RFC 8305 §4). One
/// family is enough; neither, and a failure to ask, is a failure.
pub(super) fn both(v6: Addresses, v4: Addresses) -> Addresses {
    let (v6, v4) = match (v6, v4) {
        (Ok(v6), Ok(v4)) => (v6, v4),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => return Ok(one),
        (Err(failed @ DnsError::Failed(_)), _) | (_, Err(failed)) => return Err(failed),
    };
    let ttl = v6.ttl.min(v4.ttl);
    let len = v6.records.len().max(v4.records.len());
    let turns = (0..len).flat_map(|turn| [v6.records.get(turn), v4.records.get(turn)]);
    let records = turns.flatten().copied().collect();
    Ok(Found { records, ttl })
}
