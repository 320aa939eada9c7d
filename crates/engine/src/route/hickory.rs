//! The DNS by hickory-resolver.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Semantic, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use smtp::Domain;

use super::dns::{Dns, DnsError, Found, Mx};

/// How long the absence of a name holds where the answer does not say.
const NEGATIVE_TTL: Duration = Duration::from_secs(60);
/// For one try of one server; there are two tries.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Questions at once to one server; more would be refused here. The resolver asks for fewer.
const ACTIVE_MAX: usize = 4096;

/// Asks recursive name servers over UDP, and over TCP where an answer does not fit.
#[derive(Clone, Debug)]
pub struct HickoryDns {
    resolver: TokioResolver,
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("no name servers are known")]
pub struct HickoryError(#[from] NetError);

impl HickoryDns {
    /// The servers that a resolv.conf(5) names.
    ///
    /// # Errors
    /// [`HickoryError`] where it names none, or is no use.
    pub(crate) fn of_resolv_conf(text: &[u8]) -> Result<Self, HickoryError> {
        let (config, options) = parse_resolv_conf(text)?;
        Self::build(config, options)
    }

    /// These servers.
    ///
    /// # Errors
    /// [`HickoryError`] if there are none.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, HickoryError> {
        let server = |addr: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let at_port = connections.map(|mut connection| {
                connection.port = addr.port();
                connection
            });
            NameServerConfig::new(addr.ip(), true, at_port.into())
        };
        let config = ResolverConfig::from_parts(None, vec![], servers.iter().map(server).collect());
        Self::build(config, ResolverOpts::default())
    }

    fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, HickoryError> {
        adjust(&mut options);
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
        let resolver = builder.build()?;
        Ok(Self { resolver })
    }

    fn lookup(
        &self,
        name: &Domain,
        kind: RecordType,
    ) -> impl Future<Output = Result<Lookup, DnsError>> + Send + 'static {
        // The dot at the end keeps search domains out.
        let name = Name::from_ascii(format!("{name}."));
        let resolver = self.resolver.clone();
        async move {
            let name = name.map_err(|error| DnsError::Failed(error.to_string().into()))?;
            resolver.lookup(name, kind).await.map_err(dns_error)
        }
    }
}

/// MX hosts come from the DNS alone, and this machine's search domains have no say in them.
fn adjust(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.edns0 = true;
    options.max_active_requests = ACTIVE_MAX;
}

impl Dns for HickoryDns {
    fn mx(&self, name: &Domain) -> BoxFuture<'static, Result<Found<Mx>, DnsError>> {
        let lookup = self.lookup(name, RecordType::MX);
        async move {
            let lookup = lookup.await?;
            let is_mx = |record: &Record| matches!(record.data, RData::MX(_));
            match records(&lookup, mx_of) {
                Err(DnsError::NoRecord { ttl }) if lookup.answers().iter().any(is_mx) => {
                    Ok(Found {
                        records: Vec::new(),
                        ttl,
                    })
                }
                found => found,
            }
        }
        .boxed()
    }

    fn addresses(
        &self,
        name: &Domain,
        is_v6: bool,
    ) -> BoxFuture<'static, Result<Found<IpAddr>, DnsError>> {
        let kind = if is_v6 {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        let lookup = self.lookup(name, kind);
        async move { records(&lookup.await?, address_of) }.boxed()
    }
}

/// The records that `read` takes; what it does not take, as an alias on the way, is passed over.
fn records<T>(lookup: &Lookup, read: fn(&RData) -> Option<T>) -> Result<Found<T>, DnsError> {
    let answers = lookup.answers().iter();
    let records: Vec<T> = answers.filter_map(|record| read(&record.data)).collect();
    let ttl = lookup
        .valid_until()
        .saturating_duration_since(Instant::now());
    if records.is_empty() {
        Err(DnsError::NoRecord { ttl })
    } else {
        Ok(Found { records, ttl })
    }
}

fn mx_of(data: &RData) -> Option<Mx> {
    let RData::MX(mx) = data else { return None };
    let host = if mx.exchange.is_root() {
        None
    } else {
        // A host whose name is none, as with an underscore, can be no host of ours either.
        let text = mx.exchange.to_ascii();
        Some(
            text.trim_end_matches('.')
                .to_ascii_lowercase()
                .parse()
                .ok()?,
        )
    };
    Some(Mx {
        preference: mx.preference,
        host,
    })
}

fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

fn dns_error(error: NetError) -> DnsError {
    match error {
        NetError::Dns(Semantic::NoRecordsFound(none)) => {
            let ttl = none
                .negative_ttl
                .map_or(NEGATIVE_TTL, |ttl| Duration::from_secs(ttl.into()));
            match none.response_code {
                ResponseCode::NXDomain => DnsError::NoName { ttl },
                ResponseCode::NoError => DnsError::NoRecord { ttl },
                code => DnsError::Failed(code.to_str().into()),
            }
        }
        other => DnsError::Failed(other.to_string().into()),
    }
}
