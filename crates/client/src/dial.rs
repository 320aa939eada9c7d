//! From nothing to a session: resolve, connect, greet, encrypt, authenticate.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smtp::ClientName;
use smtp::client::{
    Credentials, Handshake, HandshakeConfig, HandshakeError, HandshakeStage, Mode, Session,
    StartTls, Step,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::config::Timeouts;
use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::network::Network;
use crate::relay::{Relay, TlsMode};
use crate::report::Timings;
use crate::stream::Stream;
use crate::tls::{self, TlsClients};

/// How long one address may stay silent before the next is tried as well (RFC 8305 §5).
const ADDRESS_PAUSE: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// What every dial of a pool has in common.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) tls: Arc<TlsClients>,
    pub(crate) timeouts: Arc<Timeouts>,
    pub(crate) ehlo_name: ClientName,
    pub(crate) allow_plaintext_auth: bool,
    pub(crate) local_ip: Option<IpAddr>,
    /// `None`: TCP.
    pub(crate) network: Option<Arc<dyn Network>>,
}

/// A session and the stream it lives on.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) session: Session,
    pub(crate) stream: Stream,
    /// Only the stages up to AUTH are set.
    pub(crate) timings: Timings,
}

/// Whom to dial, and how.
pub(crate) struct Target<'a> {
    pub(crate) relay: &'a Relay,
    /// Empty: not known yet.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) mode: Mode,
}

impl Target<'_> {
    async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let port = self.relay.port;
        if !self.addresses.is_empty() {
            let addresses = self.addresses.iter();
            return Ok(addresses.map(|ip| SocketAddr::new(*ip, port)).collect());
        }
        if let Some(ip) = self.relay.host.ip() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found = tokio::net::lookup_host((self.relay.host.as_str(), port)).await;
        found
            .map(Iterator::collect)
            .map_err(|error| failure(Stage::Dns, Scope::Endpoint, Cause::Dns(Arc::new(error))))
    }
}

impl Dialer {
    /// Opens one connection. Where TLS is opportunistic and fails, goes on without it, on a
    /// connection of its own (RFC 7435 §3).
    pub(crate) async fn dial(&self, target: &Target<'_>) -> Result<Dialed, Failure> {
        let tls = target.relay.tls;
        let first = self.dial_with(target, tls).await;
        match first {
            Err(failure) if tls == TlsMode::Opportunistic && failure.stage == Stage::Tls => {
                self.dial_with(target, TlsMode::None).await
            }
            other => other,
        }
    }

    async fn dial_with(&self, target: &Target<'_>, tls: TlsMode) -> Result<Dialed, Failure> {
        let Target {
            relay, credentials, ..
        } = target;
        let mut timings = Timings::default();
        let start = Instant::now();
        let mut stream = within(self.timeouts.connect, Stage::Connect, async {
            let addrs = target.resolve().await?;
            timings.dns = start.elapsed();
            self.connect(&addrs).await
        })
        .await?;
        timings.connect = start.elapsed() - timings.dns;
        if tls == TlsMode::Implicit {
            stream = self.encrypt(stream, relay, tls, &mut timings).await?;
        }
        let mut handshake = Handshake::new(HandshakeConfig {
            name: self.ehlo_name.clone(),
            starttls: match tls {
                TlsMode::None | TlsMode::Implicit => StartTls::Never,
                TlsMode::Opportunistic => StartTls::IfOffered,
                TlsMode::Required => StartTls::Required,
            },
            is_encrypted: tls == TlsMode::Implicit,
            credentials: credentials.cloned(),
            mechanism: relay.mechanism,
            allow_plaintext_auth: self.allow_plaintext_auth,
            nonce: if credentials.is_some() {
                nonce()
            } else {
                [0; 18]
            },
        });
        let mut step_began = Instant::now();
        loop {
            match handshake.step() {
                Step::Ready => break,
                Step::StartTls => {
                    stream = self.encrypt(stream, relay, tls, &mut timings).await?;
                    handshake.tls_done();
                }
                Step::Talk => {
                    let output = handshake.output();
                    if !output.is_empty() {
                        step_began = Instant::now();
                        self.write(&handshake, &mut stream, &output).await?;
                    }
                    self.listen(&mut handshake, &mut stream, step_began, &mut timings)
                        .await?;
                }
            }
        }
        timings.tls_resumed = stream.tls_resumed();
        let Some(session) = handshake.into_session(target.mode) else {
            let cause = Cause::Protocol("the server speaks out of turn".into());
            return Err(failure(Stage::Ehlo, Scope::Endpoint, cause));
        };
        Ok(Dialed {
            session,
            stream,
            timings,
        })
    }

