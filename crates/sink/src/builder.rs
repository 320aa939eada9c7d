//! What a sink shall be, and its start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flow::rate::RateLimit;
use smtp::server::ServerConfig;
use smtp::{Domain, Mechanism, Reply};

use crate::link::LinkOptions;
use crate::listen::Sink;
use crate::record::Keep;
use crate::script::{Rule, Script};
use crate::tls::{Identity, IdentityError};

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
    /// A file that shall keep the mail cannot be opened.
    #[error("cannot keep mail in {}", path.display())]
    Keep {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// TLS is wanted and cannot be had.
    #[error("TLS cannot be set up")]
    Tls(#[from] IdentityError),
    /// A runtime of one's own was wanted and cannot be had.
    #[error("cannot start a thread with a runtime")]
    Thread(#[source] io::Error),
}

/// How connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Not at all.
    #[default]
    None,
    /// After STARTTLS.
    StartTls,
    /// From the first octet, as on port 465.
    Implicit,
}

/// Settings of a [`Sink`]; every one has a default that accepts all mail and keeps none.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) server: ServerConfig,
    pub(crate) link: LinkOptions,
    pub(crate) connections_max: Option<u64>,
    pub(crate) tls: TlsMode,
    pub(crate) identity: Option<Identity>,
    /// User and password; where there are any, MAIL needs AUTH.
    pub(crate) users: Vec<(String, String)>,
    pub(crate) keep: Keep,
    pub(crate) script: Script,
    pub(crate) threads: usize,
}

impl Default for Builder {
    fn default() -> Self {
        let host: Domain = "sink.mailrail.example".parse().expect("a host name");
        Self {
            listen: Vec::new(),
            server: ServerConfig::new(host),
            link: LinkOptions::default(),
            connections_max: None,
            tls: TlsMode::None,
            identity: None,
            users: Vec::new(),
            keep: Keep::default(),
            script: Script::default(),
            threads: 0,
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

    /// Does not offer DSN.
    pub fn no_dsn(mut self) -> Self {
        self.server.offers.dsn = false;
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

    /// The name in greeting and EHLO, and in the certificate that is made.
    pub fn host(mut self, host: Domain) -> Self {
        self.server.host = host;
        self
    }

    /// Encrypts; with a certificate made at the start unless [`Builder::identity`] gives one.
    pub fn tls(mut self, mode: TlsMode) -> Self {
        self.tls = mode;
        self
    }

    /// The certificate and key for TLS.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Lets this user in, and from now on nobody without AUTH (PLAIN or LOGIN). With
    /// [`TlsMode::StartTls`], AUTH is offered only after it.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Keeps a record of each message in memory, for [`Sink::records`].
    pub fn keep_records(mut self) -> Self {
        self.keep.records = true;
        self
    }

    /// Keeps records in memory together with the content.
    pub fn keep_content(mut self) -> Self {
        self.keep.records = true;
        self.keep.content = true;
        self
    }

    /// Appends a record of each message to this file, as one line of JSON.
    pub fn keep_jsonl(mut self, path: impl Into<PathBuf>) -> Self {
        self.keep.jsonl = Some(path.into());
        self
    }

    /// Puts each message into this Maildir.
    pub fn keep_maildir(mut self, path: impl Into<PathBuf>) -> Self {
        self.keep.maildir = Some(path.into());
        self
    }

    /// How badly to behave; in place of what was set before.
    pub fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// One rule more.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.script.rules.push(rule);
        self
    }

    /// What every chance is drawn from.
    pub fn seed(mut self, seed: u64) -> Self {
        self.script.seed = seed;
        self
    }

    /// How long a new triplet of client, sender and recipient is told 451 4.7.1.
    pub fn greylist(mut self, time: Duration) -> Self {
        self.script.greylist = Some(time);
        self
    }

    /// Messages a second, with a tenth of a second's burst; the others are told `refusal` at
    /// MAIL, and a 421 also closes.
    pub fn rate(mut self, limit: RateLimit, refusal: Reply) -> Self {
        self.script.rate = Some((limit, refusal));
        self
    }

    /// Serves on so many threads of its own, each with its own runtime; 0, the default, serves on the
    /// caller's.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Listens and serves on the runtime this is awaited on.
    ///
    /// # Errors
    /// What cannot be had: an address, a file, a certificate, a thread.
    #[expect(clippy::unused_async, reason = "it needs a runtime, and says so")]
    pub async fn start(self) -> Result<Sink, StartError> {
        Sink::start(self)
    }

    /// What the machine shall offer, all settings considered.
    pub(crate) fn server_config(&self) -> ServerConfig {
        let mut server = self.server.clone();
        server.offers.starttls = self.tls == TlsMode::StartTls;
        server.auth_in_clear = self.tls == TlsMode::None;
        if !self.users.is_empty() {
            server.offers = server
                .offers
                .with_auth(Mechanism::Plain)
                .with_auth(Mechanism::Login);
        }
        server
    }
}
