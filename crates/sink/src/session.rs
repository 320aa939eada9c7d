//! What the sink makes of a session: it judges, counts, and keeps what is to be kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flow::rng::Rng;
use smtp::server::Credentials;
use smtp::{Address, Recipient, Reply, ReversePath};

use crate::listen::Shared;
use crate::record::{Circumstances, Gatherer, Ledger};
use crate::script::{Action, Stage};

/// One client's session.
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Of the connection, from 1.
    number: u64,
    client: IpAddr,
    /// More connections are open than allowed.
    is_surplus: bool,
    dice: Rng,
    is_encrypted: bool,
    ehlo: String,
    user: Option<String>,
    /// The open transaction; addresses only where something asks for them.
    from: Option<Address>,
    to: Vec<Address>,
    recipients: u64,
    content: Option<Gatherer>,
    content_has_begun: bool,
    messages: u64,
    batch: Batch,
}

/// What the octets of one read brought.
#[derive(Default)]
struct Batch {
    messages: u64,
    recipients: u64,
    bytes: u64,
    refused: u64,
}

/// What is to be done about one event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Reject(Reply),
    Act(Duration, Action),
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, number: u64, client: IpAddr, is_surplus: bool) -> Self {
        Self {
            dice: shared.director.dice(number),
            shared,
            number,
            client,
            is_surplus,
            is_encrypted: false,
            ehlo: String::new(),
            user: None,
            from: None,
            to: Vec::new(),
            recipients: 0,
            content: None,
            content_has_begun: false,
            messages: 0,
            batch: Batch::default(),
        }
    }

    /// TLS is up: who the client was before does not count (RFC 3207 §4.2).
    pub(crate) fn encrypted(&mut self) {
        self.is_encrypted = true;
        self.user = None;
    }

    pub(crate) fn greeting(&mut self) -> Verdict {
        match self.is_surplus {
            true => Verdict::Reject(Reply::fixed(
                421,
                Some((4, 7, 0)),
                "Too many connections, try again later",
            )),
            false => self.judge(Stage::Greeting, &[]),
        }
    }

    pub(crate) fn hello(&mut self, name: &str) -> Verdict {
        if self.shared.ledger.is_some() {
            name.clone_into(&mut self.ehlo);
        }
        self.judge(Stage::Ehlo, &[])
    }

    pub(crate) fn auth(&mut self, offered: Credentials) -> Verdict {
        let verdict = self.judge(Stage::Auth, &[]);
        if !verdict.accepts() {
            return verdict;
        }
        let users = &self.shared.options.users;
        let is_known = users
            .iter()
            .any(|(name, password)| *name == offered.user && *password == offered.password);
        if !is_known {
            return Verdict::Reject(Reply::fixed(535, Some((5, 7, 8)), "Wrong user or password"));
        }
        self.user = Some(offered.user);
        verdict
    }

    pub(crate) fn mail(&mut self, reverse_path: &ReversePath) -> Verdict {
        self.recipients = 0;
        self.to.clear();
        if self.user.is_none() && !self.shared.options.users.is_empty() {
            return Verdict::Reject(Reply::fixed(
                530,
                Some((5, 7, 0)),
                "Authentication required",
            ));
        }
        if let Some(refusal) = self.shared.over_rate() {
            return Verdict::Reject(refusal.clone());
        }
        if !self.shared.keeps_envelopes {
            return Verdict::Accept;
        }
        self.from = reverse_path.address().cloned();
        self.judge(
            Stage::Mail,
            reverse_path.address().map_or(&[], std::slice::from_ref),
        )
    }

    pub(crate) fn rcpt(&mut self, recipient: Recipient) -> Verdict {
        let mut verdict = Verdict::Accept;
        if self.shared.keeps_envelopes {
            let address = recipient.address;
            verdict = self.judge(Stage::Rcpt, std::slice::from_ref(&address));
            if verdict.accepts()
                && self
                    .shared
                    .greylist
                    .defers(self.client, self.from.as_ref(), &address)
            {
                verdict = Verdict::Reject(Reply::fixed(
                    451,
                    Some((4, 7, 1)),
                    "Greylisted, try again later",
                ));
            }
            if verdict.accepts() {
                self.to.push(address);
            }
        }
        self.recipients += u64::from(verdict.accepts());
        verdict
    }

    pub(crate) fn data(&mut self) -> Verdict {
        self.content = self.shared.ledger.as_ref().map(Ledger::gatherer);
        self.content_has_begun = false;
        self.judge_recipients(Stage::Data)
    }

    pub(crate) fn content(&mut self, text: &[u8]) -> Verdict {
        if let Some(content) = &mut self.content {
            content.take(text);
        }
        if std::mem::replace(&mut self.content_has_begun, true) {
            return Verdict::Accept;
        }
        self.judge_recipients(Stage::Content)
    }

    /// The whole message is there: takes responsibility for it, if the verdict is to accept.
    pub(crate) fn end(&mut self, octets: u64) -> Verdict {
        let verdict = self.judge_recipients(Stage::Final);
        if !verdict.accepts() {
            return verdict;
        }
        if let Some((ledger, content)) = self.shared.ledger.as_ref().zip(self.content.take()) {
            let about = Circumstances {
                connection: self.number,
                ehlo: self.ehlo.clone(),
                user: self.user.clone(),
                tls: self.is_encrypted,
                from: self
                    .from
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                to: self.to.iter().map(ToString::to_string).collect(),
                reply_lost: matches!(verdict, Verdict::Act(_, Action::LoseReply)),
            };
            if let Err(error) = ledger.commit(content, about) {
                let text = format!("The message could not be kept: {error}");
                return Verdict::Reject(Reply::fixed(451, Some((4, 3, 0)), &text));
            }
        }
        self.batch.messages += 1;
        self.batch.recipients += self.recipients;
        self.batch.bytes += octets;
        verdict
    }

    /// A command or a content was refused.
    pub(crate) fn refused(&mut self) {
        self.batch.refused += 1;
    }

    /// The machine refused the content.
    pub(crate) fn content_refused(&mut self) {
        self.content = None;
        self.refused();
    }

    /// Adds what the last octets brought to the sink's counters.
    pub(crate) fn account(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.refused > 0 {
            self.shared.stats.refuse(batch.refused);
        }
        if batch.messages > 0 {
            self.messages += batch.messages;
            self.shared
                .stats
                .add(batch.messages, batch.recipients, batch.bytes);
        }
    }

    fn judge_recipients(&mut self, at: Stage) -> Verdict {
        let to = std::mem::take(&mut self.to);
        let verdict = self.judge(at, &to);
        self.to = to;
        verdict
    }

    fn judge(&mut self, at: Stage, addresses: &[Address]) -> Verdict {
        match self.shared.director.judge(at, addresses, &mut self.dice) {
            None => Verdict::Accept,
            Some((delay, action)) => Verdict::Act(delay, action.clone()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.account();
        self.shared.stats.close(self.messages);
    }
}

impl Verdict {
    /// Whether the sink goes on as if nothing were wrong.
    fn accepts(&self) -> bool {
        matches!(
            self,
            Self::Accept | Self::Act(_, Action::Continue | Action::LoseReply)
        )
    }
}