    /// Tries the addresses one after the other, each a little after the one before or as soon as
    /// that has failed, until one answers (RFC 8305 §5): one that swallows packets costs moments.
    async fn connect(&self, addrs: &[SocketAddr]) -> Result<Stream, Failure> {
        let is_fit = |addr: &&SocketAddr| {
            self.local_ip
                .is_none_or(|ip| ip.is_ipv4() == addr.is_ipv4())
        };
        let mut waiting = addrs.iter().filter(is_fit).take(ADDRESSES_MAX);
        let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut tries = FuturesUnordered::new();
        let mut next = waiting.next();
        while next.is_some() || !tries.is_empty() {
            if let Some(addr) = next.take() {
                tries.push(self.connect_one(*addr));
                next = waiting.next();
            }
            let patience = if next.is_some() {
                ADDRESS_PAUSE
            } else {
                self.timeouts.connect
            };
            match tokio::time::timeout(patience, tries.next()).await {
                Ok(Some(Ok(stream))) => return Ok(stream),
                Ok(Some(Err(failed))) => error = failed,
                Ok(None) | Err(_) => {}
            }
        }
        let cause = Cause::Io(Arc::new(error));
        Err(failure(Stage::Connect, Scope::Endpoint, cause))
    }

    async fn connect_one(&self, addr: SocketAddr) -> io::Result<Stream> {
        if let Some(network) = &self.network {
            return Ok(Stream::Other(network.connect(addr, self.local_ip).await?));
        }
        let stream = match self.local_ip {
            None => TcpStream::connect(addr).await?,
            Some(ip) => {
                let socket = if addr.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                socket.bind(SocketAddr::new(ip, 0))?;
                socket.connect(addr).await?
            }
        };
        stream.set_nodelay(true)?;
        Ok(Stream::Plain(stream))
    }

    async fn encrypt(
        &self,
        stream: Stream,
        relay: &Relay,
        mode: TlsMode,
        timings: &mut Timings,
    ) -> Result<Stream, Failure> {
        let start = Instant::now();
        let plain = match stream {
            Stream::Plain(plain) => plain,
            Stream::Tls(_) => return Ok(stream),
            Stream::Other(_) => {
                let cause = Cause::Local("this network has no TLS".to_owned());
                return Err(failure(Stage::Tls, Scope::Endpoint, cause));
            }
        };
        let name = tls::server_name(&relay.host).ok_or_else(|| {
            let cause = Cause::Local(format!("{} cannot stand in a certificate", relay.host));
            failure(Stage::Tls, Scope::Endpoint, cause)
        })?;
        let connector = TlsConnector::from(self.tls.for_mode(mode));
        let encrypted = within(self.timeouts.tls, Stage::Tls, async {
            connector.connect(name, plain).await.map_err(tls_failure)
        })
        .await?;
        timings.tls = start.elapsed();
        Ok(Stream::Tls(Box::new(encrypted)))
    }

    async fn write(
        &self,
        handshake: &Handshake,
        stream: &mut Stream,
        output: &[u8],
    ) -> Result<(), Failure> {
        let (stage, limit) = self.stage(handshake.stage());
        within(limit, stage, async {
            let written = match stream {
                Stream::Plain(stream) => stream.write_all(output).await,
                Stream::Tls(stream) => match stream.write_all(output).await {
                    Ok(()) => stream.flush().await,
                    Err(error) => Err(error),
                },
                Stream::Other(stream) => stream.write_all(output).await,
            };
            written.map_err(|error| failure(stage, Scope::Endpoint, io_cause(error)))
        })
        .await
    }

