//! Transactions on a ready connection, in four modes of grouping commands (RFC 2920, RFC 3030).
//!
//! | Mode | A flight | Round trips a message |
//! |---|---|---|
//! | lockstep | one command | 3 + recipients |
//! | pipelined | `[RSET] MAIL RCPT* DATA`, then content | 2 |
//! | overlapped | `content . RSET MAIL RCPT* DATA` of the next | 1 |
//! | windowed | `RSET MAIL RCPT* BDAT n LAST content`, up to W unanswered | 1/W |
//!
//! The driver's loop: [`Session::receive`] what came, take [`Session::settled`], [`Session::begin`]
//! while [`Session::may_begin`], write [`Session::slices`] and tell [`Session::advance`].
//!
//! It is long because the replies of a transaction are read here in the order in which they come;
//! divided, the order would have to be pieced together.
//!
//! Invariants:
//! * one reply for each command, in order; a reply to a command that is not fully written, or to
//!   none, is an error and ends the session;
//! * content is handed out as slices of the caller's bytes and is never copied;
//! * RSET stands before every pipelined MAIL but the first: where all recipients are refused, some
//!   servers keep the old MAIL open, and the next content would leave under its reverse-path;
//! * content is written only if a recipient was accepted; a 354 without one is answered by a lone
//!   dot (RFC 2920 §3.1);
//! * each transaction that was begun is settled exactly once.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use crate::command::{self, Body, MailParameters};
use crate::content::Content;
use crate::envelope::Envelope;
use crate::extension::Extensions;
use crate::reply::{Reply, ReplyParser, Severity};

use super::mode::{BeginError, Mode, ProtocolError};
use super::settled::{Mark, Settled, TransactionStage};
use super::transaction::Transaction;
use super::writing::{Form, Writing};

/// A connection that is ready for mail.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    extensions: Extensions,
    parser: ReplyParser,
    /// Begun and not settled, oldest first; the front one's reply comes next.
    open: VecDeque<Transaction>,
    /// Content of open transactions that is not in `writing`: not yet, or no longer, as nothing more is
    /// written. By their ids.
    kept: Vec<(u64, Content)>,
    /// For each reply that is due: where in the stream its command ends.
    due: VecDeque<u64>,
    settled: VecDeque<Settled>,
    writing: Writing,
    /// Lockstep only: commands of the open transaction that wait for their turn.
    held: VecDeque<Vec<u8>>,
    begun: u64,
    replies_heard: u64,
    /// The last transaction did not end with content accepted, so the server may hold a MAIL.
    is_dirty: bool,
    state: State,
    /// The 421 and where it came, while the transaction it answered is open.
    closing: Option<Box<(TransactionStage, Reply)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The server said 421 and nothing since: it closes, and does nothing of what it has not
    /// answered (RFC 5321 §3.8). Nothing more is written.
    Closing,
    /// It said 421 and goes on answering all the same, as some do where a policy says 421.
    Draining,
    /// QUIT is written or about to be.
    Quitting,
    /// An error or the end of the stream: nothing more will be written or read.
    Over,
}

impl Session {
    /// A session in `mode`, which must have been negotiated.
    pub(super) fn new(mode: Mode, extensions: Extensions) -> Self {
        Self {
            mode: mode.negotiated(&extensions),
            extensions,
            parser: ReplyParser::default(),
            open: VecDeque::new(),
            kept: Vec::new(),
            due: VecDeque::new(),
            settled: VecDeque::new(),
            writing: Writing::default(),
            held: VecDeque::new(),
            begun: 0,
            replies_heard: 0,
            is_dirty: false,
            state: State::Open,
            closing: None,
        }
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the server offers.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Transactions begun and not settled.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.open.len()
    }

    /// Whether the session has ended, by 421, error or end of stream: drop the connection.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether [`Session::begin`] may be called now with content of `len` octets.
    #[must_use]
    pub fn may_begin(&self, len: usize) -> bool {
        if self.state != State::Open || self.open.back().is_some_and(Transaction::awaits_go_ahead) {
            return false;
        }
        match self.mode {
            Mode::Lockstep | Mode::Pipelined => self.open.is_empty(),
            Mode::Overlapped => true,
            Mode::Windowed {
                transactions_max,
                bytes_max,
            } => {
                let unanswered: usize = self.open.iter().map(|open| open.content_len).sum();
                self.open.is_empty()
                    || (self.open.len() < usize::from(transactions_max.max(1))
                        && unanswered + len <= bytes_max)
            }
        }
    }

