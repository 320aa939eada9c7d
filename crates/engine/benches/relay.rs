//! Messages through a whole engine into a sink in the same process: rate, and CPU for each.
//!
//! usage: cargo bench -p mailrail-engine --bench relay -- [messages] [senders] [octets] [folder]

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Relay;
use engine::route::{Route, Via};
use engine::{Config, Engine, Options, Submission};
use sink::Sink;
use smtp::{Content, Envelope};

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn submission(content: &Content) -> Submission {
    let from: smtp::Address = "app@example.org".parse().unwrap();
    let to: smtp::Address = "someone@example.net".parse().unwrap();
    Submission {
        tenant: "default".into(),
        envelope: Arc::new(Envelope::single(from, to)),
        content: content.clone(),
        options: Options::default(),
    }
}

async fn run(messages: u64, senders: u64, octets: usize, folder: &std::path::Path) {
    let sink = Sink::builder().start().await.unwrap();
    let host: smtp::Domain = "mail.example.org".parse().unwrap();
    let mut config = Config::new(folder, host.clone());
    let via = Via::Smarthosts(vec![Relay::plaintext(sink.addr())]);
    config.routes = vec![Route::new("relay", via, host)];
    let engine = Engine::open(config).await.unwrap();
    let body = "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\n";
    let text = format!(
        "From: app@example.org\nSubject: hi\n\n{}",
        body.repeat(octets / body.len())
    );
    let content = Content::from_text(text.as_bytes()).unwrap();
    let (start, cpu_start) = (Instant::now(), cpu());
    let senders = (0..senders).map(|_| {
        let (engine, content) = (engine.clone(), content.clone());
        tokio::spawn(async move {
            for _ in 0..messages / senders {
                engine.accept(submission(&content)).await.unwrap();
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let accepted = start.elapsed();
    while engine.stats().messages > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (wall, cpu) = (start.elapsed(), cpu() - cpu_start);
    let stats = engine.stats();
    println!(
        "{messages} messages: accepted {:.0}/s, delivered {:.0}/s, {:.1} µs CPU each (sink included), {} syncs of {:?}",
        messages as f64 / accepted.as_secs_f64(),
        messages as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / messages as f64,
        stats.syncs,
        stats.sync_time / u32::try_from(stats.syncs.max(1)).unwrap(),
    );
    engine.drain(Duration::from_secs(5)).await;
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let mut number = |default: u64| {
        let given = arguments.next().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (messages, senders, octets) = (number(100_000), number(100), number(4096));
    let folder = match arguments.next() {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(messages, senders, octets as usize, folder.path()));
}
