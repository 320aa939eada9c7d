//! Clients that are slow, greedy or broken.

use std::time::Duration;

use server::auth::Scopes;
use server::http::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::Server;

/// All that the server says until it hangs up.
async fn said_to(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    // A reset is a way of hanging up.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

fn short_of_patience() -> Config {
    let mut config = Config::default();
    config.header_timeout = Duration::from_millis(50);
    config.body_timeout = Duration::from_millis(50);
    config
}

#[tokio::test]
async fn who_does_not_end_a_header_section_is_cut_off() {
    let server = Server::start(short_of_patience()).await;
    for begun in ["", "POST /emails HTTP/1.1\r\nHost: x\r\n"] {
        let said = said_to(&server, begun.as_bytes()).await;
        assert!(said.is_empty() || said.contains(" 408 "), "{said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_send_the_body_is_told_and_cut_off() {
    let server = Server::start(short_of_patience()).await;
    let key = server.key("shop", Scopes::SEND);
    let head = format!("POST /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let request = format!("{head}{framing}\r\n\r\n");
        let said = said_to(&server, request.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert!(said.contains("request_timeout"), "{said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_sends_a_body_drop_by_drop_is_cut_off() {
    let server = Server::start(short_of_patience()).await;
    let key = server.key("shop", Scopes::SEND);
    let head = format!("POST /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    let (mut reading, mut writing) = TcpStream::connect(server.address)
        .await
        .unwrap()
        .into_split();
    let head = format!("{head}Content-Length: 10000\r\n\r\n");
    writing.write_all(head.as_bytes()).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut drops = tokio::time::interval(Duration::from_millis(10));
        while writing.write_all(b" ").await.is_ok() {
            drops.tick().await;
        }
    });
    let mut said = String::new();
    let _ = reading.read_to_string(&mut said).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    dripping.abort();
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_under_way_do_not_keep_small_ones_out() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let head = format!("POST /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    let begun = format!(
        "{head}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        64 << 20
    );
    let mut large = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        // It says so once it reads the body, which has its room by then.
        stream.read_exact(&mut [0; 25]).await.unwrap();
        large.push(stream);
    }
    let mail = r#"{"from": "a@a.example", "to": "b@b.example", "subject": "s", "text": "t"}"#;
    let answer = server.post("/emails", &key, mail).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(large);
    server.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let mut config = Config::default();
    config.body_bytes_max = 1000;
    let server = Server::start(config).await;
    let key = server.key("shop", Scopes::SEND);
    let head = format!("POST /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    let declared = format!("{head}Content-Length: 1001\r\n\r\n");
    assert!(
        said_to(&server, declared.as_bytes())
            .await
            .starts_with("HTTP/1.1 413 ")
    );
    let chunk = format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    let said = said_to(&server, chunked.as_bytes()).await;
    assert!(
        said.starts_with("HTTP/1.1 413 ") && said.contains("request_too_large"),
        "{said}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_header_section_over_the_limit_is_refused() {
    let server = Server::start(Config::default()).await;
    let long = format!(
        "GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(200));
    for request in [long, many] {
        let said = said_to(&server, request.as_bytes()).await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 431 "),
            "{said}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_a_word_when_the_server_stops() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::READ);
    let request =
        format!("GET /events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    server.stop().await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("event: closing"), "{rest}");
}

#[tokio::test]
async fn who_does_not_read_the_answers_gives_the_connection_back() {
    let mut config = Config::default();
    config.write_timeout = Duration::from_millis(100);
    config.connections_max = 1;
    let server = Server::start(config).await;
    let mut deaf = TcpStream::connect(server.address).await.unwrap();
    // Far more than fits between us.
    let asked = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let _ = deaf.write_all(asked.as_bytes()).await;
    // The only place there is becomes free.
    let answer = server.ask("GET /healthz", "").await;
    assert_eq!(answer.status, 200);
    drop(deaf);
    server.stop().await;
}

#[tokio::test]
async fn a_strangers_template_cannot_overflow_the_stack() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let nested = "{% set x = [x] %}".repeat(40_000);
    for (text, status) in [
        (format!("{{{{ 1{} }}}}", "+1".repeat(200_000)), 422),
        (format!("{{{{ {}1 }}}}", "-".repeat(100_000)), 422),
        (format!("{{% set x = 1 %}}{nested}{{{{ x }}}}"), 200),
    ] {
        let mail = serde_json::json!({
            "from": "a@a.example", "to": "b@b.example", "template": {"subject": "s", "text": text},
        });
        let answer = server.post("/emails", &key, &mail.to_string()).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_path_that_is_no_utf_8_is_answered_like_any_other_mistake() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ).and(Scopes::ADMIN));
    for (method, path) in [
        ("GET", "/emails/%ff"),
        ("GET", "/emails/%ff/events"),
        ("PATCH", "/emails/%ff"),
        ("POST", "/emails/%ff/cancel"),
        ("GET", "/sites/%ff"),
        ("DELETE", "/suppressions/%ff%fe"),
        ("DELETE", "/keys/%ff"),
    ] {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
        let request = format!("{head}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}");
        let said = said_to(&server, request.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{path}: {said}");
        assert!(
            said.contains(r#""name":"validation_error""#),
            "{path}: {said}"
        );
    }
    server.stop().await;
}
