//! What each command does in each phase, as far as that is not the caller's to say.
//!
//! What follows a refusal in the same flight (RCPT and DATA behind a refused MAIL, DATA behind refused recipients) is
//! answered 503 or 554 but is no error of the client's: it had to be sent before the refusal was known.

use super::auth::{Exchange, Progress};
use super::config::Offer;
use super::phase::{Ask, Chunks, Found, Phase, Wire};
use super::scan::Scan;
use super::{Server, replies};
use crate::address::{Address, ReversePath};
use crate::command::{Command, MailParameters};
use crate::envelope::Recipient;
use crate::extension::Mechanism;

impl Server {
    /// One command line; `alone` if nothing stands behind it in the input.
    pub(super) fn command<'a>(&mut self, line: &'a [u8], alone: bool) -> Option<Found<'a>> {
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

    pub(super) fn auth<'a>(&mut self, progress: Progress) -> Option<Found<'a>> {
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
        let needs_smtputf8 = reverse_path.address().is_some_and(Address::needs_smtputf8);
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
            _ => self.say(replies::MAIL_FIRST),
        }
    }

    fn data_begin<'a>(&mut self) -> Option<Found<'a>> {
        match &self.phase {
            Phase::Open(transaction) => match transaction.chunks {
                Chunks::None if transaction.recipients == 0 => self.say(replies::NO_RECIPIENTS),
                Chunks::None => Some(Found::Data(Ask::Data)),
                Chunks::Begun(_) => self.fault(replies::CHUNKED),
                Chunks::Failed => self.fault(replies::FAILED),
            },
            _ => self.say(replies::MAIL_FIRST),
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
        self.swallow_then(octets, reply.into());
        None
    }

    pub(super) fn enter_chunk(&mut self, octets: u64, last: bool) {
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
    pub(super) fn swallow_then(&mut self, octets: u64, reply: Wire) {
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

    fn offer(&self) -> &Offer {
        self.profile.offer(self.encrypted)
    }

    pub(super) fn say(&mut self, wire: &[u8]) -> Option<Found<'static>> {
        self.outbox.end().extend_from_slice(wire);
        None
    }

    /// Answers a command in error; too many of them end the connection.
    pub(super) fn fault(&mut self, wire: &[u8]) -> Option<Found<'static>> {
        self.errors += 1;
        if self.errors <= self.profile.limits.errors_max {
            return self.say(wire);
        }
        self.phase = Phase::Closed;
        self.say(replies::TOO_MANY_ERRORS)
    }
}