    /// Begins a transaction: its commands are queued for writing.
    ///
    /// * `ask_first`: wait for 354 before any content, whatever the mode. For the first message on
    ///   a connection that has been idle: if it has died meanwhile, nothing can have been taken.
    /// * `now`: on the driver's clock, as for the other calls.
    /// * returns: the number that [`Settled::id`] will carry.
    ///
    /// # Errors
    /// See [`BeginError`]; the session goes on.
    pub fn begin(
        &mut self,
        envelope: &Envelope,
        content: Content,
        ask_first: bool,
        now: Duration,
    ) -> Result<u64, BeginError> {
        if !self.may_begin(content.len()) {
            return Err(BeginError::NotNow);
        }
        let parameters = self.parameters(envelope, &content)?;
        let by_bdat = matches!(self.mode, Mode::Windowed { .. }) && !ask_first;
        let needs_rset = match self.mode {
            Mode::Lockstep => self.is_dirty,
            _ => self.begun > 0,
        };
        self.begun += 1;
        self.is_dirty = true;
        let recipients = envelope.recipients().len();
        let mut transaction = Transaction::new(self.begun, recipients, content.len(), now);
        transaction.by_bdat = by_bdat;
        if needs_rset {
            transaction.stage = TransactionStage::Rset;
            self.command(|out| out.extend_from_slice(b"RSET\r\n"));
        }
        self.command(|out| command::write_mail(out, envelope.reverse_path(), &parameters));
        let dsn = self.extensions.dsn;
        for recipient in envelope.recipients() {
            self.command(|out| command::write_rcpt(out, recipient, dsn));
        }
        if by_bdat {
            self.writing
                .push(|out| command::write_bdat_last(out, content.len() as u64));
            self.writing
                .push_content(transaction.id, content, Form::Plain);
            self.due.push_back(self.writing.end());
        } else {
            self.command(|out| out.extend_from_slice(b"DATA\r\n"));
            self.kept.push((transaction.id, content));
        }
        self.open.push_back(transaction);
        if self.mode == Mode::Lockstep {
            self.release_held();
        }
        Ok(self.begun)
    }

