//! The account of the engine's act: who got what, how fast, and where the time went.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::submit;

/// Lost recipients that are named.
const NAMED_MAX: usize = 10;

/// What became of the mail, by the server's acknowledgements and by the sink's own records.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) handed_in: u64,
    /// Round trip from the server to the sink.
    pub(crate) rtt: Duration,
    /// Answered 250 or 200.
    pub(crate) acknowledged: u64,
    /// Of them, before the server was killed.
    pub(crate) acknowledged_before: u64,
    /// Acknowledged, and with the sink.
    pub(crate) delivered: u64,
    /// Taken by the sink before the server was killed.
    pub(crate) delivered_before: u64,
    /// Copies too many, after a reply that the storm lost …
    pub(crate) duplicates_reply_lost: u64,
    /// … and of what was not on record when the server was killed or a connection was cut.
    pub(crate) duplicates_cut: u64,
    /// Acknowledged, and not with the sink.
    pub(crate) lost: u64,
    /// The first of them.
    pub(crate) lost_named: Vec<String>,
    /// Until all was acknowledged, without the time in which there was no server.
    pub(crate) submitting: Duration,
    /// From the first message handed in to the last one settled.
    pub(crate) elapsed: Duration,
    /// From SIGKILL until the server said again that it takes mail …
    pub(crate) ready_after: Duration,
    /// … and until it had acknowledged something.
    pub(crate) accepting_after: Option<Duration>,
    /// When the server was killed, since the first message was handed in.
    pub(crate) killed_at: Duration,
    /// Refusals by the sink, and connections to it.
    pub(crate) refused: u64,
    pub(crate) connections: u64,
    pub(crate) costs: Costs,
    /// Seconds since the start, messages acknowledged and taken by the sink until then.
    pub(crate) samples: Vec<(f64, u64, u64)>,
}

/// Where the time went, by the server's own metrics, those of both processes together.
#[derive(Default)]
pub(crate) struct Costs {
    /// Stages of attempts and what each took, all attempts together.
    pub(crate) stages: Vec<(&'static str, f64)>,
    /// From acceptance to delivery, all recipients together, and how many they were.
    pub(crate) delivery_s: f64,
    pub(crate) deliveries: f64,
    /// Syncs of the journal and the time in them.
    pub(crate) syncs: f64,
    pub(crate) sync_s: f64,
}

impl Account {
    /// Whether everything acknowledged arrived.
    pub(crate) fn is_whole(&self) -> bool {
        self.lost == 0 && self.acknowledged > 0
    }

    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates_reply_lost + self.duplicates_cut
    }

    /// Messages acknowledged a second, each of them durable.
    pub(crate) fn accept_rate(&self) -> f64 {
        self.acknowledged as f64 / self.submitting.as_secs_f64().max(1e-9)
    }

    /// Messages delivered a second, over everything: storm, kill and restart.
    pub(crate) fn delivery_rate(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Compares what was acknowledged, by number, with the copies that the sink has of each: whether the storm lost
    /// the reply to it, in order.
    pub(super) fn compare(
        &mut self,
        acknowledged: &[Option<Instant>],
        mut copies: HashMap<String, Vec<bool>>,
    ) {
        let acknowledged = acknowledged.iter().enumerate();
        for (number, _) in acknowledged.filter(|(_, at)| at.is_some()) {
            self.acknowledged += 1;
            let address = submit::address(number);
            match copies.remove(&address).as_deref() {
                None | Some([]) => {
                    self.lost += 1;
                    self.lost_named.push(address);
                }
                Some([earlier @ .., _]) => {
                    self.delivered += 1;
                    let reply_lost = earlier.iter().filter(|lost| **lost).count();
                    self.duplicates_reply_lost += reply_lost as u64;
                    self.duplicates_cut += (earlier.len() - reply_lost) as u64;
                }
            }
        }
        self.lost_named.truncate(NAMED_MAX);
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The engine, {} ms before a stormy server: {} messages handed in by SMTP and HTTP, {:.1} s, one SIGKILL, \
             {} refusals, {} connections.",
            self.rtt.as_secs_f64() * 1e3,
            self.handed_in,
            self.elapsed.as_secs_f64(),
            self.refused,
            self.connections,
        )?;
        writeln!(
            f,
            "By the server's acknowledgements and the sink's own records:"
        )?;
        let count = |f: &mut fmt::Formatter<'_>, count: u64, words: fmt::Arguments<'_>| {
            writeln!(f, "  {count:>5} {words}")
        };
        let (accept, deliver) = (self.accept_rate(), self.delivery_rate());
        count(
            f,
            self.acknowledged,
            format_args!("acknowledged, {accept:.0} a second, each on disk before it was"),
        )?;
        count(
            f,
            self.delivered,
            format_args!("delivered, {deliver:.0} a second, storm and restart included"),
        )?;
        count(
            f,
            self.duplicates(),
            format_args!(
                "duplicates: {} after a lost reply, {} because the server was killed or a connection cut",
                self.duplicates_reply_lost, self.duplicates_cut
            ),
        )?;
        count(f, self.lost, format_args!("lost"))?;
        for name in &self.lost_named {
            writeln!(f, "        {name}")?;
        }
        writeln!(f, "{}", self.restart_words())?;
        writeln!(f, "Where the time went: {}", self.costs)
    }
}

