//! One message, from flags or from a file.

use std::io::Write;
use std::process::Stdio;

use sink::{Rule, Sink};

use crate::support::*;

fn content(sink: &Sink) -> String {
    let record = sink.records().pop().unwrap();
    String::from_utf8(record.content.unwrap().to_vec()).unwrap()
}

#[test]
fn one_message_reaches_every_recipient_and_bcc_stays_hidden() {
    let sink = start(Sink::builder().keep_content());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.pdf");
    std::fs::write(&file, b"%PDF").unwrap();
    let run = mailrail([
        "send",
        "--via",
        &url(&sink),
        "--from",
        "Ann <ann@a.example>",
        "--to",
        "b@x.example",
        "--cc",
        "c@x.example",
        "--bcc",
        "d@x.example",
        "--subject",
        "Grüße",
        "--text",
        "Hello.",
        "--attach",
        path_str(&file),
        "--header",
        "X-Campaign: spring",
    ]);
    run.expect(0, "b@x.example: sent: 250");
    assert_eq!(
        recipients(&sink),
        ["b@x.example", "c@x.example", "d@x.example"]
    );
    let content = content(&sink);
    for part in [
        "From: Ann <ann@a.example>",
        "report.pdf",
        "X-Campaign: spring",
    ] {
        assert!(content.contains(part), "{part}: {content}");
    }
    assert!(!content.contains("d@x.example"), "{content}");
}

#[test]
fn a_refused_recipient_does_not_keep_the_others_from_theirs() {
    let rule: Rule = "at = \"rcpt\", address = \"no@x.example\", reply = \"550 5.1.1 Nobody\""
        .parse()
        .unwrap();
    let sink = start(Sink::builder().keep_records().rule(rule));
    let base = [
        "send",
        "--via",
        &url(&sink),
        "--from",
        "a@a.example",
        "--text",
        "Hello.",
    ];
    let to = ["--to", "yes@x.example", "--to", "no@x.example"];
    let run = mailrail(base.iter().chain(&to));
    run.expect(
        65,
        "no@x.example: rejected: the server replied 550 5.1.1 Nobody",
    );
    assert_eq!(recipients(&sink), ["yes@x.example"]);
    let json = mailrail(base.iter().chain(&to).chain(&["--json"])).json();
    assert_eq!(json["results"][0]["outcome"], "sent");
    assert_eq!(json["results"][1]["details"]["status"], "5.1.1");
}

#[test]
fn a_ready_message_goes_as_it_is_with_the_envelope_of_its_headers() {
    let sink = start(Sink::builder().keep_content());
    let eml = "From: Ann <ann@a.example>\nTo: Bob <bob@x.example>\nBcc: eve@x.example\nSubject: s\n\nHello.\n.\n";
    let mut child = command(["send", "--via", &url(&sink), "--eml", "-", "-t"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(eml.as_bytes())
        .unwrap();
    let run: Run = child.wait_with_output().unwrap().into();
    run.expect(0, "bob@x.example: sent");
    assert_eq!(recipients(&sink), ["bob@x.example", "eve@x.example"]);
    let record = sink.records().pop().unwrap();
    assert_eq!(record.from, "ann@a.example");
    let want =
        "From: Ann <ann@a.example>\r\nTo: Bob <bob@x.example>\r\nSubject: s\r\n\r\nHello.\r\n.\r\n";
    assert_eq!(content(&sink), want);
}

#[test]
fn an_eml_file_takes_its_envelope_from_flags() {
    let sink = start(Sink::builder().keep_records());
    let mailing = Mailing::of(0);
    let eml = mailing.write("m.eml", "From: ann@a.example\n\nHello.\n");
    let base = ["send", "--via", &url(&sink), "--eml", &eml];
    mailrail(
        base.iter()
            .chain(&["--from", "bounce@a.example", "--to", "b@x.example"]),
    )
    .expect(0, "sent");
    assert_eq!(sink.records()[0].from, "bounce@a.example");
    mailrail(base).expect(64, "--from is missing");
    mailrail(
        base.iter()
            .chain(&["--subject", "s", "--from", "a@b.example"]),
    )
    .expect(64, "--subject does not go with --eml");
}

#[test]
fn a_message_is_signed_and_offers_one_click() {
    let sink = start(Sink::builder().keep_content());
    let mailing = Mailing::of(0);
    let key = mailing.path("key.pem");
    mailrail([
        "dkim",
        "keygen",
        "--domain",
        "a.example",
        "--selector",
        "s1",
        "--out",
        &key,
    ])
    .expect(0, "s1._domainkey.a.example");
    mailrail([
        "send",
        "--via",
        &url(&sink),
        "--from",
        "news@a.example",
        "--to",
        "b@x.example",
        "--text",
        "Hello.",
        "--dkim-key",
        &key,
        "--dkim-selector",
        "s1",
        "--list-unsubscribe",
        "https://a.example/u/1",
    ])
    .expect(0, "sent");
    let content = content(&sink);
    for part in [
        "DKIM-Signature: v=1;",
        "d=a.example;",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ] {
        assert!(content.contains(part), "{part}: {content}");
    }
}

#[test]
fn a_dry_run_shows_the_message_and_dials_nobody() {
    let run = mailrail([
        "send",
        "--dry-run",
        "--from",
        "a@a.example",
        "--to",
        "b@x.example",
        "--text",
        "Hello.",
    ]);
    run.expect(0, "nothing was sent");
    assert!(run.stdout.contains("To: b@x.example\r\n"), "{run:?}");
}

#[test]
fn version_and_help_end_well_and_unknown_flags_do_not() {
    mailrail(["--version"]).expect(0, "mailrail ");
    mailrail(["--help"]).expect(0, "Exit codes");
    mailrail(["send", "--help"]).expect(0, "Examples:");
    mailrail(["send", "--nope"]).expect(64, "--nope");
    mailrail([] as [&str; 0]).expect(64, "Usage");
}
