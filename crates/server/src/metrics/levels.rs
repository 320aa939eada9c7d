//! The engine's own counters and levels, read when a scrape asks.

use std::fmt;

use engine::Engine;
use engine::views::{Health, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::put;

/// Reads one engine.
#[derive(Debug)]
pub(super) struct Levels(pub(super) Engine);

type Count = (&'static str, &'static str, fn(&Stats) -> u64);

#[rustfmt::skip]
const COUNTS: &[Count] = &[
    ("accepted_messages", "Messages taken, durably", |stats| stats.accepted),
    ("refused_submissions", "Submissions not taken, all reasons", |stats| stats.refused),
    ("delivered_recipients", "Recipients that the next hop took responsibility for", |stats| stats.delivered),
    ("bounced_recipients", "Recipients refused for good", |stats| stats.bounced),
    ("expired_recipients", "Recipients given up at their age limit", |stats| stats.expired),
    ("suppressed_recipients", "Recipients on a suppression list", |stats| stats.suppressed),
    ("canceled_recipients", "Recipients taken back", |stats| stats.canceled),
    ("deferred_attempts", "Attempts that failed for now", |stats| stats.deferred),
    ("unknown_attempts", "Attempts whose final reply never came", |stats| stats.unknown),
    ("rate_refused_attempts", "Attempts given back because the site spoke of rate or load", |stats| stats.rate_refused),
    ("notices", "Delivery status notices written", |stats| stats.notices),
    ("journal_syncs", "Syncs of the journal", |stats| stats.syncs),
    ("opened_connections", "Connections opened to next hops", |stats| stats.connections_opened),
];

type Level = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&Stats, &Health) -> f64,
);

const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

#[rustfmt::skip]
const LEVELS: &[Level] = &[
    ("spool_messages", "Messages with an unsettled recipient", None, |stats, _| stats.messages as f64),
    ("spool_recipients", "Unsettled recipients", None, |stats, _| stats.recipients as f64),
    ("held_recipients", "Recipients whose outcome is unknown, held for a decision", None, |stats, _| stats.held as f64),
    ("spool_live", "Octets that unsettled mail takes on disk", BYTES, |stats, _| stats.live_bytes as f64),
    ("journal_used", "Octets that the journal takes on disk, room reserved in it included", BYTES,
        |stats, _| stats.used_bytes as f64),
    ("journal_damaged_places", "Places of the journal that cannot be read; the mail in them is not delivered", None,
        |_, health| health.journal_damaged as f64),
    ("history_used", "Octets that history takes on disk", BYTES, |stats, _| stats.history_bytes as f64),
    ("history_damaged_places", "Places of the history that cannot be read", None,
        |_, health| health.history_damaged as f64),
    ("open_connections", "Connections to next hops that are open", None, |stats, _| stats.connections_open as f64),
    ("journal_sync_smoothed", "How long the last syncs of the journal took, smoothed", SECONDS,
        |_, health| health.journal_sync.as_secs_f64()),
    ("process_cpu_ratio", "Share of the machine's CPU that this process uses", None, |_, health| health.cpu_share),
    ("process_memory", "Resident memory", BYTES, |_, health| health.memory_bytes as f64),
    ("process_memory_limit", "What resident memory is held against; 0 where nothing is known", BYTES,
        |_, health| health.memory_bytes_max.unwrap_or(0) as f64),
    ("disk_free", "Octets free on the disk of the data folder", BYTES, |_, health| health.disk_free_bytes as f64),
    ("window_ratio", "How wide windows may be; below 1 the machine is short", None, |_, health| health.window_factor),
    ("accepting", "1 while mail is accepted", None,
        |_, health| f64::from(u8::from(health.refusing.is_none() && !health.draining))),
    ("recovering", "1 until recovery after the start has ended", None,
        |_, health| f64::from(u8::from(health.recovering))),
];

type State = (&'static str, fn(&Stats) -> u64);

/// Where jobs are; a recipient that is held has none.
const STATES: &[State] = &[
    ("ready", |stats| stats.ready),
    ("waiting", |stats| stats.waiting),
    ("in_flight", |stats| stats.in_flight),
];

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (stats, health) = (self.0.stats(), self.0.health());
        for (name, help, of) in COUNTS {
            let count = ConstCounter::new(of(&stats));
            put(&mut encoder, name, help, None, &count)?;
        }
        let help = "Jobs by state; a job is one message's recipients for one site";
        let mut jobs = encoder.encode_descriptor("queue_jobs", help, None, MetricType::Gauge)?;
        for (state, of) in STATES {
            let level = ConstGauge::new(of(&stats) as f64);
            level.encode(jobs.encode_family(&[("state", *state)])?)?;
        }
        let help = "Time spent in syncs of the journal";
        let synced = ConstCounter::new(stats.sync_time.as_secs_f64());
        let unit = Some(&Unit::Seconds);
        put(&mut encoder, "journal_sync", help, unit, &synced)?;
        for (name, help, unit, of) in LEVELS {
            let level = ConstGauge::new(of(&stats, &health));
            put(&mut encoder, name, help, unit.as_ref(), &level)?;
        }
        Ok(())
    }
}
