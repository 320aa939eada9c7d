//! What the edge makes of a session: who the client is, what it may, and the message it is at.
//!
//! Each event of the machine has one function here that says yes or gives the reply that says no.
//! Nothing here reads, writes or waits.

use std::net::IpAddr;
use std::sync::Arc;

use engine::{Options, Submission};
use smtp::command::MailParameters;
use smtp::{Envelope, Recipient, Reply, ReversePath};
use store::MessageId;

use super::acceptor::{Acceptor, Once};
use super::clients::Entered;
use super::counters::{count, uncount};
use super::edge::{Current, Shared};
use super::gather::{About, Bounds, Gatherer};
use super::header::Trace;
use super::roster::{Phase, Tick};
use crate::auth::{PasswordError, Principal};

/// AUTH commands that may fail on one connection.
const AUTH_FAILURES_MAX: u32 = 3;
/// Octets kept of what a client calls itself.
const NAME_BYTES_MAX: usize = 255;

/// One client's session.
pub(crate) struct Session<A: Acceptor> {
    pub(crate) shared: Arc<Shared<A>>,
    pub(crate) current: Arc<Current>,
    client: IpAddr,
    /// The place of the client's address among all.
    origin: Entered,
    /// Who it is; a stranger while nobody.
    who: Option<Arc<str>>,
    /// Its tenant's place among all.
    tenant: Option<Entered>,
    authenticated: bool,
    auth_failures: u32,
    encrypted: bool,
    extended: bool,
    /// What it calls itself.
    name: Box<str>,
    open: Option<Box<Open>>,
}

/// The open transaction.
struct Open {
    reverse_path: ReversePath,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    content: Option<Incoming>,
}

/// Its content.
struct Incoming {
    id: MessageId,
    since: Tick,
    octets: u64,
    gatherer: Gatherer,
}

impl<A: Acceptor> Session<A> {
    pub(crate) fn new(
        shared: Arc<Shared<A>>,
        current: Arc<Current>,
        client: IpAddr,
        origin: Entered,
    ) -> Self {
        let mut session = Self {
            client,
            origin,
            who: None,
            tenant: None,
            authenticated: false,
            auth_failures: 0,
            encrypted: false,
            extended: false,
            name: Box::default(),
            open: None,
            shared,
            current,
        };
        count(&session.shared.counters.connections_open);
        count(&session.shared.counters.strangers_open);
        session.identify_by_address();
        session
    }

    fn identify_by_address(&mut self) {
        if let Some(principal) = self.shared.access.by_address(self.client) {
            self.identify(&principal);
        }
    }

    fn identify(&mut self, principal: &Principal) {
        if self.who.is_none() {
            uncount(&self.shared.counters.strangers_open);
        }
        let tenant = Arc::clone(&principal.tenant);
        self.tenant = Some(self.shared.tenants.enter(Arc::clone(&tenant)));
        self.who = Some(tenant);
    }

    fn forget(&mut self) {
        self.tenant = None;
        if self.who.take().is_some() {
            count(&self.shared.counters.strangers_open);
        }
    }

    pub(crate) fn is_stranger(&self) -> bool {
        self.who.is_none()
    }

    /// Whether something is under way that a drain lets end.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// By when the client must have got something done.
    pub(crate) fn due(&self, stirred: Tick, began: Tick) -> Tick {
        let limits = &self.current.settings.limits;
        let idle = stirred.after(limits.idle);
        let content = self.open.as_ref().and_then(|open| open.content.as_ref());
        if let Some(content) = content {
            let seconds = content.octets / limits.content_bytes_per_s_min.max(1);
            let whole = limits.content + std::time::Duration::from_secs(seconds);
            return idle.min(content.since.after(whole));
        }
        match self.is_stranger() {
            true => idle.min(began.after(limits.login)),
            false => idle,
        }
    }

    /// TLS is up: what was said before it does not count (RFC 3207 §4.2).
    pub(crate) fn encrypted(&mut self) {
        self.encrypted = true;
        self.open = None;
        self.name = Box::default();
        if std::mem::take(&mut self.authenticated) {
            self.forget();
            self.identify_by_address();
        }
    }

    /// Whether there is room for another connection of this client.
    pub(crate) fn has_room(&self) -> Result<(), Reply> {
        let limits = &self.current.settings.limits;
        let tenant_max = limits.tenant_connections_max.unwrap_or(u32::MAX);
        let is_over = match &self.tenant {
            Some(tenant) => tenant.connections > tenant_max,
            None => self.origin.connections > limits.stranger_connections_max,
        };
        match is_over {
            true => Err(Reply::fixed(
                421,
                Some((4, 7, 0)),
                "Too many connections from you, try again later",
            )),
            false => Ok(()),
        }
    }

