//! The engine's own counters and levels, read when a scrape asks.

use engine::Engine;
use engine::views::{Health, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads one engine.
#[derive(Debug)]
pub(super) struct Levels(pub(super) Engine);

struct Count {
    name: &'static str,
    help: &'static str,
    of: fn(&Stats) -> u64,
}

const COUNTS: &[Count] = &[
    Count {
        name: "accepted_messages",
        help: "Messages taken, durably",
        of: |stats| stats.accepted,
    },
    Count {
        name: "refused_submissions",
        help: "Submissions not taken, all reasons",
        of: |stats| stats.refused,
    },
    Count {
        name: "delivered_recipients",
        help: "Recipients that the next hop took responsibility for",
        of: |stats| stats.delivered,
    },
    Count {
        name: "bounced_recipients",
        help: "Recipients refused for good",
        of: |stats| stats.bounced,
    },
    Count {
        name: "expired_recipients",
        help: "Recipients given up at their age limit",
        of: |stats| stats.expired,
    },
    Count {
        name: "suppressed_recipients",
        help: "Recipients on a suppression list",
        of: |stats| stats.suppressed,
    },
    Count {
        name: "canceled_recipients",
        help: "Recipients taken back",
        of: |stats| stats.canceled,
    },
    Count {
        name: "deferred_attempts",
        help: "Attempts that failed for now",
        of: |stats| stats.deferred,
    },
    Count {
        name: "unknown_attempts",
        help: "Attempts whose final reply never came",
        of: |stats| stats.unknown,
    },
    Count {
        name: "rate_refused_attempts",
        help: "Attempts given back because the site spoke of rate or load",
        of: |stats| stats.rate_refused,
    },
    Count {
        name: "notices",
        help: "Delivery status notices written",
        of: |stats| stats.notices,
    },
    Count {
        name: "journal_syncs",
        help: "Syncs of the journal",
        of: |stats| stats.syncs,
    },
    Count {
        name: "opened_connections",
        help: "Connections opened to next hops",
        of: |stats| stats.connections_opened,
    },
];

struct Level {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    of: fn(&Stats, &Health) -> f64,
}

const LEVELS: &[Level] = &[
    Level {
        name: "spool_messages",
        help: "Messages with an unsettled recipient",
        unit: None,
        of: |stats, _| stats.messages as f64,
    },
    Level {
        name: "spool_recipients",
        help: "Unsettled recipients",
        unit: None,
        of: |stats, _| stats.recipients as f64,
    },
    Level {
        name: "held_recipients",
        help: "Recipients whose outcome is unknown, held for a decision",
        unit: None,
        of: |stats, _| stats.held as f64,
    },
    Level {
        name: "spool_live",
        help: "Octets that unsettled mail takes on disk",
        unit: Some(Unit::Bytes),
        of: |stats, _| stats.live_bytes as f64,
    },
    Level {
        name: "journal_used",
        help: "Octets that the journal takes on disk, room reserved in it included",
        unit: Some(Unit::Bytes),
        of: |stats, _| stats.used_bytes as f64,
    },
    Level {
        name: "journal_damaged_places",
        help: "Places of the journal that cannot be read; the mail in them is not delivered",
        unit: None,
        of: |_, health| health.journal_damaged as f64,
    },
    Level {
        name: "history_used",
        help: "Octets that history takes on disk",
        unit: Some(Unit::Bytes),
        of: |stats, _| stats.history_bytes as f64,
    },
    Level {
        name: "history_damaged_places",
        help: "Places of the history that cannot be read",
        unit: None,
        of: |_, health| health.history_damaged as f64,
    },
    Level {
        name: "open_connections",
        help: "Connections to next hops that are open",
        unit: None,
        of: |stats, _| stats.connections_open as f64,
    },
    Level {
        name: "journal_sync_smoothed",
        help: "How long the last syncs of the journal took, smoothed",
        unit: Some(Unit::Seconds),
        of: |_, health| health.journal_sync.as_secs_f64(),
    },
    Level {
        name: "process_cpu_ratio",
        help: "Share of the machine's CPU that this process uses",
        unit: None,
        of: |_, health| health.cpu_share,
    },
    Level {
        name: "process_memory",
        help: "Resident memory",
        unit: Some(Unit::Bytes),
        of: |_, health| health.memory_bytes as f64,
    },
    Level {
        name: "process_memory_limit",
        help: "What resident memory is held against; 0 where nothing is known",
        unit: Some(Unit::Bytes),
        of: |_, health| health.memory_bytes_max.unwrap_or(0) as f64,
    },
    Level {
        name: "disk_free",
        help: "Octets free on the disk of the data folder",
        unit: Some(Unit::Bytes),
        of: |_, health| health.disk_free_bytes as f64,
    },
    Level {
        name: "window_ratio",
        help: "How wide windows may be; below 1 the machine is short",
        unit: None,
        of: |_, health| health.window_factor,
    },
    Level {
        name: "accepting",
        help: "1 while mail is accepted",
        unit: None,
        of: |_, health| f64::from(u8::from(health.refusing.is_none() && !health.draining)),
    },
    Level {
        name: "recovering",
        help: "1 until recovery after the start has ended",
        unit: None,
        of: |_, health| f64::from(u8::from(health.recovering)),
    },
];

type State = (&'static str, fn(&Stats) -> u64);

/// Where jobs are; a recipient that is held has none.
const STATES: &[State] = &[
    ("ready", |stats| stats.ready),
    ("waiting", |stats| stats.waiting),
    ("in_flight", |stats| stats.in_flight),
];

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (stats, health) = (self.0.stats(), self.0.health());
        for Count { name, help, of } in COUNTS {
            let count = ConstCounter::new(of(&stats));
            let metric = encoder.encode_descriptor(name, help, None, count.metric_type())?;
            count.encode(metric)?;
        }
        let help = "Jobs by state; a job is one message's recipients for one site";
        let mut jobs = encoder.encode_descriptor("queue_jobs", help, None, MetricType::Gauge)?;
        for (state, of) in STATES {
            let level = ConstGauge::new(of(&stats) as f64);
            level.encode(jobs.encode_family(&[("state", *state)])?)?;
        }
        let synced = ConstCounter::new(stats.sync_time.as_secs_f64());
        let help = "Time spent in syncs of the journal";
        let kind = synced.metric_type();
        let metric = encoder.encode_descriptor("journal_sync", help, Some(&Unit::Seconds), kind)?;
        synced.encode(metric)?;
        for Level {
            name,
            help,
            unit,
            of,
        } in LEVELS
        {
            let level = ConstGauge::new(of(&stats, &health));
            let kind = level.metric_type();
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            level.encode(metric)?;
        }
        Ok(())
    }
}
