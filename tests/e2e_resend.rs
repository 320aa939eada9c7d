//! The server, sent to by Resend's own packages for Python and Node.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use mailrail::sink::Sink;
use serde_json::{Value, json};
use support::serving::{Home, Serving};
use support::{recipients, start, wait_until};

fn in_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// What the script was told by the server.
fn told(server: &Serving<'_>, program: &Path, script: &str) -> Value {
    let args = [server.http(), server.key().unwrap().to_owned()];
    let output = Command::new(program)
        .arg(in_tests(script))
        .args(args)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program:?}: {error}: run `make setup`"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(program: &Path, script: &str, language: &str) {
    let sink = start(Sink::builder().keep_records());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let told = told(&server, program, script);
    assert_eq!(told["sent"], told["again"], "one key, one message");
    assert_eq!(told["batch"].as_array().unwrap().len(), 3, "{told}");
    let refused = [
        (409, "invalid_idempotent_request"),
        (422, "validation_error"),
        (422, "validation_error"),
        (404, "not_found"),
        (422, "missing_required_field"),
        (422, "validation_error"),
        (403, "invalid_api_key"),
    ];
    for (name, want) in [
        ("half", json!([1, [1]])),
        ("scheduled", json!("scheduled")),
        ("from", json!("Shop <shop@src.example>")),
        ("to", json!(["Ann <ann@dest.example>", "bob@dest.example"])),
        ("subject", json!(format!("Grüße from {language}"))),
        ("text", json!("Hello.")),
        ("canceled", json!(true)),
        ("after", json!("canceled")),
        ("refused", json!(refused)),
    ] {
        assert_eq!(told[name], want, "{name}: {told}");
    }
    // One message, a batch of three, and one of a batch of two: each to both.
    let both = ["ann@dest.example", "bob@dest.example"];
    wait_until("everything has arrived", || {
        recipients(&sink).len() >= 5 * both.len()
    });
    let arrived = recipients(&sink);
    for to in both {
        let times = arrived.iter().filter(|it| *it == to).count();
        assert_eq!(times, 5, "{arrived:?}");
    }
}

#[test]
fn resends_package_for_python_works_unchanged() {
    let python = std::env::var_os("MAILRAIL_PYTHON")
        .map_or_else(|| in_tests("../.venv/bin/python"), PathBuf::from);
    check(&python, "peers/send_resend.py", "Python");
}

#[test]
fn resends_package_for_node_works_unchanged() {
    check(Path::new("node"), "node/send_resend.js", "Node");
}
