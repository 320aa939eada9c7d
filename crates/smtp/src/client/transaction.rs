//! One transaction on its way through a session.

use crate::content::Content;
use crate::reply::Reply;

use super::settled::{End, Marks, Settled, TransactionStage};

/// What a session knows of a transaction that was begun and is not settled.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: u64,
    pub(super) stage: TransactionStage,
    /// Content that is not in `writing`: not yet, or no longer, as nothing more is written.
    pub(super) content: Option<Content>,
    pub(super) content_len: usize,
    pub(super) by_bdat: bool,
    pub(super) recipients: usize,
    pub(super) recipients_replied: usize,
    pub(super) refused: Vec<(usize, Reply)>,
    /// The first reply that settles it against everybody: to MAIL or DATA.
    pub(super) verdict: Option<(TransactionStage, Reply)>,
    pub(super) marks: Marks,
}

impl Transaction {
    pub(super) fn all_refused(&self) -> bool {
        self.refused.len() == self.recipients
    }

    /// Still waiting for leave to write content.
    pub(super) fn awaits_go_ahead(&self) -> bool {
        !self.by_bdat && self.stage <= TransactionStage::Data
    }

    /// The step whose reply comes next; content that is not wholly written is a step of its own.
    pub(super) fn step(&self) -> TransactionStage {
        match self.stage {
            TransactionStage::Final if self.marks.content.is_none() => TransactionStage::Content,
            stage => stage,
        }
    }

    pub(super) fn settle(self, end: End) -> Settled {
        Settled {
            id: self.id,
            stage: self.step(),
            refused: self.refused,
            end,
            marks: self.marks,
            content: self.content,
        }
    }

    /// How it ends when no reply will come any more.
    pub(super) fn cut_off(self) -> Settled {
        let end = match (&self.verdict, self.marks.content) {
            (Some((stage, reply)), _) => End::Refused(*stage, reply.clone()),
            (None, _) if self.all_refused() => End::AllRefused,
            (None, Some(_)) => End::Unknown,
            (None, None) => End::NotSent,
        };
        self.settle(end)
    }
}
