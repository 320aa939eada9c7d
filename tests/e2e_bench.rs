//! `mailrail bench`, the real binary against a real sink.

mod support;

use sink::{Sink, TlsMode};
use support::*;

#[test]
fn bench_sends_what_it_counts_in_every_mode() {
    let sink = start(Sink::builder());
    for (more, mode, window) in [
        (&["--mode", "lockstep"][..], "lockstep", 1),
        (&["--mode", "pipelined"], "pipelined", 1),
        (&[], "overlapped", 1),
        (&["--window", "4"], "windowed", 4),
    ] {
        let before = sink.report();
        let target = url(&sink);
        let base = [
            "bench",
            &target,
            "--messages",
            "300",
            "--connections",
            "3",
            "--json",
        ];
        let size = ["--size", "1000", "--recipients", "2"];
        let json = mailrail(base.iter().chain(&size).chain(more)).json();
        let after = sink.report();
        assert_eq!(after.messages - before.messages, 300, "{mode}");
        assert_eq!(after.recipients - before.recipients, 600, "{mode}");
        assert_eq!(after.bytes - before.bytes, 300_000, "{mode}");
        assert_eq!(
            (json["mode"].as_str(), json["window"].as_u64()),
            (Some(mode), Some(window))
        );
        assert_eq!(json["messages"].as_u64(), Some(300), "{json}");
        assert_eq!(
            (json["failed"].as_u64(), json["unknown"].as_u64()),
            (Some(0), Some(0))
        );
        assert!(json["connections_opened"].as_u64() <= Some(3), "{json}");
        for field in ["p50", "p90", "p99", "p999", "max"] {
            assert!(
                json["latency_ms"][field].as_f64() > Some(0.0),
                "{field}: {json}"
            );
        }
        for field in [
            "seconds",
            "messages_per_second",
            "cpu_us_per_message",
            "rss_bytes",
        ] {
            assert!(json[field].as_f64() > Some(0.0), "{field}: {json}");
        }
    }
}

#[test]
fn bench_reconnects_and_resumes_tls_as_told() {
    let sink = start(Sink::builder().tls(TlsMode::StartTls));
    let target = format!("smtp://{}", sink.addr());
    let base = [
        "bench",
        &target,
        "--tls",
        "required",
        "--insecure",
        "--json",
    ];
    let load = [
        "--messages",
        "60",
        "--connections",
        "2",
        "--reconnect-every",
        "10",
    ];
    let resumed = mailrail(base.iter().chain(&load)).json();
    assert!(resumed["tls"]["resumed"].as_u64() > Some(0), "{resumed}");
    assert!(
        resumed["connections_opened"].as_u64() >= Some(6),
        "{resumed}"
    );
    let full = mailrail(base.iter().chain(&load).chain(&["--no-resumption"])).json();
    assert_eq!(full["tls"]["resumed"].as_u64(), Some(0), "{full}");
}

#[test]
fn bench_says_what_is_wrong_and_never_hangs() {
    let sink = start(Sink::builder());
    let target = url(&sink);
    let run = mailrail([
        "bench",
        &target,
        "--size",
        "9",
        "--rate",
        "x",
        "--duration",
        "0",
    ]);
    run.expect(64, "--size")
        .expect(64, "--rate")
        .expect(64, "--duration");
    mailrail(["bench", "relay.example"]).expect(64, "smtp://");
    let gone = target.clone();
    drop(sink);
    mailrail(["bench", &gone]).expect(69, "the relay cannot be reached");
    let refusing = "at = \"mail\", reply = \"451 4.3.0 Later\"".parse::<sink::Rule>();
    let sink = start(Sink::builder().rule(refusing.unwrap()));
    mailrail(["bench", &url(&sink), "--duration", "60"]).expect(69, "451 4.3.0 Later");
}

#[test]
fn bench_prints_a_summary_for_people() {
    let sink = start(Sink::builder());
    let run = mailrail([
        "bench",
        &url(&sink),
        "--duration",
        "0.2",
        "--rate",
        "1000/s",
    ]);
    run.expect(0, "messages/s")
        .expect(0, "p99.9")
        .expect(0, "CPU a message")
        .expect(0, "bound by");
}

#[test]
fn with_a_rate_a_stall_shows_in_all_that_fell_due_meanwhile() {
    let stall = "at = \"final\", delay = \"300ms\", times = 1".parse::<sink::Rule>();
    let sink = start(Sink::builder().rule(stall.unwrap()));
    let json = mailrail([
        "bench",
        &url(&sink),
        "--connections",
        "1",
        "--mode",
        "lockstep",
        "--rate",
        "1000/s",
        "--messages",
        "100",
        "--json",
    ])
    .json();
    assert_eq!(json["messages"].as_u64(), Some(100), "{json}");
    assert_eq!(json["rate_per_second"].as_f64(), Some(1000.0), "{json}");
    // The last fell due after 99 ms, and the connection was free after 300.
    assert!(json["latency_ms"]["p50"].as_f64() > Some(200.0), "{json}");
}