    /// Reads once. The whole reply must come within the step's time, in however many pieces.
    async fn listen(
        &self,
        handshake: &mut Handshake,
        stream: &mut Stream,
        step_began: Instant,
        timings: &mut Timings,
    ) -> Result<(), Failure> {
        let (stage, limit) = self.stage(handshake.stage());
        let start = Instant::now();
        let mut buf = [0; 4096];
        let left = limit.saturating_sub(step_began.elapsed());
        let read = tokio::time::timeout(left, async {
            match stream {
                Stream::Plain(stream) => stream.read(&mut buf).await,
                Stream::Tls(stream) => stream.read(&mut buf).await,
                Stream::Other(stream) => stream.read(&mut buf).await,
            }
        });
        let cause = match read.await {
            Ok(Ok(0)) => Cause::Closed,
            Ok(Ok(read)) => {
                let heard = handshake.receive(&buf[..read]);
                let spent = match stage {
                    Stage::Greeting => &mut timings.greeting,
                    Stage::Auth => &mut timings.auth,
                    _ => &mut timings.ehlo,
                };
                *spent += start.elapsed();
                return heard
                    .map_err(|error| handshake_failure(self.stage(handshake.stage()).0, error));
            }
            Ok(Err(error)) => io_cause(error),
            Err(_) => Cause::Timeout(limit),
        };
        Err(failure(stage, Scope::Endpoint, cause))
    }

    fn stage(&self, stage: HandshakeStage) -> (Stage, Duration) {
        match stage {
            HandshakeStage::Greeting => (Stage::Greeting, self.timeouts.greeting),
            HandshakeStage::Ehlo | HandshakeStage::Ready => (Stage::Ehlo, self.timeouts.ehlo),
            HandshakeStage::StartTls | HandshakeStage::Tls => (Stage::StartTls, self.timeouts.ehlo),
            HandshakeStage::Auth => (Stage::Auth, self.timeouts.auth),
        }
    }
}

async fn within<T>(
    limit: Duration,
    stage: Stage,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(failure(stage, Scope::Endpoint, Cause::Timeout(limit))),
    }
}

fn failure(stage: Stage, scope: Scope, cause: Cause) -> Failure {
    Failure::new(stage, scope, Kind::Transient, cause)
}

pub(crate) fn io_cause(error: io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Cause::Closed,
        _ => Cause::Io(Arc::new(error)),
    }
}

/// A certificate that does not verify will not verify in a minute either.
fn tls_failure(error: io::Error) -> Failure {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_certificate = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
    let kind = if is_certificate {
        Kind::Permanent
    } else {
        Kind::Transient
    };
    Failure {
        kind,
        ..failure(Stage::Tls, Scope::Endpoint, Cause::Tls(Arc::new(error)))
    }
}

fn handshake_failure(stage: Stage, error: HandshakeError) -> Failure {
    match error {
        HandshakeError::Refused(reply) => {
            let scope = if stage == Stage::Auth && reply.code().get() != 421 {
                Scope::Account
            } else {
                Scope::Endpoint
            };
            Failure::from_reply(stage, scope, reply)
        }
        HandshakeError::PlaintextAuth | HandshakeError::NoMechanism => {
            let cause = Cause::Local(error.to_string());
            Failure {
                kind: Kind::Permanent,
                ..failure(Stage::Auth, Scope::Account, cause)
            }
        }
        HandshakeError::NoStartTls => {
            let cause = Cause::Local(error.to_string());
            Failure {
                kind: Kind::Permanent,
                ..failure(Stage::StartTls, Scope::Endpoint, cause)
            }
        }
        error => failure(stage, Scope::Endpoint, Cause::Protocol(error.to_string())),
    }
}

/// From the same source of randomness as TLS.
fn nonce() -> [u8; 18] {
    let mut nonce = [0; 18];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random
        .fill(&mut nonce)
        .expect("the operating system gives random bytes");
    nonce
}
