//! The right to answer one command, once.

use super::outbox::Place;
use super::phase::{Ask, Chunks, Phase, Transaction, Wire};
use super::scan::Scan;
use super::{Server, replies};
use crate::reply::{Reply, Severity};

/// The caller's one answer to what an event asks. The machine is borrowed until it is given, so
/// no command can go unanswered, be answered twice or out of turn; one that is dropped is
/// answered 451 4.3.0.
#[derive(Debug)]
#[must_use = "a dropped answer refuses for now"]
pub struct Answer<'s> {
    server: &'s mut Server,
    /// Taken when the answer is given.
    ask: Option<Ask>,
}

impl<'s> Answer<'s> {
    pub(super) fn new(server: &'s mut Server, ask: Ask) -> Self {
        Self {
            server,
            ask: Some(ask),
        }
    }

    /// Yes, in the machine's own words.
    pub fn accept(mut self) {
        if let Some(ask) = self.ask.take() {
            self.server.accept(ask, None);
        }
    }

    /// Yes, in words of one's own. An EHLO's first line and keywords are part of its reply:
    /// whoever words that one words all of it.
    ///
    /// # Panics
    /// If the reply's code is 4yz or 5yz.
    pub fn accept_saying(mut self, reply: &Reply) {
        assert!(
            matches!(
                reply.code().severity(),
                Severity::Completed | Severity::Intermediate
            ),
            "{reply} does not accept"
        );
        if let Some(ask) = self.ask.take() {
            self.server.accept(ask, Some(reply));
        }
    }

    /// No. A 421 also ends the connection (RFC 5321 §3.8).
    ///
    /// # Panics
    /// If the reply's code is neither 4yz nor 5yz.
    pub fn reject(mut self, reply: &Reply) {
        assert!(
            matches!(
                reply.code().severity(),
                Severity::Transient | Severity::Permanent
            ),
            "{reply} does not reject"
        );
        let mut wire = Vec::with_capacity(reply.text().len() + 16);
        reply.write_to(&mut wire);
        if let Some(ask) = self.ask.take() {
            self.server
                .reject(ask, wire.into(), reply.code().get() == 421);
        }
    }

    /// Not yet: the reply's place is kept, and the machine goes on with the next command. Replies
    /// behind that place wait for [`Server::fill`].
    ///
    /// # Panics
    /// If what is asked is not [`Event::End`](super::Event::End): what the machine does next hangs
    /// on every other answer.
    pub fn later(mut self) -> Place {
        let ask = self.ask.take();
        assert_eq!(
            ask,
            Some(Ask::End),
            "only the last reply can be given later"
        );
        self.server.outbox.reserve()
    }

    /// Replies to earlier commands that are not written yet: for a driver that takes its time.
    /// It clears what it writes.
    pub fn earlier_output(&mut self) -> &mut Vec<u8> {
        self.server.output()
    }

    /// Neither: nothing is answered, and nothing more is read. For those who must vanish.
    pub fn hang_up(mut self) {
        self.ask = None;
        self.server.phase = Phase::Closed;
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            self.server.reject(ask, replies::NOT_ANSWERED.into(), false);
        }
    }
}

impl Server {
    fn accept(&mut self, ask: Ask, wording: Option<&Reply>) {
        let standard = match ask {
            Ask::Connect => &self.profile.greeting[..],
            Ask::Hello { extended: false } => &self.profile.helo,
            Ask::Hello { extended: true } => &self.profile.offer(self.encrypted).ehlo,
            Ask::StartTls => replies::STARTTLS_READY,
            Ask::Auth => replies::AUTHENTICATED,
            Ask::Mail { .. } => replies::MAIL_OK,
            Ask::Rcpt => replies::RCPT_OK,
            Ask::Data => replies::GO_AHEAD,
            Ask::Chunk { .. } => b"",
            Ask::End => replies::OK,
        };
        match (wording, ask) {
            // A chunk is answered when it has come.
            (_, Ask::Chunk { .. }) => {}
            (Some(reply), _) => reply.write_to(self.outbox.end()),
            (None, _) => self.outbox.end().extend_from_slice(standard),
        }
        match ask {
            Ask::Connect => self.phase = Phase::Greeted,
            Ask::Hello { .. } => self.phase = Phase::Idle,
            Ask::StartTls => self.phase = Phase::Handshake,
            Ask::Auth => self.authenticated = true,
            Ask::Mail { smtputf8 } => {
                self.transactions += 1;
                self.phase = Phase::Open(Transaction {
                    recipients: 0,
                    smtputf8,
                    chunks: Chunks::None,
                });
            }
            Ask::Rcpt => {
                if let Phase::Open(transaction) = &mut self.phase {
                    transaction.recipients += 1;
                }
            }
            Ask::Data => self.phase = Phase::Data(Scan::new()),
            Ask::Chunk { octets, last } => self.enter_chunk(octets, last),
            Ask::End => {}
        }
    }

    fn reject(&mut self, ask: Ask, reply: Wire, closes: bool) {
        match ask {
            Ask::Chunk { octets, .. } if !closes => {
                if let Phase::Open(transaction) = &mut self.phase {
                    transaction.chunks = Chunks::Failed;
                }
                return self.swallow_then(octets, reply);
            }
            Ask::Connect => self.phase = Phase::TurnedAway,
            _ => {}
        }
        self.outbox.end().extend_from_slice(&reply);
        if closes {
            self.phase = Phase::Closed;
        }
    }
}
