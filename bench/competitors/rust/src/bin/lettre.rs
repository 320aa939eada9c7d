//! lettre's asynchronous pool on tokio.
//!
//! As many tasks as connections share one transport, so that the pool, whose `max_size` bounds
//! only parked connections, never opens more. Warm-up: one message a connection, all at once.
//! The NOOP before each reuse is the pool's own doing and stays.

use std::sync::Arc;
use std::time::Instant;

use lettre::address::Envelope;
use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use mailrail_bench_rust::{Arguments, RECIPIENT, SENDER, Work};

type Transport = AsyncSmtpTransport<Tokio1Executor>;
type BoxError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments = Arguments::from_env();
    let pool = PoolConfig::new().max_size(u32::try_from(arguments.connections)?);
    let transport: Transport = Transport::builder_dangerous(arguments.host.as_str())
        .port(arguments.port)
        .pool_config(pool)
        .build();
    let envelope = Arc::new(Envelope::new(
        Some(SENDER.parse()?),
        vec![RECIPIENT.parse()?],
    )?);
    let content: Arc<[u8]> = arguments.content().into();

    let spawn = |work: &Arc<Work>| {
        let (transport, envelope) = (transport.clone(), Arc::clone(&envelope));
        tokio::spawn(send_all(
            transport,
            envelope,
            Arc::clone(&content),
            Arc::clone(work),
        ))
    };

    let warming: Vec<_> = (0..arguments.connections)
        .map(|_| spawn(&Arc::new(Work::new(1))))
        .collect();
    join(warming).await?;

    let work = Arc::new(Work::new(arguments.messages));
    let start = Instant::now();
    join((0..arguments.connections).map(|_| spawn(&work)).collect()).await?;
    work.print("lettre pool", start.elapsed());
    Ok(())
}

async fn join(tasks: Vec<tokio::task::JoinHandle<()>>) -> Result<(), BoxError> {
    for task in tasks {
        task.await?;
    }
    Ok(())
}

async fn send_all(
    transport: Transport,
    envelope: Arc<Envelope>,
    content: Arc<[u8]>,
    work: Arc<Work>,
) {
    while work.take() {
        work.book(transport.send_raw(&envelope, &content).await.is_ok());
    }
}
