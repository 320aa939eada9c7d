//! One message on its way through the pool.

use std::sync::Arc;
use std::time::Duration;

use smtp::client::{End, Marks, Settled, TransactionStage};
use smtp::{Content, Envelope, Reply};
use tokio::sync::oneshot;

use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::report::{Accepted, Report, Timings};

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) content: Content,
    pub(crate) claim: Claim,
}

/// What is kept of a message while its content is being written, and after: the content is not.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) envelope: Arc<Envelope>,
    /// Where the outcome goes; closed when the caller has dropped its future.
    pub(crate) outcome: oneshot::Sender<Outcome>,
    pub(crate) place: Place,
}

/// A message's place in the queue, which it keeps when it comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// On the pool's clock.
    pub(crate) queued_at: Duration,
    /// When it gives up waiting, on the pool's clock.
    pub(crate) deadline: Duration,
    /// How often its connection ended before it could have been taken, and had done nothing.
    pub(crate) returns: u8,
    /// The number of the message that the connection refused by 421 which it came back from.
    pub(crate) refused_as: Option<u64>,
}

/// What a connection has to say of a job. Small, since room for it is kept for each message that waits
/// for its reply.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Box<Report>),
    Split(Box<Split>),
    /// It was written and cannot have been taken, and is to be sent by another connection: its
    /// content is needed once more.
    Again(Box<Place>),
}

/// Nothing was sent: this server takes no more recipients than this in one transaction.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) recipients_max: usize,
    pub(crate) content: Content,
    /// On the pool's clock.
    pub(crate) deadline: Duration,
}

impl Claim {
    /// The same failure for every recipient.
    pub(crate) fn fail(self, failure: &Failure, timings: Timings) {
        let results = vec![Err(failure.clone()); self.envelope.recipients().len()];
        self.finish(Outcome::Done(Box::new(Report::new(results, timings))));
    }

    /// The caller may have gone; then nobody wants to know.
    pub(crate) fn finish(self, outcome: Outcome) {
        let _ = self.outcome.send(outcome);
    }
}

/// Spreads what became of a transaction over its recipients.
pub(crate) fn results(
    settled: Settled,
    recipients: usize,
    endpoint: &Arc<str>,
    offers_dsn: bool,
    lost: &Cause,
) -> Vec<Result<Accepted, Failure>> {
    let with_endpoint = |failure: Failure| Failure {
        endpoint: Some(endpoint.clone()),
        ..failure
    };
    let reached = stage_of(settled.stage);
    let for_others: Result<Accepted, Failure> = match settled.end {
        End::Final(reply) if reply.code().is_completed() => Ok(Accepted {
            reply,
            endpoint: Arc::clone(endpoint),
            offers_dsn,
        }),
        End::Final(reply) => Err(refusal(Stage::Final, Scope::Message, reply)),
        End::Refused(stage, reply) => Err(refusal(stage_of(stage), Scope::Message, reply)),
        End::AllRefused => Err(lost_failure(Stage::Rcpt, Kind::Transient, lost)),
        End::NotSent => Err(lost_failure(reached, Kind::Transient, lost)),
        End::Unknown => Err(lost_failure(reached, Kind::Unknown, lost)),
    };
    let for_others = for_others.map_err(with_endpoint);
    if recipients == 1 && settled.refused.is_empty() {
        return vec![for_others];
    }
    let mut results = vec![for_others; recipients];
    for (index, reply) in settled.refused {
        results[index] = Err(with_endpoint(refusal(Stage::Rcpt, Scope::Recipient, reply)));
    }
    results
}

/// 421 speaks of the connection, everything else of `scope`.
fn refusal(stage: Stage, scope: Scope, reply: Reply) -> Failure {
    let scope = if reply.code().get() == 421 {
        Scope::Connection
    } else {
        scope
    };
    Failure::from_reply(stage, scope, reply)
}

fn lost_failure(stage: Stage, kind: Kind, cause: &Cause) -> Failure {
    Failure::new(stage, Scope::Connection, kind, cause.clone())
}

pub(crate) fn stage_of(stage: TransactionStage) -> Stage {
    match stage {
        TransactionStage::Rset | TransactionStage::Mail => Stage::Mail,
        TransactionStage::Rcpt => Stage::Rcpt,
        TransactionStage::Data => Stage::Data,
        TransactionStage::Content => Stage::Content,
        TransactionStage::Final => Stage::Final,
    }
}

/// Fills in the stages of a transaction; those that were not reached stay zero.
pub(crate) fn add_marks(timings: &mut Timings, marks: &Marks) {
    let mut from = marks.begun();
    let mut until = |mark: Option<Duration>| {
        let Some(mark) = mark else {
            return Duration::ZERO;
        };
        let spent = mark.saturating_sub(from);
        from = from.max(mark);
        spent
    };
    // What came in one read with the final reply was not waited for by itself.
    let apart = |mark: Option<Duration>| mark.filter(|_| mark != marks.end());
    timings.mail = until(apart(marks.mail()));
    timings.rcpt = until(apart(marks.rcpt()));
    timings.content = until(marks.content());
    timings.final_reply = until(marks.end());
}
