//! Ten thousand messages from a hundred callers over ten connections.
//! `cargo run --release --example pool_under_load [smtp://host:port]`

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use mailrail::client::{Concurrency, Pool, Wire};
use mailrail::smtp::{Address, Content, Envelope};

const MESSAGES: u32 = 10_000;
const CALLERS: usize = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (relay, _sink) = support::relay().await?;
    let pool = Pool::builder(relay)
        .concurrency(Concurrency::Fixed(10))
        .wire(Wire::Overlapped)
        .build()?;
    let (from, to) = (
        "me@example.org".parse::<Address>()?,
        "you@example.net".parse::<Address>()?,
    );
    let envelope = Arc::new(Envelope::single(from, to));
    let content = Content::from_text(format!("Subject: load\n\n{}\n", "x".repeat(70)).as_bytes())?;

    let (started, sent) = (Instant::now(), AtomicU32::new(0));
    let callers = (0..CALLERS).map(|_| async {
        while sent.fetch_add(1, Ordering::Relaxed) < MESSAGES {
            let report = pool.send(Arc::clone(&envelope), content.clone()).await;
            if let Some(failure) = report.first_failure() {
                println!("{failure}");
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{:.0} messages/s, {:?}",
        f64::from(MESSAGES) / seconds,
        pool.stats()
    );
    pool.close().await;
    Ok(())
}
