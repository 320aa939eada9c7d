//! The stream of events.

use serde_json::Value;
use server::auth::Scopes;
use server::http::Config;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::mail::email;
use crate::server::Server;

/// One event as it stands in the stream.
#[derive(Debug)]
struct Told {
    name: String,
    id: Option<String>,
    data: String,
}

struct Stream(BufReader<TcpStream>);

impl Stream {
    async fn open(server: &Server, key: &str, query: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET /events/stream{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{last}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Self(BufReader::new(stream));
        assert!(stream.line().await.starts_with("HTTP/1.1 200 "));
        while !stream.line().await.is_empty() {}
        stream
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The next event, comments and the marks of chunks passed over.
    async fn next(&mut self) -> Told {
        let mut told = Told {
            name: String::new(),
            id: None,
            data: String::new(),
        };
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut told.name),
                Some(("id", id)) => told.id = Some(id.to_owned()),
                Some(("data", data)) => data.clone_into(&mut told.data),
                _ if line.is_empty() && !told.name.is_empty() => return told,
                _ => {}
            }
        }
    }

    /// As many events, as status and recipient; with the id of the last that had one.
    async fn told(&mut self, count: usize) -> (Vec<(String, String)>, Option<String>) {
        let (mut all, mut last) = (Vec::new(), None);
        while all.len() < count {
            let told = self.next().await;
            let event: Value = serde_json::from_str(&told.data).unwrap();
            assert_eq!(event["status"], told.name.as_str());
            all.push((told.name, event["recipient"].as_str().unwrap().to_owned()));
            last = told.id.or(last);
        }
        (all, last)
    }
}

fn pair(status: &str, to: &str) -> (String, String) {
    (status.to_owned(), to.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_before_it_is_durable_is_not_forgotten() {
    let mut config = Config::default();
    // It looks when an event is recorded, which is before it is durable.
    config.gather = std::time::Duration::ZERO;
    let server = Server::start(config).await;
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let mut stream = Stream::open(&server, &key, "", None).await;
    for number in 0..5 {
        let to = format!("r{number}@example.net");
        server.send(&key, &email(&to)).await;
        let (told, _) = stream.told(2).await;
        assert_eq!(told, [pair("accepted", &to), pair("delivered", &to)]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_happens_and_is_resumed_where_it_was_left() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let other = server.key("lab", Scopes::SEND);
    let before = server.send(&key, &email("before@example.net")).await;
    server.delivered(&key, &before).await;

    let mut stream = Stream::open(&server, &key, "", None).await;
    server.send(&other, &email("theirs@example.net")).await;
    let id = server.send(&key, &email("ann@example.net")).await;
    let (told, _) = stream.told(2).await;
    assert_eq!(
        told,
        [
            pair("accepted", "ann@example.net"),
            pair("delivered", "ann@example.net")
        ]
    );
    server.delivered(&key, &id).await;
    drop(stream);

    // From the beginning, and from the middle on.
    let mut stream = Stream::open(&server, &key, "?from=1h&status=delivered", None).await;
    let (told, last) = stream.told(2).await;
    assert_eq!(
        told,
        [
            pair("delivered", "before@example.net"),
            pair("delivered", "ann@example.net")
        ]
    );
    drop(stream);
    let missed = server.send(&key, &email("missed@example.net")).await;
    server.delivered(&key, &missed).await;
    let mut stream = Stream::open(&server, &key, "?status=delivered", last.as_deref()).await;
    let (told, _) = stream.told(1).await;
    assert_eq!(told, [pair("delivered", "missed@example.net")]);
    server.stop().await;
    assert_eq!(stream.next().await.name, "closing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_is_kept_alive_and_there_are_only_so_many() {
    let mut config = Config::default();
    config.heartbeat = std::time::Duration::from_millis(10);
    config.streams_max = 1;
    let server = Server::start(config).await;
    let key = server.key("shop", Scopes::READ);
    let mut stream = Stream::open(&server, &key, "", None).await;
    while stream.line().await != ": alive" {}
    let answer = server.get("/events/stream", &key).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    server.stop().await;
}