    /// Queues QUIT behind what is being written; no transaction can be begun afterwards. Does
    /// nothing while one still waits for leave to write its content: call it again then.
    pub fn quit(&mut self) {
        let awaiting = self.open.back().is_some_and(Transaction::awaits_go_ahead);
        if self.state == State::Open && !awaiting {
            self.writing.push(|out| out.extend_from_slice(b"QUIT\r\n"));
            self.due.push_back(self.writing.end());
            self.state = State::Quitting;
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// The session is over, what was open is settled.
    pub fn receive(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), ProtocolError> {
        while !bytes.is_empty() && self.state != State::Over {
            let reply = match self.parser.parse(&mut bytes) {
                Ok(Some(reply)) => reply,
                Ok(None) => break,
                Err(error) => {
                    self.end();
                    return Err(error.into());
                }
            };
            self.replies_heard += 1;
            if let Err(error) = self.on_reply(reply, now) {
                self.end();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The stream has ended: settles all that is open. What was unanswered after a 421 has not
    /// been done.
    pub fn end(&mut self) {
        if self.state == State::Closing {
            for open in &mut self.open {
                open.marks.unset(Mark::Content);
            }
            if let (Some(front), Some(answer)) = (self.open.front_mut(), self.closing.take())
                && !front.all_refused()
            {
                let (stage, reply) = *answer;
                front.object(stage, reply);
            }
        }
        self.give_up();
    }

    /// The driver gives up on the stream, which is still open: settles all that is open.
    pub fn give_up(&mut self) {
        self.state = State::Over;
        self.drop_output();
        self.due.clear();
        while let Some(transaction) = self.open.pop_front() {
            let content = self.unkeep(transaction.id);
            self.settled.push_back(transaction.cut_off(content));
        }
    }

    /// The server said 421: what it still answers is read, and no transaction can be begun.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing | State::Draining)
    }

    /// The next transaction that has been settled.
    pub fn settled(&mut self) -> Option<Settled> {
        let next = self.settled.pop_front();
        if self.settled.is_empty() {
            // A connection waits most of the time, with nothing in it.
            self.settled = VecDeque::new();
        }
        next
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Fills `slices` with what is to be written, in order; gives how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.writing.slices(slices)
    }

    /// `written` octets of [`Session::slices`] were handed to the transport.
    pub fn advance(&mut self, written: usize, now: Duration) {
        let open = &mut self.open;
        self.writing.advance(written, |id| {
            if let Some(transaction) = open.iter_mut().find(|open| open.id == id) {
                transaction.marks.set(Mark::Content, now);
            }
        });
    }

    /// What the session waits for and how many octets of content that step has; `None` at rest.
    #[must_use]
    pub fn awaits(&self) -> Option<(TransactionStage, usize)> {
        let front = self.open.front()?;
        Some((front.step(), front.content_len))
    }

    /// Replies taken so far: whether the server gets on, whatever it sends.
    #[must_use]
    pub fn replies_heard(&self) -> u64 {
        self.replies_heard
    }

    fn parameters(
        &self,
        envelope: &Envelope,
        content: &Content,
    ) -> Result<MailParameters, BeginError> {
        let offers = &self.extensions;
        let size_bytes = content.len() as u64;
        let smtputf8 = envelope.needs_smtputf8(content);
        if !content.is_7bit() && !offers.eight_bit_mime {
            return Err(BeginError::No8BitMime);
        }
        if smtputf8 && !offers.smtputf8 {
            return Err(BeginError::NoSmtpUtf8);
        }
        if let Some(size_bytes_max @ 1..) = offers.size_bytes_max
            && size_bytes > size_bytes_max
        {
            return Err(BeginError::TooLarge {
                size_bytes,
                size_bytes_max,
            });
        }
        if let Some(recipients_max) = offers.limits.recipients_max
            && envelope.recipients().len() > recipients_max as usize
        {
            return Err(BeginError::TooManyRecipients { recipients_max });
        }
        Ok(MailParameters {
            size_bytes: offers.size_bytes_max.map(|_| size_bytes),
            body: (!content.is_7bit()).then_some(Body::EightBitMime),
            smtputf8,
            ret: envelope.ret().filter(|_| offers.dsn),
            id: envelope.id().filter(|_| offers.dsn).cloned(),
        })
    }

    /// Queues one command, to be written now or, in lockstep, when its turn comes.
    fn command(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.mode == Mode::Lockstep {
            let mut line = Vec::new();
            write(&mut line);
            self.held.push_back(line);
        } else {
            self.writing.push(write);
            self.due.push_back(self.writing.end());
        }
    }

    fn release_held(&mut self) {
        if let Some(line) = self.held.pop_front() {
            self.writing.push(|out| out.extend_from_slice(&line));
            self.due.push_back(self.writing.end());
        }
    }

    fn on_reply(&mut self, reply: Reply, now: Duration) -> Result<(), ProtocolError> {
        let is_421 = reply.code().get() == 421;
        if self.state == State::Closing {
            self.state = State::Draining;
            self.closing = None;
        }
        let Some(command_end) = self.due.pop_front() else {
            if is_421 {
                self.state = State::Over;
                return Ok(());
            }
            return Err(ProtocolError::Unsolicited(reply));
        };
        let is_early = command_end > self.writing.written();
        if is_421 {
            self.stop_writing(&reply);
        }
        let Some(front) = self.open.front_mut() else {
            // Only QUIT can be due without a transaction.
            if is_early {
                return Err(ProtocolError::Unsolicited(reply));
            }
            self.state = State::Over;
            return Ok(());
        };
        let may_be_early =
            is_421 || (front.stage == TransactionStage::Final && !reply.code().is_completed());
        if is_early && !may_be_early {
            return Err(ProtocolError::Unsolicited(reply));
        }
        // A refusal that comes before the end of DATA's content leaves the server in the middle of
        // it; only BDAT says where the content ends.
        let out_of_step = is_early && !front.by_bdat;
        self.on_answer(reply, now)?;
        let has_heard_all = self.is_closing() && self.due.is_empty();
        if out_of_step || has_heard_all {
            self.end();
        }
        Ok(())
    }

    /// The reply to the front transaction's next command.
    fn on_answer(&mut self, reply: Reply, now: Duration) -> Result<(), ProtocolError> {
        let Some(front) = self.open.front_mut() else {
            return Ok(());
        };
        match front.stage {
            TransactionStage::Rset if reply.code().is_completed() || reply.code().get() == 421 => {
                front.stage = TransactionStage::Mail;
                self.next_in_lockstep();
            }
            TransactionStage::Rset => return Err(ProtocolError::Nonsense(reply)),
            TransactionStage::Mail => self.on_mail(reply, now)?,
            TransactionStage::Rcpt => self.on_rcpt(reply, now)?,
            TransactionStage::Data => self.on_data(reply)?,
            TransactionStage::Content | TransactionStage::Final => self.on_final(reply, now)?,
        }
        Ok(())
    }

    /// 421: the server closes the channel (RFC 5321 §3.8). What was written it may answer yet.
    fn stop_writing(&mut self, reply: &Reply) {
        let written = self.writing.written();
        self.state = State::Closing;
        let front = self.open.front();
        self.closing = front.map(|front| Box::new((front.stage, reply.clone())));
        self.due.retain(|command_end| *command_end <= written);
        self.drop_output();
    }

    /// Nothing more is written, and its content is kept.
    fn drop_output(&mut self) {
        let kept = &mut self.kept;
        self.writing.clear(|id, content| kept.push((id, content)));
        self.held.clear();
    }

    /// The content of a transaction, if it is not in `writing` and was not written.
    fn unkeep(&mut self, id: u64) -> Option<Content> {
        let place = self.kept.iter().position(|(of, _)| *of == id)?;
        Some(self.kept.swap_remove(place).1)
    }

    fn on_mail(&mut self, reply: Reply, now: Duration) -> Result<(), ProtocolError> {
        let Some(front) = self.open.front_mut() else {
            return Ok(());
        };
        front.marks.set(Mark::Mail, now);
        front.stage = TransactionStage::Rcpt;
        match reply.code().severity() {
            Severity::Completed => self.next_in_lockstep(),
            Severity::Intermediate => return Err(ProtocolError::Nonsense(reply)),
            Severity::Transient | Severity::Permanent => {
                front.object(TransactionStage::Mail, reply);
                if self.mode == Mode::Lockstep {
                    self.settle_front(None);
                }
            }
        }
        Ok(())
    }

    fn on_rcpt(&mut self, reply: Reply, now: Duration) -> Result<(), ProtocolError> {
        let Some(front) = self.open.front_mut() else {
            return Ok(());
        };
        let index = front.recipients_replied;
        front.recipients_replied += 1;
        match reply.code().severity() {
            Severity::Completed => {}
            Severity::Intermediate => return Err(ProtocolError::Nonsense(reply)),
            // Where MAIL was refused, RCPT is out of order: that reply says nothing about anybody.
            Severity::Transient | Severity::Permanent if front.has_verdict() => {}
            Severity::Transient | Severity::Permanent => {
                front.refuse(index as usize, reply);
            }
        }
        if front.recipients_replied == front.recipients {
            front.marks.set(Mark::Rcpt, now);
            front.stage = if front.by_bdat {
                TransactionStage::Final
            } else {
                TransactionStage::Data
            };
            if self.mode == Mode::Lockstep && front.all_refused() {
                self.settle_front(None);
                return Ok(());
            }
        }
        self.next_in_lockstep();
        Ok(())
    }

    fn on_data(&mut self, reply: Reply) -> Result<(), ProtocolError> {
        let Some(front) = self.open.front_mut() else {
            return Ok(());
        };
        match reply.code().severity() {
            Severity::Completed => Err(ProtocolError::Nonsense(reply)),
            Severity::Intermediate if self.state == State::Draining => {
                self.end();
                Ok(())
            }
            Severity::Intermediate => {
                front.stage = TransactionStage::Final;
                let (id, is_wanted) = (front.id, !front.has_verdict() && !front.all_refused());
                match self.unkeep(id) {
                    Some(content) if is_wanted => {
                        self.writing.push_content(id, content, Form::Stuffed);
                    }
                    _ => self.writing.push(|out| out.extend_from_slice(b".\r\n")),
                }
                self.due.push_back(self.writing.end());
                Ok(())
            }
            Severity::Transient | Severity::Permanent => {
                if !front.all_refused() {
                    front.object(TransactionStage::Data, reply);
                }
                self.settle_front(None);
                Ok(())
            }
        }
    }

    fn on_final(&mut self, reply: Reply, now: Duration) -> Result<(), ProtocolError> {
        let Some(front) = self.open.front_mut() else {
            return Ok(());
        };
        if reply.code().severity() == Severity::Intermediate {
            return Err(ProtocolError::Nonsense(reply));
        }
        front.marks.set(Mark::End, now);
        self.is_dirty = !reply.code().is_completed();
        self.settle_front(Some(reply));
        Ok(())
    }

    /// Settles the front transaction by its verdict, or by the reply to its content.
    fn settle_front(&mut self, reply: Option<Reply>) {
        self.held.clear();
        self.closing = None;
        if let Some(front) = self.open.pop_front() {
            let content = self.unkeep(front.id);
            self.settled.push_back(front.answered(reply, content));
        }
    }

    fn next_in_lockstep(&mut self) {
        if self.mode == Mode::Lockstep {
            self.release_held();
        }
    }
}

#[cfg(test)]
mod tests;
