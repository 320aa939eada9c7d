//! A receiver whose limit nobody is told, over real sockets, in real time: 100, then 300, then 60 messages a second, ten
//! seconds each, on ten connections.
//!
//! `cargo bench -p mailrail-engine --bench adaptation -- [451|421] [restart]` offers 8,000 messages at once to the whole engine;
//! with `restart` it is dropped at 15 s and opened again on the same folder. With `receiver` it is only the receiver, for
//! another sender: its time begins with the first message.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Relay;
use engine::route::{Route, Via};
use engine::{Config, Engine, Options, Submission};
use flow::rate::{RateLimit, Unit};
use sink::{Script, Sink};
use smtp::{Content, Envelope};

const STEPS: [u64; 3] = [100, 300, 60];
/// Tenths of a second in each step.
const STEP_TENTHS: usize = 100;
const TENTH: Duration = Duration::from_millis(100);
const RESTART_AT: usize = 150;
const MESSAGES: u64 = 8000;
const CONNECTIONS: u64 = 10;

#[tokio::main]
async fn main() {
    let has = |word: &str| std::env::args().any(|arg| arg == word);
    let sink = start(has("421")).await;
    if has("receiver") {
        return receive(&sink).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path(), &sink).await;
    let mut watch = Watch::new();
    offer(&engine).await;
    println!("{MESSAGES} accepted in {:.1} s", watch.seconds());
    while watch.goes_on(&sink) {
        if watch.tenths.len() == RESTART_AT && has("restart") {
            let at = Instant::now();
            engine.drain(TENTH).await;
            let drained = at.elapsed();
            drop(engine);
            engine = open(folder.path(), &sink).await;
            println!(
                "restarted: drained in {drained:?}, back after {:?}",
                at.elapsed()
            );
        }
        watch.tenth(&sink).await;
        if watch.tenths.len().is_multiple_of(5) {
            println!("{}; {}", watch.half(), standing(&engine));
        }
    }
    println!("{}", watch.summary());
    engine.drain(TENTH).await;
}

async fn start(closes: bool) -> Sink {
    let rule = match closes {
        true => "[rate]\nlimit = '100/s'\nreply = '421 4.7.0 Too many messages'",
        false => "[rate]\nlimit = '100/s'\nreply = '451 4.7.1 Slow down'",
    };
    let script: Script = rule.parse().unwrap();
    let sink = Sink::builder()
        .threads(1)
        .connections_max(CONNECTIONS)
        .script(script);
    sink.start().await.unwrap()
}

/// Only watches, from the first message on.
async fn receive(sink: &Sink) {
    println!("listening on {}", sink.addr());
    while sink.report().messages + sink.report().refused == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut watch = Watch::new();
    while watch.goes_on(sink) {
        watch.tenth(sink).await;
    }
    println!("{}", watch.summary());
}

/// What the receiver took and refused, by tenths of a second.
struct Watch {
    begun: Instant,
    tenths: Vec<(u64, u64)>,
    before: (u64, u64),
}

impl Watch {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            tenths: Vec::new(),
            before: (0, 0),
        }
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Whether there is another tenth; begins a step where one is due.
    fn goes_on(&self, sink: &Sink) -> bool {
        let (step, within) = (
            self.tenths.len() / STEP_TENTHS,
            self.tenths.len() % STEP_TENTHS,
        );
        if let (Some(limit), 0) = (STEPS.get(step), within) {
            sink.set_rate(per_second(*limit));
        }
        step < STEPS.len()
    }

    async fn tenth(&mut self, sink: &Sink) {
        let end = self.begun + TENTH * (self.tenths.len() as u32 + 1);
        tokio::time::sleep_until(end.into()).await;
        let report = sink.report();
        let now = (report.messages, report.refused);
        self.tenths
            .push((now.0 - self.before.0, now.1 - self.before.1));
        self.before = now;
    }

    fn half(&self) -> String {
        let last = &self.tenths[self.tenths.len() - 5..];
        let limit = STEPS[(self.tenths.len() - 1) / STEP_TENTHS] / 2;
        let taken: u64 = last.iter().map(|tenth| tenth.0).sum();
        let refused: u64 = last.iter().map(|tenth| tenth.1).sum();
        let seconds = self.seconds();
        format!("{seconds:4.1} s: limit {limit:3}, taken {taken:3}, refused {refused:3}")
    }

    /// After how long half a second's rate first lay within a tenth of a step's limit.
    fn found(&self, step: usize) -> String {
        let tenths = &self.tenths[step * STEP_TENTHS..(step + 1) * STEP_TENTHS];
        let is_near = |five: &[(u64, u64)]| {
            let taken: u64 = five.iter().map(|tenth| tenth.0).sum();
            (taken as f64 * 2.0 / STEPS[step] as f64 - 1.0).abs() <= 0.1
        };
        match tenths.windows(5).position(is_near) {
            Some(tenth) => format!("{:.1} s", tenth as f64 / 10.0),
            None => "never".to_owned(),
        }
    }

    fn summary(&self) -> String {
        let (taken, refused) = (self.before.0 as f64, self.before.1 as f64);
        let could = STEPS.iter().sum::<u64>() as f64 * STEP_TENTHS as f64 / 10.0;
        let found: Vec<_> = (0..STEPS.len()).map(|step| self.found(step)).collect();
        format!(
            "used {:.1} % of the limit, {:.1} % of attempts refused, found after {}",
            taken * 100.0 / could,
            refused * 100.0 / (taken + refused).max(1.0),
            found.join(", ")
        )
    }
}

fn standing(engine: &Engine) -> String {
    let sites = engine.sites();
    let Some(site) = sites.iter().find(|site| &*site.name == "relay") else {
        return String::new();
    };
    format!(
        "pace {:.0}, window {}, {} in flight, bound by {}",
        site.pace_per_s.unwrap_or(f64::NAN),
        site.window,
        site.in_flight,
        site.binding
    )
}

fn per_second(count: u64) -> RateLimit {
    RateLimit::new(count, Unit::Second).unwrap()
}

async fn open(folder: &Path, sink: &Sink) -> Engine {
    let host: smtp::Domain = "mail.example.org".parse().unwrap();
    let relay = Relay::plaintext(sink.addr());
    let mut route = Route::new("relay", Via::Smarthosts(vec![relay]), host.clone());
    route.connections_max = 100;
    let mut config = Config::new(folder, host);
    config.routes = vec![route];
    Engine::open(config).await.unwrap()
}

async fn offer(engine: &Engine) {
    let from: smtp::Address = "app@example.org".parse().unwrap();
    let content = Content::from_text(b"From: app@example.org\nSubject: hi\n\nhello\n").unwrap();
    let mut pending = Vec::new();
    for number in 0..MESSAGES {
        let to: smtp::Address = format!("a{number}@example.net").parse().unwrap();
        let submission = Submission {
            tenant: "default".into(),
            envelope: Arc::new(Envelope::new(from.clone(), vec![to.into()]).unwrap()),
            content: content.clone(),
            options: Options::default(),
        };
        pending.push(engine.begin_accept(submission).unwrap());
    }
    for accepted in pending {
        accepted.await.unwrap();
    }
}
