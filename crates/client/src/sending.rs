//! From one `send` to its outcome: splitting by what a server takes, and retries.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flow::retry::Decision;
use smtp::{Content, Envelope};
use tokio::sync::oneshot::{self, error::RecvError};

use crate::failure::{Cause, Failure};
use crate::job::{Claim, Job, Outcome, Place, Split};
use crate::report::{Report, Timings};
use crate::shared::{Retries, Shared, gone};

/// Where a message's content can be had once more: the pool keeps none that is written. Small, as one is
/// kept for each message; a clone leads to the same content.
pub trait Recall: Clone + Send + Sync + Unpin {
    /// The same content as before; what it would send again otherwise fails so.
    fn recall(&self) -> impl Future<Output = Result<Content, Failure>> + Send;
}

/// Kept by the caller.
impl Recall for Content {
    async fn recall(&self) -> Result<Content, Failure> {
        Ok(self.clone())
    }
}

/// A message on its way: what is kept of it until the pool says how it went, see
/// [`Pool::send_recalling`](crate::Pool::send_recalling). A struct and not an `async fn`, since so many
/// may wait at once that their size counts.
///
/// # Cancel safety
/// That of [`Pool::send`](crate::Pool::send).
#[must_use]
pub struct Sending<'a, R> {
    shared: Arc<Shared>,
    envelope: Arc<Envelope>,
    /// Until it goes on.
    original: Option<R>,
    state: State<'a>,
}

enum State<'a> {
    /// For the first connection that takes it.
    Waits(oneshot::Receiver<Outcome>),
    /// All that takes more than that; it has the original.
    GoesOn(Pin<Box<dyn Future<Output = Report> + Send + 'a>>),
}

impl<R> fmt::Debug for Sending<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending")
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

impl<'a, R: Recall + 'a> Sending<'a, R> {
    /// Lines a message up, once for all its recipients where the server takes so many.
    ///
    /// * `deadline`: when it gives up waiting for a connection, on the pool's clock.
    pub(crate) fn begin(
        shared: Arc<Shared>,
        envelope: Arc<Envelope>,
        content: Content,
        deadline: Duration,
        original: R,
    ) -> Self {
        let mut original = Some(original);
        let recipients_max = shared.recipients_max.load(Ordering::Relaxed);
        let is_too_large = envelope.recipients().len() > recipients_max;
        let state = if let Some(original) = original.take_if(|_| is_too_large) {
            let (shared, envelope) = (Arc::clone(&shared), Arc::clone(&envelope));
            State::GoesOn(Box::pin(async move {
                let sent = shared.send_split(&envelope, content, deadline, &original);
                sent.await
            }))
        } else {
            let place = Place {
                queued_at: shared.now(),
                deadline,
                returns: 0,
                refused_as: None,
            };
            State::Waits(shared.line_up(&envelope, content, place))
        };
        Self {
            shared,
            envelope,
            original,
            state,
        }
    }
}

impl<'a, R: Recall + 'a> Future for Sending<'a, R> {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Report> {
        let this = &mut *self;
        if let State::Waits(hears) = &mut this.state {
            let outcome = match ready!(Pin::new(hears).poll(context)) {
                Ok(Outcome::Done(report)) => return Poll::Ready(*report),
                other => other,
            };
            if let Some(original) = this.original.take() {
                let (shared, envelope) = (Arc::clone(&this.shared), Arc::clone(&this.envelope));
                this.state = State::GoesOn(Box::pin(async move {
                    shared.go_on(&envelope, outcome, &original).await
                }));
            }
        }
        match &mut this.state {
            State::GoesOn(rest) => rest.as_mut().poll(context),
            State::Waits(_) => Poll::Pending,
        }
    }
}

