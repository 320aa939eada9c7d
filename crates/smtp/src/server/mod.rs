//! The server machine: octets in, events and replies out. No socket, no clock, no policy.
//!
//! The driver reads into a buffer of its own and calls [`Server::step`] with everything in it that
//! has not been consumed. Each step consumes octets from the front and yields one [`Event`]; where
//! the event holds an [`Answer`], the machine goes no further until it is given, so each command
//! has exactly one reply, in order. Replies gather in [`Server::output`], which the driver writes
//! once [`Event::More`] says that the buffer is used up: a pipelined flight costs one read and one
//! write. Content is handed out as slices of the driver's buffer, never copied. A message's last
//! reply may be given later ([`Answer::later`]): the commands behind it are obeyed meanwhile, and
//! their replies wait, so that all messages of a flight can become durable together.
//!
//! ```text
//! Connected ─greeting─▶ Greeted ─EHLO─▶ Idle ─MAIL─▶ Open ─DATA─▶ Data ─CRLF.CRLF─▶ Idle
//!                          ▲             │ ▲            └─BDAT─▶ Chunk ─LAST──────────┘
//!                          └──STARTTLS───┘ └─ AUTH
//! ```
//!
//! Invariants: only CRLF.CRLF ends content after DATA, and only the announced number of octets a
//! chunk, refused or not; content that is not canonical is refused once it has ended; nothing that
//! was read before TLS is obeyed after it; replies leave in the order of their commands; the machine
//! holds no more than one AUTH answer and its output, whatever the client sends.

mod answer;
mod auth;
mod buffers;
mod commands;
mod config;
mod outbox;
mod phase;
mod receive;
mod replies;
mod scan;

use std::sync::Arc;

pub use answer::Answer;
pub use auth::Credentials;
pub use buffers::{BUFFER_BYTES, Buffers};
pub use config::{Profile, ServerConfig, ServerLimits};
pub use outbox::Place;
pub use scan::ContentRefusal;

use crate::address::ReversePath;
use crate::command::MailParameters;
use crate::envelope::Recipient;
use crate::reply::{Reply, Severity};
use outbox::Outbox;
use phase::{Ask, Found, Phase};

/// One connection's server side.
#[derive(Debug)]
pub struct Server {
    profile: Arc<Profile>,
    phase: Phase,
    encrypted: bool,
    authenticated: bool,
    /// Commands in error so far.
    errors: u32,
    /// Transactions begun so far.
    transactions: u32,
    /// The rest of an overlong line is being passed over.
    skips_line: bool,
    outbox: Outbox,
}

/// What one [`Server::step`] did.
#[derive(Debug)]
pub struct Step<'s, 'a> {
    /// Octets used up from the front of the input; valid whatever becomes of the event.
    pub consumed: usize,
    /// What they were.
    pub event: Event<'s, 'a>,
}

