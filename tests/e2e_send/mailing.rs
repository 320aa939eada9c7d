//! A mailing: list, templates, record, and runs that take one up again.

use sink::{Rule, Sink};

use crate::support::*;

fn rule(toml: &str) -> Rule {
    toml.parse().unwrap()
}

#[test]
fn a_mailing_reaches_each_row_once_and_says_what_bounds_it() {
    let sink = start(Sink::builder().keep_content());
    let mailing = Mailing::of(200);
    let run = mailing.send(&url(&sink), &["--connections", "4"]);
    run.expect(0, "200 sent")
        .expect(0, "bound by")
        .expect(0, "p99");
    let mut taken = recipients(&sink);
    taken.sort();
    taken.dedup();
    assert_eq!((taken.len(), sink.report().messages), (200, 200));
    assert_eq!(mailing.count("sent"), 200);
    let line = mailing
        .lines()
        .into_iter()
        .find(|line| line["row"] == 2)
        .unwrap();
    assert_eq!(
        (line["code"].as_u64(), line["email"].as_str()),
        (Some(250), Some("p2@x.example"))
    );
    let stages = line["ms"].as_object().unwrap().values();
    let total_ms: f64 = stages.filter_map(serde_json::Value::as_f64).sum();
    assert!(total_ms > 0.0 && line["reply"].is_string(), "{line}");
    let record = sink
        .records()
        .into_iter()
        .find(|r| r.to == ["p2@x.example"])
        .unwrap();
    let text = String::from_utf8(record.content.unwrap().to_vec()).unwrap();
    assert!(
        text.contains("Subject: Hi Person 2\r\n") && text.contains("Dear Person 2"),
        "{text}"
    );
    let id = record.message_id.unwrap();
    assert!(
        line["message_id"].as_str().unwrap().contains(&id),
        "{line} {id}"
    );
}

#[test]
fn json_is_all_that_is_printed_for_machines() {
    let sink = start(Sink::builder());
    let mailing = Mailing::of(20);
    let run = mailing.send(&url(&sink), &["--json", "--window", "4"]);
    let json = run.json();
    assert_eq!((json["sent"].as_u64(), run.stderr.as_str()), (Some(20), ""));
    assert!(
        json["bound_by"].is_string() && json["latency_ms"]["p99"].is_number(),
        "{json}"
    );
}

#[test]
fn json_lines_make_a_list_too() {
    let sink = start(Sink::builder().keep_records());
    let mailing = Mailing::of(0);
    let list = mailing.write("l.jsonl", "{\"email\":\"a@x.example\",\"n\":{\"m\":1}}\n");
    mailrail([
        "send",
        "--via",
        &url(&sink),
        "--from",
        "n@a.example",
        "--recipients",
        &list,
        "--text",
        "{{ n.m }}",
    ])
    .expect(0, "1 sent");
    assert_eq!(recipients(&sink), ["a@x.example"]);
}

#[test]
fn a_dry_run_checks_all_rows_and_shows_the_first() {
    let mailing = Mailing::of(3);
    let run = mailing.send("smtp://127.0.0.1:1", &["--dry-run"]);
    run.expect(0, "3 messages")
        .expect(0, "Subject: Hi Person 2");
    assert!(!mailing.has_record());
}

#[test]
fn a_reader_of_the_summary_that_goes_away_is_no_failure() {
    let sink = start(Sink::builder());
    let mailing = Mailing::of(5);
    let mut child = mailing.spawn(&url(&sink), &[]);
    drop(child.stdout.take());
    let run: Run = child.wait_with_output().unwrap().into();
    run.expect(0, "");
    assert_eq!((run.stderr.as_str(), mailing.count("sent")), ("", 5));
}

#[test]
fn a_limit_sends_so_many_and_resume_sends_the_rest() {
    let sink = start(Sink::builder().keep_records());
    let mailing = Mailing::of(10);
    mailing
        .send(&url(&sink), &["--limit", "3"])
        .expect(0, "3 sent");
    mailing
        .send(&url(&sink), &[])
        .expect(64, "go on with --resume");
    mailing.send(&url(&sink), &["--resume"]).expect(0, "7 sent");
    mailing.send(&url(&sink), &["--resume"]).expect(0, "0 sent");
    let mut taken = recipients(&sink);
    taken.sort();
    taken.dedup();
    assert_eq!((taken.len(), sink.report().messages), (10, 10));
}

#[test]
fn a_record_goes_on_with_the_same_list_and_message_only() {
    let sink = start(Sink::builder());
    let mailing = Mailing::of(2);
    mailing
        .send(&url(&sink), &["--resume"])
        .expect(64, "there is no record");
    mailing
        .send(&url(&sink), &["--limit", "1"])
        .expect(0, "1 sent");
    let other_text = mailrail(mailing.args(&url(&sink), &["--resume", "--header", "X-A: b"]));
    other_text.expect(65, "of another message");
    std::fs::write(&mailing.list, "email,name\na@x.example,A\n").unwrap();
    mailing
        .send(&url(&sink), &["--resume"])
        .expect(65, "of another list");
    assert_eq!(sink.report().messages, 1);
}

