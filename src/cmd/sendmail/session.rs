//! `-bs`: SMTP on standard input and output, as mail readers speak it to a program of their own.

use std::io::{self, Read, Write};
use std::sync::Arc;

use client::{Cause, Pool};
use smtp::server::{Event, Profile, Server, ServerConfig};
use smtp::{Content, Domain, Envelope, Recipient, Reply, ReversePath};
use tokio::runtime::Runtime;

/// Octets of a message that are held; more is refused before it is read.
const CONTENT_BYTES_MAX: usize = 100 << 20;

/// An open transaction.
#[derive(Default)]
struct Transaction {
    reverse_path: Option<ReversePath>,
    recipients: Vec<Recipient>,
    content: Vec<u8>,
}

/// Serves one client until it ends.
///
/// # Errors
/// Reading and writing.
pub(super) fn serve(
    host: Domain,
    pool: &Pool,
    runtime: &Runtime,
    mut input: impl Read,
    mut output: impl Write,
) -> io::Result<()> {
    let profile = Profile::new(ServerConfig::new(host));
    let buffer_bytes = profile.buffer_bytes_min().max(64 << 10);
    let mut server = Server::new(Arc::new(profile), false);
    let mut buffer = vec![0; buffer_bytes];
    let mut filled = 0;
    let mut open = Transaction::default();
    loop {
        let mut used = 0;
        let is_closed = loop {
            let step = server.step(&buffer[used..filled]);
            used += step.consumed;
            match step.event {
                Event::More => break false,
                Event::Closed => break true,
                event => open.take(event, |envelope, content| {
                    runtime.block_on(submit(pool, envelope, content))
                }),
            }
        };
        output.write_all(server.output())?;
        output.flush()?;
        server.output().clear();
        if is_closed {
            return Ok(());
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        match input.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            octets => filled += octets,
        }
    }
}

impl Transaction {
    fn take(&mut self, event: Event<'_, '_>, submit: impl FnOnce(Envelope, Content) -> Reply) {
        match event {
            Event::Connect(answer) | Event::Hello { answer, .. } => answer.accept(),
            Event::StartTls(answer) | Event::Auth { answer, .. } => {
                answer.reject(&Reply::fixed(502, Some((5, 5, 1)), "Not needed here"));
            }
            Event::Mail {
                reverse_path,
                answer,
                ..
            } => {
                *self = Self {
                    reverse_path: Some(reverse_path),
                    ..Self::default()
                };
                answer.accept();
            }
            Event::Rcpt { recipient, answer } => {
                self.recipients.push(recipient);
                answer.accept();
            }
            Event::Data(answer) => answer.accept(),
            Event::Content(text) if self.content.len() <= CONTENT_BYTES_MAX => {
                self.content.extend_from_slice(text);
            }
            Event::Content(_) => {}
            Event::End { answer, .. } => {
                let reply = match std::mem::take(self).finish() {
                    Ok((envelope, content)) => submit(envelope, content),
                    Err(refusal) => refusal,
                };
                match reply.code().is_completed() {
                    true => answer.accept_saying(&reply),
                    false => answer.reject(&reply),
                }
            }
            Event::Refused(_) | Event::Reset => *self = Self::default(),
            Event::More | Event::Closed => {}
        }
    }

    fn finish(mut self) -> Result<(Envelope, Content), Reply> {
        if self.content.len() > CONTENT_BYTES_MAX {
            return Err(Reply::fixed(552, Some((5, 3, 4)), "The message is too big"));
        }
        // The last line after BDAT may lack its end.
        if !self.content.ends_with(b"\r\n") {
            self.content.extend_from_slice(b"\r\n");
        }
        let flaw = |error: &dyn std::fmt::Display| {
            Reply::fixed(554, Some((5, 6, 0)), &format!("Not a message: {error}"))
        };
        let content = Content::new(self.content).map_err(|error| flaw(&error))?;
        let reverse_path = self.reverse_path.unwrap_or(ReversePath::Null);
        let envelope = Envelope::new(reverse_path, self.recipients);
        Ok((envelope.map_err(|error| flaw(&error))?, content))
    }
}

/// One reply for all recipients: there is no other way to answer after the content.
async fn submit(pool: &Pool, envelope: Envelope, content: Content) -> Reply {
    let report = pool.send(envelope, content).await;
    let failures = report
        .results
        .iter()
        .filter_map(|result| result.as_ref().err());
    // To be told to try again is to get all of it again, so what is refused for good goes first.
    let worst = failures.max_by_key(|failure| failure.kind == client::Kind::Permanent);
    match worst.map(|failure| (&failure.cause, failure.to_string())) {
        None => match report.results.into_iter().flatten().next() {
            Some(accepted) => accepted.reply,
            None => Reply::fixed(250, Some((2, 0, 0)), "Ok"),
        },
        Some((Cause::Reply(reply), _)) => reply.clone(),
        Some((_, words)) => Reply::fixed(451, Some((4, 4, 1)), &words),
    }
}
