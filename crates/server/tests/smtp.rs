//! SMTP in, the engine, SMTP out: what the sink in the end has seen.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use client::Relay;
use engine::Engine;
use engine::route::{Route, Via};
use server::auth::{Access, Rules};
use server::smtp::{Edge, Listen, Settings};
use sink::Sink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Says all of `flight`, and gives the last lines of the replies.
async fn converse(edge: &Edge<Engine>, flight: &str) -> Vec<String> {
    let mut socket = TcpStream::connect(edge.addresses()[0]).await.unwrap();
    socket.write_all(flight.as_bytes()).await.unwrap();
    let mut replies = String::new();
    socket.read_to_string(&mut replies).await.unwrap();
    let last_lines = replies.lines().filter(|line| line.as_bytes()[3] == b' ');
    last_lines.map(str::to_owned).collect()
}

fn message(fields: &str, body: &str) -> String {
    format!(
        "EHLO app.example\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n\
         {fields}Subject: x\r\nBcc: c@c.example\r\n\r\n{body}\r\n.\r\nQUIT\r\n"
    )
}

#[tokio::test]
async fn a_message_comes_out_as_it_came_in_and_once_however_often_its_key_comes() {
    let sink = Sink::builder().keep_content().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let host: smtp::Domain = "mail.example.com".parse().unwrap();
    let mut config = engine::Config::new(folder.path(), host.clone());
    // A full disk is not what this test is about.
    config.policy.limits.disk_free_bytes_min = 0;
    let relay = Via::Smarthosts(vec![Relay::plaintext(sink.addr())]);
    config.routes = vec![Route::new("relay", relay, host.clone())];
    let engine = Engine::open(config).await.unwrap();
    let edge = Edge::open(
        &[Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        Settings::new(host),
        None,
        Access::new(Rules::loopback_only()),
        engine.clone(),
    )
    .unwrap();

    let key = "Idempotency-Key: order-7\r\n";
    let first = converse(&edge, &message(key, "hello")).await;
    assert!(
        first[5].starts_with("250 2.0.0 Ok: queued as "),
        "{first:?}"
    );
    let again = converse(&edge, &message(key, "hello")).await;
    assert_eq!(again[5], first[5]);
    let other = converse(&edge, &message(key, "good bye")).await;
    assert!(other[5].starts_with("554 5.6.0 "), "{other:?}");
    let unkeyed = converse(&edge, &message("", "hello")).await;
    let id = unkeyed[5].rsplit(' ').next().unwrap();
    assert!(engine.status(id.parse().unwrap()).is_some());

    edge.drain(Duration::from_secs(5)).await;
    while sink.records().len() < 2 {
        tokio::task::yield_now().await;
    }
    engine.drain(Duration::from_secs(5)).await;
    let records = sink.records();
    assert_eq!(records.len(), 2, "{records:?}");
    let traced = records.iter().filter(|record| {
        let content = String::from_utf8_lossy(record.content.as_ref().unwrap());
        assert!(
            content.ends_with("Subject: x\r\n\r\nhello\r\n"),
            "{content}"
        );
        content.contains(&format!(" with ESMTP id {id};")) && content.contains("Message-ID: <")
    });
    assert_eq!(traced.count(), 1);
}