/// What the machine tells or asks its caller.
#[derive(Debug)]
pub enum Event<'s, 'a> {
    /// Nothing more can be done with what there is: write the output, then offer what was not
    /// consumed again, with more behind it.
    More,
    /// Somebody connected: greet or turn away.
    Connect(Answer<'s>),
    /// EHLO, or HELO if not `extended`. An open transaction is over.
    Hello {
        /// What the client calls itself: visible text, not checked further.
        name: &'a str,
        /// Whether it was EHLO.
        extended: bool,
        /// 250 and the extensions, or not.
        answer: Answer<'s>,
    },
    /// STARTTLS: once accepted, write the output, do the handshake, then [`Server::encrypted`].
    StartTls(Answer<'s>),
    /// The credentials of AUTH PLAIN or LOGIN.
    Auth {
        /// To be checked by the caller.
        credentials: Credentials,
        /// 235, or not.
        answer: Answer<'s>,
    },
    /// MAIL: a transaction begins if accepted.
    Mail {
        /// From whom.
        reverse_path: ReversePath,
        /// With what.
        parameters: MailParameters,
        /// 250 2.1.0, or not.
        answer: Answer<'s>,
    },
    /// RCPT.
    Rcpt {
        /// To whom.
        recipient: Recipient,
        /// 250 2.1.5, or not.
        answer: Answer<'s>,
    },
    /// DATA, or the first BDAT: content follows if accepted. A refused chunk is passed over by
    /// the machine.
    Data(Answer<'s>),
    /// The next octets of the content, not dot-stuffed.
    Content(&'a [u8]),
    /// The content is whole and canonical (after BDAT its last line may lack its CRLF). Accepting
    /// takes responsibility for it (RFC 5321 §6.1).
    End {
        /// Octets of the content.
        octets: u64,
        /// 250 2.0.0, or not.
        answer: Answer<'s>,
    },
    /// The content has ended, and the machine has refused it; the transaction is over.
    Refused(ContentRefusal),
    /// An open transaction was given up by RSET.
    Reset,
    /// Nothing more is read: write the output and close.
    Closed,
}

impl Server {
    /// A new connection; `encrypted` where TLS came first (RFC 8314 §3.3).
    #[must_use]
    pub fn new(profile: Arc<Profile>, encrypted: bool) -> Self {
        Self {
            profile,
            phase: Phase::Connected,
            encrypted,
            authenticated: false,
            errors: 0,
            transactions: 0,
            skips_line: false,
            outbox: Outbox::default(),
        }
    }

    /// Replies to be written. The driver clears it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.outbox.ready
    }

    /// Gives a reply whose place was kept by [`Answer::later`]; it and what it held up are put out
    /// once every earlier place is filled.
    ///
    /// # Panics
    /// If the reply is not final, or a 421: a connection cannot be closed in front of commands
    /// that were obeyed. If the place is another machine's.
    pub fn fill(&mut self, place: Place, reply: &Reply) {
        assert!(
            reply.code().severity() != Severity::Intermediate && reply.code().get() != 421,
            "{reply} does not settle a message"
        );
        self.outbox.fill(place, reply);
    }

    /// Replies that are still to be given by [`Server::fill`].
    #[must_use]
    pub fn owed(&self) -> usize {
        self.outbox.owed()
    }

    /// Whether STARTTLS was accepted and the handshake is due.
    #[must_use]
    pub fn awaits_handshake(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// The handshake is done: all that the client said before it is forgotten, who it is
    /// included (RFC 3207 §4.2).
    pub fn encrypted(&mut self) {
        assert!(self.awaits_handshake(), "no handshake is due");
        assert_eq!(self.owed(), 0, "a reply would be torn from its command");
        self.phase = Phase::Greeted;
        self.encrypted = true;
        self.authenticated = false;
    }

    /// Says 421 of the driver's own accord (a timeout, a shutdown); nothing is read any more.
    pub fn close(&mut self, reply: &Reply) {
        if self.phase != Phase::Closed {
            reply.write_to(self.outbox.end());
            self.phase = Phase::Closed;
        }
    }

    /// Takes the next thing off the front of `input`.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'_, 'a> {
        let (consumed, found) = self.advance(input);
        let event = match found {
            Found::More => Event::More,
            Found::Connect => Event::Connect(Answer::new(self, Ask::Connect)),
            Found::Hello(name, extended) => Event::Hello {
                name,
                extended,
                answer: Answer::new(self, Ask::Hello { extended }),
            },
            Found::StartTls => Event::StartTls(Answer::new(self, Ask::StartTls)),
            Found::Auth(credentials) => Event::Auth {
                credentials,
                answer: Answer::new(self, Ask::Auth),
            },
            Found::Mail(reverse_path, parameters) => {
                let smtputf8 = parameters.smtputf8;
                Event::Mail {
                    reverse_path,
                    parameters,
                    answer: Answer::new(self, Ask::Mail { smtputf8 }),
                }
            }
            Found::Rcpt(recipient) => Event::Rcpt {
                recipient,
                answer: Answer::new(self, Ask::Rcpt),
            },
            Found::Data(ask) => Event::Data(Answer::new(self, ask)),
            Found::Content(text) => Event::Content(text),
            Found::End(octets) => Event::End {
                octets,
                answer: Answer::new(self, Ask::End),
            },
            Found::Refused(refusal) => Event::Refused(refusal),
            Found::Reset => Event::Reset,
            Found::Closed => Event::Closed,
        };
        Step { consumed, event }
    }
}

#[cfg(test)]
mod tests;
