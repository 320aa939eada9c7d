//! Listening, accepting, changing settings, draining.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use smtp::Reply;
use smtp::server::{Buffers, Profile, Server};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::acceptor::Acceptor;
use super::clients::{Accounts, Origin};
use super::config::{Listen, Settings};
use super::connection::Connection;
use super::counters::{Counters, Snapshot, count};
use super::gather::Budget;
use super::roster::{Phase, Roster, TICK};
use super::session::{Session, shutting_down};
use super::stream::Stream;
use super::tls::Identity;
use crate::accepting::Failures;
use crate::auth::Access;

/// Connections that wait to be accepted: thousands may come at once.
const BACKLOG: i32 = 4096;
/// Ticks between two looks for accounts to forget.
const FORGET_TICKS: u64 = 120;
/// Time for the last 421 when the grace has run out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What all connections of one edge share.
pub(crate) struct Shared<A> {
    pub(crate) acceptor: A,
    pub(crate) access: Access,
    pub(crate) counters: Counters,
    pub(crate) buffers: Buffers,
    pub(crate) budget: Arc<Budget>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) origins: Accounts<Origin>,
    pub(crate) tenants: Accounts<Arc<str>>,
    current: ArcSwap<Current>,
    tls: ArcSwapOption<ServerConfig>,
    opened: Instant,
}

/// The settings in force, made ready. A connection keeps those that it was opened with.
pub(crate) struct Current {
    pub(crate) settings: Settings,
    loopback: Arc<Profile>,
    others: Arc<Profile>,
}

impl Current {
    fn new(settings: Settings, has_tls: bool) -> Self {
        Self {
            loopback: Arc::new(settings.profile(has_tls, true)),
            others: Arc::new(settings.profile(has_tls, false)),
            settings,
        }
    }
}

impl<A> Shared<A> {
    pub(crate) fn tls_config(&self) -> Option<Arc<ServerConfig>> {
        self.tls.load_full()
    }

    /// Nanoseconds since the edge was opened, precisely.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why an edge cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// An SMTP edge that serves until it is drained or dropped.
pub struct Edge<A: Acceptor> {
    shared: Arc<Shared<A>>,
    addresses: Vec<SocketAddr>,
    /// Sent to, it ends the listening; dropped, every connection too.
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl<A: Acceptor> fmt::Debug for Edge<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl<A: Acceptor> Edge<A> {
    /// Listens on all of `listen` and serves. Needs a tokio runtime.
    ///
    /// * `identity`: certificate and key; without, there is no TLS.
    ///
    /// # Errors
    /// The first address that cannot be listened on; nothing is left open then.
    pub fn open(
        listen: &[Listen],
        settings: Settings,
        identity: Option<&Identity>,
        access: Access,
        acceptor: A,
    ) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        for &Listen {
            address,
            implicit_tls,
        } in listen
        {
            let failed = |source| ListenError { address, source };
            let listener = listen_on(address).map_err(failed)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            listeners.push((
                listener.local_addr().map_err(failed)?,
                listener,
                implicit_tls,
            ));
        }
        let shared = Arc::new(Shared {
            acceptor,
            access,
            counters: Counters::default(),
            buffers: Buffers::default(),
            budget: Arc::new(Budget::new(settings.limits.content_bytes_max)),
            roster: Arc::new(Roster::default()),
            origins: Accounts::default(),
            tenants: Accounts::default(),
            current: ArcSwap::from_pointee(Current::new(settings, identity.is_some())),
            tls: ArcSwapOption::new(identity.map(Identity::config)),
            opened: Instant::now(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_time(Arc::clone(&shared)));
        let addresses = listeners.iter().map(|(address, ..)| *address).collect();
        for (_, listener, implicit_tls) in listeners {
            let shared = Arc::clone(&shared);
            tasks.spawn(accept(listener, implicit_tls, shared, stopped.clone()));
        }
        Ok(Self {
            shared,
            addresses,
            stop,
            tasks,
        })
    }

    /// Where it listens, in the order asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to read its counters by, for as long as anybody wants.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        let shared = Arc::clone(&self.shared);
        Watcher(Arc::new(move || {
            shared.counters.snapshot(shared.budget.used_bytes())
        }))
    }

    /// Other settings and another certificate for connections to come. Those that are open keep
    /// theirs; addresses do not change.
    pub fn reload(&self, settings: Settings, identity: Option<&Identity>) {
        self.shared
            .budget
            .set_bytes_max(settings.limits.content_bytes_max);
        self.shared.tls.store(identity.map(Identity::config));
        let current = Current::new(settings, identity.is_some());
        self.shared.current.store(Arc::new(current));
    }

    /// Listens no more; lets transactions end within `grace`, then closes the rest. Everyone is
    /// told 421 4.3.2.
    pub async fn drain(mut self, grace: Duration) {
        self.stop.send_replace(true);
        let roster = &self.shared.roster;
        roster.enter(Phase::Draining);
        if tokio::time::timeout(grace, roster.emptied()).await.is_err() {
            roster.enter(Phase::Stopped);
            let _ = tokio::time::timeout(LAST_WORDS, roster.emptied()).await;
        }
        self.tasks.shutdown().await;
    }

    /// As if so much time had passed.
    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.shared.roster.tick();
        }
    }
}

