//! What went wrong, where, for whom, and whether trying again makes sense.

use std::fmt;
use std::sync::Arc;

use flow::retry::ErrorClass;
use smtp::client::BeginError;
use smtp::reply::Severity;
use smtp::{Reply, ReplyCode};

/// The step of a delivery at which something happened, in the order of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for a connection or for the rate limit.
    Queue,
    /// Resolving the relay's name.
    Dns,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Tls,
    /// The server's first reply.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS command.
    StartTls,
    /// AUTH exchange.
    Auth,
    /// MAIL (and the RSET before it).
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, until its 354.
    Data,
    /// Writing the content.
    Content,
    /// The reply to the content.
    Final,
}

impl Stage {
    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Content => "content",
            Self::Final => "final",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a failure reaches: what else would fail the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Scope {
    /// This recipient only.
    Recipient,
    /// This message, to any recipient.
    Message,
    /// Whatever was on this connection; another may do better.
    Connection,
    /// This host, for every message.
    Endpoint,
    /// These credentials, at any host.
    Account,
}

impl Scope {
    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Connection => "connection",
            Self::Endpoint => "endpoint",
            Self::Account => "account",
        }
    }
}

/// What a failure means for the recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// Not delivered; trying again may succeed.
    Transient,
    /// Not delivered; trying again is pointless.
    Permanent,
    /// The content was written in full and no reply to it came: the server may have taken the
    /// message or not (RFC 1047). Trying again may deliver it twice.
    Unknown,
}

/// The cause itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server said so.
    #[error("the server replied {0}")]
    Reply(Reply),
    /// The operating system said so.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    /// Nothing came in the time set for the stage.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The name has no address.
    #[error("the name of the relay cannot be resolved: {0}")]
    Dns(Arc<std::io::Error>),
    /// TLS failed; certificates included.
    #[error("TLS: {0}")]
    Tls(Arc<std::io::Error>),
    /// What the server sent is not SMTP, or not in its order.
    #[error("{0}")]
    Protocol(String),
    /// We refused before a byte was written.
    #[error("{0}")]
    Local(String),
    /// The server does not offer what this message needs; nothing of it was written.
    #[error("{0}")]
    Unsupported(BeginError),
    /// No connection came free before the waiter's deadline.
    #[error("no connection came free in time")]
    Deadline,
    /// The pool was closed.
    #[error("the pool is closed")]
    PoolClosed,
}

/// Why one recipient did not get the message, as far as is known.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Failure {
    /// At which step.
    pub stage: Stage,
    /// How far it reaches.
    pub scope: Scope,
    /// Try again, give up, or find out.
    pub kind: Kind,
    /// `host:port` of the server, once one was chosen.
    pub endpoint: Option<Arc<str>>,
    /// What happened.
    #[source]
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.cause, self.stage)?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, " ({endpoint})")?;
        }
        if self.kind == Kind::Unknown {
            f.write_str(": whether the message was taken is unknown")?;
        }
        Ok(())
    }
}

impl Failure {
    /// At no endpoint yet.
    pub(crate) fn new(stage: Stage, scope: Scope, kind: Kind, cause: Cause) -> Self {
        Self {
            stage,
            scope,
            kind,
            endpoint: None,
            cause,
        }
    }

    /// The server's reply, where that is the cause.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match &self.cause {
            Cause::Reply(reply) => Some(reply),
            _ => None,
        }
    }

    /// The reply code, where a reply is the cause.
    #[must_use]
    pub fn code(&self) -> Option<ReplyCode> {
        self.reply().map(Reply::code)
    }

    /// A failure that a reply of 4yz or 5yz (or an unexpected one) stands for.
    #[must_use]
    pub(crate) fn from_reply(stage: Stage, scope: Scope, reply: Reply) -> Self {
        let kind = match reply.code().severity() {
            Severity::Permanent => Kind::Permanent,
            _ => Kind::Transient,
        };
        Self {
            stage,
            scope,
            kind,
            endpoint: None,
            cause: Cause::Reply(reply),
        }
    }

    /// Which retry curve it falls under.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match (self.kind, self.stage) {
            (Kind::Unknown, _) => ErrorClass::Unknown,
            (Kind::Permanent, _) => ErrorClass::Permanent,
            (Kind::Transient, _) if self.reply().is_some() => self.reply_class(),
            (Kind::Transient, Stage::Dns | Stage::Connect) => ErrorClass::Connect,
            (Kind::Transient, Stage::Tls | Stage::Greeting | Stage::Ehlo | Stage::Auth) => {
                ErrorClass::Handshake
            }
            (Kind::Transient, _) => ErrorClass::Transient,
        }
    }

    fn reply_class(&self) -> ErrorClass {
        let Some(reply) = self.reply() else {
            return ErrorClass::Transient;
        };
        let status = reply
            .enhanced()
            .map(|status| (status.subject(), status.detail()));
        match (reply.code().get(), status) {
            (452, Some((2, 2))) | (_, Some((2, 2))) => ErrorClass::MailboxFull,
            _ if speaks_of_greylisting(reply.text()) => ErrorClass::Greylisted,
            (421, _) | (_, Some((7, _))) => ErrorClass::Throttled,
            _ => ErrorClass::Transient,
        }
    }
}

fn speaks_of_greylisting(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("greylist") || text.contains("graylist")
}
