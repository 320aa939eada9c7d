//! What an SMTP edge has seen, read when a scrape asks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::smtp::{Snapshot, Watcher};

/// Reads one edge.
#[derive(Debug)]
pub(super) struct SmtpEdge(pub(super) Watcher);

type Row = (&'static str, &'static str, fn(&Snapshot) -> u64);

const COUNTS: &[Row] = &[
    ("smtp_connections", "SMTP connections taken", |seen| {
        seen.connections
    }),
    (
        "smtp_refused_connections",
        "SMTP connections turned away: too many",
        |seen| seen.connections_refused,
    ),
    (
        "smtp_timed_out_connections",
        "SMTP connections ended because the client was silent or too slow",
        |seen| seen.connections_timed_out,
    ),
    (
        "smtp_handshakes",
        "TLS handshakes with SMTP clients",
        |seen| seen.handshakes,
    ),
    (
        "smtp_failed_handshakes",
        "TLS handshakes with SMTP clients that failed",
        |seen| seen.handshakes_failed,
    ),
    (
        "smtp_logins",
        "AUTH commands that let somebody in",
        |seen| seen.auths,
    ),
    (
        "smtp_failed_logins",
        "AUTH commands that let nobody in",
        |seen| seen.auths_failed,
    ),
    (
        "smtp_accepted_messages",
        "Messages taken over SMTP, durably",
        |seen| seen.messages,
    ),
    (
        "smtp_accepted_recipients",
        "Recipients of messages taken over SMTP",
        |seen| seen.recipients,
    ),
    (
        "smtp_deferred_messages",
        "Messages refused for now over SMTP",
        |seen| seen.messages_deferred,
    ),
    (
        "smtp_refused_messages",
        "Messages refused for good over SMTP",
        |seen| seen.messages_refused,
    ),
];

const LEVELS: &[Row] = &[
    ("smtp_open_connections", "SMTP connections open", |seen| {
        seen.connections_open
    }),
    (
        "smtp_open_stranger_connections",
        "SMTP connections open of clients that no rule names",
        |seen| seen.strangers_open,
    ),
];

impl Collector for SmtpEdge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seen = self.0.snapshot();
        for (name, help, of) in COUNTS {
            let count = ConstCounter::new(of(&seen));
            let metric = encoder.encode_descriptor(name, help, None, count.metric_type())?;
            count.encode(metric)?;
        }
        for (name, help, of) in LEVELS {
            let level = ConstGauge::new(of(&seen) as f64);
            let metric = encoder.encode_descriptor(name, help, None, level.metric_type())?;
            level.encode(metric)?;
        }
        let bytes = ConstCounter::new(seen.bytes);
        let (help, kind) = ("Octets of content taken over SMTP", bytes.metric_type());
        let metric = encoder.encode_descriptor("smtp_accepted", help, Some(&Unit::Bytes), kind)?;
        bytes.encode(metric)?;
        let incoming = ConstGauge::new(seen.content_bytes as f64);
        let (help, kind) = (
            "Octets of content coming in over SMTP",
            incoming.metric_type(),
        );
        let metric = encoder.encode_descriptor("smtp_incoming", help, Some(&Unit::Bytes), kind)?;
        incoming.encode(metric)
    }
}
