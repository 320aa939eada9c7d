//! The engine in a storm: mail is handed in, the server is killed in the middle, and starts again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use sink::{Record, Rule, Sink};

use super::serving::Serving;
use super::submit::{self, Outbox};
use crate::cmd::api::Api;
use crate::exit::{Exit, OrExit, Stop};

/// The weather, rule by rule; see `mailrail sink --rule`.
pub(crate) const RULES: [(&str, &str); 6] = [
    (
        "at = \"greeting\", probability = 0.02, reply = \"421 4.3.2 Too busy\"",
        "2 % of all connections are turned away with 421",
    ),
    (
        "at = \"mail\", probability = 0.005, reply = \"421 4.3.2 Restarting\"",
        "0.5 % of all messages are met by 421 and a closed connection",
    ),
    (
        "at = \"rcpt\", probability = 0.2, reply = \"450 4.2.0 Greylisted, come again\"",
        "a fifth of all attempts is greylisted",
    ),
    (
        "at = \"rcpt\", probability = 0.005, do = \"reset\"",
        "0.5 % of all recipients meet a connection that is reset",
    ),
    (
        "at = \"content\", probability = 0.005, do = \"drop\"",
        "0.5 % of all messages are cut off in mid-content",
    ),
    (
        "at = \"final\", probability = 0.005, do = \"lose-reply\"",
        "0.5 % of all messages are taken, but the reply is lost",
    ),
];
/// Messages handed in for each that the ways before sent.
const FACTOR: u64 = 4;
/// Connections of the server to the sink.
const CONNECTIONS: u32 = 20;
/// Classes of failure, and how soon each is tried again here: nobody wants to watch for hours.
const RETRY_CLASSES: [&str; 6] = [
    "connect",
    "handshake",
    "throttled",
    "greylisted",
    "mailbox_full",
    "transient",
];
const RETRY: &str = "first = \"300ms\"\nlongest = \"2s\"";
/// What is not acknowledged, or not delivered, by then is not waited for.
const SUBMIT_MAX: Duration = Duration::from_secs(30);
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
const SETTLED_INTERVAL: Duration = Duration::from_millis(100);
/// Lost recipients that are named.
const NAMED_MAX: usize = 10;

