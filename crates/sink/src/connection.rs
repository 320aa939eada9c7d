//! One connection: read, step the machine until the octets are used up, write, again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use smtp::Reply;
use smtp::server::{Event, Server};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::buffers::Buffers;
use crate::listen::Shared;
use crate::stream::Wire;

/// One connection under way.
pub(crate) struct Connection {
    stream: Wire,
    server: Server,
    shared: Arc<Shared>,
    /// Octets that were read and are not a whole command yet.
    unread: Vec<u8>,
    messages: u64,
    batch: Batch,
    /// Recipients of the open transaction.
    recipients: u64,
    /// More connections are open than allowed.
    is_surplus: bool,
}

/// What the octets of one read brought.
#[derive(Default)]
struct Batch {
    messages: u64,
    recipients: u64,
    bytes: u64,
}

/// What comes after a batch.
#[derive(PartialEq, Eq)]
enum Next {
    Read,
    Close,
}

impl Connection {
    pub(crate) fn new(stream: Wire, shared: Arc<Shared>, is_surplus: bool) -> Self {
        Self {
            stream,
            server: Server::new(Arc::clone(&shared.profile), false),
            shared,
            unread: Vec::new(),
            messages: 0,
            batch: Batch::default(),
            recipients: 0,
            is_surplus,
        }
    }

    /// Serves until either side closes. What goes wrong with the socket is the client's business.
    pub(crate) async fn serve(mut self) {
        let link = self.shared.options.link;
        if !link.rtt.is_zero() {
            let due = std::time::Instant::now() + link.rtt;
            self.shared.clock.alarm(due).await;
        }
        let _ = self.converse().await;
    }

    async fn converse(&mut self) -> io::Result<()> {
        let mut next = self.work(&[]);
        loop {
            self.flush().await?;
            if next == Next::Close {
                return self.stream.shutdown().await;
            }
            let (buffer, octets) =
                read(&mut self.stream, &mut self.unread, &self.shared.buffers).await?;
            if octets == 0 {
                return Ok(());
            }
            next = self.work(&buffer[..octets]);
            self.shared.buffers.give(buffer);
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let output = self.server.output();
        if !output.is_empty() {
            self.stream.write_all(output).await?;
            output.clear();
        }
        Ok(())
    }

    /// Steps the machine over `input`; keeps what it cannot use yet.
    fn work(&mut self, input: &[u8]) -> Next {
        let mut rest = input;
        let next = loop {
            let step = self.server.step(rest);
            rest = &rest[step.consumed..];
            match step.event {
                Event::More => break Next::Read,
                Event::Closed => break Next::Close,
                Event::Content(_) | Event::Reset | Event::Refused(_) => {}
                Event::Connect(answer) if self.is_surplus => {
                    self.shared.stats.refused.fetch_add(1, Relaxed);
                    answer.reject(&Reply::fixed(
                        421,
                        Some((4, 7, 0)),
                        "Too many connections, try again later",
                    ));
                }
                Event::Connect(answer) | Event::Hello { answer, .. } => answer.accept(),
                Event::StartTls(answer) | Event::Auth { answer, .. } => drop(answer),
                Event::Mail { answer, .. } => {
                    self.recipients = 0;
                    answer.accept();
                }
                Event::Rcpt { answer, .. } => {
                    self.recipients += 1;
                    answer.accept();
                }
                Event::Data(answer) => answer.accept(),
                Event::End { octets, answer } => {
                    answer.accept();
                    self.batch.messages += 1;
                    self.batch.recipients += self.recipients;
                    self.batch.bytes += octets;
                }
            }
        };
        if next == Next::Read {
            self.unread.extend_from_slice(rest);
        }
        self.account();
        next
    }

    fn account(&mut self) {
        let Batch {
            messages,
            recipients,
            bytes,
        } = std::mem::take(&mut self.batch);
        if messages > 0 {
            self.messages += messages;
            self.shared.stats.add(messages, recipients, bytes);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.stats.close(self.messages);
    }
}

/// Waits for octets and borrows a buffer only once they are there; `unread` comes first in it.
async fn read(
    stream: &mut Wire,
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
