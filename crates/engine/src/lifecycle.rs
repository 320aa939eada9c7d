//! Opening, the clockwork of a running engine, and draining.

use std::sync::{Arc, Weak};
use std::time::Duration;

use store::{CommitError, Event, Recovered, RecoveredRecipient, Recovery, Slot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::Core;
use crate::engine::PulseError;
use crate::machine::{self, CpuMeter, SyncMeter};
use crate::pressure::Sample;
use crate::queue::{Shard, Waiting};
use crate::world::keep_store;

/// How often the machine is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How often the journal is kept in proportion.
const COMPACT_EVERY: Duration = Duration::from_secs(1);
/// How often what is idle is forgotten and what was learned is saved.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A pool that no message used for so long is closed.
const POOL_IDLE_MAX: Duration = Duration::from_secs(300);
/// Recovered messages that enter the schedule between two breaths.
const RECOVER_BATCH: usize = 1000;

/// Polls a shard when its next job is due, as long as the engine lives.
async fn keep_time(core: Weak<Core>, shard: Arc<Shard>, number: usize) {
    loop {
        let moved = shard.alarm_moved.notified();
        let Some(clock) = core.upgrade().map(|core| core.clock) else {
            return;
        };
        let alarm = shard.alarm().map(|at| clock.instant(at));
        // Bounded, so that the end of the engine is noticed.
        let latest = Instant::now() + COMPACT_EVERY;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(alarm.map_or(latest, |at| at.min(latest))) => {}
            () = moved => continue,
        }
        let Some(core) = core.upgrade() else { return };
        if shard.alarm().is_some_and(|at| at <= core.clock.now()) {
            core.turn(number, |_, _| ());
        }
    }
}

/// What the machine is measured by.
struct Meters {
    cpu: CpuMeter,
    syncs: SyncMeter,
    memory_limit: Option<u64>,
}

impl Meters {
    fn look(&mut self, core: &Core) -> Sample {
        let policy = core.policy.load();
        let limits = &policy.limits;
        let figures = core.spool.journal().stats();
        let is_idle = figures.backlog_bytes == 0;
        Sample {
            cpu_share: self.cpu.share(),
            cpu_share_max: f64::from(limits.cpu_percent_max) / 100.0,
            memory_bytes: machine::memory_bytes(),
            memory_bytes_max: limits
                .memory_bytes_max
                .into_iter()
                .chain(self.memory_limit)
                .min(),
            journal_sync: (self.syncs).look(figures.groups, figures.sync.sum, is_idle),
            disk_free_bytes: machine::disk_free_bytes(&core.data_dir),
            disk_free_bytes_min: limits.disk_free_bytes_min,
        }
    }
}

/// Looks at the machine, and tells the gate and the schedules.
async fn watch(core: Weak<Core>) {
    let mut meters = Meters {
        cpu: CpuMeter::start(),
        syncs: SyncMeter::default(),
        memory_limit: machine::cgroup_memory_bytes_max(),
    };
    let mut factor = 1.0;
    loop {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let Some(core) = core.upgrade() else { return };
        let sample = match &core.world {
            None => meters.look(&core),
            Some(world) => Sample {
                cpu_share: world.cpu_share(),
                cpu_share_max: f64::from(core.policy.load().limits.cpu_percent_max) / 100.0,
                disk_free_bytes: u64::MAX,
                ..Sample::default()
            },
        };
        let _ = core.failure();
        let new = core.gate.sample(sample);
        if (new - factor).abs() > f64::EPSILON {
            factor = new;
            for shard in 0..core.shards.len() {
                core.turn(shard, |schedule, _| schedule.pressure(factor));
            }
        }
    }
}

