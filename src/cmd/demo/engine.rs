//! The engine in a storm: mail is handed in, the server is killed in the middle, and starts again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use sink::{Rule, Sink};

use super::account::{Account, value};
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
/// The sink is nearer by this factor than that of the ways: storm and retries are long enough to watch.
const NEARER: u32 = 4;
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
const RETRY: &str = "first = \"300ms\"\nlongest = \"500ms\"";
/// What is not acknowledged, or not delivered, by then is not waited for.
const SUBMIT_MAX: Duration = Duration::from_secs(30);
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
const SETTLED_INTERVAL: Duration = Duration::from_millis(100);

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
    let mut course = Course::begin(handed_in, rtt / NEARER, seed).await?;
    let mut account = Account {
        handed_in,
        rtt: rtt / NEARER,
        ..Account::default()
    };
    let killed = course.first_life(&mut account).await?;
    course.second_life(killed, &mut account).await?;
    course.spinner.finish_and_clear();
    let acknowledged = course.outbox.acknowledged();
    account.compare(&acknowledged, copies(&course.sink));
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

/// Of each recipient, for each copy that the sink has in order, whether the storm lost its reply.
fn copies(sink: &Sink) -> HashMap<String, Vec<bool>> {
    let mut copies: HashMap<_, Vec<bool>> = HashMap::new();
    for record in sink.records() {
        for to in record.to {
            copies.entry(to).or_default().push(record.reply_lost);
        }
    }
    copies
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
