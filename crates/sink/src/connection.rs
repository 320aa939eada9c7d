//! One connection: read, step the machine until the octets are used up, write, again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use smtp::server::{Answer, Buffers, Event, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::builder::TlsMode;
use crate::listen::Shared;
use crate::script::Action;
use crate::session::{Session, Verdict};
use crate::stream::{Stream, Wire};

/// One connection under way.
pub(crate) struct Connection {
    stream: Stream,
    server: Server,
    session: Session,
    shared: Arc<Shared>,
    /// Octets that were read and are not a whole command yet.
    unread: Vec<u8>,
}

/// What comes after a batch, once its replies are written.
#[derive(PartialEq, Eq)]
enum Next {
    Read,
    Handshake,
    /// In good order.
    Close,
    /// At once.
    Drop,
    /// At once, with RST.
    Reset,
}

/// How long and how much is still read after the last reply: a close with octets unread makes the
/// kernel send RST, which can take that reply away from the client.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1024 * 1024;

impl Connection {
    pub(crate) fn new(wire: Wire, session: Session, shared: Arc<Shared>) -> Self {
        let encrypted = shared.options.tls == TlsMode::Implicit;
        Self {
            stream: Stream::Clear(wire),
            server: Server::new(Arc::clone(&shared.profile), encrypted),
            session,
            shared,
            unread: Vec::new(),
        }
    }

    /// Serves until either side closes. What goes wrong with the socket is the client's business.
    pub(crate) async fn serve(mut self) {
        let _ = self.converse().await;
    }

    async fn converse(&mut self) -> io::Result<()> {
        let rtt = self.shared.options.link.rtt;
        if !rtt.is_zero() {
            self.shared.clock.alarm(Instant::now() + rtt).await;
        }
        if self.shared.options.tls == TlsMode::Implicit {
            self.encrypt().await?;
        }
        let mut next = self.work(&[]).await;
        loop {
            write_out(&mut self.stream, Some(self.server.output())).await?;
            match next {
                Next::Read => {}
                Next::Handshake => {
                    self.encrypt().await?;
                    self.server.encrypted();
                }
                Next::Close => return self.linger().await,
                Next::Drop => return Ok(()),
                Next::Reset => {
                    self.stream.reset_on_close();
                    return Ok(());
                }
            }
            let (buffer, octets) =
                read(&mut self.stream, &mut self.unread, &self.shared.buffers).await?;
            if octets == 0 {
                return Ok(());
            }
            next = self.work(&buffer[..octets]).await;
            self.shared.buffers.give(buffer);
        }
    }

    async fn encrypt(&mut self) -> io::Result<()> {
        self.session.encrypted();
        match &self.shared.acceptor {
            Some(acceptor) => self.stream.encrypt(acceptor).await,
            None => Ok(()),
        }
    }

    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut rest = (&mut self.stream).take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        match tokio::time::timeout(LINGER_TIME, drained).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// Steps the machine over `input`; keeps what it cannot use yet.
    async fn work(&mut self, input: &[u8]) -> Next {
        let Self {
            stream,
            server,
            session,
            ..
        } = self;
        let mut rest = input;
        let next = loop {
            let step = server.step(rest);
            rest = &rest[step.consumed..];
            let (verdict, answer) = match step.event {
                Event::More => break Next::Read,
                Event::Closed => break Next::Close,
                Event::Reset => continue,
                Event::Refused(_) => {
                    session.content_refused();
                    continue;
                }
                Event::Content(text) => (session.content(text), None),
                Event::Connect(answer) => (session.greeting(), Some(answer)),
                Event::Hello { name, answer, .. } => (session.hello(name), Some(answer)),
                Event::StartTls(answer) => (Verdict::Accept, Some(answer)),
                Event::Auth {
                    credentials,
                    answer,
                } => (session.auth(credentials), Some(answer)),
                Event::Mail {
                    reverse_path,
                    answer,
                    ..
                } => (session.mail(&reverse_path), Some(answer)),
                Event::Rcpt { recipient, answer } => (session.rcpt(recipient), Some(answer)),
                Event::Data(answer) => (session.data(), Some(answer)),
                Event::End { octets, answer } => (session.end(octets), Some(answer)),
            };
            if verdict == Verdict::Accept {
                if let Some(answer) = answer {
                    answer.accept();
                }
            } else if let Some(next) = settle(verdict, answer, session, stream).await {
                break next;
            }
        };
        session.account();
        if next == Next::Read {
            self.unread.extend_from_slice(rest);
            if self.server.awaits_handshake() {
                return Next::Handshake;
            }
        }
        next
    }
}

/// Does what a rule wants; gives what that makes of the connection, if it is not to go on.
async fn settle(
    verdict: Verdict,
    mut answer: Option<Answer<'_>>,
    session: &mut Session,
    stream: &mut Stream,
) -> Option<Next> {
    let action = match verdict {
        Verdict::Accept => Action::Continue,
        Verdict::Reject(reply) => Action::Reply(reply),
        Verdict::Act(delay, action) => {
            // Nobody waits for replies to what came before.
            let earlier = answer.as_mut().map(Answer::earlier_output);
            if write_out(stream, earlier).await.is_err() {
                return Some(Next::Drop);
            }
            tokio::time::sleep(delay).await;
            action
        }
    };
    let next = match action {
        Action::Continue => {
            if let Some(answer) = answer {
                answer.accept();
            }
            return None;
        }
        Action::Reply(reply) => {
            session.refused();
            if let Some(answer) = answer {
                answer.reject(&reply);
            }
            return None;
        }
        Action::Drop | Action::LoseReply => Next::Drop,
        Action::Reset => Next::Reset,
    };
    if let Some(answer) = answer {
        answer.hang_up();
    }
    Some(next)
}

async fn write_out(stream: &mut Stream, output: Option<&mut Vec<u8>>) -> io::Result<()> {
    if let Some(output) = output.filter(|output| !output.is_empty()) {
        stream.write_all(output).await?;
        stream.flush().await?;
        output.clear();
    }
    Ok(())
}

/// Waits for octets and borrows a buffer only once they are there; `unread` comes first in it.
async fn read(
    stream: &mut Stream,
    unread: &mut Vec<u8>,
    buffers: &Buffers,
) -> io::Result<(Box<[u8]>, usize)> {
    poll_fn(|context| {
        let mut buffer = buffers.take();
        let kept = unread.len();
        let mut filled = ReadBuf::new(&mut buffer[kept..]);
        match Pin::new(&mut *stream).poll_read(context, &mut filled) {
            Poll::Pending => {
                buffers.give(buffer);
                Poll::Pending
            }
            Poll::Ready(result) => {
                result?;
                let fresh = filled.filled().len();
                if fresh == 0 {
                    buffers.give(buffer);
                    return Poll::Ready(Ok((Box::default(), 0)));
                }
                buffer[..kept].copy_from_slice(unread);
                unread.clear();
                Poll::Ready(Ok((buffer, kept + fresh)))
            }
        }
    })
    .await
}
