//! How commands are grouped on the wire, and why a transaction or a session cannot go on.

use crate::extension::Extensions;
use crate::reply::{Reply, ReplyError};

/// How commands are grouped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One command, one reply.
    Lockstep,
    /// One transaction's commands in a group.
    Pipelined,
    /// A transaction's content and the next one's commands in a group.
    Overlapped,
    /// Whole transactions by BDAT, several of them unanswered.
    Windowed {
        /// Unanswered transactions, at least 1.
        transactions_max: u8,
        /// Octets of unanswered content; one transaction is always allowed.
        bytes_max: usize,
    },
}

impl Mode {
    /// Unanswered content in a window unless set otherwise: 256 KiB.
    pub const WINDOW_BYTES_MAX: usize = 256 * 1024;

    /// This mode, or the best that the server's extensions allow below it.
    #[must_use]
    pub fn negotiated(self, extensions: &Extensions) -> Self {
        match self {
            _ if !extensions.pipelining => Self::Lockstep,
            Self::Windowed { .. } if !extensions.chunking => Self::Overlapped,
            mode => mode,
        }
    }
}

/// Why a transaction was not begun. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The content has octets over 127.
    #[error("the content needs 8BITMIME and the server does not offer it")]
    No8BitMime,
    /// An address or header has UTF-8 (RFC 6531 §3.2).
    #[error("an address or the header needs SMTPUTF8 and the server does not offer it")]
    NoSmtpUtf8,
    /// The content is longer than the server's SIZE (RFC 1870 §6.1).
    #[error("the content has {size_bytes} octets and the server takes {size_bytes_max}")]
    TooLarge {
        /// Ours.
        size_bytes: u64,
        /// Theirs.
        size_bytes_max: u64,
    },
    /// The server's LIMITS RCPTMAX (RFC 9422) is lower than the number of recipients.
    #[error("the server takes {recipients_max} recipients in a transaction")]
    TooManyRecipients {
        /// Theirs.
        recipients_max: u32,
    },
    /// [`Session::may_begin`](super::Session::may_begin) was not asked, or said no.
    #[error("the session cannot begin a transaction now")]
    NotNow,
}

/// What the server did that SMTP does not allow. The session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Not a reply.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply to nothing, or to something not yet written.
    #[error("the server sent a reply that nothing had asked for: {0}")]
    Unsolicited(Reply),
    /// A reply whose code has no meaning at its place.
    #[error("the server's reply makes no sense here: {0}")]
    Nonsense(Reply),
}
