//! Listening, accepting and shutting down.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use flow::rate::{Gcra, RateLimit};
use smtp::Reply;
use smtp::server::{Buffers, Profile};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::builder::{Builder, StartError, TlsMode};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::greylist::Greylist;
use crate::link::LinkedStream;
use crate::record::{Ledger, Record};
use crate::script::{Director, Stage};
use crate::session::Session;
use crate::stats::{Report, Stats};
use crate::stream::Wire;
use crate::tls::Identity;

/// Connections that wait to be accepted: thousands may come at once.
const BACKLOG: i32 = 4096;

/// What all connections of one sink share.
pub(crate) struct Shared {
    pub(crate) profile: Arc<Profile>,
    pub(crate) options: Builder,
    pub(crate) stats: Stats,
    pub(crate) buffers: Buffers,
    pub(crate) clock: Arc<Clock>,
    pub(crate) acceptor: Option<TlsAcceptor>,
    pub(crate) director: Director,
    pub(crate) greylist: Greylist,
    /// `None` where nothing is kept.
    pub(crate) ledger: Option<Ledger>,
    /// Whether anything asks for addresses.
    pub(crate) keeps_envelopes: bool,
    rate: Option<(Mutex<Gcra>, Reply)>,
    started: Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn new(options: Builder, identity: Option<&Identity>) -> Result<Self, StartError> {
        let ledger = Ledger::open(options.keep.clone())
            .map_err(|(path, source)| StartError::Keep { path, source })?;
        let acceptor = match identity {
            None => None,
            Some(identity) => Some(TlsAcceptor::from(identity.server_config()?)),
        };
        let script = &options.script;
        let director = Director::new(script);
        let with_addresses = [
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Content,
            Stage::Final,
        ];
        Ok(Self {
            profile: Arc::new(Profile::new(options.server_config())),
            stats: Stats::new(),
            buffers: Buffers::default(),
            clock: Arc::new(Clock::new()),
            acceptor,
            keeps_envelopes: ledger.is_some()
                || script.greylist.is_some()
                || director.has_rules_at(&with_addresses),
            director,
            greylist: Greylist::new(script.greylist),
            ledger,
            rate: script
                .rate
                .clone()
                .map(|(limit, refusal)| (Mutex::new(bucket(limit)), refusal)),
            started: Instant::now(),
            options,
        })
    }

    /// The refusal, if one message more is too many now.
    pub(crate) fn over_rate(&self) -> Option<&Reply> {
        let (rate, refusal) = self.rate.as_ref()?;
        let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = rate.check(self.started.elapsed()).is_err();
        is_over.then_some(refusal)
    }
}

/// With a tenth of a second's burst.
fn bucket(limit: RateLimit) -> Gcra {
    Gcra::with_burst(limit, limit.count_in(std::time::Duration::from_millis(100)))
}

/// A sink that serves until it is shut down or dropped.
#[derive(Debug)]
pub struct Sink {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    identity: Option<Identity>,
    /// Sent to or dropped, it ends the accepting tasks and with them their connections.
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Settings to be changed, then started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(mut options: Builder) -> Result<Self, StartError> {
        if options.listen.is_empty() {
            options.listen.push((Ipv4Addr::LOCALHOST, 0).into());
        }
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for &address in &options.listen {
            let failed = |source| StartError::Listen { address, source };
            let listener = listen(address).map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let identity = match (options.tls, options.identity.take()) {
            (TlsMode::None, _) => None,
            (_, Some(identity)) => Some(identity),
            (_, None) => Some(Identity::self_signed(&[options.server.host.as_str()])?),
        };
        let thread_count = options.threads;
        let shared = Arc::new(Shared::new(options, identity.as_ref())?);
        let (stop, stopped) = watch::channel(false);
        let mut sink = Self {
            addresses,
            shared,
            identity,
            stop,
            tasks: JoinSet::new(),
            threads: Vec::new(),
        };
        for _ in 0..thread_count {
            let listeners = listeners.iter().map(TcpListener::try_clone);
            let listeners = listeners.collect::<io::Result<_>>();
            let thread = listeners.and_then(|it| spawn_thread(it, &sink.shared, stopped.clone()));
            sink.threads.push(thread.map_err(StartError::Thread)?);
        }
        if thread_count == 0 {
            for listener in listeners {
                let shared = Arc::clone(&sink.shared);
                sink.tasks.spawn(accept(listener, shared, stopped.clone()));
            }
        }
        Ok(sink)
    }

    /// Where it listens, first address first.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it listens; of several addresses, the first.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Takes so many messages from now on, if it was started with a rate.
    pub fn set_rate(&self, limit: RateLimit) {
        if let Some((rate, _)) = &self.shared.rate {
            *rate.lock().unwrap_or_else(PoisonError::into_inner) = bucket(limit);
        }
    }

    /// Its certificate, where it encrypts.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// What has come in so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let duplicates = self.shared.ledger.as_ref().map(Ledger::duplicates);
        self.shared.stats.report(duplicates)
    }

    /// The messages taken so far, in the order they were taken; none unless
    /// [`Builder::keep_records`] was asked for.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.shared
            .ledger
            .as_ref()
            .map(Ledger::records)
            .unwrap_or_default()
    }

    /// Ends every connection and gives the last report.
    pub async fn shutdown(mut self) -> Report {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(|| {
            for thread in threads {
                // One that panicked has said so on standard error.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        self.report()
    }
}

/// A thread with a runtime of its own, so that its connections never leave its processor.
fn spawn_thread(
    listeners: Vec<TcpListener>,
    shared: &Arc<Shared>,
    stopped: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("sink".into())
        .spawn(move || {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for listener in listeners {
                    tasks.spawn(accept(listener, Arc::clone(&shared), stopped.clone()));
                }
                tasks.join_all().await;
            });
        })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    connections.spawn(welcome(socket, client, &shared).serve());
                }
                // Out of descriptors, most likely: connections that end will free some.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    connections.shutdown().await;
}

fn welcome(socket: TcpStream, client: SocketAddr, shared: &Arc<Shared>) -> Connection {
    // Where it fails, replies are only later.
    let _ = socket.set_nodelay(true);
    let (number, open) = shared.stats.open();
    let is_surplus = shared.options.connections_max.is_some_and(|max| open > max);
    let link = shared.options.link;
    let wire = if link.rtt.is_zero() && link.bandwidth.is_none() {
        Wire::Direct(socket)
    } else {
        Wire::Linked(LinkedStream::new(socket, link, Arc::clone(&shared.clock)))
    };
    let session = Session::new(Arc::clone(shared), number, client.ip(), is_surplus);
    Connection::new(wire, session, Arc::clone(shared))
}
