//! Where a session stands, and what the front of the input turned out to be.

use std::borrow::Cow;

use super::auth::{Credentials, Exchange};
use super::scan::{ContentRefusal, Scan};
use crate::address::ReversePath;
use crate::command::MailParameters;
use crate::envelope::Recipient;

/// A reply as it stands on the wire.
pub(super) type Wire = Cow<'static, [u8]>;

/// What waits for the caller's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
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
pub(super) enum Phase {
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
pub(super) struct Transaction {
    pub(super) recipients: u32,
    pub(super) smtputf8: bool,
    pub(super) chunks: Chunks,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    None,
    /// Some have been taken; the content so far.
    Begun(Scan),
    /// One was refused: RSET is due (RFC 3030 §2).
    Failed,
}

/// What was found at the front of the input, before it is bound to an [`Answer`](super::Answer).
pub(super) enum Found<'a> {
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
