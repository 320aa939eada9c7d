//! mail-send, one connection a task; the library has no pool.
//!
//! Warm-up: each connection is greeted, says EHLO and carries one message. The connection is made
//! with `SmtpClient::connect`, not by its builder, only because the builder sets up TLS first.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail_send::SmtpClient;
use mail_send::smtp::message::Message;
use mailrail_bench_rust::{Arguments, RECIPIENT, SENDER, Work};
use tokio::net::TcpStream;

type Client = SmtpClient<TcpStream>;
type BoxError = Box<dyn std::error::Error>;

const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments = Arguments::from_env();
    let address = (arguments.host.as_str(), arguments.port)
        .to_socket_addrs()?
        .next()
        .ok_or("the host has no address")?;
    let content: Arc<[u8]> = arguments.content().into();

    let mut clients = Vec::new();
    for _ in 0..arguments.connections {
        clients.push(connect(address, &content).await?);
    }

    let work = Arc::new(Work::new(arguments.messages));
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(send_all(client, Arc::clone(&content), Arc::clone(&work))))
        .collect();
    let mut idle = Vec::new();
    for task in tasks {
        idle.push(task.await?);
    }
    work.print("mail-send", start.elapsed());
    Ok(())
}

async fn connect(address: SocketAddr, content: &[u8]) -> mail_send::Result<Client> {
    let mut client = Client::connect(address, TIMEOUT).await?;
    client.read().await?;
    client.ehlo("bench.example.com").await?;
    client
        .send(Message::new(SENDER, [RECIPIENT], content))
        .await?;
    Ok(client)
}

/// Sends until nothing is left or the connection fails; the connection is closed by the caller,
/// after the clock has stopped.
async fn send_all(mut client: Client, content: Arc<[u8]>, work: Arc<Work>) -> Client {
    while work.take() {
        let message = Message::new(SENDER, [RECIPIENT], &content[..]);
        let sent = client.send(message).await.is_ok();
        work.book(sent);
        if !sent {
            break;
        }
    }
    client
}
