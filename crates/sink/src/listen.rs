//! Listening, accepting and shutting down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smtp::server::Profile;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::buffers::Buffers;
use crate::builder::{Builder, StartError};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::link::LinkedStream;
use crate::stats::{Report, Stats};
use crate::stream::Wire;

/// Connections that wait to be accepted: thousands may come at once.
const BACKLOG: i32 = 4096;

/// What all connections of one sink share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) profile: Arc<Profile>,
    pub(crate) options: Builder,
    pub(crate) stats: Stats,
    pub(crate) buffers: Buffers,
    pub(crate) clock: Arc<Clock>,
}

/// A sink that serves until it is shut down or dropped.
#[derive(Debug)]
pub struct Sink {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    /// Dropped or sent to, it ends the accepting tasks and with them their connections.
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
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
        for &address in &options.listen {
            let bound = listen(address).and_then(|it| Ok((it.local_addr()?, it)));
            listeners.push(bound.map_err(|source| StartError::Listen { address, source })?);
        }
        let addresses = listeners.iter().map(|(address, _)| *address).collect();
        let shared = Arc::new(Shared {
            profile: Arc::new(Profile::new(options.server.clone())),
            options,
            stats: Stats::new(),
            buffers: Buffers::default(),
            clock: Arc::new(Clock::new()),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (_, listener) in listeners {
            tasks.spawn(accept(listener, Arc::clone(&shared), stopped.clone()));
        }
        Ok(Self {
            addresses,
            shared,
            stop,
            tasks,
        })
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

    /// What has come in so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.stats.report()
    }

    /// Ends every connection and gives the last report.
    pub async fn shutdown(mut self) -> Report {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.report()
    }
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
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(welcome(socket, &shared).serve());
                }
                // Out of descriptors, most likely: those that end will free some.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => return,
        }
    }
}

fn welcome(socket: TcpStream, shared: &Arc<Shared>) -> Connection {
    let _ = socket.set_nodelay(true);
    shared.stats.connections.fetch_add(1, Relaxed);
    let open = shared.stats.connections_open.fetch_add(1, Relaxed) + 1;
    let is_surplus = shared.options.connections_max.is_some_and(|max| open > max);
    let link = shared.options.link;
    let wire = if link.rtt.is_zero() && link.bandwidth.is_none() {
        Wire::Direct(socket)
    } else {
        Wire::Linked(LinkedStream::new(socket, link, Arc::clone(&shared.clock)))
    };
    Connection::new(wire, Arc::clone(shared), is_surplus)
}
