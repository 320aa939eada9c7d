//! The closing summary: what became of the rows, where the time went, and what bounds the rate.

use std::sync::atomic::Ordering;

use client::PoolStats;
use serde_json::json;

use super::bulk::Plan;
use super::deliver::{Delivered, StopReason};
use super::feed::Feed;
use super::record::Event;
use crate::bound::{Bound, Work};
use crate::cmd::wire::{self, WireSettings};
use crate::load::Tally;
use crate::out;

/// All that the summary is made of.
pub(super) struct Facts<'a> {
    pub(super) feed: &'a Feed,
    pub(super) tally: &'a Tally,
    pub(super) delivered: &'a Delivered,
    pub(super) stats: PoolStats,
    /// Of all this machine's CPUs, the share that was busy with whatever; 0 to 1.
    pub(super) cpu_share: f64,
    pub(super) wire: WireSettings,
    pub(super) plan: Plan,
}

impl Facts<'_> {
    fn messages_per_second(&self) -> f64 {
        self.tally.sent as f64 / self.delivered.elapsed.as_secs_f64().max(1e-9)
    }

    /// Rows that were neither offered nor given up.
    fn not_attempted(&self) -> u64 {
        use Event::{Failed, Rejected, Sent, Skipped, TimedOut, Unknown};
        let done: u64 = [Sent, Rejected, Failed, TimedOut, Unknown, Skipped]
            .into_iter()
            .map(|event| self.feed.counts.get(event))
            .sum();
        self.plan.total.saturating_sub(done)
    }

    fn bound(&self) -> Option<Bound> {
        let work = Work {
            tally: self.tally,
            elapsed: self.delivered.elapsed,
            rate_per_second: self.wire.rate.map(flow::rate::RateLimit::per_second),
            cpu_share: self.cpu_share,
            window: wire::window_of(self.wire.wire),
            is_at_cap: self.stats.connections_open_max >= self.wire.connections_max(),
            starved: Some((self.delivered.starved, self.feed_words())),
        };
        work.bound()
    }

    fn feed_words(&self) -> &'static str {
        let making = self.feed.times.making.load(Ordering::Relaxed);
        let syncing = self.feed.times.syncing.load(Ordering::Relaxed);
        if making > syncing {
            "making the messages (templates, signatures)"
        } else {
            "the disk, which makes the record durable"
        }
    }

    /// One object for machines.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let stages: serde_json::Map<_, _> = self
            .tally
            .stages_ms()
            .into_iter()
            .map(|(name, ms)| (name.to_owned(), ms.into()))
            .collect();
        let bound = self.bound();
        json!({
            "sent": self.feed.counts.get(Event::Sent),
            "rejected": self.feed.counts.get(Event::Rejected),
            "failed": self.feed.counts.get(Event::Failed),
            "timed_out": self.feed.counts.get(Event::TimedOut),
            "unknown": self.feed.counts.get(Event::Unknown),
            "unknown_rows": self.unknown_json(),
            "skipped": self.feed.counts.get(Event::Skipped),
            "not_attempted": self.not_attempted(),
            "left_failed": self.plan.left_failed,
            "given_up": self.plan.given_up,
            "stopped": self.stop_words(),
            "seconds": self.delivered.elapsed.as_secs_f64(),
            "messages_per_second": self.messages_per_second(),
            "latency_ms": {
                "p50": self.tally.latency_ms(50.0),
                "p99": self.tally.latency_ms(99.0),
            },
            "stages_ms": stages,
            "connections_opened": self.stats.connections_opened,
            "tls": { "full": self.stats.tls_full, "resumed": self.stats.tls_resumed },
            "bound_by": bound.as_ref().map(|bound| bound.by),
            "bound_share": bound.as_ref().map(|bound| bound.share),
            "record": self.feed.record.path(),
        })
    }

    fn unknown_json(&self) -> Vec<serde_json::Value> {
        let rows = self.feed.counts.unknown_rows().into_iter();
        rows.map(|(row, email)| json!({ "row": row, "email": email }))
            .collect()
    }

    /// Why the run stopped early, if it did.
    pub(super) fn stop_words(&self) -> Option<String> {
        self.delivered
            .stop_reason
            .as_ref()
            .map(|reason| match reason {
                StopReason::Interrupted => "interrupted".to_owned(),
                StopReason::Relay(failure) => format!("the relay takes no more: {failure}"),
                StopReason::Feed(error) => error.to_string(),
            })
    }

    /// Some lines for people.
    pub(super) fn print(&self) {
        let count = |event| self.feed.counts.get(event);
        out::line(format_args!(
            "{} sent in {:.1} s: {:.0} messages/s",
            count(Event::Sent),
            self.delivered.elapsed.as_secs_f64(),
            self.messages_per_second()
        ));
        let rest = [
            (count(Event::Rejected), "rejected for good"),
            (count(Event::Failed), "failed for now"),
            (count(Event::TimedOut), "timed out"),
            (count(Event::Unknown), "unknown: perhaps sent, perhaps not"),
            (
                count(Event::Skipped),
                "skipped: an earlier row has the address",
            ),
            (self.not_attempted(), "not attempted"),
            (self.plan.left_failed, "failed for now in an earlier run"),
            (self.plan.given_up, "given up: failed for now every time"),
        ];
        for (count, words) in rest.iter().filter(|(count, _)| *count > 0) {
            out::line(format_args!("{count} {words}"));
        }
        self.name_unknown();
        if self.tally.sent > 0 {
            self.print_times();
        }
        out::line(format_args!(
            "record       {}",
            self.feed.record.path().display()
        ));
        self.print_advice();
    }

    fn name_unknown(&self) {
        let named = self.feed.counts.unknown_rows();
        for (row, email) in &named {
            out::line(format_args!("  row {row}: {email}"));
        }
        if self.feed.counts.get(Event::Unknown) > named.len() as u64 {
            out::line(format_args!(
                "  … the others are in the record, with \"event\":\"unknown\""
            ));
        }
    }

    fn print_times(&self) {
        out::line(format_args!(
            "latency      p50 {:.1} ms · p99 {:.1} ms on the wire",
            self.tally.latency_ms(50.0),
            self.tally.latency_ms(99.0)
        ));
        out::line(format_args!(
            "connections  {} opened, {} at once at most; TLS {} full, {} resumed",
            self.stats.connections_opened,
            self.stats.connections_open_max,
            self.stats.tls_full,
            self.stats.tls_resumed
        ));
        let stages: Vec<_> = self
            .tally
            .stages_ms()
            .into_iter()
            .filter(|(_, ms)| *ms >= 0.005)
            .map(|(name, ms)| format!("{name} {ms:.2}"))
            .collect();
        out::line(format_args!("stages       mean ms: {}", stages.join(" · ")));
        if let Some(bound) = self.bound() {
            out::line(format_args!("bound by     {bound}"));
        }
    }

    fn print_advice(&self) {
        if let Some(words) = self.stop_words() {
            out::line(format_args!("stopped      {words}"));
        }
        if self.not_attempted() > 0 {
            out::line(format_args!(
                "--resume goes on with the {} not attempted",
                self.not_attempted()
            ));
        }
        let failed = self.feed.counts.get(Event::Failed) + self.feed.counts.get(Event::TimedOut);
        if failed + self.plan.left_failed > 0 {
            out::line(format_args!(
                "--retry-failed takes up those that failed for now"
            ));
        }
        if self.feed.counts.get(Event::Unknown) > 0 {
            out::line(format_args!(
                "--resend-unknown sends the unknown again, perhaps for the second time"
            ));
        }
    }
}
