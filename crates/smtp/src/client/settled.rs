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

/// When each step of a transaction ended, on the driver's clock. Microseconds after it was begun and at
/// most 71 minutes, since so many may be unanswered at once that their size counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    begun: Duration,
    after_us: [u32; 4],
}

/// A step that is marked.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Mail,
    Rcpt,
    Content,
    End,
}

const NOT_REACHED: u32 = u32::MAX;

impl Marks {
    pub(super) fn new(begun: Duration) -> Self {
        Self {
            begun,
            after_us: [NOT_REACHED; 4],
        }
    }

    pub(super) fn set(&mut self, mark: Mark, now: Duration) {
        let after_us = now.saturating_sub(self.begun).as_micros();
        self.after_us[mark as usize] = u32::try_from(after_us)
            .unwrap_or(NOT_REACHED)
            .min(NOT_REACHED - 1);
    }

    pub(super) fn unset(&mut self, mark: Mark) {
        self.after_us[mark as usize] = NOT_REACHED;
    }

    fn get(&self, mark: Mark) -> Option<Duration> {
        let after_us = Some(self.after_us[mark as usize]).filter(|us| *us != NOT_REACHED)?;
        Some(self.begun + Duration::from_micros(after_us.into()))
    }

    /// The transaction was begun.
    #[must_use]
    pub fn begun(&self) -> Duration {
        self.begun
    }

    /// Reply to MAIL; `None` where it was not reached. So for the others.
    #[must_use]
    pub fn mail(&self) -> Option<Duration> {
        self.get(Mark::Mail)
    }

    /// Reply to the last RCPT.
    #[must_use]
    pub fn rcpt(&self) -> Option<Duration> {
        self.get(Mark::Rcpt)
    }

    /// The last byte of content was written.
    #[must_use]
    pub fn content(&self) -> Option<Duration> {
        self.get(Mark::Content)
    }

    /// Reply to the content.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        self.get(Mark::End)
    }
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
