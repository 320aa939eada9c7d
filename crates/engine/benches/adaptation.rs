//! The whole engine against a receiver whose limit nobody told it, over real sockets, in real time.
//!
//! 8,000 messages offered at once to a sink that takes 100, then 300, then 60 messages a second, ten seconds each, on ten
//! connections: `cargo bench -p mailrail-engine --bench adaptation -- [451|421] [restart]`. With `restart` the
//! engine is dropped at 15 s and opened again on the same folder.

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
const STEP: Duration = Duration::from_secs(10);
const MESSAGES: u64 = 8000;
const CONNECTIONS: u64 = 10;

#[tokio::main]
async fn main() {
    let has = |word: &str| std::env::args().any(|arg| arg == word);
    let rule = match has("421") {
        true => "[rate]\nlimit = '100/s'\nreply = '421 4.7.0 Too many messages'",
        false => "[rate]\nlimit = '100/s'\nreply = '451 4.7.1 Slow down'",
    };
    let script: Script = rule.parse().unwrap();
    let sink = Sink::builder()
        .threads(1)
        .connections_max(CONNECTIONS)
        .script(script)
        .start()
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path(), &sink).await;
    let begun = Instant::now();
    offer(&engine).await;
    println!(
        "{MESSAGES} accepted in {:.1} s",
        begun.elapsed().as_secs_f64()
    );

    let mut before = (0, 0);
    for half in 0..60 {
        let step = STEPS[half / 20];
        if half % 20 == 0 {
            sink.set_rate(per_second(step));
        }
        if half == 30 && has("restart") {
            engine.drain(Duration::from_millis(100)).await;
            drop(engine);
            engine = open(folder.path(), &sink).await;
        }
        let end = begun + Duration::from_millis(500) * (half as u32 + 1);
        tokio::time::sleep_until(end.into()).await;
        let report = sink.report();
        let now = (report.messages, report.refused);
        let (taken, refused) = (now.0 - before.0, now.1 - before.1);
        let site = engine
            .sites()
            .into_iter()
            .find(|site| &*site.name == "relay");
        println!(
            "{:4.1} s: limit {:3}, taken {taken:3}, refused {refused:3}; {}",
            begun.elapsed().as_secs_f64(),
            step / 2,
            site.map_or_else(String::new, |site| format!(
                "pace {:.0}, window {}, {} in flight, bound by {}",
                site.pace_per_s.unwrap_or(f64::NAN),
                site.window,
                site.in_flight,
                site.binding
            )),
        );
        before = now;
    }
    let could = STEPS.iter().sum::<u64>() * STEP.as_secs();
    println!(
        "used {:.1} % of the limit, {:.1} % of attempts refused",
        before.0 as f64 * 100.0 / could as f64,
        before.1 as f64 * 100.0 / (before.0 + before.1) as f64
    );
    engine.drain(Duration::from_millis(100)).await;
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