/// Reads the counters of an edge, whatever it hands messages to.
#[derive(Clone)]
pub struct Watcher(Arc<dyn Fn() -> Snapshot + Send + Sync>);

impl Watcher {
    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        (self.0)()
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.snapshot(), f)
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Replies are written whole. Connections inherit it, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn keep_time<A: Acceptor>(shared: Arc<Shared<A>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_u64.. {
        ticks.tick().await;
        shared.roster.tick();
        if number % FORGET_TICKS == 0 {
            let now_ns = shared.now_ns();
            shared.origins.forget_idle(now_ns);
            shared.tenants.forget_idle(now_ns);
        }
    }
}

async fn accept<A: Acceptor>(
    listener: tokio::net::TcpListener,
    implicit_tls: bool,
    shared: Arc<Shared<A>>,
    mut stopped: watch::Receiver<bool>,
) {
    let (mut connections, mut failures) = (JoinSet::new(), Failures::default());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    if let Some(connection) = welcome(socket, client, implicit_tls, &shared) {
                        connections.spawn(connection.serve(implicit_tls));
                    }
                }
                Err(error) => failures.pause("smtp", &error).await,
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "an SMTP connection failed by a fault of ours");
                }
            }
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    connections.join_all().await;
}

fn welcome<A: Acceptor>(
    socket: TcpStream,
    client: SocketAddr,
    implicit_tls: bool,
    shared: &Arc<Shared<A>>,
) -> Option<Connection<A>> {
    let client = client.ip().to_canonical();
    let current = shared.current.load_full();
    let seat = shared.roster.sit();
    let origin = shared.origins.enter(client.into());
    let session = Session::new(Arc::clone(shared), Arc::clone(&current), client, origin);
    if let Err(refusal) = admit(&session, shared) {
        count(&shared.counters.connections_refused);
        if !implicit_tls {
            say(&socket, &refusal);
        }
        return None;
    }
    count(&shared.counters.connections);
    let profile = match client.is_loopback() {
        true => &current.loopback,
        false => &current.others,
    };
    let server = Server::new(Arc::clone(profile), implicit_tls);
    Some(Connection::new(
        Stream::Clear(socket),
        server,
        session,
        seat,
    ))
}

/// Whether there is room for this client.
fn admit<A: Acceptor>(session: &Session<A>, shared: &Shared<A>) -> Result<(), Reply> {
    let limits = &session.current.settings.limits;
    let is_over =
        |counter: &std::sync::atomic::AtomicU64, max: usize| counter.load(Relaxed) > max as u64;
    if shared.roster.phase() != Phase::Open {
        return Err(shutting_down());
    }
    if is_over(&shared.counters.connections_open, limits.connections_max) {
        return Err(Reply::fixed(
            421,
            Some((4, 3, 2)),
            "Too many connections, try again later",
        ));
    }
    if session.is_stranger() && is_over(&shared.counters.strangers_open, limits.strangers_max) {
        return Err(Reply::fixed(
            421,
            Some((4, 7, 0)),
            "Too many connections, try again later",
        ));
    }
    session.has_room()
}

/// Says one reply to a client that is not served, if its socket takes it at once.
fn say(socket: &TcpStream, reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let _ = SockRef::from(socket).send(&wire);
}
