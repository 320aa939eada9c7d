//! A socket at the end of a long or narrow link: octets can be read a round trip after they came.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::{Alarm, Clock};

/// How a link is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkOptions {
    /// The delay of everything that comes in.
    pub(crate) rtt: Duration,
    /// Octets a second towards the sink on each connection; `None` is no limit.
    pub(crate) bandwidth: Option<u64>,
}

/// Octets on their way; above, the socket is not read, and TCP makes the client wait.
const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Octets read from the socket at once.
const READ_BYTES: usize = 32 * 1024;

/// A socket behind such a link.
#[derive(Debug)]
pub(crate) struct LinkedStream {
    socket: TcpStream,
    options: LinkOptions,
    clock: Arc<Clock>,
    in_flight: VecDeque<Segment>,
    in_flight_bytes: usize,
    /// When the link has carried all that was put on it.
    busy_until: Instant,
    ended: bool,
    alarm: Option<Pin<Box<Alarm>>>,
}

#[derive(Debug)]
struct Segment {
    due: Instant,
    /// Empty for the end of the stream.
    bytes: Box<[u8]>,
    read: usize,
}

impl LinkedStream {
    pub(crate) fn new(socket: TcpStream, options: LinkOptions, clock: Arc<Clock>) -> Self {
        Self {
            socket,
            options,
            clock,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            busy_until: Instant::now(),
            ended: false,
            alarm: None,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Puts on the link what the socket has.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // What is there at once came together, and is due together.
        let now = Instant::now();
        while !self.ended && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX {
            let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(result) => result?,
            }
            let bytes: Box<[u8]> = buffer.filled().into();
            let due = self.due(now, bytes.len());
            self.ended = bytes.is_empty();
            self.in_flight_bytes += bytes.len();
            self.in_flight.push_back(Segment {
                due,
                bytes,
                read: 0,
            });
        }
        Ok(())
    }

    fn due(&mut self, now: Instant, octets: usize) -> Instant {
        let mut sent = now;
        if let Some(bandwidth) = self.options.bandwidth {
            let carrying = Duration::from_secs_f64(octets as f64 / bandwidth as f64);
            sent = sent.max(self.busy_until) + carrying;
            self.busy_until = sent;
        }
        sent + self.options.rtt
    }
}

impl AsyncRead for LinkedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_fill(context)?;
        let Some(front) = this.in_flight.front() else {
            return Poll::Pending;
        };
        let mut arrived_until = Instant::now();
        if front.due > arrived_until {
            arrived_until = front.due;
            let alarm = this
                .alarm
                .get_or_insert_with(|| Box::pin(this.clock.alarm(front.due)));
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        this.alarm = None;
        while let Some(front) = this.in_flight.front_mut() {
            if front.due > arrived_until || front.bytes.is_empty() {
                break;
            }
            let rest = &front.bytes[front.read..];
            let take = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..take]);
            front.read += take;
            this.in_flight_bytes -= take;
            if front.read < front.bytes.len() {
                break;
            }
            this.in_flight.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}
