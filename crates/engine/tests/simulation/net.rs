//! A network in memory: connections that take time, stall, tear at any octet, and lose what was
//! under way.
//!
//! A wire has two pipes. What is written becomes readable when its time has come: after the link's
//! latency, and not before a partition ends, as with TCP that sends again. A reset takes what was
//! not read yet, or lets it arrive first, as the seed says. When a life of the engine ends, what it
//! had written may still arrive.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use client::{Link, Network};
use flow::rng::Rng;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::trace::Trace;

/// Octets a pipe holds before its writer has to wait.
const PIPE_BYTES: usize = 16 * 1024;
/// Octets after which a wire that is to tear tears at the latest.
const TEAR_BYTES: u64 = 3000;

/// How a host is reached at the moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Line {
    Open,
    /// Connections are refused.
    Closed,
    /// Packets vanish until then.
    Cut(Instant),
    /// Connections tear with this probability.
    Torn(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    trace: Trace,
    rng: Rng,
    hosts: BTreeMap<IpAddr, Host>,
    wires: BTreeMap<u64, Wire>,
    wires_made: u64,
    /// The engine's life that is on the network.
    life: Option<u32>,
    /// Connections the present life has, dialing ones included, by site.
    open: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Host {
    site: usize,
    cap: usize,
    latency: Duration,
    line: Line,
    accepts: mpsc::UnboundedSender<End>,
}

#[derive(Debug)]
struct Wire {
    host: IpAddr,
    /// By who writes: the client, the server.
    pipes: [Pipe; 2],
    has_end: [bool; 2],
    is_reset: bool,
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    written: u64,
    read: u64,
    is_closed: bool,
    /// The wire tears when so much was written; with whether what was written before arrives.
    tears_at: Option<(u64, bool)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// To be told when so much was read.
    marks: VecDeque<(u64, Arc<OnceLock<Instant>>)>,
}

#[derive(Debug)]
struct Chunk {
    due: Instant,
    written: Instant,
    bytes: VecDeque<u8>,
}

/// One end of a wire.
#[derive(Debug)]
pub(crate) struct End {
    net: Net,
    wire: u64,
    side: usize,
    timer: Pin<Box<Sleep>>,
    /// When what was read last was written.
    pub(crate) written: Instant,
    /// Whose connection it is.
    pub(crate) life: u32,
    /// Of the client's end.
    slot: Option<Slot>,
}

/// Counts a connection of the client's.
#[derive(Debug)]
struct Slot {
    net: Net,
    life: u32,
    site: usize,
}

/// The network as one life of the engine sees it.
#[derive(Debug)]
pub(crate) struct Nic {
    pub(crate) net: Net,
    pub(crate) life: u32,
}

impl Net {
    pub(crate) fn new(trace: Trace, rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            trace,
            rng,
            hosts: BTreeMap::new(),
            wires: BTreeMap::new(),
            wires_made: 0,
            life: None,
            open: BTreeMap::new(),
        })))
    }

    /// A host appears; its connections come out of the receiver.
    pub(crate) fn listen(
        &self,
        ip: IpAddr,
        site: usize,
        cap: usize,
        latency: Duration,
    ) -> mpsc::UnboundedReceiver<End> {
        let (accepts, accepted) = mpsc::unbounded_channel();
        let line = Line::Open;
        let host = Host {
            site,
            cap,
            latency,
            line,
            accepts,
        };
        self.lock().hosts.insert(ip, host);
        accepted
    }

    pub(crate) fn set_line(&self, ip: IpAddr, line: Line) {
        let mut state = self.lock();
        let what = match line {
            Line::Cut(until) => format!("cut off for {:?}", until - Instant::now()),
            line => format!("{line:?}"),
        };
        state.trace.note(format_args!("{ip} is {what}"));
        state.hosts.get_mut(&ip).unwrap().line = line;
    }

    /// All connections of a host break, as when it restarts.
    pub(crate) fn reset_host(&self, ip: IpAddr) {
        let mut state = self.lock();
        let State { wires, rng, .. } = &mut *state;
        for wire in wires.values_mut().filter(|wire| wire.host == ip) {
            wire.reset(rng.chance(0.5));
        }
    }

    /// A life of the engine is on the network from now on.
    pub(crate) fn begin_life(&self, life: u32) {
        let mut state = self.lock();
        state.life = Some(life);
        state.open.clear();
    }

    /// It is no longer.
    pub(crate) fn end_life(&self) {
        let mut state = self.lock();
        state.life = None;
        let State { wires, rng, .. } = &mut *state;
        for wire in wires.values_mut().filter(|wire| !wire.is_reset) {
            wire.reset(rng.chance(0.7));
        }
    }

    /// Connections that the engine has.
    pub(crate) fn open(&self) -> usize {
        self.lock().open.values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// Takes a slot for a dial.
    fn dials(&mut self, net: &Net, ip: IpAddr, life: u32) -> Option<Slot> {
        let host = self.hosts.get(&ip)?;
        let (site, cap) = (host.site, host.cap);
        let open = self.open.entry(site).or_default();
        *open += 1;
        if *open > cap {
            let wrong = format!("{open} connections to site {site}, {cap} at most");
            self.trace.wrong(wrong);
        }
        let net = net.clone();
        Some(Slot { net, life, site })
    }

    /// Makes a wire, and gives the host its end.
    fn connects(&mut self, net: &Net, ip: IpAddr, life: u32) -> io::Result<End> {
        let host = &self.hosts[&ip];
        if self.life != Some(life) || host.line == Line::Closed {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let mut pipes = [Pipe::default(), Pipe::default()];
        if let Line::Torn(probability) = host.line
            && self.rng.chance(probability)
        {
            let side = self.rng.up_to(1) as usize;
            let at = 1 + self.rng.up_to(TEAR_BYTES);
            pipes[side].tears_at = Some((at, self.rng.chance(0.5)));
        }
        let wire = Wire {
            host: ip,
            pipes,
            has_end: [true, true],
            is_reset: false,
        };
        self.wires_made += 1;
        let number = self.wires_made;
        self.wires.insert(number, wire);
        self.trace.note(format_args!("wire {number} to {ip}"));
        let now = Instant::now();
        let end = |side| End {
            net: net.clone(),
            wire: number,
            side,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            written: now,
            life,
            slot: None,
        };
        // A host listens as long as the storm lasts.
        host.accepts.send(end(1)).unwrap();
        Ok(end(0))
    }
}

impl Wire {
    /// * `arrives`: what was written is still read before the end.
    fn reset(&mut self, arrives: bool) {
        self.is_reset = true;
        for pipe in &mut self.pipes {
            if !arrives {
                pipe.chunks.clear();
            }
            pipe.wake();
        }
    }
}

impl Pipe {
    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        if state.life == Some(self.life)
            && let Some(open) = state.open.get_mut(&self.site)
        {
            *open -= 1;
        }
    }
}

