//! A server that takes one message on each connection, and says 421 to what was written behind it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Cause, Concurrency, Failure, Kind, Pool, Recall, Relay, Report, Scope, Stage, Wire};
use futures_util::future::join_all;
use smtp::Content;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::{content, envelope, send_many};

/// Takes one message on each connection, tells nobody of that limit, and then says 421.
async fn serve_one_message_a_connection(listener: TcpListener, taken: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 hello\r\n").await?;
            let (mut line, mut recipient, mut is_full) = (String::new(), String::new(), false);
            while stream.read_line(&mut line).await? > 0 {
                let reply = match line.trim_end().split_once(' ') {
                    _ if is_full => "421 enough\r\n",
                    Some(("EHLO", _)) => "250-hello\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
                    Some(("RCPT", path)) => {
                        recipient = path.to_owned();
                        "250 ok\r\n"
                    }
                    Some(("BDAT", size)) => {
                        let size = size.trim_end_matches(" LAST").parse().unwrap();
                        stream.read_exact(&mut vec![0; size]).await?;
                        taken.lock().unwrap().push(std::mem::take(&mut recipient));
                        is_full = true;
                        "250 ok\r\n"
                    }
                    _ => "250 ok\r\n",
                };
                stream.write_all(reply.as_bytes()).await?;
                if reply.starts_with("421") {
                    // Without this the reply may be lost in a reset.
                    stream.shutdown().await?;
                    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                    break;
                }
                line.clear();
            }
            std::io::Result::Ok(())
        });
    }
}

/// A pool with windows of eight before such a server, and who was served.
async fn served_one_message_a_connection() -> (Pool, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::plaintext(listener.local_addr().unwrap());
    let taken = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(serve_one_message_a_connection(listener, Arc::clone(&taken)));
    let pool = Pool::builder(relay)
        .wire(Wire::Windowed(8))
        .concurrency(Concurrency::Fixed(1))
        .build()
        .unwrap();
    (pool, taken)
}

/// A message may be taken into the window of many connections before one has room for it.
#[tokio::test]
async fn a_server_that_takes_one_message_a_connection_is_served_however_wide_the_window() {
    let (pool, taken) = served_one_message_a_connection().await;
    for report in send_many(&pool, 20).await {
        assert!(report.is_accepted(), "{report:?}");
    }
    let taken = taken.lock().unwrap();
    assert_eq!(taken.len(), 20, "{taken:?}");
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 20, "{taken:?}");
}

/// Content that is kept elsewhere, and how often it was asked for.
#[derive(Clone)]
struct Elsewhere {
    content: Result<Content, Failure>,
    recalls: Arc<AtomicUsize>,
}

impl Recall for Elsewhere {
    async fn recall(&self) -> Result<Content, Failure> {
        self.recalls.fetch_add(1, Ordering::Relaxed);
        self.content.clone()
    }
}

/// Sends twenty messages through windows of eight to a server that takes one on each connection.
/// Gives the reports, how often content was recalled, and who was served.
async fn send_recalling(
    again: impl Fn(usize) -> Result<Content, Failure>,
) -> (Vec<Report>, usize, Vec<String>) {
    let (pool, taken) = served_one_message_a_connection().await;
    let originals: Vec<_> = (0..20)
        .map(|n| Elsewhere {
            content: again(n),
            recalls: Arc::default(),
        })
        .collect();
    let sends = originals.iter().enumerate().map(|(n, original)| {
        let to = format!("r{n}@example.net");
        pool.send_recalling(
            Arc::new(envelope(&[&to])),
            content(n),
            Duration::MAX,
            original.clone(),
        )
    });
    let reports = join_all(sends).await;
    let recalls = originals
        .iter()
        .map(|one| one.recalls.load(Ordering::Relaxed));
    let taken = taken.lock().unwrap().clone();
    (reports, recalls.sum(), taken)
}

#[tokio::test]
async fn what_was_written_behind_a_421_is_recalled_and_arrives_once() {
    let (reports, recalls, taken) = send_recalling(|n| Ok(content(n))).await;
    for report in &reports {
        assert!(report.is_accepted(), "{report:?}");
    }
    assert!(recalls > 0);
    assert_eq!(taken.len(), 20, "{taken:?}");
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 20, "{taken:?}");
}

#[tokio::test]
async fn what_cannot_be_recalled_fails_as_who_keeps_it_says_and_is_not_sent() {
    let lost = Failure {
        stage: Stage::Queue,
        scope: Scope::Message,
        kind: Kind::Transient,
        endpoint: None,
        cause: Cause::Local("gone".into()),
    };
    let (reports, recalls, taken) = send_recalling(|_| Err(lost.clone())).await;
    let failed = reports.iter().flat_map(|report| &report.results);
    let failed: Vec<_> = failed.filter_map(|result| result.as_ref().err()).collect();
    for failure in &failed {
        assert!(
            matches!(&failure.cause, Cause::Local(text) if text == "gone"),
            "{failure}"
        );
    }
    assert!(recalls > 0);
    assert_eq!((failed.len(), taken.len()), (recalls, 20 - recalls));
}
