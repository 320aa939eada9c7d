//! How the engine is, in numbers.

use crate::core::Core;
use crate::pressure;
use crate::views::{Health, Stats};

impl Core {
    pub(crate) fn health(&self) -> Health {
        let state = self.gate.state();
        let sample = &state.sample;
        let mut pressures = pressure::words(sample);
        let unreadable = self.unreadable();
        if unreadable > 0 {
            pressures.push(format!(
                "journal: {unreadable} places cannot be read, see the log"
            ));
        }
        let refusing = self.gate.check().err().map(|error| error.to_string());
        Health {
            refusing,
            window_factor: state.pressure.factor(),
            pressures,
            cpu_share: sample.cpu_share,
            memory_bytes: sample.memory_bytes,
            memory_bytes_max: sample.memory_bytes_max,
            disk_free_bytes: sample.disk_free_bytes,
            journal_sync: sample.journal_sync,
            recovering: self.spool.stats().is_recovering,
            draining: self.gate.is_draining(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let spool = self.spool.stats();
        let journal = self.spool.journal().stats();
        let pools = self.deliverer.views();
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
            in_flight: counters.in_flight.get(),
            live_bytes: spool.live_bytes,
            used_bytes: journal.used_bytes,
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
