//! What is asked of the DNS, as a trait: tests answer from a table.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use smtp::Domain;

/// A question to the DNS; every answer says how long it holds.
pub trait Dns: Send + Sync + 'static {
    /// The MX records of a name, aliases followed. Those whose host is no host name are left out;
    /// where no other is left, none is found, and that is no error.
    fn mx(&self, name: &Domain) -> BoxFuture<'static, Result<Found<Mx>, DnsError>>;

    /// The A records (`is_v6`: AAAA) of a name, aliases followed.
    fn addresses(
        &self,
        name: &Domain,
        is_v6: bool,
    ) -> BoxFuture<'static, Result<Found<IpAddr>, DnsError>>;
}

/// The records there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<T> {
    /// In no order.
    pub records: Vec<T>,
    /// How long they hold.
    pub ttl: Duration,
}

/// One MX record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// `None` for the root, by which a domain says that it takes no mail (RFC 7505).
    pub host: Option<Domain>,
}

/// Why there are no records.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DnsError {
    /// NXDOMAIN: there is no such name, whatever the type.
    #[error("there is no such name")]
    NoName {
        /// How long that holds.
        ttl: Duration,
    },
    /// The name has no record of this type, or none that can be used.
    #[error("there is no such record")]
    NoRecord {
        /// How long that holds.
        ttl: Duration,
    },
    /// No answer, or one that says nothing about the name: SERVFAIL, a timeout.
    #[error("{0}")]
    Failed(Box<str>),
}
