//! An engine inside a program: a message is accepted, delivered to a sink, and asked about.
//!
//! Run: cargo run --example engine

use std::sync::Arc;
use std::time::Duration;

use mailrail::client::Relay;
use mailrail::engine::route::{Route, Via};
use mailrail::engine::{Config, Engine, Options, Submission};
use mailrail::sink::Sink;
use mailrail::smtp::{Address, Content, Domain, Envelope};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sink = Sink::builder().start().await?;
    let folder = tempfile::tempdir()?;
    let host: Domain = "mail.example.org".parse()?;
    let mut config = Config::new(folder.path(), host.clone());
    let via = Via::Smarthosts(vec![Relay::plaintext(sink.addr())]);
    config.routes = vec![Route::new("relay", via, host)];

    let engine = Engine::open(config).await?;
    let mut events = engine.follow();
    let from: Address = "app@example.org".parse()?;
    let to: Address = "someone@example.net".parse()?;
    let accepted = engine
        .accept(Submission {
            tenant: "default".into(),
            envelope: Arc::new(Envelope::single(from, to)),
            content: Content::from_text(b"From: app@example.org\nSubject: Hello\n\nHello.\n")?,
            options: Options::default(),
        })
        .await?;
    println!("{} is on disk", accepted.id);
    while let Ok(Some(followed)) = events.next().await {
        let event = followed.event;
        println!("{}: {}", event.address, event.status.name());
        if event.status.is_terminal() {
            break;
        }
    }
    if let Some(message) = engine.status(accepted.id) {
        println!("recipients settled: {}", message.recipients.len());
    }
    engine.drain(Duration::from_secs(5)).await;
    Ok(())
}
