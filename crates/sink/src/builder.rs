//! What a sink shall be, and its start.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::Domain;
use smtp::server::ServerConfig;

use crate::link::LinkOptions;
use crate::listen::Sink;

/// Why a sink does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Settings of a [`Sink`]; every one has a default that accepts all mail and keeps none.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) server: ServerConfig,
    pub(crate) link: LinkOptions,
    pub(crate) connections_max: Option<u64>,
}

impl Default for Builder {
    fn default() -> Self {
        let host: Domain = "sink.mailrail.example".parse().expect("a host name");
        Self {
            listen: Vec::new(),
            server: ServerConfig::new(host),
            link: LinkOptions::default(),
            connections_max: None,
        }
    }
}

impl Builder {
    /// Listens there, too; port 0 takes a free one. Without any: `127.0.0.1:0`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// The round trip of the link, for whatever travels together.
    pub fn rtt(mut self, rtt: Duration) -> Self {
        self.link.rtt = rtt;
        self
    }

    /// Octets a second that a connection carries towards the sink.
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.link.bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Does not offer PIPELINING.
    pub fn no_pipelining(mut self) -> Self {
        self.server.offers.pipelining = false;
        self
    }

    /// Does not offer CHUNKING.
    pub fn no_chunking(mut self) -> Self {
        self.server.offers.chunking = false;
        self
    }

    /// Octets of the biggest message taken.
    pub fn size_bytes_max(mut self, octets: u64) -> Self {
        self.server.offers.size_bytes_max = Some(octets);
        self
    }

    /// Connections open at once; the next is told 421 4.7.0.
    pub fn connections_max(mut self, connections: u64) -> Self {
        self.connections_max = Some(connections);
        self
    }

    /// Transactions on a connection; the next is told 421 4.7.0, and the connection closed.
    pub fn messages_per_connection_max(mut self, messages: u32) -> Self {
        self.server.limits.transactions_max = Some(messages);
        self
    }

    /// Listens and serves on the runtime this is awaited on.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    #[expect(clippy::unused_async, reason = "it needs a runtime, and says so")]
    pub async fn start(self) -> Result<Sink, StartError> {
        Sink::start(self)
    }
}