impl Shared {
    /// What was not settled by the first connection.
    async fn go_on(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        mut outcome: Result<Outcome, RecvError>,
        original: &impl Recall,
    ) -> Report {
        let all = |failure| {
            let results = vec![Err(failure); envelope.recipients().len()];
            Report::new(results, Timings::default())
        };
        loop {
            match outcome {
                Ok(Outcome::Done(report)) => return *report,
                Ok(Outcome::Split(split)) => {
                    let Split {
                        recipients_max,
                        content,
                        deadline,
                    } = *split;
                    self.recipients_max
                        .fetch_min(recipients_max.max(1), Ordering::Relaxed);
                    let sent = self.send_split(envelope, content, deadline, original);
                    return sent.await;
                }
                Ok(Outcome::Again(place)) => match original.recall().await {
                    Ok(content) => outcome = self.line_up(envelope, content, *place).await,
                    Err(failure) => return all(failure),
                },
                Err(_) => return all(gone()),
            }
        }
    }

    /// In transactions of what the server takes.
    async fn send_split(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: Content,
        deadline: Duration,
        original: &impl Recall,
    ) -> Report {
        let recipients = envelope.recipients().len();
        let recipients_max = self.recipients_max.load(Ordering::Relaxed);
        let indexes: Vec<usize> = (0..recipients).collect();
        let parts = indexes
            .chunks(recipients_max)
            .filter_map(|part| envelope.narrowed(part))
            .map(|part| (Arc::new(part), content.clone()));
        // A server that takes fewer than any before it splits a part once more.
        let sends = parts.map(|(part, content)| async move {
            Sending::begin(Arc::clone(self), part, content, deadline, original.clone()).await
        });
        let sends = futures_util::future::join_all(sends);
        drop(content);
        let mut results = Vec::with_capacity(recipients);
        let mut timings = Timings::default();
        for part in sends.await {
            results.extend(part.results);
            timings = part.timings;
        }
        Report::new(results, timings)
    }

    /// One transaction, to be begun by the next connection that can; tells how it went.
    fn line_up(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: Content,
        place: Place,
    ) -> oneshot::Receiver<Outcome> {
        let (outcome, hears) = oneshot::channel();
        let claim = Claim {
            envelope: Arc::clone(envelope),
            outcome,
            place,
        };
        let now = self.now();
        self.decide(now, |dispatch| dispatch.submit(Job { content, claim }, now));
        hears
    }

    /// Tries those again that failed for now, as the policy and the budget allow.
    pub(crate) async fn send_again(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: Content,
        retries: &Retries,
        mut report: Report,
    ) -> Report {
        while let Some((wait, again)) = self.plan_retry(retries, &report) {
            tokio::time::sleep(wait).await;
            let Some(narrowed) = envelope.narrowed(&again) else {
                break;
            };
            let (shared, narrowed) = (Arc::clone(self), Arc::new(narrowed));
            let deadline = self.now() + self.config.wait_max;
            let retried =
                Sending::begin(shared, narrowed, content.clone(), deadline, content.clone());
            let retried = retried.await;
            for (index, result) in again.into_iter().zip(retried.results) {
                report.results[index] = result;
            }
            report.timings = retried.timings;
            report.attempts += 1;
        }
        report
    }

    /// How long to wait, and which recipients to try again; `None` when there is nothing to do.
    fn plan_retry(&self, retries: &Retries, report: &Report) -> Option<(Duration, Vec<usize>)> {
        let now = self.now();
        let mut retry = retries
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut wait = Duration::ZERO;
        let mut again = Vec::new();
        for (index, result) in report.results.iter().enumerate() {
            let Err(failure) = result else { continue };
            if matches!(failure.cause, Cause::PoolClosed | Cause::Deadline) {
                continue;
            }
            let decision = retries
                .policy
                .decide(failure.class(), report.attempts, &mut retry.rng);
            if let Decision::RetryAfter(delay) = decision {
                wait = wait.max(delay);
                again.push(index);
            }
        }
        if again.is_empty() {
            retry.budget.deposit(now);
            return None;
        }
        retry.budget.withdraw(now).then_some((wait, again))
    }
}