    pub(crate) fn hello(&mut self, name: &str, extended: bool) {
        self.open = None;
        self.extended = extended;
        let len = name.floor_char_boundary(NAME_BYTES_MAX);
        self.name = name[..len].into();
    }

    /// Whether AUTH is worth an answer.
    pub(crate) fn auth_allowed(&self) -> Result<(), Reply> {
        let failures_max = self.current.settings.limits.auth_failures_max;
        let now_ns = self.shared.roster.now().nanos();
        match self.origin.has_failed_too_often(now_ns, failures_max) {
            true => Err(Reply::fixed(
                421,
                Some((4, 7, 0)),
                "Too many failed logins from you, try again later",
            )),
            false => Ok(()),
        }
    }

    /// What was found out about the credentials of `user`.
    pub(crate) fn auth(
        &mut self,
        user: &str,
        result: Result<Principal, PasswordError>,
    ) -> Result<(), Reply> {
        match result {
            Ok(principal) => {
                count(&self.shared.counters.auths);
                self.identify(&principal);
                self.authenticated = true;
                self.has_room()
            }
            Err(PasswordError::Busy) => Err(Reply::fixed(
                454,
                Some((4, 7, 0)),
                "Too many logins at this moment, try again later",
            )),
            Err(PasswordError::Wrong) => {
                count(&self.shared.counters.auths_failed);
                // A name that nobody has may be a password, put into the wrong field.
                let user = if self.shared.access.has_user(user) {
                    user
                } else {
                    "unknown"
                };
                tracing::warn!(client = %self.client, user, "a login failed");
                let failures_max = self.current.settings.limits.auth_failures_max;
                self.origin
                    .note_failure(self.shared.roster.now().nanos(), failures_max);
                self.auth_failures += 1;
                Err(match self.auth_failures >= AUTH_FAILURES_MAX {
                    true => Reply::fixed(421, Some((4, 7, 0)), "Too many failed logins"),
                    false => Reply::fixed(535, Some((5, 7, 8)), "Wrong user or password"),
                })
            }
        }
    }

    pub(crate) fn mail(
        &mut self,
        reverse_path: ReversePath,
        parameters: MailParameters,
    ) -> Result<(), Reply> {
        if self.shared.roster.phase() != Phase::Open {
            return Err(shutting_down());
        }
        let Some(tenant) = &self.who else {
            return Err(self.stranger());
        };
        let rate = self.current.settings.limits.address_messages_per_s_max;
        if let Some(per_s_max) = rate.filter(|_| !self.client.is_loopback())
            && !self.origin.note_message(self.shared.now_ns(), per_s_max)
        {
            return Err(Reply::fixed(
                451,
                Some((4, 7, 1)),
                "Too many messages a second from you, slow down",
            ));
        }
        self.shared.acceptor.check_tenant(tenant)?;
        self.open = Some(Box::new(Open {
            reverse_path,
            parameters,
            recipients: Vec::with_capacity(1),
            content: None,
        }));
        Ok(())
    }

    /// What a stranger is told who wants to send: how to become known, if there is a way.
    fn stranger(&self) -> Reply {
        let settings = &self.current.settings;
        let is_offered = self.encrypted || settings.auth_in_clear || self.client.is_loopback();
        let (code, enhanced, text) = match () {
            () if !self.shared.access.has_credentials() => (550, (5, 7, 1), "Relaying denied"),
            () if is_offered => (530, (5, 7, 0), "Authentication required"),
            () if self.shared.tls_config().is_some() => {
                (530, (5, 7, 0), "STARTTLS first, then AUTH")
            }
            () => (550, (5, 7, 1), "Relaying denied"),
        };
        Reply::fixed(code, Some(enhanced), text)
    }

    pub(crate) fn rcpt(&mut self, recipient: Recipient) -> Result<(), Reply> {
        let (Some(open), Some(tenant)) = (&mut self.open, &self.who) else {
            return Err(no_transaction());
        };
        self.shared
            .acceptor
            .check_recipient(tenant, &recipient.address)?;
        open.recipients.push(recipient);
        Ok(())
    }

