//! What bounds the rate of a run: the question that its summary answers.

use std::time::Duration;

use crate::load::Tally;

/// Of a rate that was set: what counts as having reached it.
const RATE_REACHED: f64 = 0.9;
/// Of all CPUs: what counts as busy.
const CPU_BUSY: f64 = 0.9;
/// Of the time: what counts as waiting for messages.
const STARVED: f64 = 0.5;

/// What bounds the rate, and how much of the time it takes.
#[derive(Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) by: &'static str,
    /// 0 to 1.
    pub(crate) share: f64,
    pub(crate) hint: Option<&'static str>,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:.0} % of the time", self.by, self.share * 100.0)?;
        if let Some(hint) = self.hint {
            write!(f, "\n             {hint}")?;
        }
        Ok(())
    }
}

/// What is known of a run.
pub(crate) struct Work<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) elapsed: Duration,
    /// The rate that was set.
    pub(crate) rate_per_second: Option<f64>,
    /// Of all this machine's CPUs, the share that was busy with whatever; 0 to 1.
    pub(crate) cpu_share: f64,
    /// Messages unanswered on a connection; above 1, all of one travels in one flight.
    pub(crate) window: u8,
    /// As many connections were open as may be.
    pub(crate) is_at_cap: bool,
    /// How long connections waited for messages to be made, and what made them wait.
    pub(crate) starved: Option<(Duration, &'static str)>,
}

impl Work<'_> {
    /// The first that applies of: the rate, the CPU, the making of messages, the slowest stage.
    /// `None` where nothing was sent.
    pub(crate) fn bound(&self) -> Option<Bound> {
        if self.tally.sent == 0 {
            return None;
        }
        let elapsed = self.elapsed.as_secs_f64().max(1e-9);
        let rate = self.tally.sent as f64 / elapsed;
        let rate_share = self.rate_per_second.map_or(0.0, |limit| rate / limit);
        let (starved, starved_by) = self.starved.unwrap_or_default();
        let starved_share = starved.as_secs_f64() / elapsed;
        let bound = |by, share: f64, hint| Bound {
            by,
            share: share.min(1.0),
            hint,
        };
        Some(if rate_share >= RATE_REACHED {
            bound("--rate", rate_share, None)
        } else if self.cpu_share >= CPU_BUSY {
            bound("this machine's CPU", self.cpu_share, None)
        } else if starved_share > STARVED {
            bound(starved_by, starved_share, None)
        } else {
            let (by, share) = self.slowest_stage();
            let hint = "more --connections, or a --window, would help as far as the relay bears it";
            bound(by, share, self.is_at_cap.then_some(hint))
        })
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
    use client::Timings;

    use super::*;

    /// What bounds a run of 100 messages in 10 s, each 90 ms in the final reply and 10 in MAIL.
    fn bound(change: impl FnOnce(&mut Work<'_>)) -> Bound {
        let mut tally = Tally::new();
        let timings = Timings {
            mail: Duration::from_millis(10),
            final_reply: Duration::from_millis(90),
            ..Timings::default()
        };
        for _ in 0..100 {
            tally.note_sent(&timings, Duration::from_millis(100));
        }
        let mut work = Work {
            tally: &tally,
            elapsed: Duration::from_secs(10),
            rate_per_second: None,
            cpu_share: 0.5,
            window: 1,
            is_at_cap: false,
            starved: None,
        };
        change(&mut work);
        work.bound().unwrap()
    }

    #[test]
    fn a_run_is_bound_by_the_first_that_applies() {
        let final_reply = bound(|_| {});
        assert_eq!(final_reply.by, "the relay's final reply");
        assert!((final_reply.share - 0.9).abs() < 1e-6 && final_reply.hint.is_none());
        let at_cap = bound(|work| work.is_at_cap = true);
        assert!(at_cap.hint.unwrap().contains("--connections"));
        assert_eq!(bound(|work| work.rate_per_second = Some(10.0)).by, "--rate");
        assert_eq!(bound(|work| work.cpu_share = 0.95).by, "this machine's CPU");
        let disk = bound(|work| work.starved = Some((Duration::from_secs(8), "the disk")));
        assert!(disk.by == "the disk" && disk.share == 0.8, "{disk:?}");
        let slightly = bound(|work| work.starved = Some((Duration::from_secs(2), "the disk")));
        assert_eq!(slightly.by, "the relay's final reply");
    }

    #[test]
    fn a_run_that_sent_nothing_is_bound_by_nothing() {
        let work = Work {
            tally: &Tally::new(),
            elapsed: Duration::ZERO,
            rate_per_second: Some(1.0),
            cpu_share: 1.0,
            window: 8,
            is_at_cap: true,
            starved: None,
        };
        assert_eq!(work.bound(), None);
    }
}
