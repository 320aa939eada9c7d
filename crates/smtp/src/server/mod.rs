//! The server machine: octets in, events and replies out. No socket, no clock, no policy.
//!
//! The driver reads into a buffer of its own and calls [`Server::step`] with everything in it that
//! has not been consumed. Each step consumes octets from the front and yields one [`Event`]; where
//! the event holds an [`Answer`], the machine goes no further until it is given, so each command
//! has exactly one reply, in order. Replies gather in [`Server::output`], which the driver writes
//! once [`Event::More`] says that the buffer is used up: a pipelined flight costs one read and one
//! write. Content is handed out as slices of the driver's buffer, never copied.
//!
//! ```text
//! Connected ─greeting─▶ Greeted ─EHLO─▶ Idle ─MAIL─▶ Open ─DATA─▶ Data ─CRLF.CRLF─▶ Idle
//!                          ▲             │ ▲            └─BDAT─▶ Chunk ─LAST──────────┘
//!                          └──STARTTLS───┘ └─ AUTH
//! ```
//!
//! Invariants: only CRLF.CRLF ends content after DATA, and only the announced number of octets a
//! chunk, refused or not; content that is not canonical is refused once it has ended; nothing that
//! was read before TLS is obeyed after it; the machine holds no more than one AUTH answer and its
//! output, whatever the client sends.

mod answer;
mod auth;
mod config;
mod replies;
mod scan;

use std::borrow::Cow;
use std::sync::Arc;

use memchr::memchr;

pub use answer::Answer;
pub use auth::Credentials;
pub use config::{Profile, ServerConfig, ServerLimits};
pub use scan::ContentRefusal;

use crate::address::ReversePath;
use crate::command::{Command, MailParameters};
use crate::envelope::Recipient;
use crate::extension::Mechanism;
use crate::reply::Reply;
use auth::{Exchange, Progress};
use config::Offer;
use scan::{Bounds, Front, Scan};

/// A reply as it stands on the wire.
type Wire = Cow<'static, [u8]>;

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
    output: Vec<u8>,
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

/// What waits for the caller's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Connect,
    Hello { extended: bool },
    StartTls,
    Auth,
    Mail { smtputf8: bool },
    Rcpt,
    Data,
    Chunk { octets: u64, last: bool },
    End,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Connected,
    /// Turned away with a 5yz: only QUIT is obeyed (RFC 5321 §3.1).
    TurnedAway,
    Greeted,
    Idle,
    Open(Transaction),
    Data(Scan),
    Chunk {
        transaction: Transaction,
        scan: Scan,
        left: u64,
        last: bool,
    },
    /// Octets of a chunk that nobody wants, then this reply.
    Swallow {
        left: u64,
        reply: Wire,
        then: Box<Phase>,
    },
    Auth(Exchange),
    Handshake,
    Closed,
}

#[derive(Debug, PartialEq, Eq)]
struct Transaction {
    recipients: u32,
    smtputf8: bool,
    chunks: Chunks,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    None,
    /// Some have been taken; the content so far.
    Begun(Scan),
    /// One was refused: RSET is due (RFC 3030 §2).
    Failed,
}