impl Account {
    /// The kill and what came after it.
    pub(crate) fn restart_words(&self) -> String {
        let ready_ms = self.ready_after.as_millis();
        let accepting = self.accepting_after.map_or_else(String::new, |after| {
            format!(
                ", the next message acknowledged {} ms after it",
                after.as_millis()
            )
        });
        format!(
            "Killed after {:.1} s with {} acknowledged and {} delivered; ready again {ready_ms} ms after the kill{accepting}.",
            self.killed_at.as_secs_f64(),
            self.acknowledged_before,
            self.delivered_before,
        )
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self
            .parts()
            .map(|(_, words, ms)| format!("{ms:.1} ms {words}"));
        write!(
            f,
            "{:.0} ms from acceptance to delivery on average: {}; {:.0} syncs of the journal, {:.1} ms each",
            self.mean_ms(self.delivery_s),
            words.join(", "),
            self.syncs,
            self.sync_s * 1e3 / self.syncs.max(1.0),
        )
    }
}

/// Stages that belong together: class, words, stages.
const GROUPS: [(&str, &str, &[&str]); 4] = [
    (
        "setup",
        "connecting, greeting, EHLO",
        &["dns", "connect", "tls", "greeting", "ehlo", "auth"],
    ),
    ("mail", "waiting for the first reply (MAIL)", &["mail"]),
    ("rcpt", "RCPT and the content", &["rcpt", "content"]),
    ("final", "waiting for the final reply", &["final"]),
];

impl Costs {
    /// Of one delivered recipient, in ms.
    fn mean_ms(&self, sum_s: f64) -> f64 {
        sum_s * 1e3 / self.deliveries.max(1.0)
    }

    /// Class, words and ms of one delivered recipient: first the wait for its turn or its next attempt, then
    /// the stages of all its attempts.
    pub(crate) fn parts(&self) -> [(&'static str, &'static str, f64); 5] {
        let of = |stages: &[&str]| {
            let in_group = self.stages.iter().filter(|(name, _)| stages.contains(name));
            self.mean_ms(in_group.map(|(_, s)| s).sum())
        };
        let [a, b, c, d] = GROUPS.map(|(class, words, stages)| (class, words, of(stages)));
        let attempts = a.2 + b.2 + c.2 + d.2;
        let waiting = (self.mean_ms(self.delivery_s) - attempts).max(0.0);
        [
            ("ok", "waiting for a turn or the next attempt", waiting),
            a,
            b,
            c,
            d,
        ]
    }

    /// Adds what one process counted until now.
    pub(super) fn add(&mut self, metrics: &str) {
        let value = |name: &str| value(metrics, name).unwrap_or(0.0);
        self.delivery_s += value("mailrail_delivery_seconds_sum");
        self.deliveries += value("mailrail_delivery_seconds_count");
        self.syncs += value("mailrail_journal_syncs_total");
        self.sync_s += value("mailrail_journal_sync_seconds_total");
        for stage in GROUPS.iter().flat_map(|(_, _, stages)| *stages) {
            let name = format!("mailrail_stage_seconds_sum{{stage=\"{stage}\"}}");
            self.stages.push((stage, value(&name)));
        }
    }
}

/// A metric's value in a scrape.
pub(super) fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_and_nowhere_is_lost_and_further_copies_are_duplicates_by_their_cause() {
        let at = Some(Instant::now());
        let copies = [
            (0, vec![false]),
            (1, vec![true, false, false]),
            // Number 2 is nowhere; nobody acknowledged number 3.
            (3, vec![false]),
        ];
        let copies = copies.map(|(number, copies)| (submit::address(number), copies));
        let mut account = Account::default();
        account.compare(&[at, at, at, None], copies.into());
        assert_eq!((account.acknowledged, account.delivered), (3, 2));
        let duplicates = (account.duplicates_reply_lost, account.duplicates_cut);
        assert_eq!(duplicates, (1, 1));
        assert_eq!(account.lost_named, [submit::address(2)]);
        assert!(!account.is_whole());
    }

    #[test]
    fn costs_of_two_processes_add_up_and_what_no_stage_took_was_waiting() {
        let metrics = "mailrail_delivery_seconds_sum 1.5\nmailrail_delivery_seconds_count 5\n\
                       mailrail_stage_seconds_sum{stage=\"dns\"} 0.25\n\
                       mailrail_stage_seconds_sum{stage=\"final\"} 0.25\n";
        let mut costs = Costs::default();
        costs.add(metrics);
        costs.add(metrics);
        let ms = costs.parts().map(|(_, _, ms)| ms);
        assert_eq!(ms, [200.0, 50.0, 0.0, 0.0, 50.0]);
    }
}
