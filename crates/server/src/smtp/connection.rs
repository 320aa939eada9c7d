//! One connection: read, step the machine until the octets are used up, write; and meanwhile the
//! messages that wait for the disk.
//!
//! A message's 250 is owed from its end until it is durable. The machine keeps the reply's place,
//! so that what the client pipelined behind it is obeyed already and joins the same sync. Each
//! time the task runs it settles what is durable, writes all replies that are ready at once, and
//! reads once; it has no timer, and between reads no buffer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smtp::Reply;
use smtp::server::{Answer, Credentials, Event, Place, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::acceptor::Acceptor;
use super::counters::{Counters, count};
use super::roster::{Phase, Taken as Seat, Tick};
use super::session::{Session, Taken, shutting_down};
use super::stream::Stream;
use crate::auth::PasswordError;

/// Replies that a client has not taken, in octets; above, nothing more is read from it.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024;
/// How long and how much is still read after the last reply: a close with octets unread makes the
/// kernel send RST, which can take that reply away from the client.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1024 * 1024;

/// One connection under way.
pub(crate) struct Connection<A: Acceptor> {
    stream: Stream,
    server: Server,
    session: Session<A>,
    seat: Seat,
    /// When it was opened.
    began: Tick,
    /// When the client last got anything done: half a command does not count.
    stirred: Tick,
    /// Octets that were read and are not a whole command yet.
    unread: Vec<u8>,
    /// Octets of the output that are written.
    written: usize,
    /// TLS has records that are not on the wire yet.
    flushes: bool,
    owed: VecDeque<Owed<A::Pending>>,
}

/// A message whose reply waits for the disk.
struct Owed<P> {
    place: Place,
    pending: P,
    taken: Taken,
}

/// What the connection was woken by.
enum Woken {
    /// That many octets are in this buffer.
    Read(Box<[u8]>, usize),
    /// The client has closed its side.
    End,
    /// Nothing came in time.
    Overdue,
    /// The edge is closing, and nothing is under way here.
    Drained,
}

/// What comes after a batch.
#[derive(PartialEq, Eq, Debug)]
enum Next {
    Read,
    Handshake,
    Close,
}

impl<A: Acceptor> Connection<A> {
    pub(crate) fn new(stream: Stream, server: Server, session: Session<A>, seat: Seat) -> Self {
        Self {
            stream,
            server,
            session,
            began: seat.roster().now(),
            stirred: seat.roster().now(),
            seat,
            unread: Vec::new(),
            written: 0,
            flushes: false,
            owed: VecDeque::new(),
        }
    }

    /// Serves until either side closes. What goes wrong with the socket is the client's business.
    pub(crate) async fn serve(mut self, implicit_tls: bool) {
        if implicit_tls && self.encrypt().await.is_err() {
            return;
        }
        let _ = self.converse().await;
    }

    async fn converse(&mut self) -> io::Result<()> {
        let mut next = self.work(&[]).await;
        loop {
            match next {
                Next::Read => {}
                Next::Handshake => {
                    self.settle_all().await?;
                    self.encrypt().await?;
                    self.server.encrypted();
                    self.stirred = self.seat.roster().now();
                }
                Next::Close => {
                    self.settle_all().await?;
                    return self.linger().await;
                }
            }
            self.seat
                .set_due(self.session.due(self.seat.roster().now(), self.began));
            next = match poll_fn(|context| self.poll_woken(context)).await? {
                Woken::End => return self.settle_all().await,
                Woken::Read(buffer, octets) => {
                    let next = self.work(&buffer[..octets]).await;
                    self.session.shared.buffers.give(buffer);
                    next
                }
                Woken::Overdue => self.close_overdue(),
                Woken::Drained => {
                    self.server.close(&shutting_down());
                    Next::Close
                }
            };
        }
    }

    /// Settles, writes, reads; in this order, so that a reply goes out before more is asked for.
    fn poll_woken(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        // First, so that no change is missed that comes while the rest is looked at.
        self.seat.listen(context);
        self.settle(context);
        let written = self.poll_written(context)?;
        let unwritten = self.server.output().len() - self.written;
        let owed_max = self.session.current.settings.limits.owed_max;
        let reads = self.owed.len() < owed_max && unwritten <= UNWRITTEN_BYTES_MAX;
        if reads && let Poll::Ready(woken) = self.poll_read(context)? {
            return Poll::Ready(Ok(woken));
        }
        let is_done = self.owed.is_empty() && written.is_ready();
        let phase = self.seat.roster().phase();
        if phase == Phase::Stopped
            || (phase == Phase::Draining && is_done && !self.session.is_in_transaction())
        {
            return Poll::Ready(Ok(Woken::Drained));
        }
        // Who waits for our disk is not idle.
        match self.owed.is_empty() && self.seat.is_overdue() {
            true => Poll::Ready(Ok(Woken::Overdue)),
            false => Poll::Pending,
        }
    }

    /// Gives the replies of messages that are durable or refused. Only the first in line is
    /// asked: those behind it join the same syncs and cannot be told before it.
    fn settle(&mut self, context: &mut Context<'_>) {
        let counters = &self.session.shared.counters;
        while let Some(first) = self.owed.front_mut() {
            let Poll::Ready(result) = Pin::new(&mut first.pending).poll(context) else {
                return;
            };
            let Some(Owed { place, taken, .. }) = self.owed.pop_front() else {
                return;
            };
            match result {
                Ok(id) => {
                    count(&counters.messages);
                    counters.recipients.fetch_add(taken.recipients, Relaxed);
                    counters.bytes.fetch_add(taken.bytes, Relaxed);
                    let text = format!("Ok: queued as {id}");
                    self.server
                        .fill(place, &Reply::fixed(250, Some((2, 0, 0)), &text));
                }
                Err(reply) => {
                    count_refusal(counters, &reply);
                    self.server.fill(place, &reply);
                }
            }
        }
    }

    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let output = self.server.output();
        while self.written < output.len() {
            let rest = &output[self.written..];
            let octets = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if octets == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += octets;
            self.flushes = true;
        }
        if self.written > 0 {
            output.clear();
            self.written = 0;
        }
        if self.flushes {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flushes = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Borrows a buffer only while there is something to read; `unread` comes first in it.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        let buffers = &self.session.shared.buffers;
        let mut buffer = buffers.take();
        let kept = self.unread.len();
        let mut filled = ReadBuf::new(&mut buffer[kept..]);
        let polled = Pin::new(&mut self.stream).poll_read(context, &mut filled);
        let fresh = filled.filled().len();
        if fresh == 0 {
            buffers.give(buffer);
            ready!(polled)?;
            return Poll::Ready(Ok(Woken::End));
        }
        buffer[..kept].copy_from_slice(&self.unread);
        self.unread = Vec::new();
        Poll::Ready(Ok(Woken::Read(buffer, kept + fresh)))
    }

    fn close_overdue(&mut self) -> Next {
        let text = match self.session.is_in_transaction() {
            true => "Too slow, closing",
            false => "Nothing came in time, closing",
        };
        count(&self.session.shared.counters.connections_timed_out);
        self.server.close(&Reply::fixed(421, Some((4, 4, 2)), text));
        Next::Close
    }

    /// Waits until every reply is given and written. Where the edge stops before that, what is owed
    /// stays untold: the client cannot know then, and nor do we (RFC 1047).
    async fn settle_all(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            // Without a deadline: this is our disk's time.
            self.seat.listen(context);
            self.settle(context);
            let stops = self.seat.roster().phase() == Phase::Stopped;
            match self.owed.is_empty() || stops {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        let time = self.session.current.settings.limits.write;
        let Self {
            seat,
            server,
            stream,
            written,
            ..
        } = self;
        let output = server.output();
        let writing = async {
            stream.write_all(&output[*written..]).await?;
            stream.flush().await
        };
        let result = seat.within(time, writing).await;
        output.clear();
        *written = 0;
        self.flushes = false;
        result.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn encrypt(&mut self) -> io::Result<()> {
        let shared = &self.session.shared;
        let Some(config) = shared.tls_config() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let time = self.session.current.settings.limits.handshake;
        let result = self.seat.within(time, self.stream.encrypt(config)).await;
        let result = result.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        count(match result {
            Ok(()) => &shared.counters.handshakes,
            Err(_) => &shared.counters.handshakes_failed,
        });
        self.session.encrypted();
        result
    }

    async fn linger(&mut self) -> io::Result<()> {
        let Self { stream, seat, .. } = self;
        let reading = async {
            stream.shutdown().await?;
            let mut rest = stream.take(LINGER_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        match seat.within(LINGER_TIME, reading).await {
            Some(result) => result.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Steps the machine over `input`; keeps what it cannot use yet.
    async fn work(&mut self, input: &[u8]) -> Next {
        let mut rest = input;
        let mut stirs = false;
        loop {
            let step = self.server.step(rest);
            rest = &rest[step.consumed..];
            match step.event {
                Event::More => break,
                Event::Closed => return Next::Close,
                event => answer(&mut self.session, &mut self.owed, event).await,
            }
            stirs = true;
        }
        if stirs || !self.server.output().is_empty() {
            self.stirred = self.seat.roster().now();
        }
        self.unread.extend_from_slice(rest);
        match self.server.awaits_handshake() {
            true => Next::Handshake,
            false => Next::Read,
        }
    }
}

/// Tells the session what the machine has to say, and the machine what the session says to it.
async fn answer<A: Acceptor>(
    session: &mut Session<A>,
    owed: &mut VecDeque<Owed<A::Pending>>,
    event: Event<'_, '_>,
) {
    match event {
        Event::More | Event::Closed => {}
        Event::Reset => session.reset(),
        Event::Refused(_) => {
            session.reset();
            count(&session.shared.counters.messages_refused);
        }
        Event::Content(text) => session.content(text),
        Event::Connect(answer) | Event::StartTls(answer) => answer.accept(),
        Event::Hello {
            name,
            extended,
            answer,
        } => {
            session.hello(name, extended);
            answer.accept();
        }
        Event::Auth {
            credentials,
            answer,
        } => {
            let result = check(session, &credentials).await;
            reply(answer, result);
        }
        Event::Mail {
            reverse_path,
            parameters,
            answer,
        } => {
            let result = session.mail(reverse_path, parameters);
            decide(answer, result, &session.shared.counters);
        }
        Event::Rcpt { recipient, answer } => reply(answer, session.rcpt(recipient)),
        Event::Data(answer) => {
            let result = session.data();
            decide(answer, result, &session.shared.counters);
        }
        Event::End { answer, .. } => match session.end() {
            Ok((pending, taken)) => owed.push_back(Owed {
                place: answer.later(),
                pending,
                taken,
            }),
            Err(refusal) => {
                count_refusal(&session.shared.counters, &refusal);
                answer.reject(&refusal);
            }
        },
    }
}

/// Who has these credentials. A client acts for itself alone.
async fn check<A: Acceptor>(
    session: &mut Session<A>,
    credentials: &Credentials,
) -> Result<(), Reply> {
    session.auth_allowed()?;
    let Credentials {
        acting_as,
        user,
        password,
        ..
    } = credentials;
    let result = match acting_as {
        Some(other) if other != user => Err(PasswordError::Wrong),
        _ => session.shared.access.by_password(user, password).await,
    };
    session.auth(user, result)
}

fn reply(answer: Answer<'_>, result: Result<(), Reply>) {
    match result {
        Ok(()) => answer.accept(),
        Err(refusal) => answer.reject(&refusal),
    }
}

/// The same for commands that end a message if they are refused.
fn decide(answer: Answer<'_>, result: Result<(), Reply>, counters: &Counters) {
    if let Err(refusal) = &result {
        count_refusal(counters, refusal);
    }
    reply(answer, result);
}

fn count_refusal(counters: &Counters, reply: &Reply) {
    count(match reply.code().get() {
        400..=499 => &counters.messages_deferred,
        _ => &counters.messages_refused,
    });
}
