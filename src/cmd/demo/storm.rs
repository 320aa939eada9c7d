//! A stormy server, and the proof of who got what.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use client::{Concurrency, Kind, Pool, Relay};
use flow::backoff::Backoff;
use flow::retry::RetryPolicy;
use sink::{Rule, Sink};
use smtp::{Address, Content, Envelope};
use tokio::task::JoinSet;

use crate::exit::{Exit, OrExit, Stop};

/// The weather, rule by rule; see `mailrail sink --rule`.
pub(crate) const RULES: [(&str, &str); 6] = [
    (
        "at = \"greeting\", probability = 0.2, reply = \"421 4.3.2 Too busy\"",
        "a fifth of all connections is turned away with 421",
    ),
    (
        "at = \"mail\", probability = 0.03, reply = \"421 4.7.0 Slow down\"",
        "3 % of all messages are met by 421 and a closed connection",
    ),
    (
        "at = \"rcpt\", probability = 0.05, reply = \"452 4.2.2 Mailbox full\"",
        "5 % of all recipients are full for now",
    ),
    (
        "at = \"rcpt\", probability = 0.01, do = \"reset\"",
        "1 % of all recipients meet a connection that is reset",
    ),
    (
        "at = \"content\", probability = 0.02, do = \"drop\"",
        "2 % of all messages are cut off in mid-content",
    ),
    (
        "at = \"final\", probability = 0.02, do = \"lose-reply\"",
        "2 % of all messages are taken, but the reply is lost",
    ),
];
/// How long a new sender and recipient are turned away.
pub(crate) const GREYLIST: Duration = Duration::from_millis(300);
/// Tries within one `send`, …
const TRIES: u32 = 4;
/// … and how often those that failed for now are taken up again.
const ROUNDS: usize = 30;
/// Unknown recipients that are named.
const NAMED_MAX: usize = 1000;
/// Of them on the terminal; the report has all.
const PRINTED_MAX: usize = 3;
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// What became of the messages, by the client's word and by the server's records.
pub(crate) struct Aftermath {
    pub(crate) recipients: u64,
    pub(crate) elapsed: Duration,
    /// The client says sent, the server has it once.
    pub(crate) sent_once: u64,
    /// The client says unknown, and the server has it once …
    pub(crate) unknown_arrived: u64,
    /// … or does not have it.
    pub(crate) unknown_lost: u64,
    /// The client says not sent, and the server does not have it.
    pub(crate) not_sent: u64,
    /// Whatever else: a duplicate, a loss, a false report.
    pub(crate) wrong: Vec<String>,
    /// The unknown, up to [`NAMED_MAX`].
    pub(crate) unknown_named: Vec<String>,
    pub(crate) attempts: u64,
    pub(crate) connections: u64,
    pub(crate) refused: u64,
}

impl Aftermath {
    /// Whether every recipient has it once, or is named.
    pub(crate) fn is_exactly_once(&self) -> bool {
        self.wrong.is_empty() && self.not_sent == 0
    }
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The storm: {} recipients in {:.1} s, {} attempts, {} refusals, {} connections.",
            self.recipients,
            self.elapsed.as_secs_f64(),
            self.attempts,
            self.refused,
            self.connections,
        )?;
        writeln!(f, "By the server's own records:")?;
        writeln!(
            f,
            "  {:>5} reported sent, and there exactly once",
            self.sent_once
        )?;
        writeln!(
            f,
            "  {:>5} reported unknown (the reply was lost): {} are there once, {} are not",
            self.unknown_arrived + self.unknown_lost,
            self.unknown_arrived,
            self.unknown_lost,
        )?;
        for name in self.unknown_named.iter().take(PRINTED_MAX) {
            writeln!(f, "        {name}")?;
        }
        if self.unknown_named.len() > PRINTED_MAX {
            writeln!(f, "        … all named in the report")?;
        }
        writeln!(f, "  {:>5} reported not sent, and not there", self.not_sent)?;
        writeln!(
            f,
            "  {:>5} duplicates, losses or false reports",
            self.wrong.len()
        )?;
        for wrong in &self.wrong {
            writeln!(f, "        {wrong}")?;
        }
        Ok(())
    }
}