#[test]
fn rows_with_one_address_are_told_and_can_be_left_out() {
    let sink = start(Sink::builder());
    let list = "email,name\na@x.example,A\nA@X.example,B\nc@x.example,C\n";
    let all = Mailing::new(list);
    all.send(&url(&sink), &[])
        .expect(0, "1 rows have the address of an earlier row")
        .expect(0, "3 sent");
    let once = Mailing::new(list);
    once.send(&url(&sink), &["--skip-duplicates"])
        .expect(0, "2 sent");
    assert!(once.outcomes().contains(&(3, "skipped".to_owned())));
}

#[test]
fn each_outcome_has_its_word_and_its_exit_code() {
    let sink = start(
        Sink::builder()
            .rule(rule(
                "at = \"rcpt\", address = \"p3@x.example\", reply = \"550 5.1.1 Nobody\"",
            ))
            .rule(rule(
                "at = \"rcpt\", address = \"p4@x.example\", reply = \"451 4.2.0 Later\"",
            ))
            .rule(rule(
                "at = \"final\", address = \"p5@x.example\", do = \"lose-reply\"",
            )),
    );
    let mailing = Mailing::of(5);
    let run = mailing.send(
        &url(&sink),
        &["--retries", "0", "--connections", "1", "--json"],
    );
    let json = run.json();
    assert_eq!(run.code, Some(75), "{run:?}");
    for (event, count) in [("sent", 2), ("rejected", 1), ("failed", 1), ("unknown", 1)] {
        assert_eq!(json[event].as_u64(), Some(count), "{event}: {json}");
        assert_eq!(mailing.count(event) as u64, count, "{event}");
    }
    // The unknown is left alone until it is asked for by name.
    mailing
        .send(&url(&sink), &["--resume"])
        .expect(75, "row 5: p5@x.example");
    assert_eq!(sink.report().messages, 3);
    mailing
        .send(&url(&sink), &["--resend-unknown"])
        .expect(75, "1 unknown");
    assert_eq!(sink.report().messages, 4);
}

#[test]
fn what_failed_for_now_is_taken_up_three_times_and_no_more() {
    let toml = "at = \"rcpt\", address = \"p3@x.example\", reply = \"451 4.2.0 Later\"";
    let sink = start(Sink::builder().rule(rule(toml)));
    let mailing = Mailing::of(2);
    mailing
        .send(&url(&sink), &["--retries", "0"])
        .expect(75, "1 failed for now");
    mailing
        .send(&url(&sink), &["--retries", "0", "--resume"])
        .expect(75, "1 failed for now in an earlier run");
    let again = || mailing.send(&url(&sink), &["--retries", "0", "--retry-failed"]);
    for _ in 0..3 {
        again().expect(75, "1 failed for now");
    }
    again().expect(65, "1 given up");
    assert_eq!(mailing.count("failed"), 4);
    assert_eq!(sink.report().messages, 1);
}

#[test]
fn a_relay_that_blinks_is_tried_again_within_the_run() {
    let toml = "at = \"rcpt\", times = 2, reply = \"451 4.3.0 Later\"";
    let sink = start(Sink::builder().rule(rule(toml)));
    let mailing = Mailing::of(3);
    mailing
        .send(&url(&sink), &["--connections", "1"])
        .expect(0, "3 sent");
    let attempts = |line: &serde_json::Value| line["attempts"].as_u64();
    assert_eq!(
        mailing.lines().iter().filter_map(attempts).sum::<u64>(),
        3 + 2
    );
}

#[test]
fn a_relay_that_refuses_everything_does_not_burn_the_list() {
    for (toml, event) in [
        (
            "at = \"rcpt\", reply = \"554 5.7.1 Relay access denied\"",
            "rejected",
        ),
        (
            "at = \"mail\", reply = \"553 5.7.1 Sender not allowed\"",
            "failed",
        ),
        ("at = \"mail\", reply = \"451 4.3.2 Not now\"", "failed"),
    ] {
        let sink = start(Sink::builder().rule(rule(toml)));
        let mailing = Mailing::of(400);
        mailing
            .send(&url(&sink), &["--retries", "0"])
            .expect(75, "refused in a row, the last: the server replied")
            .expect(75, "not attempted");
        let refused = mailing.count(event);
        assert!((100..200).contains(&refused), "{toml}: {refused}");
    }
}

#[test]
fn relays_of_equal_standing_share_a_mailing() {
    let sinks = [
        start(Sink::builder().keep_records()),
        start(Sink::builder().keep_records()),
    ];
    let mailing = Mailing::of(100);
    mailing
        .send(
            &url(&sinks[0]),
            &["--via", &url(&sinks[1]), "--connections", "4"],
        )
        .expect(0, "100 sent");
    let taken = sinks.map(|sink| sink.report().messages);
    assert!(
        taken[0] > 0 && taken[1] > 0 && taken[0] + taken[1] == 100,
        "{taken:?}"
    );
}
