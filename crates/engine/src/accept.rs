//! Taking responsibility for a message, or saying why not.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smtp::{Address, Reply};
use store::{MessageId, Time};

use crate::intake::Taking;

/// The message is durable and ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: MessageId,
    /// When.
    pub accepted_at: Time,
    /// Those of its recipients that get nothing, for they are on the tenant's suppression list.
    pub suppressed: Vec<Address>,
}

/// Why a message was not taken. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The disk is full or nearly so.
    #[error("no room on disk; try again later")]
    Full,
    /// The machine is at its limit.
    #[error("too busy ({what}); try again in {retry_after:?}")]
    Busy {
        /// Which resource: `cpu`, `memory`, `journal`, `disk`.
        what: &'static str,
        /// When it makes sense to come again.
        retry_after: Duration,
    },
    /// The tenant sends faster than it may.
    #[error("the tenant's rate is used up; try again in {retry_after:?}")]
    Rate {
        /// When the next message may come.
        retry_after: Duration,
    },
    /// The tenant has as many messages as it may.
    #[error("the tenant's quota is used up; try again in {retry_after:?}")]
    Quota {
        /// When some of it comes back.
        retry_after: Duration,
    },
    /// The operator has stopped this tenant's submissions.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// No route leads to this recipient.
    #[error("no route for {recipient}")]
    NoRoute {
        /// The first such recipient.
        recipient: Address,
    },
    /// The content is over the limit.
    #[error("the message has {size_bytes} octets, at most {size_bytes_max} are taken")]
    TooLarge {
        /// Octets of content.
        size_bytes: usize,
        /// The limit.
        size_bytes_max: usize,
    },
    /// Too many recipients.
    #[error("the message has {recipients} recipients, at most {recipients_max} are taken")]
    TooManyRecipients {
        /// How many it has.
        recipients: usize,
        /// The limit.
        recipients_max: usize,
    },
    /// `send_at` lies too far ahead.
    #[error("a message may be scheduled at most {ahead_max:?} ahead")]
    TooFarAhead {
        /// The limit.
        ahead_max: Duration,
    },
    /// The message could not be signed.
    #[error("the message cannot be signed: {0}")]
    Signing(String),
    /// The engine is going down.
    #[error("shutting down")]
    Draining,
    /// The journal failed; nothing is accepted until a restart.
    #[error("the journal has failed; nothing is accepted until a restart")]
    Poisoned,
}

impl AcceptError {
    /// What an SMTP client is told (RFC 5321 §4.2, RFC 3463).
    #[must_use]
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self {
            Self::Full | Self::Busy { .. } => (452, (4, 3, 1)),
            Self::Rate { .. } => (450, (4, 7, 1)),
            Self::Quota { .. } => (452, (4, 2, 2)),
            Self::TenantSuspended => (550, (5, 7, 1)),
            Self::NoRoute { .. } => (550, (5, 7, 1)),
            Self::TooLarge { .. } => (552, (5, 3, 4)),
            Self::TooManyRecipients { .. } => (452, (4, 5, 3)),
            Self::TooFarAhead { .. } => (554, (5, 6, 0)),
            Self::Signing(_) => (451, (4, 3, 5)),
            Self::Draining => (451, (4, 3, 2)),
            Self::Poisoned => (451, (4, 3, 0)),
        };
        Reply::fixed(code, Some(enhanced), &self.to_string())
    }

    /// When it makes sense to come again; `None` where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. }
            | Self::Rate { retry_after }
            | Self::Quota { retry_after } => Some(*retry_after),
            Self::Full => Some(Duration::from_secs(30)),
            Self::Draining => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// A message on its way to the disk; resolves once it is durable, or is not taken.
///
/// # Cancel safety
/// Dropped, the message may or may not have been accepted; it is never half-written, and if it is
/// durable it is delivered.
#[must_use = "a message is accepted only when this says so"]
pub struct Pending(pub(crate) Taking);

impl Pending {
    /// Whether it would resolve at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

impl Future for Pending {
    type Output = Result<Accepted, AcceptError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
