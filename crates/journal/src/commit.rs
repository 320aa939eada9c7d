//! What those who wait for a group share.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why something is not known to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The record was not taken, and is not read back: no later start of the journal shows it,
    /// except after a crash right now. Try again when there is room.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed. The record may or may not be there after a restart, whole.
    #[error("the journal failed and must be opened anew")]
    Poisoned,
}

const PENDING: u8 = 0;
const DURABLE: u8 = 1;
const FULL: u8 = 2;
const POISONED: u8 = 3;

/// One for each group: its end, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    state: AtomicU8,
    waiters: Mutex<Waiters>,
    /// For those who block.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Waiters {
    wakers: Vec<Waker>,
    threads: usize,
}

impl Outcome {
    fn get(&self) -> Option<Result<(), CommitError>> {
        match self.state.load(Ordering::Acquire) {
            PENDING => None,
            DURABLE => Some(Ok(())),
            FULL => Some(Err(CommitError::Full)),
            _ => Some(Err(CommitError::Poisoned)),
        }
    }

    /// The first end counts.
    pub(crate) fn end(&self, result: Result<(), CommitError>) {
        let state = match result {
            Ok(()) => DURABLE,
            Err(CommitError::Full) => FULL,
            Err(CommitError::Poisoned) => POISONED,
        };
        let waiters = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            if self.get().is_some() {
                return;
            }
            self.state.store(state, Ordering::Release);
            std::mem::take(&mut *waiters)
        };
        if waiters.threads > 0 {
            self.ended.notify_all();
        }
        waiters.wakers.into_iter().for_each(Waker::wake);
    }
}

/// Resolves when what it was given for is durable, or is known not to become so.
///
/// `Ok` says: the record, and every one appended before it, was handed to the disk and a sync of the
/// file after it succeeded; whatever happens to the process or to the power, it is read back. It
/// does not say that the disk tells the truth about its cache, nor that it will not decay.
///
/// # Cancel safety
/// Dropping it changes nothing: the record becomes durable all the same.
#[derive(Debug)]
#[must_use = "nothing is durable before it resolves"]
pub struct Commit(Inner);

#[derive(Debug)]
enum Inner {
    Known(Result<(), CommitError>),
    /// With the place of our waker.
    Open(Arc<Outcome>, Option<usize>),
}

impl Commit {
    pub(crate) fn known(result: Result<(), CommitError>) -> Self {
        Self(Inner::Known(result))
    }

    pub(crate) fn of(outcome: Arc<Outcome>) -> Self {
        Self(Inner::Open(outcome, None))
    }

    fn get(&self) -> Option<Result<(), CommitError>> {
        match &self.0 {
            Inner::Known(result) => Some(*result),
            Inner::Open(outcome, _) => outcome.get(),
        }
    }

    /// Whether it would resolve at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.get().is_some()
    }

    /// Blocks until it is known.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn wait(&self) -> Result<(), CommitError> {
        let outcome = match &self.0 {
            Inner::Known(result) => return *result,
            Inner::Open(outcome, _) => outcome,
        };
        let lock = &outcome.waiters;
        let mut waiters = lock.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.threads += 1;
        loop {
            if let Some(result) = outcome.get() {
                return result;
            }
            let woken = outcome.ended.wait(waiters);
            waiters = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Commit {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (outcome, place) = match &mut self.0 {
            Inner::Known(result) => return Poll::Ready(*result),
            Inner::Open(outcome, place) => (outcome, place),
        };
        if let Some(result) = outcome.get() {
            return Poll::Ready(result);
        }
        let lock = &outcome.waiters;
        let mut waiters = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = outcome.get() {
            return Poll::Ready(result);
        }
        match *place {
            Some(place) => waiters.wakers[place].clone_from(context.waker()),
            None => {
                *place = Some(waiters.wakers.len());
                waiters.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}
