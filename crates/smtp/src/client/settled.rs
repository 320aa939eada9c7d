//! What became of one transaction.

use std::time::Duration;

use crate::content::Content;
use crate::reply::Reply;

/// The step of a transaction whose reply is awaited, or was bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum TransactionStage {
    /// RSET before MAIL.
    Rset,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, until 354.
    Data,
    /// Content is being written.
    Content,
    /// The reply to the content.
    Final,
}

/// How a transaction ended, for those recipients that were not refused by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The server replied to the content; 2yz means it took responsibility (RFC 5321 §6.1).
    Final(Reply),
    /// The server refused earlier, so that no content was asked for, or none was taken.
    Refused(TransactionStage, Reply),
    /// Every recipient was refused.
    AllRefused,
    /// The connection ended before the end of the content was written: it cannot have been taken.
    NotSent,
    /// The whole content was written and no reply to it came (RFC 1047).
    Unknown,
}

/// When each step ended, on the driver's clock; `None` where it was not reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// The transaction was begun.
    pub begun: Duration,
    /// Reply to MAIL.
    pub mail: Option<Duration>,
    /// Reply to the last RCPT.
    pub rcpt: Option<Duration>,
    /// The last byte of content was written.
    pub content: Option<Duration>,
    /// Reply to the content.
    pub end: Option<Duration>,
}

/// The result of one transaction; there is exactly one for each that was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The number that [`begin`](super::Session::begin) gave.
    pub id: u64,
    /// Recipients refused by themselves: index in the envelope and the reply to RCPT.
    pub refused: Vec<(usize, Reply)>,
    /// What holds for the others.
    pub end: End,
    /// How far it had come.
    pub stage: TransactionStage,
    /// When.
    pub marks: Marks,
    /// The content, where it was not written to its end: what was is not kept.
    pub content: Option<Content>,
}