impl Network for Nic {
    fn connect(
        &self,
        to: SocketAddr,
        _from: Option<IpAddr>,
    ) -> BoxFuture<'static, io::Result<Box<dyn Link>>> {
        let (net, life, ip) = (self.net.clone(), self.life, to.ip());
        Box::pin(async move {
            let slot = {
                let mut state = net.lock();
                if state.life != Some(life) {
                    return Err(io::ErrorKind::NetworkUnreachable.into());
                }
                state.trace.note(format_args!("life {life} dials {ip}"));
                state.dials(&net, ip, life)
            };
            let slot = slot.ok_or(io::ErrorKind::HostUnreachable)?;
            let (line, latency) = {
                let state = net.lock();
                (state.hosts[&ip].line, state.hosts[&ip].latency)
            };
            if let Line::Cut(until) = line {
                tokio::time::sleep_until(until).await;
            }
            tokio::time::sleep(2 * latency).await;
            let made = net.lock().connects(&net, ip, life);
            let mut end = made?;
            end.slot = Some(slot);
            Ok(Box::new(end) as Box<dyn Link>)
        })
    }
}

impl End {
    /// Has `heard` set when the other side has read all that was written here and `more`.
    pub(crate) fn mark(&self, more: usize, heard: Arc<OnceLock<Instant>>) {
        let mut state = self.net.lock();
        let wire = state.wires.get_mut(&self.wire).unwrap();
        let pipe = &mut wire.pipes[self.side];
        pipe.marks.push_back((pipe.written + more as u64, heard));
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let now = Instant::now();
        let mut state = this.net.lock();
        let wire = state.wires.get_mut(&this.wire).unwrap();
        let pipe = &mut wire.pipes[1 - this.side];
        let Some(chunk) = pipe.chunks.front_mut() else {
            if wire.is_reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if pipe.is_closed {
                return Poll::Ready(Ok(()));
            }
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        if chunk.due > now {
            this.timer.as_mut().reset(chunk.due);
            pipe.reader = Some(context.waker().clone());
            let fired = this.timer.as_mut().poll(context);
            assert!(fired.is_pending(), "it is not due");
            return Poll::Pending;
        }
        let taken = buffer.remaining().min(chunk.bytes.len());
        let bytes: Vec<u8> = chunk.bytes.drain(..taken).collect();
        buffer.put_slice(&bytes);
        this.written = chunk.written;
        if chunk.bytes.is_empty() {
            pipe.chunks.pop_front();
        }
        pipe.bytes -= taken;
        pipe.read += taken as u64;
        while let Some((at, heard)) = pipe.marks.pop_front() {
            if at > pipe.read {
                pipe.marks.push_front((at, heard));
                break;
            }
            heard.set(now).unwrap();
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let now = Instant::now();
        let mut state = this.net.lock();
        let State { wires, hosts, .. } = &mut *state;
        let wire = wires.get_mut(&this.wire).unwrap();
        if wire.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !wire.has_end[1 - this.side] {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let host = &hosts[&wire.host];
        let pipe = &mut wire.pipes[this.side];
        let mut taken = bytes.len().min(PIPE_BYTES.saturating_sub(pipe.bytes));
        if taken == 0 && !bytes.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let tears = pipe
            .tears_at
            .filter(|(at, _)| pipe.written + taken as u64 >= *at);
        if let Some((at, _)) = tears {
            taken = (at - pipe.written) as usize;
        }
        let leaves = match host.line {
            Line::Cut(until) => until.max(now),
            _ => now,
        };
        let last = pipe.chunks.back().map_or(now, |chunk| chunk.due);
        pipe.chunks.push_back(Chunk {
            due: (leaves + host.latency).max(last),
            written: now,
            bytes: bytes[..taken].iter().copied().collect(),
        });
        pipe.bytes += taken;
        pipe.written += taken as u64;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        if let Some((_, arrives)) = tears {
            wire.reset(arrives);
            let number = this.wire;
            state.trace.note(format_args!("wire {number} tears"));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.lock();
        let pipe = &mut state.wires.get_mut(&self.wire).unwrap().pipes[self.side];
        pipe.is_closed = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A test that fails drops all of it in no order.
        let Ok(mut state) = self.net.0.lock() else {
            return;
        };
        let State { wires, rng, .. } = &mut *state;
        let wire = wires.get_mut(&self.wire).unwrap();
        wire.has_end[self.side] = false;
        wire.pipes[self.side].is_closed = true;
        // What closes with octets unread sends a reset, which may overtake its last words.
        if !wire.pipes[1 - self.side].chunks.is_empty() && rng.chance(0.5) {
            wire.reset(false);
        }
        wire.pipes.iter_mut().for_each(Pipe::wake);
        if wire.has_end == [false, false] {
            wires.remove(&self.wire);
        }
    }
}
