//! The closing summary: what became of the rows, where the time went, and what bounds the rate.

use std::path::Path;
use std::sync::atomic::Ordering;

use client::PoolStats;
use serde_json::json;

use super::bulk::Plan;
use super::deliver::{Delivered, StopReason};
use super::feed::FeedTimes;
use super::progress::Counts;
use super::record::Event;
use crate::load::Tally;
use crate::out;

/// Of a rate that was set: what counts as having reached it.
const RATE_REACHED: f64 = 0.9;
/// Of all CPUs: what counts as busy.
const CPU_BUSY: f64 = 0.9;

/// All that the summary is made of.
pub(super) struct Facts<'a> {
    pub(super) counts: &'a Counts,
    pub(super) tally: &'a Tally,
    pub(super) delivered: &'a Delivered,
    pub(super) times: &'a FeedTimes,
    pub(super) stats: PoolStats,
    /// Of all this machine's CPUs, the share that was busy with whatever; 0 to 1.
    pub(super) cpu_share: f64,
    pub(super) rate_per_second: Option<f64>,
    pub(super) connections_max: usize,
    /// Messages unanswered on a connection; above 1, all of one travels in one flight.
    pub(super) window: u8,
    pub(super) record: &'a Path,
    pub(super) plan: Plan,
}

/// What bounds the rate, and how much of the time it takes.
#[derive(Debug, PartialEq)]
pub(super) struct Bound {
    pub(super) by: String,
    /// 0 to 1.
    pub(super) share: f64,
    pub(super) hint: Option<&'static str>,
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
            .map(|event| self.counts.get(event))
            .sum();
        self.plan.total.saturating_sub(done)
    }

    /// What bounds the rate; `None` where nothing was sent.
    pub(super) fn bound(&self) -> Option<Bound> {
        if self.tally.sent == 0 {
            return None;
        }
        let elapsed = self.delivered.elapsed.as_secs_f64().max(1e-9);
        let rate_share = self
            .rate_per_second
            .map_or(0.0, |rate| self.messages_per_second() / rate);
        let starved_share = self.delivered.starved.as_secs_f64() / elapsed;
        let bound = |by: &str, share: f64, hint| Bound {
            by: by.to_owned(),
            share: share.min(1.0),
            hint,
        };
        Some(if rate_share >= RATE_REACHED {
            bound("--rate", rate_share, None)
        } else if self.cpu_share >= CPU_BUSY {
            bound("this machine's CPU", self.cpu_share, None)
        } else if starved_share > 0.5 {
            bound(self.feed_words(), starved_share, None)
        } else {
            let (by, share) = self.slowest_stage();
            let hint = "more --connections, or a --window, would help as far as the relay bears it";
            let is_full = self.stats.connections_open_max >= self.connections_max;
            bound(by, share, is_full.then_some(hint))
        })
    }

    fn feed_words(&self) -> &'static str {
        let making = self.times.making.load(Ordering::Relaxed);
        let syncing = self.times.syncing.load(Ordering::Relaxed);
        if making > syncing {
            "making the messages (templates, signatures)"
        } else {
            "the disk, which makes the record durable"
        }
    }

    /// The stage that takes most of the time on the wire, and its share of that time.
    fn slowest_stage(&self) -> (&'static str, f64) {
        let stages = self.tally.stages_ms();
        let on_wire = stages.iter().filter(|(name, _)| *name != "queue");
        let sum: f64 = on_wire.clone().map(|(_, ms)| ms).sum();
        let slowest = on_wire.max_by(|a, b| a.1.total_cmp(&b.1));
        let (name, ms) = slowest.copied().unwrap_or_default();
        let words = match name {
            "mail" if self.window > 1 => "the relay's replies to whole messages",
            name => stage_words(name),
        };
        (words, ms / sum.max(1e-9))
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
            "sent": self.counts.get(Event::Sent),
            "rejected": self.counts.get(Event::Rejected),
            "failed": self.counts.get(Event::Failed),
            "timed_out": self.counts.get(Event::TimedOut),
            "unknown": self.counts.get(Event::Unknown),
            "unknown_rows": self.unknown_json(),
            "skipped": self.counts.get(Event::Skipped),
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
            "bound_by": bound.as_ref().map(|bound| &bound.by),
            "bound_share": bound.as_ref().map(|bound| bound.share),
            "record": self.record,
        })
    }

    fn unknown_json(&self) -> Vec<serde_json::Value> {
        let rows = self.counts.unknown_rows().into_iter();
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
        let count = |event| self.counts.get(event);
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
        out::line(format_args!("record       {}", self.record.display()));
        self.print_advice();
    }

    fn name_unknown(&self) {
        let named = self.counts.unknown_rows();
        for (row, email) in &named {
            out::line(format_args!("  row {row}: {email}"));
        }
        if self.counts.get(Event::Unknown) > named.len() as u64 {
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
            out::line(format_args!(
                "bound by     {}: {:.0} % of the time",
                bound.by,
                bound.share * 100.0
            ));
            if let Some(hint) = bound.hint {
                out::line(format_args!("             {hint}"));
            }
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
        let failed = self.counts.get(Event::Failed) + self.counts.get(Event::TimedOut);
        if failed + self.plan.left_failed > 0 {
            out::line(format_args!(
                "--retry-failed takes up those that failed for now"
            ));
        }
        if self.counts.get(Event::Unknown) > 0 {
            out::line(format_args!(
                "--resend-unknown sends the unknown again, perhaps for the second time"
            ));
        }
    }
}

