//! What the server says of itself, read by other people's parsers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use server::auth::Scopes;
use server::http::Config;

use crate::server::Server;

/// `$MAILRAIL_PYTHON`, or the one that `make setup` installs.
fn python() -> PathBuf {
    let python = std::env::var_os("MAILRAIL_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "{} is missing: run `make setup`",
        python.display()
    );
    python
}

fn check(what: &str, text: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/check.py");
    let mut child = Command::new(python())
        .arg(script)
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "the script failed: run `make setup`? {text}"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_openapi_document_is_valid_and_has_every_route() {
    let server = Server::start(Config::default()).await;
    let text = server.ask("GET /openapi.json", "").await.body;
    let found = check("openapi", &text);
    let want = [
        "DELETE /keys/{id}",
        "DELETE /suppressions/{email}",
        "GET /emails/{id}",
        "GET /emails/{id}/events",
        "GET /events",
        "GET /events/stream",
        "GET /healthz",
        "GET /keys",
        "GET /metrics",
        "GET /queue",
        "GET /readyz",
        "GET /sites",
        "GET /sites/{site}",
        "GET /statistics",
        "GET /status",
        "GET /suppressions",
        "PATCH /emails/{id}",
        "POST /emails",
        "POST /emails/batch",
        "POST /emails/raw",
        "POST /emails/{id}/cancel",
        "POST /keys",
        "POST /queue/cancel",
        "POST /queue/resume",
        "POST /queue/retry",
        "POST /queue/suspend",
        "POST /retry",
        "POST /suppressions",
    ];
    assert_eq!(found, serde_json::json!(want));
    server.stop().await;
}

#[tokio::test]
async fn metrics_parse_and_count_requests_by_route_and_not_by_path() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    server.get("/emails/1", &key).await;
    server.get("/emails/2", &key).await;
    server.get("/nothing/3", &key).await;
    let answer = server.ask("GET /metrics", "").await;
    assert!(answer.head.contains("openmetrics-text"), "{}", answer.head);
    let found = check("metrics", &answer.body);
    let requests = found["mailrail_http_requests_total"].as_array().unwrap();
    let count = |route: &str, code: &str| {
        let is_it = |sample: &&Value| sample[0]["route"] == route && sample[0]["code"] == code;
        requests.iter().find(is_it).map(|sample| sample[1].clone())
    };
    assert_eq!(count("/emails/{id}", "422"), Some(2.into()));
    assert_eq!(count("none", "404"), Some(1.into()));
    for name in [
        "mailrail_accepted_messages_total",
        "mailrail_delivered_recipients_total",
        "mailrail_journal_sync_seconds_total",
        "mailrail_spool_messages",
        "mailrail_journal_used_bytes",
        "mailrail_process_memory_bytes",
        "mailrail_http_request_seconds_bucket",
        "mailrail_stage_seconds_bucket",
        "mailrail_delivery_seconds_count",
    ] {
        assert!(found[name].is_array(), "{name}: {}", answer.body);
    }
    server.stop().await;
}
