//! `mailrail demo`, the real binary.

mod support;

use support::*;

#[test]
fn the_demo_shows_five_ways_proves_the_storm_and_accounts_for_a_killed_engine() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("demo.html");
    let flags = ["--messages", "40", "--rtt", "1ms", "--seed", "3"];
    let run = mailrail(["demo", "--report", path_str(&report)].iter().chain(&flags));
    for way in [
        "(a) one connection each",
        "(b) a pool",
        "(c) pipelined",
        "(d) overlapped",
        "(e) windowed",
    ] {
        run.expect(0, way);
    }
    run.expect(0, "The storm: 40 recipients")
        .expect(0, "    0 reported not sent")
        .expect(0, "    0 duplicates, losses or false reports")
        .expect(0, " 160 messages handed in by SMTP and HTTP")
        .expect(0, "  160 acknowledged")
        .expect(0, "  160 delivered")
        .expect(0, "    0 lost");
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("exactly once, or is named unknown"), "{html}");
    assert!(html.contains("All that was acknowledged arrived"), "{html}");
    // One file that needs nothing from elsewhere.
    for outside in ["<script", "src=", "<link", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_named() {
    let flags = [
        "--messages",
        "1",
        "--rtt",
        "1ms",
        "--report",
        "/nonexistent/demo.html",
    ];
    mailrail(["demo"].iter().chain(&flags)).expect(75, "/nonexistent/demo.html");
}