fn stage_words(name: &str) -> &'static str {
    match name {
        "dns" => "resolving the relay's name",
        "connect" => "connecting to the relay",
        "tls" => "TLS handshakes",
        "greeting" => "the relay's greeting",
        "ehlo" => "the relay's reply to EHLO",
        "auth" => "the login",
        "mail" => "the relay's reply to MAIL",
        "rcpt" => "the relay's reply to RCPT",
        "content" => "writing the content",
        _ => "the relay's final reply",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::Timings;

    use super::*;

    /// What bounds a run of 100 messages in 10 s, each 90 ms in the final reply and 10 in MAIL.
    fn bound(change: impl FnOnce(&mut Facts<'_>, &mut Delivered)) -> Bound {
        let mut tally = Tally::new();
        let timings = Timings {
            mail: Duration::from_millis(10),
            final_reply: Duration::from_millis(90),
            ..Timings::default()
        };
        for _ in 0..100 {
            tally.note_sent(&timings, Duration::from_millis(100));
        }
        let delivered = |starved| Delivered {
            elapsed: Duration::from_secs(10),
            starved,
            stop_reason: None,
        };
        let (mut changed, original) = (delivered(Duration::ZERO), delivered(Duration::ZERO));
        let mut facts = Facts {
            counts: &Counts::default(),
            tally: &tally,
            delivered: &original,
            times: &FeedTimes::default(),
            stats: PoolStats::default(),
            cpu_share: 0.5,
            rate_per_second: None,
            connections_max: 10,
            window: 1,
            record: Path::new("r"),
            plan: Plan {
                total: 100,
                left_failed: 0,
                given_up: 0,
            },
        };
        change(&mut facts, &mut changed);
        let facts = Facts {
            delivered: &changed,
            ..facts
        };
        facts.bound().unwrap()
    }

    #[test]
    fn the_summary_names_what_bounds_the_rate() {
        let final_reply = bound(|_, _| {});
        assert_eq!(final_reply.by, "the relay's final reply");
        assert!((final_reply.share - 0.9).abs() < 1e-6 && final_reply.hint.is_none());
        let at_cap = bound(|facts, _| facts.stats.connections_open_max = 10);
        assert!(at_cap.hint.unwrap().contains("--connections"));
        assert_eq!(
            bound(|facts, _| facts.rate_per_second = Some(10.0)).by,
            "--rate"
        );
        let cpu = bound(|facts, _| facts.cpu_share = 0.95);
        assert_eq!(cpu.by, "this machine's CPU");
        let disk = bound(|_, delivered| delivered.starved = Duration::from_secs(8));
        assert!(disk.by.contains("disk") && disk.share == 0.8, "{disk:?}");
    }
}
