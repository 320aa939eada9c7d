//! What an operator does in the middle of a storm.

use std::sync::Arc;
use std::time::Duration;

use engine::Policy;
use engine::views::Filter;
use tokio::time::Instant;

use super::{Alive, Storm, TENANT};
use crate::plan::Order;

impl Storm {
    /// What an operator does, once; who gets no answer does not know whether it was done.
    pub(super) async fn order(self: Arc<Self>, number: usize) {
        let (at, order) = self.plan.orders[number];
        tokio::time::sleep_until(self.began + at).await;
        match order {
            Order::Cancel(number) => self.cancel(number).await,
            Order::Suspend(time) => {
                self.suspend(self.began + (at + time).min(self.plan.chaos))
                    .await;
            }
            Order::Reload(wire) => {
                let Some(Alive { engine, .. }) = self.alive() else {
                    return;
                };
                let mut routes = self.plan.routes.clone();
                routes.iter_mut().for_each(|route| route.wire = wire);
                let policy = Policy::clone(&engine.policy());
                if let Err(error) = engine.reload(routes, policy) {
                    self.trace
                        .wrong(format!("it cannot be read again: {error}"));
                }
            }
        }
    }

    async fn cancel(&self, number: usize) {
        let id = self.seen.lock().unwrap().acks[number];
        let (Some(now), Some(id)) = (self.alive(), id) else {
            return;
        };
        self.seen.lock().unwrap().canceled.insert(number, None);
        let filter = Filter {
            message: Some(id),
            ..Filter::default()
        };
        let canceled = tokio::select! {
            biased;
            canceled = now.engine.cancel(&filter) => canceled.ok(),
            () = self.until_over(now.life) => None,
        };
        self.trace
            .note(format_args!("message {number} canceled: {canceled:?}"));
        if canceled.is_some() {
            let at = Some(Instant::now());
            self.seen.lock().unwrap().canceled.insert(number, at);
        }
    }

    /// Nothing begins between the answer and the next order, whatever ends meanwhile.
    async fn suspend(&self, until: Instant) {
        let everything = Filter {
            tenant: Some(TENANT.into()),
            ..Filter::default()
        };
        let Some(now) = self.alive() else { return };
        let is_suspended = tokio::select! {
            biased;
            suspended = now.engine.suspend(&everything) => suspended.is_ok(),
            () = self.until_over(now.life) => false,
        };
        if is_suspended {
            let (from, in_flight) = (Instant::now(), now.engine.stats().in_flight);
            self.trace
                .note(format_args!("suspended, {in_flight} attempts in flight"));
            tokio::time::sleep_until(until).await;
            let lives = self.seen.lock().unwrap().grounds.len() as u32;
            for life in now.life..lives {
                let may_go = if life == now.life { in_flight } else { 0 };
                let begun = self.peers.book(|book| book.jobs_since(life, from));
                if begun as u64 > may_go {
                    self.trace.wrong(format!(
                        "{begun} attempts in life {life} while all was suspended, {may_go} were under way"
                    ));
                }
            }
        }
        loop {
            let now = self.next_alive().await;
            let is_resumed = tokio::select! {
                biased;
                resumed = now.engine.resume(&everything) => resumed.is_ok(),
                () = self.until_over(now.life) => false,
            };
            if is_resumed {
                return self.trace.note(format_args!("resumed"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
