//! All that is outside the engine, as a trait: so that a simulation can make it up and repeat it.
//!
//! In a made-up world nothing runs beside tokio's current thread: what is work for a thread else is a
//! task, and the journal is written when [`World::sync_time`] has passed. With tokio's clock paused and
//! everything drawn from one seed, a run is the same every time.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use client::Network;
use store::{Files, StoreOptions, Time};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::core::Core;

/// How long history may stay unwritten.
const HISTORY_LINGER: Duration = Duration::from_secs(1);

/// Network, disk, clock and load. Names are resolved by [`crate::Config::dns`].
pub trait World: fmt::Debug + Send + Sync + 'static {
    /// Who dials.
    fn network(&self) -> Arc<dyn Network>;

    /// The files of one of the data folder's folders.
    ///
    /// # Errors
    /// It cannot be opened.
    fn folder(&self, name: &'static str) -> io::Result<Arc<dyn Files>>;

    /// What the wall clock shows at the start.
    fn wall_clock(&self) -> Time;

    /// How long the journal's next write and sync take.
    fn sync_time(&self) -> Duration;

    /// Share of the machine's CPU that is used, 0 to 1.
    fn cpu_share(&self) -> f64;

    /// Changes how the store is set up, as to smaller segments.
    fn set_up(&self, options: &mut StoreOptions);
}

/// Where work is done that may block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Desk {
    /// On tokio's threads for such work.
    Threads,
    /// As a task.
    Tasks,
}

impl Desk {
    pub(crate) fn of(world: Option<&Arc<dyn World>>) -> Self {
        world.map_or(Self::Threads, |_| Self::Tasks)
    }

    /// Has it done. It sees the runtime that it was given on.
    pub(crate) fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work),
            Self::Tasks => tokio::spawn(async move { work() }),
        }
    }
}

/// Does what the store's threads do in the real world.
pub(crate) fn keep_store(
    core: &Arc<Core>,
    world: Arc<dyn World>,
) -> impl Future<Output = ()> + Send + 'static {
    let appended = Arc::new(Notify::new());
    let wake = Arc::clone(&appended);
    core.spool.on_append(move || wake.notify_one());
    let core: Weak<Core> = Arc::downgrade(core);
    async move {
        let mut flushed = Instant::now();
        loop {
            // Not all that is appended wakes: what nobody waits for comes along with the rest.
            let _ = tokio::time::timeout(HISTORY_LINGER, appended.notified()).await;
            tokio::time::sleep(world.sync_time()).await;
            let Some(core) = core.upgrade() else { return };
            core.spool.step();
            if flushed.elapsed() >= HISTORY_LINGER {
                flushed = Instant::now();
                if let Err(error) = core.history.flush() {
                    tracing::error!(%error, "history could not be written");
                }
            }
        }
    }
}
