//! How the engine is, in numbers.

use crate::accept::AcceptError;
use crate::core::Core;
use crate::pressure;
use crate::views::{Health, Stats};

impl Core {
    pub(crate) fn health(&self) -> Health {
        // Let go at once: the gate takes this lock too, while it refuses.
        let (sample, window_factor) = {
            let state = self.gate.state();
            (state.sample, state.pressure.factor())
        };
        let mut pressures = pressure::words(&sample);
        let history = self.history.stats();
        let (journal_damaged, history_damaged) = (self.unreadable(), history.damage.len() as u64);
        for (what, places) in [("journal", journal_damaged), ("history", history_damaged)] {
            if places > 0 {
                pressures.push(format!(
                    "{what}: {places} places cannot be read, see the log"
                ));
            }
        }
        let failure = history.failure;
        pressures.extend(failure.map(|why| format!("history is not written: {why}")));
        let journals = [
            (
                self.table.failure(),
                "keys, suppressions and idempotency keys cannot be changed",
            ),
            (self.failed.journal().failure(), "failed mail is not kept"),
        ];
        for (failure, means) in journals {
            pressures.extend(failure.map(|why| format!("{means} until a restart: {why}")));
        }
        Health {
            refusing: self.refusing(),
            window_factor,
            pressures,
            journal_damaged,
            history_damaged,
            cpu_share: sample.cpu_share,
            memory_bytes: sample.memory_bytes,
            memory_bytes_max: sample.memory_bytes_max,
            disk_free_bytes: sample.disk_free_bytes,
            journal_sync: sample.journal_sync,
            recovering: self.spool.stats().is_recovering,
            draining: self.gate.is_draining(),
        }
    }

    /// What a message would be answered that comes now, and why, if it would not be taken.
    fn refusing(&self) -> Option<String> {
        // It also sees that the journal has failed, and tells the gate.
        let failure = self.failure();
        let is_full = self.spool.journal().stats().is_full;
        let (error, why) = match self.gate.check() {
            Err(error) => (error, failure.map(str::to_owned)),
            Ok(()) if is_full => (AcceptError::Full, Some(self.no_room())),
            Ok(()) => return None,
        };
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        Some(format!("{error}{why}"))
    }

    /// Why the journal takes no mail though the disk may have what is asked for.
    fn no_room(&self) -> String {
        let journal = self.spool.journal();
        let needed = pressure::mib(journal.segment_bytes_max());
        let free = journal.free_bytes().map(pressure::mib);
        let free = free.unwrap_or_else(|error| error.to_string());
        format!("the journal's next segment takes {needed}; free on the disk: {free}")
    }

    pub(crate) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let spool = self.spool.stats();
        let journal = self.spool.journal().stats();
        let pools = self.deliverer.views();
        let waiting: Vec<_> = self
            .shards
            .iter()
            .map(|shard| shard.schedule().totals())
            .collect();
        Stats {
            accepted: counters.accepted.get(),
            refused: counters.refused.get(),
            delivered: counters.delivered.get(),
            deferred: counters.deferred.get(),
            bounced: counters.bounced.get(),
            expired: counters.expired.get(),
            suppressed: counters.suppressed.get(),
            canceled: counters.canceled.get(),
            held: counters.held.get(),
            unknown: counters.unknown.get(),
            rate_refused: counters.rate_refused.get(),
            notices: counters.notices.get(),
            messages: spool.messages as u64,
            recipients: spool.recipients as u64,
            ready: waiting.iter().map(|shard| shard.ready as u64).sum(),
            waiting: waiting.iter().map(|shard| shard.waiting as u64).sum(),
            in_flight: counters.in_flight.get(),
            live_bytes: spool.live_bytes,
            used_bytes: journal.used_bytes,
            history_bytes: self.history.stats().bytes,
            syncs: journal.groups,
            sync_time: journal.sync.sum,
            connections_open: pools
                .iter()
                .map(|pool| pool.stats.connections_open as u64)
                .sum(),
            connections_opened: pools.iter().map(|pool| pool.stats.connections_opened).sum(),
        }
    }
}
