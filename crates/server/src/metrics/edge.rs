//! What an SMTP edge has seen, read when a scrape asks.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::put;
use crate::smtp::{Snapshot, Watcher};

/// Reads one edge.
#[derive(Debug)]
pub(super) struct SmtpEdge(pub(super) Watcher);

type Row = (&'static str, &'static str, fn(&Snapshot) -> u64);

#[rustfmt::skip]
const COUNTS: &[Row] = &[
    ("smtp_connections", "SMTP connections taken", |seen| seen.connections),
    ("smtp_refused_connections", "SMTP connections turned away: too many", |seen| seen.connections_refused),
    ("smtp_timed_out_connections", "SMTP connections ended because the client was silent or too slow",
        |seen| seen.connections_timed_out),
    ("smtp_handshakes", "TLS handshakes with SMTP clients", |seen| seen.handshakes),
    ("smtp_failed_handshakes", "TLS handshakes with SMTP clients that failed", |seen| seen.handshakes_failed),
    ("smtp_logins", "AUTH commands that let somebody in", |seen| seen.auths),
    ("smtp_failed_logins", "AUTH commands that let nobody in", |seen| seen.auths_failed),
    ("smtp_accepted_messages", "Messages taken over SMTP, durably", |seen| seen.messages),
    ("smtp_accepted_recipients", "Recipients of messages taken over SMTP", |seen| seen.recipients),
    ("smtp_deferred_messages", "Messages refused for now over SMTP", |seen| seen.messages_deferred),
    ("smtp_refused_messages", "Messages refused for good over SMTP", |seen| seen.messages_refused),
];

#[rustfmt::skip]
const LEVELS: &[Row] = &[
    ("smtp_open_connections", "SMTP connections open", |seen| seen.connections_open),
    ("smtp_open_stranger_connections", "SMTP connections open of clients that no rule names",
        |seen| seen.strangers_open),
];

impl Collector for SmtpEdge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = self.0.snapshot();
        for (name, help, of) in COUNTS {
            let count = ConstCounter::new(of(&seen));
            put(&mut encoder, name, help, None, &count)?;
        }
        for (name, help, of) in LEVELS {
            let level = ConstGauge::new(of(&seen) as f64);
            put(&mut encoder, name, help, None, &level)?;
        }
        let unit = Some(&Unit::Bytes);
        let help = "Octets of content taken over SMTP";
        let bytes = ConstCounter::new(seen.bytes);
        put(&mut encoder, "smtp_accepted", help, unit, &bytes)?;
        let help = "Octets of content coming in over SMTP";
        let incoming = ConstGauge::new(seen.content_bytes as f64);
        put(&mut encoder, "smtp_incoming", help, unit, &incoming)
    }
}
