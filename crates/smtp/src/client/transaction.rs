//! One transaction on its way through a session.

use std::time::Duration;

use crate::content::Content;
use crate::reply::Reply;

use super::settled::{End, Marks, Settled, TransactionStage};

/// What a session knows of a transaction that was begun and is not settled. Small, as many may be
/// unanswered on each of many connections.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: u64,
    pub(super) stage: TransactionStage,
    pub(super) by_bdat: bool,
    pub(super) content_len: usize,
    pub(super) recipients: u32,
    pub(super) recipients_replied: u32,
    objections: Option<Box<Objections>>,
    pub(super) marks: Marks,
}

/// What the server has against it.
#[derive(Debug, Default)]
struct Objections {
    refused: Vec<(usize, Reply)>,
    /// The first reply that settles it against everybody: to MAIL or DATA.
    verdict: Option<(TransactionStage, Reply)>,
}

impl Transaction {
    pub(super) fn new(id: u64, recipients: usize, content_len: usize, now: Duration) -> Self {
        Self {
            id,
            stage: TransactionStage::Mail,
            by_bdat: false,
            content_len,
            recipients: u32::try_from(recipients).unwrap_or(u32::MAX),
            recipients_replied: 0,
            objections: None,
            marks: Marks::new(now),
        }
    }

    /// The recipient whose turn it is was refused by itself.
    pub(super) fn refuse(&mut self, index: usize, reply: Reply) {
        self.objections().refused.push((index, reply));
    }

    /// A reply settles it against everybody, unless one did before.
    pub(super) fn object(&mut self, stage: TransactionStage, reply: Reply) {
        self.objections().verdict.get_or_insert((stage, reply));
    }

    fn objections(&mut self) -> &mut Objections {
        self.objections.get_or_insert_default()
    }

    pub(super) fn has_verdict(&self) -> bool {
        self.objections
            .as_ref()
            .is_some_and(|objections| objections.verdict.is_some())
    }

    pub(super) fn all_refused(&self) -> bool {
        let refused = self.objections.as_ref().map_or(0, |o| o.refused.len());
        refused == self.recipients as usize
    }

    /// Still waiting for leave to write content.
    pub(super) fn awaits_go_ahead(&self) -> bool {
        !self.by_bdat && self.stage <= TransactionStage::Data
    }

    /// The step whose reply comes next; content that is not wholly written is a step of its own.
    pub(super) fn step(&self) -> TransactionStage {
        match self.stage {
            TransactionStage::Final if self.marks.content().is_none() => TransactionStage::Content,
            stage => stage,
        }
    }

    /// How it ends by what was said against it, or else by the reply to its content.
    ///
    /// * `content`: where it was not written to its end.
    pub(super) fn answered(self, reply: Option<Reply>, content: Option<Content>) -> Settled {
        self.settle(content, |_| reply.map_or(End::NotSent, End::Final))
    }

    /// How it ends when no reply will come any more.
    pub(super) fn cut_off(self, content: Option<Content>) -> Settled {
        self.settle(content, |marks| match marks.content() {
            Some(_) => End::Unknown,
            None => End::NotSent,
        })
    }

    fn settle(
        self,
        content: Option<Content>,
        unless_refused: impl FnOnce(&Marks) -> End,
    ) -> Settled {
        let (stage, all_refused) = (self.step(), self.all_refused());
        let Objections { refused, verdict } =
            self.objections.map(|boxed| *boxed).unwrap_or_default();
        let end = match verdict {
            Some((stage, reply)) => End::Refused(stage, reply),
            None if all_refused => End::AllRefused,
            None => unless_refused(&self.marks),
        };
        Settled {
            id: self.id,
            stage,
            refused,
            end,
            marks: self.marks,
            content,
        }
    }
}
