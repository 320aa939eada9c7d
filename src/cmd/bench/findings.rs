//! What a run of `bench` has found, for people and for machines.

use std::fmt;

use client::PoolStats;
use flow::rate::RateLimit;
use serde_json::{Value, json};

use crate::bound::{Bound, Work};
use crate::cmd::wire::{self, WireSettings};
use crate::load::LoadReport;

/// All that was measured.
pub(super) struct Findings {
    pub(super) load: LoadReport,
    pub(super) wire: WireSettings,
    /// Of all this machine's CPUs, with whatever; 0 to 1.
    pub(super) cpu_share: f64,
    /// Resident memory at the end; `None` where the system does not say.
    pub(super) rss_bytes: Option<u64>,
    pub(super) stats: PoolStats,
}

impl Findings {
    fn bound(&self) -> Option<Bound> {
        let work = Work {
            tally: &self.load.tally,
            elapsed: self.load.elapsed,
            rate_per_second: self.wire.rate.map(RateLimit::per_second),
            cpu_share: self.cpu_share,
            window: wire::window_of(self.wire.wire),
            is_at_cap: self.stats.connections_open_max >= self.wire.connections_max(),
            starved: None,
        };
        work.bound()
    }

    pub(super) fn to_json(&self) -> Value {
        let tally = &self.load.tally;
        let bound = self.bound();
        let stages = tally.stages_ms().into_iter();
        let stages: serde_json::Map<_, _> = stages
            .map(|(name, ms)| (name.to_owned(), ms.into()))
            .collect();
        json!({
            "mode": wire::mode_name(self.wire.wire),
            "connections": self.wire.connections_max(),
            "window": wire::window_of(self.wire.wire),
            "messages": tally.sent,
            "failed": tally.failed,
            "unknown": tally.unknown,
            "first_failure": tally.first_failure,
            "rate_per_second": self.wire.rate.map(RateLimit::per_second),
            "seconds": self.load.elapsed.as_secs_f64(),
            "messages_per_second": self.load.messages_per_second(),
            "latency_ms": {
                "p50": tally.latency_ms(50.0),
                "p90": tally.latency_ms(90.0),
                "p99": tally.latency_ms(99.0),
                "p999": tally.latency_ms(99.9),
                "max": tally.latency_ms(100.0),
            },
            "stages_ms": stages,
            "cpu_us_per_message": self.load.cpu_us_per_message(),
            "connections_opened": self.stats.connections_opened,
            "tls": { "full": self.stats.tls_full, "resumed": self.stats.tls_resumed },
            "rss_bytes": self.rss_bytes,
            "bound_by": bound.as_ref().map(|bound| bound.by),
            "bound_share": bound.as_ref().map(|bound| bound.share),
        })
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.load.tally;
        writeln!(
            f,
            "{} messages in {:.2} s: {:.0} messages/s ({}, {} connections, window {})",
            tally.sent,
            self.load.elapsed.as_secs_f64(),
            self.load.messages_per_second(),
            wire::mode_name(self.wire.wire),
            self.wire.connections_max(),
            wire::window_of(self.wire.wire),
        )?;
        writeln!(
            f,
            "latency      p50 {:.2} ms · p90 {:.2} · p99 {:.2} · p99.9 {:.2} · max {:.2}, \
             {}",
            tally.latency_ms(50.0),
            tally.latency_ms(90.0),
            tally.latency_ms(99.0),
            tally.latency_ms(99.9),
            tally.latency_ms(100.0),
            match self.wire.rate {
                Some(_) => "from when each was due",
                None => "the wait for a connection included",
            },
        )?;
        let stages: Vec<_> = tally
            .stages_ms()
            .into_iter()
            .filter(|(_, ms)| *ms >= 0.0005)
            .map(|(name, ms)| format!("{name} {ms:.3}"))
            .collect();
        writeln!(f, "stages       mean ms: {}", stages.join(" · "))?;
        writeln!(
            f,
            "connections  {} opened; TLS {} full, {} resumed",
            self.stats.connections_opened, self.stats.tls_full, self.stats.tls_resumed,
        )?;
        write!(
            f,
            "cost         {:.1} µs of CPU a message",
            self.load.cpu_us_per_message()
        )?;
        if let Some(rss) = self.rss_bytes {
            write!(f, " · {:.1} MiB resident", rss as f64 / 1_048_576.0)?;
        }
        if let Some(bound) = self.bound() {
            write!(f, "\nbound by     {bound}")?;
        }
        if let Some(failure) = &tally.first_failure {
            write!(
                f,
                "\nnot sent     {} failed, {} unknown; the first: {failure}",
                tally.failed, tally.unknown
            )?;
        }
        Ok(())
    }
}