/// What the client says of a recipient.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Sent,
    Unknown,
    NotSent,
}

/// Sends one message to each of `recipients` through the storm.
pub(crate) async fn run(recipients: u64, seed: u64) -> Result<Aftermath, Stop> {
    let mut builder = Sink::builder()
        .keep_records()
        .seed(seed)
        .greylist(GREYLIST)
        .threads(1);
    for (rule, _) in RULES {
        builder = builder.rule(rule.parse::<Rule>().expect("the rules are well-formed"));
    }
    let sink = builder.start().await.or_exit(Exit::Temporary)?;
    let pool = Pool::builder(Relay::plaintext(sink.addr()))
        .concurrency(Concurrency::Fixed(10))
        .retry(RetryPolicy::new(TRIES, Backoff::SEND))
        .retry_seed(seed)
        .build()
        .or_exit(Exit::Usage)?;
    let started = Instant::now();
    let (said, attempts) = send_all(&pool, recipients).await;
    let elapsed = started.elapsed();
    pool.close().await;
    let mut aftermath = Aftermath {
        recipients,
        elapsed,
        sent_once: 0,
        unknown_arrived: 0,
        unknown_lost: 0,
        not_sent: 0,
        wrong: Vec::new(),
        unknown_named: Vec::new(),
        attempts,
        connections: sink.report().connections,
        refused: sink.report().refused,
    };
    aftermath.compare(&said, &sink);
    sink.shutdown().await;
    Ok(aftermath)
}

/// What the client says of each recipient in the end, and its attempts.
async fn send_all(pool: &Pool, recipients: u64) -> (Vec<Said>, u64) {
    let mut said = vec![Said::NotSent; usize::try_from(recipients).unwrap_or(usize::MAX)];
    let mut attempts = 0;
    for _ in 0..ROUNDS {
        let mut sending = JoinSet::new();
        for (index, _) in said
            .iter()
            .enumerate()
            .filter(|(_, said)| **said == Said::NotSent)
        {
            let pool = pool.clone();
            sending.spawn(async move {
                let (envelope, content) = message(index);
                (index, pool.send(envelope, content).await)
            });
        }
        if sending.is_empty() {
            break;
        }
        while let Some(done) = sending.join_next().await {
            let Ok((index, report)) = done else { continue };
            attempts += u64::from(report.attempts);
            said[index] = match report.first_failure().map(|failure| failure.kind) {
                None => Said::Sent,
                Some(Kind::Unknown) => Said::Unknown,
                Some(Kind::Transient | Kind::Permanent) => Said::NotSent,
            };
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    (said, attempts)
}

impl Aftermath {
    fn compare(&mut self, said: &[Said], sink: &Sink) {
        let mut copies: HashMap<String, u64> = HashMap::new();
        for to in sink.records().into_iter().flat_map(|record| record.to) {
            *copies.entry(to).or_default() += 1;
        }
        for (index, said) in said.iter().enumerate() {
            let address = address(index);
            let copies = copies.remove(&address).unwrap_or(0);
            match (said, copies) {
                (Said::Sent, 1) => self.sent_once += 1,
                (Said::Unknown, 1) => self.unknown_arrived += 1,
                (Said::Unknown, 0) => self.unknown_lost += 1,
                (Said::NotSent, 0) => self.not_sent += 1,
                (said, copies) => self.wrong.push(format!(
                    "{address}: reported {}, there {copies} times",
                    said.word()
                )),
            }
            if *said == Said::Unknown && self.unknown_named.len() < NAMED_MAX {
                self.unknown_named.push(address);
            }
        }
        let strangers = copies.into_keys();
        self.wrong
            .extend(strangers.map(|to| format!("{to}: nobody sent to it")));
    }
}

impl Said {
    fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unknown => "unknown",
            Self::NotSent => "not sent",
        }
    }
}

fn address(index: usize) -> String {
    format!("person{index}@storm.example")
}

fn message(index: usize) -> (Envelope, Content) {
    let from: Address = "demo@mailrail.example".parse().expect("a valid address");
    let to: Address = address(index).parse().expect("a valid address");
    let text = format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: Hello\r\n\r\nHello.\r\n");
    let content = Content::new(text).expect("canonical content");
    (Envelope::single(from, to), content)
}
