//! How many messages a second come in over HTTP, durable before each answer, while a sink on the
//! same machine takes them.
//!
//! ```sh
//! cargo bench -p mailrail-server --bench http_in -- [MESSAGES] [BATCH] [CONNECTIONS]
//! ```
//!
//! Prints the rate at which they were accepted, at which they were delivered, and the CPU a message
//! of the whole process: load, server, engine and sink. `ahead` schedules all for later, so that
//! nothing but acceptance is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Relay;
use engine::Engine;
use engine::route::{Route, Via};
use serde_json::json;
use server::auth::{Access, Rules, Scopes};
use server::http::{Api, Config, Templates, make_key, serve};
use server::metrics::Metrics;
use sink::Sink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const TEXT_BYTES: usize = 4096;

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let number = |at: usize, or: usize| words.get(at).map_or(or, |word| word.parse().unwrap());
    let (messages, batch, connections) = (number(0, 50_000), number(1, 100), number(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for is_ahead in [true, false] {
        runtime.block_on(run(messages, batch, connections, is_ahead));
    }
}

async fn run(messages: usize, batch: usize, connections: usize, is_ahead: bool) {
    let sink = Sink::builder().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let host: smtp::Domain = "mail.example.com".parse().unwrap();
    let mut settings = engine::Config::new(folder.path(), host.clone());
    let relay = Via::Smarthosts(vec![Relay::plaintext(sink.addr())]);
    settings.routes = vec![Route::new("relay", relay, host)];
    settings.policy.limits.disk_free_bytes_min = 0;
    let engine = Engine::open(settings).await.unwrap();
    let access = Access::new(Rules::default());
    let key = make_key(&engine, &access, "bench", "shop".into(), Scopes::SEND)
        .await
        .unwrap();
    let metrics = Arc::new(Metrics::new(&engine));
    let api = Api::new(
        engine.clone(),
        access,
        Arc::new(Templates::default()),
        metrics,
        Config::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    let server = tokio::spawn(serve(listener, api, stopped, Duration::from_secs(5)));

    let request = Arc::new(request(&key.reveal(), batch, is_ahead));
    let (begun, cpu) = (Instant::now(), cpu_time());
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let request = Arc::clone(&request);
            let batches = messages / batch / connections;
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                for _ in 0..batches {
                    post(&mut stream, &request).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let taken = begun.elapsed();
    let count = (messages / batch / connections * batch * connections) as f64;
    while !is_ahead && engine.stats().delivered < count as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let delivered = begun.elapsed();
    let cpu = (cpu_time() - cpu).as_secs_f64() / count * 1e6;
    let rate = |taken: Duration| count / taken.as_secs_f64();
    let what = if is_ahead {
        "acceptance alone"
    } else {
        "with delivery"
    };
    println!(
        "{what}: {count} messages in batches of {batch} over {connections} connections: \
         {:.0}/s accepted, {:.0}/s delivered, {cpu:.1} µs of CPU each",
        rate(taken),
        if is_ahead { 0.0 } else { rate(delivered) },
    );
    let _ = stop.send(());
    server.await.unwrap();
    engine.drain(Duration::from_secs(5)).await;
}

/// One batch; every message has a text of its own.
fn request(key: &str, batch: usize, is_ahead: bool) -> Vec<u8> {
    let email = |index: usize| {
        let line = format!("Message {index} has this line a number of times, as text has lines.\n");
        let mut email = json!({
            "from": "Shop <shop@example.com>",
            "to": format!("r{index}@example.net"),
            "subject": "A message of the bench",
            "text": line.repeat(TEXT_BYTES / line.len()),
        });
        if is_ahead {
            email["scheduled_at"] = json!("in 1 hour");
        }
        email
    };
    let body = serde_json::to_vec(&(0..batch).map(email).collect::<Vec<_>>()).unwrap();
    let mut request = format!(
        "POST /emails/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

async fn post(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(8192);
    loop {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "the server hung up"
        );
        let text = std::str::from_utf8(&answer).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
        let length = head.split("content-length: ").nth(1).unwrap();
        if body.len() == length.lines().next().unwrap().parse::<usize>().unwrap() {
            return;
        }
    }
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