/// Compacts the journal, records what it had no room for, forgets what is idle.
async fn tidy(core: Weak<Core>) {
    let mut tidied = Instant::now();
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        let Some(core) = core.upgrade() else { return };
        core.record_again();
        core.spool.history_durable(core.history.durable());
        let now = core.clock.now();
        let compacting = Arc::clone(&core);
        let compacted = core.work(move || compacting.spool.compact()).await;
        if let Ok(Err(error)) = compacted {
            tracing::error!(%error, "the journal could not be compacted");
        }
        core.expire_held();
        core.tell_delays().await;
        if tidied.elapsed() < TIDY_EVERY {
            continue;
        }
        tidied = Instant::now();
        core.deliverer.tidy(POOL_IDLE_MAX);
        core.table.expire(now);
        let compacting = Arc::clone(&core);
        let compacted = core.work(move || compacting.table.compact()).await;
        if let Ok(Err(error)) = compacted {
            tracing::error!(%error, "the state's journal could not be compacted");
        }
        for shard in &core.shards {
            shard.tidy(now);
        }
        core.save_learned();
        let tidying = Arc::clone(&core);
        if core.work(move || tidying.tidy_failed()).await.is_err() {
            tracing::error!("what is kept of failed mail could not be tidied");
        }
        let retaining = Arc::clone(&core);
        let retained = core.work(move || retaining.history.retain(now)).await;
        if let Ok(Err(error)) = retained {
            tracing::error!(%error, "history could not be shortened");
        }
    }
}

impl Core {
    /// Lets what was unsettled at the end of the last run wait for its turn again.
    pub(crate) fn recover(self: &Arc<Self>, mut recovery: Recovery) {
        let mut messages = 0_u64;
        for recovered in &mut recovery {
            if self.gate.is_draining() {
                return;
            }
            match recovered {
                Ok(recovered) => self.take_up(&recovered),
                Err(error) => {
                    tracing::error!(%error, "recovery stopped: the journal cannot be read");
                    self.note_unreadable(1);
                    break;
                }
            }
            messages += 1;
            if messages.is_multiple_of(RECOVER_BATCH as u64) {
                std::thread::yield_now();
            }
        }
        self.note_unreadable(recovery.damage().len() as u64);
        for damage in recovery.damage() {
            tracing::error!(
                at = ?damage.at,
                why = %damage.why,
                "a record of the journal is damaged: what it said is lost, and nothing of the journal \
                 is removed until it was opened to be salvaged"
            );
        }
        tracing::info!(messages, "recovery has ended");
    }

    /// Recipients with the same attempts and due time travel together again.
    fn take_up(self: &Arc<Self>, recovered: &Recovered) {
        let count = recovered.recipients.len();
        self.enter_stock(&recovered.tenant, count);
        let message = Waiting {
            slot: recovered.slot,
            id: recovered.id,
            tenant: &recovered.tenant,
            priority: recovered.priority,
            expires_at: recovered.expires_at,
        };
        let mut waiting: Vec<_> = recovered
            .recipients
            .iter()
            .filter(|one| !one.held)
            .collect();
        self.counters.held.add((count - waiting.len()) as u64);
        let held = recovered.recipients.iter().filter(|one| one.held);
        if let Some(due_at) = held.map(|one| one.due_at).max() {
            let expires_at = self.age_limit(recovered.expires_at, due_at);
            self.held_until
                .add(expires_at, recovered.slot, recovered.id);
        }
        waiting.sort_by_key(|one| (one.due_at, one.attempts));
        for together in waiting.chunk_by(|a, b| (a.due_at, a.attempts) == (b.due_at, b.attempts)) {
            let recipients: Vec<_> = together.iter().map(|one| with_domain(one)).collect();
            let first = together[0];
            self.enqueue(&message, &recipients, first.due_at, first.attempts);
        }
    }

    /// Records events that the journal had no room for.
    fn record_again(&self) {
        let waiting: Vec<(Slot, Event)> = std::mem::take(&mut *self.unrecorded());
        for (slot, event) in waiting {
            match self.spool.record(slot, &event) {
                Ok(before) => self.recorded(before, event),
                Err(store::RecordError::Journal(_)) => self.unrecorded().push((slot, event)),
                Err(error) => tracing::error!(%error, "an event was refused by the spool"),
            }
        }
    }

