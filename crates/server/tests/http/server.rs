//! A whole server on a free port, and the smallest client that can ask it anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Relay;
use engine::Engine;
use engine::route::{Route, Via};
use serde_json::Value;
use server::auth::{Access, ApiKey, Rules, Scopes, StoredKey};
use server::http::{Api, Config, Templates, load_keys, serve};
use server::metrics::Metrics;
use sink::Sink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) access: Access,
    /// Where all mail goes.
    pub(crate) sink: Arc<Sink>,
    folder: Arc<tempfile::TempDir>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Server {
    pub(crate) async fn start(config: Config) -> Self {
        Self::with_sink(config, Sink::builder().keep_records()).await
    }

    pub(crate) async fn with_sink(config: Config, sink: sink::Builder) -> Self {
        let sink = Arc::new(sink.start().await.unwrap());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::on(config, sink, folder).await
    }

    async fn on(config: Config, sink: Arc<Sink>, folder: Arc<tempfile::TempDir>) -> Self {
        let host: smtp::Domain = "mail.example.com".parse().unwrap();
        let relay = Via::Smarthosts(vec![Relay::plaintext(sink.addr())]);
        let mut settings = engine::Config::new(folder.path(), host.clone());
        // A full disk is not what these tests are about.
        settings.policy.limits.disk_free_bytes_min = 0;
        settings.routes = vec![Route::new("relay", relay, host)];
        let engine = Engine::open(settings).await.unwrap();
        let access = Access::new(Rules::default());
        load_keys(&engine, &access);
        let metrics = Arc::new(Metrics::new(&engine));
        let templates = Arc::new(Templates::default());
        let api = Api::new(engine.clone(), access.clone(), templates, metrics, config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, api, stopped, Duration::from_secs(5)));
        Self {
            address,
            engine,
            access,
            sink,
            folder,
            stop: Some(stop),
            task,
        }
    }

    /// The same data folder under a new server.
    pub(crate) async fn restarted(self) -> Self {
        let (sink, folder) = (Arc::clone(&self.sink), Arc::clone(&self.folder));
        self.stop().await;
        Self::on(Config::default(), sink, folder).await
    }

    /// A key that is valid here.
    pub(crate) fn key(&self, tenant: &str, scopes: Scopes) -> String {
        let key = ApiKey::generate();
        let stored = StoredKey::new(&key, "test", tenant.into(), scopes, 0);
        self.access.put_key(stored);
        key.reveal()
    }

    /// `head`: method and path, and header fields on lines of their own.
    pub(crate) async fn ask(&self, head: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&request(head, body)).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        answer(&all)
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let head = format!("POST {path}\nAuthorization: Bearer {key}");
        self.ask(&head, body).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        let head = format!("GET {path}\nAuthorization: Bearer {key}");
        self.ask(&head, "").await
    }

    /// Stops, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.task.await.unwrap();
        self.engine.drain(Duration::from_secs(5)).await;
    }
}

pub(crate) fn request(head: &str, body: &str) -> Vec<u8> {
    let (first, fields) = head.split_once('\n').unwrap_or((head, ""));
    let mut text = format!("{first} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for field in fields.lines() {
        text.push_str(&format!("{field}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

fn answer(all: &[u8]) -> Answer {
    let text = String::from_utf8(all.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}