/// What was found at the front of the input, before it is bound to an [`Answer`].
enum Found<'a> {
    More,
    Hello(&'a str, bool),
    StartTls,
    Auth(Credentials),
    Mail(ReversePath, MailParameters),
    Rcpt(Recipient),
    Data(Ask),
    Content(&'a [u8]),
    End(u64),
    Refused(ContentRefusal),
    Reset,
    Connect,
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
            output: Vec::new(),
        }
    }

    /// Replies to be written. The driver clears it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether STARTTLS was accepted and the handshake is due.
    #[must_use]
    pub fn awaits_handshake(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// The handshake is done: all that the client said before it is forgotten (RFC 3207 §4.2).
    pub fn encrypted(&mut self) {
        assert!(self.awaits_handshake(), "no handshake is due");
        self.phase = Phase::Greeted;
        self.encrypted = true;
    }

    /// Says 421 of the driver's own accord (a timeout, a shutdown); nothing is read any more.
    pub fn close(&mut self, reply: &Reply) {
        if self.phase != Phase::Closed {
            reply.write_to(&mut self.output);
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

    /// Goes over the input until something concerns the caller.
    fn advance<'a>(&mut self, input: &'a [u8]) -> (usize, Found<'a>) {
        let mut used = 0;
        loop {
            let (octets, found) = match self.phase {
                Phase::Connected => (0, Some(Found::Connect)),
                Phase::Closed => (input.len() - used, Some(Found::Closed)),
                Phase::Handshake => (0, Some(Found::More)),
                Phase::Data(_) => self.data(&input[used..]),
                Phase::Chunk { .. } => self.chunk(&input[used..]),
                Phase::Swallow { .. } => self.swallow(&input[used..]),
                _ => self.line(&input[used..]),
            };
            used += octets;
            if let Some(found) = found {
                return (used, found);
            }
        }
    }

    fn data<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let bounds = self.bounds();
        let Phase::Data(scan) = &mut self.phase else {
            unreachable!("only called in this phase");
        };
        if input.is_empty() {
            return (0, Some(Found::More));
        }
        match scan.front(input, &self.profile.line_end_dot) {
            Front::Unclear => (0, Some(Found::More)),
            Front::End => {
                let (octets, refusal) = (scan.octets(), scan.refusal(true));
                (3, Some(self.end(octets, refusal)))
            }
            Front::Text(stuffing, text) => {
                scan.take(text, bounds);
                let wanted = scan.refusal(false).is_none();
                (
                    stuffing + text.len(),
                    wanted.then_some(Found::Content(text)),
                )
            }
        }
    }

    fn chunk<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let bounds = self.bounds();
        let Phase::Chunk {
            scan, left, last, ..
        } = &mut self.phase
        else {
            unreachable!("only called in this phase");
        };
        if *left > 0 {
            let text = prefix(input, *left);
            if text.is_empty() {
                return (0, Some(Found::More));
            }
            *left -= text.len() as u64;
            scan.take(text, bounds);
            let wanted = scan.refusal(false).is_none();
            return (text.len(), wanted.then_some(Found::Content(text)));
        }
        if *last {
            let (octets, refusal) = (scan.octets(), scan.refusal(true));
            return (0, Some(self.end(octets, refusal)));
        }
        if let Phase::Chunk {
            mut transaction,
            scan,
            ..
        } = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            transaction.chunks = Chunks::Begun(scan);
            self.phase = Phase::Open(transaction);
            self.say(replies::CHUNK_OK);
        }
        (0, None)
    }

    fn swallow<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let Phase::Swallow { left, .. } = &mut self.phase else {
            unreachable!("only called in this phase");
        };
        let unwanted = prefix(input, *left).len();
        *left -= unwanted as u64;
        if *left > 0 {
            return (unwanted, Some(Found::More));
        }
        if let Phase::Swallow { reply, then, .. } = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            self.output.extend_from_slice(&reply);
            self.phase = *then;
        }
        (unwanted, None)
    }

    /// The content is complete.
    fn end<'a>(&mut self, octets: u64, refusal: Option<ContentRefusal>) -> Found<'a> {
        self.phase = Phase::Idle;
        match refusal {
            None => Found::End(octets),
            Some(refusal) => {
                self.say(refusal.reply());
                Found::Refused(refusal)
            }
        }
    }

    fn line<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let limits = self.profile.limits;
        let line_bytes_max = match self.phase {
            Phase::Auth(_) => limits.auth_line_bytes_max,
            _ => limits.command_line_bytes_max,
        };
        let window = match self.skips_line {
            true => input,
            false => prefix(input, line_bytes_max as u64),
        };
        let Some(end) = memchr(b'\n', window) else {
            if self.skips_line {
                return (input.len(), Some(Found::More));
            }
            if window.len() < line_bytes_max {
                return (0, Some(Found::More));
            }
            self.skips_line = true;
            return (window.len(), None);
        };
        if std::mem::take(&mut self.skips_line) {
            self.abandon_auth();
            self.fault(replies::LINE_TOO_LONG);
            return (end + 1, None);
        }
        let Some(line) = window[..end].strip_suffix(b"\r") else {
            self.abandon_auth();
            self.fault(replies::BARE_LF);
            return (end + 1, None);
        };
        let alone = end + 1 == input.len();
        let found = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Auth(exchange) => self.auth(exchange.answer(line)),
            phase => {
                self.phase = phase;
                self.command(line, alone)
            }
        };
        (end + 1, found)
    }

    fn abandon_auth(&mut self) {
        if matches!(self.phase, Phase::Auth(_)) {
            self.phase = Phase::Idle;
        }
    }

    /// One command line; `alone` if nothing stands behind it in the input.
    fn command<'a>(&mut self, line: &'a [u8], alone: bool) -> Option<Found<'a>> {
        let command = match Command::parse(line, &self.offer().extensions, &self.profile.host) {
            Ok(command) => command,
            Err(error) => {
                let mut wire = Vec::new();
                error.reply().write_to(&mut wire);
                self.fault(&wire);
                if error.desynchronizes() {
                    self.phase = Phase::Closed;
                }
                return None;
            }
        };
        match (&self.phase, &command) {
            (_, Command::Quit) => {
                self.say(replies::BYE);
                self.phase = Phase::Closed;
                return None;
            }
            // A refused chunk is to be passed over in any phase.
            (_, Command::Bdat { .. }) => {}
            (Phase::TurnedAway, _) => return self.fault(replies::NO_SERVICE),
            (Phase::Greeted, Command::Mail(..) | Command::Rcpt(_) | Command::Auth(..)) => {
                return self.fault(replies::HELLO_FIRST);
            }
            _ => {}
        }
        match command {
            Command::Ehlo(name) => Some(self.hello(name, true)),
            Command::Helo(name) => Some(self.hello(name, false)),
            Command::StartTls => self.starttls(alone),
            Command::Auth(mechanism, initial) => self.auth_begin(mechanism, initial),
            Command::Mail(reverse_path, parameters) => self.mail(reverse_path, parameters),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Data => self.data_begin(),
            Command::Bdat { octets, last } => self.chunk_begin(octets, last),
            Command::Rset => self.reset(),
            Command::Noop => self.say(replies::OK),
            Command::Help => self.say(replies::HELP),
            Command::Vrfy(_) => self.say(replies::CANNOT_VERIFY),
            Command::Expn(_) => self.fault(replies::NOT_OFFERED),
            Command::Quit => unreachable!("answered above"),
        }
    }

    /// RFC 5321 §4.1.4: a new EHLO is also a RSET; the caller sees it in the event itself.
    fn hello<'a>(&mut self, name: &'a str, extended: bool) -> Found<'a> {
        if matches!(self.phase, Phase::Open(_)) {
            self.phase = Phase::Idle;
        }
        Found::Hello(name, extended)
    }

    fn starttls<'a>(&mut self, alone: bool) -> Option<Found<'a>> {
        if self.encrypted {
            return self.fault(replies::TLS_BEFORE);
        }
        if matches!(self.phase, Phase::Open(_)) {
            return self.fault(replies::NESTED_MAIL);
        }
        if !alone {
            // RFC 3207 §4: the client must wait. What it sent was meant to be taken as encrypted.
            self.say(replies::INJECTED);
            self.phase = Phase::Closed;
            return None;
        }
        Some(Found::StartTls)
    }

    fn auth_begin<'a>(&mut self, mechanism: &str, initial: Option<&str>) -> Option<Found<'a>> {
        if self.authenticated {
            return self.fault(replies::AUTHENTICATED_BEFORE);
        }
        if matches!(self.phase, Phase::Open(_)) {
            return self.fault(replies::NESTED_MAIL);
        }
        let offered = Mechanism::parse(mechanism);
        let is_offered = |offer: &Offer| offered.is_some_and(|m| offer.extensions.offers_auth(m));
        if !is_offered(self.offer()) {
            let later = !self.encrypted && is_offered(&self.profile.encrypted);
            return self.fault(match later {
                true => replies::ENCRYPT_FIRST,
                false => replies::MECHANISM_UNKNOWN,
            });
        }
        match Exchange::begin(mechanism, initial) {
            Some(progress) => self.auth(progress),
            None => self.fault(replies::MECHANISM_UNKNOWN),
        }
    }

    fn auth<'a>(&mut self, progress: Progress) -> Option<Found<'a>> {
        match progress {
            Progress::Ask(question, exchange) => {
                self.phase = Phase::Auth(exchange);
                self.say(question)
            }
            Progress::Failed(reply) => self.fault(reply),
            Progress::Done(credentials) => Some(Found::Auth(credentials)),
        }
    }

    fn mail<'a>(
        &mut self,
        reverse_path: ReversePath,
        parameters: MailParameters,
    ) -> Option<Found<'a>> {
        if matches!(self.phase, Phase::Open(_)) {
            return self.fault(replies::NESTED_MAIL);
        }
        let limits = &self.profile.limits;
        if limits
            .transactions_max
            .is_some_and(|max| self.transactions >= max)
        {
            self.phase = Phase::Closed;
            return self.say(replies::TOO_MANY_TRANSACTIONS);
        }
        if parameters.size_bytes.unwrap_or(0) > self.profile.size_bytes_max {
            return self.say(replies::TOO_BIG);
        }
        let needs_smtputf8 = reverse_path
            .address()
            .is_some_and(crate::Address::needs_smtputf8);
        if needs_smtputf8 && !parameters.smtputf8 {
            return self.say(replies::NEEDS_SMTPUTF8);
        }
        Some(Found::Mail(reverse_path, parameters))
    }

    fn rcpt<'a>(&mut self, recipient: Recipient) -> Option<Found<'a>> {
        let recipients_max = self.profile.limits.recipients_max;
        match &self.phase {
            Phase::Open(transaction) => match &transaction.chunks {
                Chunks::None if transaction.recipients >= recipients_max => {
                    self.say(replies::TOO_MANY_RECIPIENTS)
                }
                Chunks::None if recipient.address.needs_smtputf8() && !transaction.smtputf8 => {
                    self.say(replies::NEEDS_SMTPUTF8)
                }
                Chunks::None => Some(Found::Rcpt(recipient)),
                Chunks::Begun(_) => self.fault(replies::CHUNKED),
                Chunks::Failed => self.fault(replies::FAILED),
            },
            _ => self.fault(replies::MAIL_FIRST),
        }
    }

    fn data_begin<'a>(&mut self) -> Option<Found<'a>> {
        match &self.phase {
            Phase::Open(transaction) => match transaction.chunks {
                Chunks::None if transaction.recipients == 0 => self.fault(replies::NO_RECIPIENTS),
                Chunks::None => Some(Found::Data(Ask::Data)),
                Chunks::Begun(_) => self.fault(replies::CHUNKED),
                Chunks::Failed => self.fault(replies::FAILED),
            },
            _ => self.fault(replies::MAIL_FIRST),
        }
    }

    fn chunk_begin<'a>(&mut self, octets: u64, last: bool) -> Option<Found<'a>> {
        let reply = match &self.phase {
            _ if !self.offer().extensions.chunking => replies::NOT_OFFERED,
            Phase::Open(transaction) => match transaction.chunks {
                Chunks::None if transaction.recipients == 0 => replies::NO_RECIPIENTS,
                Chunks::None => return Some(Found::Data(Ask::Chunk { octets, last })),
                Chunks::Begun(_) => {
                    self.enter_chunk(octets, last);
                    return None;
                }
                Chunks::Failed => replies::FAILED,
            },
            _ => replies::MAIL_FIRST,
        };
        self.errors += 1;
        self.swallow_then(octets, reply.into());
        None
    }

    fn enter_chunk(&mut self, octets: u64, last: bool) {
        if let Phase::Open(mut transaction) = std::mem::replace(&mut self.phase, Phase::Idle) {
            let scan = match std::mem::replace(&mut transaction.chunks, Chunks::Failed) {
                Chunks::Begun(scan) => scan,
                Chunks::None | Chunks::Failed => Scan::new(),
            };
            self.phase = Phase::Chunk {
                transaction,
                scan,
                left: octets,
                last,
            };
        }
    }

    /// RFC 3030 §2: a refused chunk's octets are passed over, and only then answered.
    fn swallow_then(&mut self, octets: u64, reply: Wire) {
        let then = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = Phase::Swallow {
            left: octets,
            reply,
            then: Box::new(then),
        };
    }

    fn reset<'a>(&mut self) -> Option<Found<'a>> {
        self.say(replies::OK);
        if !matches!(self.phase, Phase::Open(_)) {
            return None;
        }
        self.phase = Phase::Idle;
        Some(Found::Reset)
    }

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
            (Some(reply), _) => reply.write_to(&mut self.output),
            (None, _) => self.output.extend_from_slice(standard),
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
        self.output.extend_from_slice(&reply);
        if closes {
            self.phase = Phase::Closed;
        }
    }

    fn offer(&self) -> &Offer {
        self.profile.offer(self.encrypted)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            size_bytes_max: self.profile.size_bytes_max,
            text_line_bytes_max: self.profile.limits.text_line_bytes_max,
        }
    }

    fn say(&mut self, wire: &[u8]) -> Option<Found<'static>> {
        self.output.extend_from_slice(wire);
        None
    }

    /// Answers a command in error; too many of them end the connection.
    fn fault(&mut self, wire: &[u8]) -> Option<Found<'static>> {
        self.errors += 1;
        if self.errors <= self.profile.limits.errors_max {
            return self.say(wire);
        }
        self.phase = Phase::Closed;
        self.say(replies::TOO_MANY_ERRORS)
    }
}

/// The first `octets` of `input`, or all of it.
fn prefix(input: &[u8], octets: u64) -> &[u8] {
    let len = usize::try_from(octets).map_or(input.len(), |octets| octets.min(input.len()));
    &input[..len]
}

#[cfg(test)]
mod tests;
