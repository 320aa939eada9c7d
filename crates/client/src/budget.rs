//! A number of connections that several pools share.
//!
//! A pool's own cap bounds what it opens; a site that several pools serve (its hosts are named in
//! another order, or one of them cannot be found at the moment) still sees one number of connections.
//! A permit is taken before dialing and given back after the stream is gone. Who finds none waits in
//! line, and the others let go: at once what is idle, and after [`TURN`] what is not. A pool that is
//! alone with its budget never waits, for its slots are never more than its cap.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::shared::Shared;

/// How old a connection grows while another pool waits for its permit.
pub(crate) const TURN: Duration = Duration::from_secs(10);

/// See the module; clones are the same budget. Each pool that has it allows as many connections in
/// all as its own cap says.
#[derive(Clone, Default)]
pub struct Budget(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Whose turn it is to get the next permit; 0 for nobody's.
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    line: VecDeque<Waiting>,
    members: Vec<(u64, Weak<Shared>)>,
    last_member: u64,
}

struct Waiting {
    member: u64,
    cap: usize,
    told: oneshot::Sender<Permit>,
}

/// One pool's share in a budget.
#[derive(Debug)]
pub(crate) struct Member {
    budget: Budget,
    number: u64,
}

/// One connection; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Option<Budget>);

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections();
        f.debug_struct("Budget")
            .field("connections", &connections)
            .finish()
    }
}

impl Budget {
    /// One more pool.
    pub(crate) fn join(&self, pool: Weak<Shared>) -> Member {
        let mut state = self.state();
        state.members.retain(|(_, pool)| pool.strong_count() > 0);
        state.last_member += 1;
        let number = state.last_member;
        state.members.push((number, pool));
        drop(state);
        let budget = self.clone();
        Member { budget, number }
    }

    /// Hands out what there is, in order, and notes whose turn is next.
    fn serve(&self, state: &mut State) {
        while let Some(first) = state.line.front() {
            if first.told.is_closed() {
                state.line.pop_front();
                continue;
            }
            if state.taken >= first.cap {
                break;
            }
            state.taken += 1;
            let permit = Permit(Some(self.clone()));
            let first = state.line.pop_front();
            if let Some(Err(mut permit)) = first.map(|first| first.told.send(permit)) {
                // It went away just now, and giving back would take the lock that we have.
                permit.0 = None;
                state.taken -= 1;
            }
        }
        let next = state.line.front().map_or(0, |first| first.member);
        self.0.next.store(next, Ordering::Relaxed);
    }

    /// Pools that could let go of something that another waits for.
    fn holders(state: &State) -> Vec<Arc<Shared>> {
        let Some(first) = state.line.front() else {
            return Vec::new();
        };
        let others = state
            .members
            .iter()
            .filter(|(number, _)| *number != first.member);
        others.filter_map(|(_, pool)| pool.upgrade()).collect()
    }

    /// Connections that are open or being opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state().taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.0.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Waits for a permit, and asks the others for one.
    ///
    /// * `cap`: of all connections of the budget.
    ///
    /// # Cancel safety
    /// A permit that nobody takes is given back.
    pub(crate) async fn permit(&self, cap: usize) -> Permit {
        let (told, hears) = oneshot::channel();
        let holders = {
            let mut state = self.budget.state();
            let member = self.number;
            state.line.push_back(Waiting { member, cap, told });
            self.budget.serve(&mut state);
            Budget::holders(&state)
        };
        holders.iter().for_each(|pool| pool.wake_idle());
        hears.await.expect("who waits in line is told")
    }

    /// Whether another pool waits for what one of our connections holds.
    pub(crate) fn is_wanted(&self) -> bool {
        let next = self.budget.0.next.load(Ordering::Relaxed);
        next != 0 && next != self.number
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(budget) = self.0.take() else { return };
        let holders = {
            let mut state = budget.state();
            state.taken -= 1;
            budget.serve(&mut state);
            Budget::holders(&state)
        };
        holders.iter().for_each(|pool| pool.wake_idle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        futures_util::FutureExt::now_or_never(future)
    }

    #[tokio::test]
    async fn permits_go_round_in_the_order_in_which_they_were_asked_for() {
        let budget = Budget::default();
        let [first, second] = [(); 2].map(|()| budget.join(Weak::new()));
        let held = now(first.permit(1)).expect("one is free");
        assert!(!first.is_wanted());
        let mut waits = Box::pin(second.permit(1));
        assert!(now(&mut waits).is_none() && first.is_wanted() && !second.is_wanted());
        let mut behind = Box::pin(first.permit(1));
        assert!(now(&mut behind).is_none());
        drop(held);
        let held = now(&mut waits).expect("it was first in line");
        assert!(now(&mut behind).is_none() && second.is_wanted());
        drop(held);
        assert!(now(&mut behind).is_some() && !second.is_wanted());
    }

    #[tokio::test]
    async fn a_permit_that_nobody_takes_any_more_goes_to_the_next() {
        let budget = Budget::default();
        let member = budget.join(Weak::new());
        let held = now(member.permit(1)).expect("one is free");
        let mut gone = Box::pin(member.permit(1));
        let mut told = Box::pin(member.permit(1));
        let mut stays = Box::pin(member.permit(1));
        assert!(
            [&mut gone, &mut told, &mut stays]
                .iter_mut()
                .all(|one| now(one).is_none())
        );
        drop(gone);
        drop(held);
        drop(told);
        assert!(now(&mut stays).is_some());
    }
}