/// What became of the mail, by the server's acknowledgements and by the sink's own records.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) handed_in: u64,
    /// Answered 250 or 200.
    pub(crate) acknowledged: u64,
    /// Of them, by then the server was killed.
    pub(crate) acknowledged_before: u64,
    /// Acknowledged, and with the sink.
    pub(crate) delivered: u64,
    /// Of them, by then the server was killed.
    pub(crate) delivered_before: u64,
    /// Copies too many, after a reply that the storm lost …
    pub(crate) duplicates_reply_lost: u64,
    /// … and of what was on the wire when the server was killed or a connection was cut.
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

    /// Compares what was acknowledged with what the sink has.
    fn compare(&mut self, acknowledged: &[Option<Instant>], records: &[Record]) {
        let mut copies: HashMap<&str, Vec<bool>> = HashMap::new();
        for record in records {
            for to in &record.to {
                copies.entry(to).or_default().push(record.reply_lost);
            }
        }
        let acknowledged = acknowledged.iter().enumerate();
        for (number, _) in acknowledged.filter(|(_, at)| at.is_some()) {
            self.acknowledged += 1;
            let address = submit::address(number);
            let Some((_, earlier)) = copies.get(&*address).and_then(|all| all.split_last()) else {
                self.lost += 1;
                if self.lost_named.len() < NAMED_MAX {
                    self.lost_named.push(address);
                }
                continue;
            };
            self.delivered += 1;
            let reply_lost = earlier.iter().filter(|lost| **lost).count();
            self.duplicates_reply_lost += reply_lost as u64;
            self.duplicates_cut += (earlier.len() - reply_lost) as u64;
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The engine: {} messages handed in by SMTP and HTTP, {:.1} s, one SIGKILL, {} refusals, {} connections.",
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
                "duplicates: {} after a lost reply, {} on the wire when the server or a connection was cut",
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
        let [waiting, parts @ ..] = self.parts();
        let parts = [waiting].into_iter().chain(parts);
        let words: Vec<_> = parts
            .map(|(_, words, ms)| format!("{ms:.1} ms {words}"))
            .collect();
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
            ("left", "waiting for a turn or the next attempt", waiting),
            a,
            b,
            c,
            d,
        ]
    }

    /// Adds what one process counted until now.
    fn add(&mut self, metrics: &str) {
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
fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The server's two lives in front of one sink.
struct Course {
    sink: Sink,
    home: tempfile::TempDir,
    config: String,
    outbox: Arc<Outbox>,
    started: Instant,
    samples: Vec<(f64, u64, u64)>,
    spinner: ProgressBar,
}

/// Hands in `messages` times [`FACTOR`] through the storm, kills the server in the middle, starts it again, and
/// waits until all is settled.
pub(crate) async fn run(messages: u64, rtt: Duration, seed: u64) -> Result<Account, Stop> {
    let handed_in = messages.saturating_mul(FACTOR);
    let mut course = Course::begin(handed_in, rtt, seed).await?;
    let mut account = Account {
        handed_in,
        ..Account::default()
    };
    let killed = course.first_life(&mut account).await?;
    course.second_life(killed, &mut account).await?;
    course.spinner.finish_and_clear();
    account.compare(&course.outbox.acknowledged(), &course.sink.records());
    let report = course.sink.report();
    (account.refused, account.connections) = (report.refused, report.connections);
    account.samples = course.samples;
    course.sink.shutdown().await;
    Ok(account)
}

impl Course {
    async fn begin(handed_in: u64, rtt: Duration, seed: u64) -> Result<Self, Stop> {
        let mut builder = Sink::builder()
            .keep_records()
            .rtt(rtt)
            .seed(seed)
            .threads(1);
        for (rule, _) in RULES {
            builder = builder.rule(rule.parse::<Rule>().expect("the rules are well-formed"));
        }
        let sink = builder.start().await.or_exit(Exit::Temporary)?;
        let home = tempfile::Builder::new().prefix("mailrail-demo-").tempdir();
        Ok(Self {
            config: config(&sink),
            sink,
            home: home.or_exit_with(Exit::Temporary, "no folder for the engine's data")?,
            outbox: Arc::new(Outbox::new(
                usize::try_from(handed_in).unwrap_or(usize::MAX),
            )),
            started: Instant::now(),
            samples: Vec::new(),
            spinner: ProgressBar::new_spinner(),
        })
    }

    async fn start(&self) -> Result<Serving, Stop> {
        Serving::start(self.home.path(), &self.config).await
    }

    /// Until half of the messages are acknowledged and the server is killed.
    async fn first_life(&mut self, account: &mut Account) -> Result<Instant, Stop> {
        let mut server = self.start().await?;
        let (smtp, api) = (server.smtp, Arc::clone(&server.api));
        let outbox = Arc::clone(&self.outbox);
        let half = account.handed_in / 2;
        self.started = Instant::now();
        let end = async {
            self.watch(SUBMIT_MAX, |acknowledged| acknowledged >= half)
                .await;
            let metrics = scrape(&api).await?;
            server.kill();
            Ok((metrics, Instant::now()))
        };
        let (metrics, killed) = submit::run(&outbox, smtp, &api, end).await?;
        account.costs.add(&metrics);
        account.killed_at = killed - self.started;
        account.acknowledged_before = outbox.acknowledged_count();
        account.delivered_before = self.sink.report().messages;
        Ok(killed)
    }

    /// From the restart until all is acknowledged and settled, or not waited for any longer.
    async fn second_life(&mut self, killed: Instant, account: &mut Account) -> Result<(), Stop> {
        let server = self.start().await?;
        let ready = Instant::now();
        let outbox = Arc::clone(&self.outbox);
        let all = account.handed_in;
        let end = async {
            self.watch(SUBMIT_MAX, |acknowledged| acknowledged >= all)
                .await;
            Ok(())
        };
        submit::run(&outbox, server.smtp, &server.api, end).await?;
        let metrics = self.settled(&server.api).await?;
        account.elapsed = self.started.elapsed();
        account.costs.add(&metrics);
        account.ready_after = ready - killed;
        let acknowledged = outbox.acknowledged();
        let after = || acknowledged.iter().flatten().filter(|at| **at > killed);
        account.accepting_after = after().min().map(|at| *at - killed);
        let last = after()
            .max()
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(ready));
        account.submitting = account.killed_at + last;
        Ok(())
    }

    /// The metrics once no recipient is unsettled.
    async fn settled(&mut self, api: &Arc<Api>) -> Result<String, Stop> {
        let given_up = Instant::now() + SETTLE_MAX;
        loop {
            let metrics = scrape(api).await?;
            let is_none = |name| value(&metrics, name) == Some(0.0);
            let is_settled = is_none("mailrail_spool_recipients") && is_none("mailrail_recovering");
            if is_settled || Instant::now() > given_up {
                return Ok(metrics);
            }
            self.watch(SETTLED_INTERVAL, |_| false).await;
        }
    }

    /// Looks now and then how far it has come; shows it where there is a terminal.
    async fn watch(&mut self, max: Duration, is_enough: impl Fn(u64) -> bool) {
        let end = Instant::now() + max;
        loop {
            let acknowledged = self.outbox.acknowledged_count();
            let taken = self.sink.report().messages;
            let at_s = self.started.elapsed().as_secs_f64();
            self.samples.push((at_s, acknowledged, taken));
            let words = format!("the engine: {acknowledged} acknowledged, {taken} delivered");
            self.spinner.set_message(words);
            self.spinner.tick();
            if is_enough(acknowledged) || Instant::now() >= end {
                return;
            }
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    }
}

async fn scrape(api: &Arc<Api>) -> Result<String, Stop> {
    let api = Arc::clone(api);
    let scraping = tokio::task::spawn_blocking(move || api.text("/metrics"));
    scraping.await.or_exit(Exit::Temporary)?
}

fn config(sink: &Sink) -> String {
    let retry = RETRY_CLASSES.map(|class| format!("[retry.{class}]\n{RETRY}\n"));
    format!(
        "[log]\nlevel = \"error\"\n[[route]]\ndomain = \"*\"\nname = \"sink\"\nvia = \"smtp://{}?tls=none\"\n\
         connections_max = {CONNECTIONS}\n{}",
        sink.addr(),
        retry.concat()
    )
}
