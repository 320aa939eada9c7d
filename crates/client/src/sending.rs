//! From one `send` to its outcome: splitting by what a server takes, and retries.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flow::retry::{Decision, RetryPolicy};
use smtp::{Content, Envelope};
use tokio::sync::oneshot;

use crate::failure::{Cause, Failure};
use crate::job::{Job, Outcome};
use crate::report::{Accepted, Report, Timings};
use crate::shared::{Shared, gone};

impl Shared {
    /// All recipients once, in transactions of what the server takes.
    ///
    /// * `wait_max`: for a connection.
    pub(crate) async fn send_all(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: &Content,
        wait_max: Duration,
    ) -> Report {
        let recipients = envelope.recipients().len();
        let recipients_max = self.recipients_max.load(Ordering::Relaxed);
        if recipients <= recipients_max {
            match self.send_one(envelope, content, wait_max).await {
                Outcome::Done { results, timings } => return report(results, timings),
                Outcome::Split { recipients_max } => self.lower_recipients_max(recipients_max),
            }
        }
        Box::pin(self.send_split(envelope, content, wait_max)).await
    }

    /// In transactions of what the server takes.
    async fn send_split(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: &Content,
        wait_max: Duration,
    ) -> Report {
        let recipients = envelope.recipients().len();
        let recipients_max = self.recipients_max.load(Ordering::Relaxed);
        let indexes: Vec<usize> = (0..recipients).collect();
        let parts = indexes
            .chunks(recipients_max)
            .filter_map(|part| envelope.narrowed(part));
        let sends = parts.map(|part| async move {
            let part = Arc::new(part);
            match self.send_one(&part, content, wait_max).await {
                Outcome::Done { results, timings } => (results, timings),
                // This server takes fewer than any before it.
                Outcome::Split { recipients_max } => {
                    self.lower_recipients_max(recipients_max);
                    let report = Box::pin(self.send_split(&part, content, wait_max)).await;
                    (report.results, report.timings)
                }
            }
        });
        let mut results = Vec::with_capacity(recipients);
        let mut timings = Timings::default();
        for (part, part_timings) in futures_util::future::join_all(sends).await {
            results.extend(part);
            timings = part_timings;
        }
        report(results, timings)
    }

    fn lower_recipients_max(&self, recipients_max: usize) {
        self.recipients_max
            .fetch_min(recipients_max.max(1), Ordering::Relaxed);
    }

    async fn send_one(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: &Content,
        wait_max: Duration,
    ) -> Outcome {
        let (outcome, hears) = oneshot::channel();
        let now = self.now();
        let job = Job {
            envelope: Arc::clone(envelope),
            content: content.clone(),
            outcome,
            queued_at: now,
            deadline: now + wait_max,
            returns: 0,
            refused_as: None,
        };
        self.decide(now, |dispatch| dispatch.submit(job, now));
        hears.await.unwrap_or_else(|_| Outcome::Done {
            results: vec![Err(gone()); envelope.recipients().len()],
            timings: Timings::default(),
        })
    }

    /// Tries those again that failed for now, as the policy and the budget allow.
    pub(crate) async fn send_again(
        self: &Arc<Self>,
        envelope: &Arc<Envelope>,
        content: &Content,
        policy: RetryPolicy,
        report: &mut Report,
    ) {
        while let Some((wait, again)) = self.plan_retry(policy, report) {
            tokio::time::sleep(wait).await;
            let Some(narrowed) = envelope.narrowed(&again) else {
                return;
            };
            let wait_max = self.config.wait_max;
            let retried = self.send_all(&Arc::new(narrowed), content, wait_max).await;
            for (index, result) in again.into_iter().zip(retried.results) {
                report.results[index] = result;
            }
            report.timings = retried.timings;
            report.attempts += 1;
        }
    }

    /// How long to wait, and which recipients to try again; `None` when there is nothing to do.
    fn plan_retry(&self, policy: RetryPolicy, report: &Report) -> Option<(Duration, Vec<usize>)> {
        let now = self.now();
        let mut retry = self
            .retry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut wait = Duration::ZERO;
        let mut again = Vec::new();
        for (index, result) in report.results.iter().enumerate() {
            let Err(failure) = result else { continue };
            if matches!(failure.cause, Cause::PoolClosed | Cause::Deadline) {
                continue;
            }
            let decision = policy.decide(failure.class(), report.attempts, &mut retry.rng);
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

fn report(results: Vec<Result<Accepted, Failure>>, timings: Timings) -> Report {
    Report {
        results,
        timings,
        attempts: 1,
    }
}