    /// Each schedule answers, no clock has stopped, and what was recorded is durable.
    pub(crate) async fn pulse(self: &Arc<Self>) -> Result<(), PulseError> {
        if self.gate.is_draining() {
            // It stops them itself, and has its own deadline.
            return Ok(());
        }
        if self.has_stopped_clock() {
            return Err(PulseError::Clock);
        }
        for shard in 0..self.shards.len() {
            self.turn(shard, |_, _| ());
        }
        match self.spool.journal().flush().await {
            Ok(()) | Err(CommitError::Full) => Ok(()),
            Err(_) => Err(PulseError::Poisoned),
        }
    }

    /// They end with the engine, or by a panic.
    fn has_stopped_clock(&self) -> bool {
        let mut beside = self.beside();
        while beside.try_join_next().is_some() {}
        beside.len() < clocks(self.shards.len())
    }

    /// Accepts nothing more, waits for what is on the wire, and closes all.
    pub(crate) async fn drain(self: &Arc<Self>, grace: Duration) {
        self.gate.drain();
        let deadline = Instant::now() + grace;
        loop {
            let ended = self.attempt_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.counters.in_flight.get() == 0 {
                break;
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                let attempts = self.counters.in_flight.get();
                tracing::warn!(attempts, "still on the wire when the grace time ended");
                break;
            }
        }
        let mut beside = std::mem::take(&mut *self.beside());
        beside.shutdown().await;
        let _ = tokio::time::timeout_at(deadline, self.deliverer.close()).await;
        self.save_learned();
        self.record_again();
        let core = Arc::clone(self);
        let closed = self.work(move || core.close()).await;
        if closed.is_err() {
            tracing::error!("closing the data folder failed");
        }
    }

    /// The journal's state, written and synced.
    fn close(&self) {
        if let Err(error) = self.spool.journal().close() {
            tracing::error!(%error, "the journal could not be closed well");
        }
        if let Err(error) = self.failed.journal().close() {
            tracing::error!(%error, "the journal of failed mail could not be closed well");
        }
        if let Err(error) = self.table.close() {
            tracing::error!(%error, "the state could not be closed well");
        }
        self.spool.follow();
        if let Err(error) = self.history.flush() {
            tracing::error!(%error, "history could not be written");
        }
    }
}

/// How many tasks run beside the messages: one a shard, the look at the machine, and housekeeping.
fn clocks(shards: usize) -> usize {
    shards + 2
}

/// Starts what runs beside the messages.
pub(crate) fn start(core: &Arc<Core>, recovery: Recovery, mut failed: Recovery) {
    let mut beside = core.beside();
    for (number, shard) in core.shards.iter().enumerate() {
        let (core, shard) = (Arc::downgrade(core), Arc::clone(shard));
        let begin = move || keep_time(core.clone(), Arc::clone(&shard), number);
        beside.spawn(keep_up("timer", begin));
    }
    let weak = Arc::downgrade(core);
    beside.spawn(keep_up("watch", move || watch(weak.clone())));
    let weak = Arc::downgrade(core);
    beside.spawn(keep_up("housekeeping", move || tidy(weak.clone())));
    debug_assert_eq!(beside.len(), clocks(core.shards.len()));
    if let Some(world) = &core.world {
        beside.spawn(keep_store(core, Arc::clone(world)));
    }
    drop(beside);
    let recovering = Arc::clone(core);
    // Work sees the runtime it was given on: what is taken up can be started.
    core.work(move || {
        recovering.recover(recovery);
        // Nothing of it is scheduled: it only has to be known.
        if let Some(Err(error)) = failed.find(Result::is_err) {
            tracing::error!(%error, "what is kept of failed mail cannot be read");
        }
    });
}

/// Runs what ends with the engine only, and begins it anew should it panic: an engine without its
/// clocks would stand still and say nothing of it.
async fn keep_up<F>(what: &'static str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let mut task = JoinSet::new();
        task.spawn(begin());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(%error, what, "panicked; begins anew");
            }
            _ => return,
        }
        tokio::time::sleep(COMPACT_EVERY).await;
    }
}

/// A recipient's index, and what stands after its address's last `@`.
fn with_domain(one: &RecoveredRecipient) -> (u32, &str) {
    let domain = one.address.rsplit_once('@').map(|(_, domain)| domain);
    (one.index, domain.unwrap_or_default())
}