    pub(crate) fn data(&mut self) -> Result<(), Reply> {
        let Some(open) = &mut self.open else {
            return Err(no_transaction());
        };
        if self.shared.budget.is_used_up() {
            return Err(Reply::fixed(
                452,
                Some((4, 3, 1)),
                "Too much mail is coming in, try again later",
            ));
        }
        let limits = &self.current.settings.limits;
        let bounds = Bounds {
            received_max: limits.received_max,
            header_bytes_max: limits.header_bytes_max,
        };
        let size_bytes = open.parameters.size_bytes.unwrap_or(0);
        open.content = Some(Incoming {
            id: self.shared.acceptor.next_id(),
            since: self.shared.roster.now(),
            octets: 0,
            gatherer: Gatherer::new(&self.shared.budget, bounds, size_bytes),
        });
        Ok(())
    }

    pub(crate) fn content(&mut self, text: &[u8]) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        if let Some(mut content) = open.content.take() {
            content.octets += text.len() as u64;
            content.gatherer.take(text, &self.about(&open, content.id));
            open.content = Some(content);
        }
        self.open = Some(open);
    }

    /// The whole message is there: hands it over.
    pub(crate) fn end(&mut self) -> Result<(A::Pending, Taken), Reply> {
        let (Some(mut open), Some(tenant)) = (self.open.take(), self.who.clone()) else {
            return Err(no_transaction());
        };
        let Some(content) = open.content.take() else {
            return Err(no_transaction());
        };
        let gathered = content.gatherer.finish(&self.about(&open, content.id))?;
        let Open {
            reverse_path,
            parameters,
            recipients,
            ..
        } = *open;
        let taken = Taken {
            recipients: recipients.len() as u64,
            bytes: gathered.content.len() as u64,
        };
        let Ok(mut envelope) = Envelope::new(reverse_path, recipients) else {
            return Err(no_transaction());
        };
        if let Some(ret) = parameters.ret {
            envelope = envelope.with_ret(ret);
        }
        if let Some(id) = parameters.id {
            envelope = envelope.with_id(id);
        }
        let wishes = gathered.wishes;
        let options = Options {
            id: Some(content.id),
            tags: wishes.tags.into(),
            subject: wishes.subject,
            priority: wishes.priority,
            send_at: wishes.send_at,
            ..Options::default()
        };
        let submission = Submission {
            tenant,
            envelope: Arc::new(envelope),
            content: gathered.content,
            options,
        };
        let once = wishes.idempotency_key.zip(gathered.fingerprint);
        let once = once.map(|(key, fingerprint)| Once { key, fingerprint });
        Ok((self.shared.acceptor.begin(submission, once)?, taken))
    }

    /// The transaction is over, whatever became of it.
    pub(crate) fn reset(&mut self) {
        self.open = None;
    }

    fn about<'a>(&'a self, open: &'a Open, id: MessageId) -> About<'a> {
        let settings = &self.current.settings;
        About {
            trace: Trace {
                host: settings.host.as_str(),
                client: settings.shows_client.then_some((&*self.name, self.client)),
                with: self.protocol(open.parameters.smtputf8),
                id,
                at: self.shared.acceptor.now(),
            },
            reverse_path: open.reverse_path.address().map_or("", |it| it.as_str()),
            recipients: &open.recipients,
        }
    }

    /// RFC 3848, RFC 6531 §4.3.
    fn protocol(&self, smtputf8: bool) -> &'static str {
        match (self.extended, smtputf8, self.encrypted, self.authenticated) {
            (false, ..) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, false) => "ESMTPS",
            (true, false, true, true) => "ESMTPSA",
            (true, true, false, false) => "UTF8SMTP",
            (true, true, false, true) => "UTF8SMTPA",
            (true, true, true, false) => "UTF8SMTPS",
            (true, true, true, true) => "UTF8SMTPSA",
        }
    }
}

impl<A: Acceptor> Drop for Session<A> {
    fn drop(&mut self) {
        uncount(&self.shared.counters.connections_open);
        if self.who.is_none() {
            uncount(&self.shared.counters.strangers_open);
        }
    }
}

/// What is counted once a message is durable.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) recipients: u64,
    pub(crate) bytes: u64,
}

/// We are going down; the client shall come again elsewhere or later.
pub(crate) fn shutting_down() -> Reply {
    Reply::fixed(421, Some((4, 3, 2)), "Shutting down, try again later")
}

/// The machine does not ask for this outside a transaction.
fn no_transaction() -> Reply {
    Reply::fixed(503, Some((5, 5, 1)), "MAIL first")
}
