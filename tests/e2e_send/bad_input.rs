//! Each mistake has its message and exit code, and leaves nothing half sent.

use sink::{Sink, TlsMode};

use crate::support::*;

/// Nothing arrived, and no record was begun.
#[track_caller]
fn assert_untouched(sink: &Sink, mailing: &Mailing) {
    assert_eq!(sink.report().messages, 0);
    assert!(!mailing.has_record());
}

#[test]
fn a_list_that_is_wrong_is_refused_before_anything_is_sent() {
    let sink = start(Sink::builder());
    for (list, part) in [
        (
            "mail,name\na@x.example,A\n",
            "has no column `email`; its columns: mail, name",
        ),
        (
            "email,name\na@x.example,A\nnot-an-address,B\n",
            "row 3: \"not-an-address\" is not an email address",
        ),
        (
            "email,name\na@x.example,A\nb@x.example\n",
            "row 3: 1 fields where the header row has 2",
        ),
        (
            "email,name\na@x.example,A\n\"b@x.example\r\nRCPT\",B\n",
            "row 3: ",
        ),
        (
            "email,nam\na@x.example,A\n",
            "the variable name is not given (the columns of",
        ),
        ("", "is empty"),
    ] {
        let mailing = Mailing::new(list);
        mailing.send(&url(&sink), &[]).expect(65, part);
        assert_untouched(&sink, &mailing);
    }
}

#[test]
fn wrong_rows_can_be_left_out_and_are_recorded() {
    let sink = start(Sink::builder().keep_records());
    let mailing = Mailing::new("email,name\na@x.example,A\nnobody,B\nc@x.example,C\n");
    mailing.send(&url(&sink), &[]).expect(65, "--skip-invalid");
    mailing
        .send(&url(&sink), &["--skip-invalid"])
        .expect(65, "1 rejected");
    let mut taken = recipients(&sink);
    taken.sort();
    assert_eq!(taken, ["a@x.example", "c@x.example"]);
    assert!(mailing.outcomes().contains(&(3, "rejected".to_owned())));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let sink = start(Sink::builder());
    let mailing = Mailing::of(1);
    let via = url(&sink);
    let base = ["send", "--via", &via, "--from", "a@a.example"];
    let list = path_str(&mailing.list);
    for (more, code, part) in [
        (
            &["--recipients", "/nonexistent/l.csv", "--text", "x"][..],
            65,
            "/nonexistent/l.csv",
        ),
        (
            &["--recipients", "/", "--text", "x"],
            65,
            "neither .csv nor .jsonl",
        ),
        (
            &["--recipients", list, "--text-file", "/nonexistent/t"],
            65,
            "/nonexistent/t: No such file",
        ),
        (
            &[
                "--recipients",
                list,
                "--text",
                "x",
                "--attach",
                "/nonexistent/a",
            ],
            65,
            "/nonexistent/a",
        ),
        (
            &["--recipients", list, "--text", "{{ name", "--subject", "s"],
            65,
            "--text:1",
        ),
        (
            &[
                "--to",
                "b@x.example",
                "--text",
                "x",
                "--dkim-selector",
                "s",
                "--dkim-key",
                list,
            ],
            65,
            "PEM",
        ),
    ] {
        mailrail(base.iter().chain(more)).expect(code, part);
        assert_untouched(&sink, &mailing);
    }
}

#[test]
fn every_mistake_in_the_flags_is_told_at_once() {
    let run = mailrail([
        "send",
        "--via",
        "smtp://relay.example?tls=maybe",
        "--from",
        "nobody",
        "--recipients",
        "l.csv",
        "--to",
        "x@y.example",
        "--connections",
        "0",
        "--rate",
        "fast",
        "--window",
        "99",
        "--retries",
        "1000",
    ]);
    let wants = [
        "unknown tls mode",
        "--from",
        "--to does not go with",
        "--connections",
        "--rate",
        "--window",
        "--retries",
        "nothing to say",
    ];
    for part in wants {
        run.expect(64, part);
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_with_the_reason() {
    let mailing = Mailing::of(1);
    let run = mailing.send("smtp://me:hunter2@127.0.0.1:1", &[]);
    run.expect(64, "there is a password in the URL")
        .expect(64, "MAILRAIL_PASSWORD");
    assert!(!run.stderr.contains("hunter2"), "{run:?}");
    mailing
        .send("smtp://me@127.0.0.1:1", &[])
        .expect(64, "there is none for me");
}

#[test]
fn an_unreachable_relay_is_told_before_a_record_is_begun() {
    let mailing = Mailing::of(3);
    // A port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let run = mailing.send(&format!("smtp://127.0.0.1:{port}"), &[]);
    run.expect(69, "the relay cannot be reached")
        .expect(69, "nothing was sent");
    assert!(!mailing.has_record());
}

#[test]
fn a_wrong_password_is_told_before_a_record_is_begun() {
    let sink = start(Sink::builder().user("me", "right").keep_records());
    let mailing = Mailing::of(3);
    let via = format!("smtp://me@{}?tls=none", sink.addr());
    let args = mailing.args(&via, &["--allow-plaintext-auth"]);
    let with = |password: &str| -> Run {
        command(&args)
            .env("MAILRAIL_PASSWORD", password)
            .output()
            .unwrap()
            .into()
    };
    with("wrong").expect(77, "the relay refused the login");
    assert_untouched(&sink, &mailing);
    with("right").expect(0, "3 sent");
    // From a file, and not without encryption unless that is allowed by name.
    let other = Mailing::of(1);
    let file = other.write("password", "right\n");
    other.send(&via, &["--password-file", &file]).expect(69, "");
    assert!(!other.has_record());
    other
        .send(&via, &["--password-file", &file, "--allow-plaintext-auth"])
        .expect(0, "1 sent");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_unless_trusted() {
    let sink = start(Sink::builder().tls(TlsMode::StartTls).keep_records());
    let mailing = Mailing::of(2);
    let via = format!("smtp://{}", sink.addr());
    mailing
        .send(&via, &["--tls", "required"])
        .expect(69, "cannot be reached securely");
    assert_untouched(&sink, &mailing);
    let pem = sink.identity().unwrap().authority_pem().unwrap().to_owned();
    let ca = mailing.write("ca.pem", &pem);
    mailing
        .send(&via, &["--tls", "required", "--ca", &ca])
        .expect(0, "2 sent");
    assert!(sink.records().iter().all(|record| record.tls));
    let other = Mailing::of(1);
    other
        .send(&via, &["--tls", "required", "--insecure"])
        .expect(0, "1 sent");
}

#[test]
fn a_template_that_fails_for_one_row_names_file_place_and_row() {
    let sink = start(Sink::builder());
    let mailing = Mailing::of(0);
    let list = mailing.write(
        "l.jsonl",
        "{\"email\":\"a@x.example\",\"code\":1}\n{\"email\":\"b@x.example\"}\n",
    );
    let text = mailing.write("hello.txt", "Dear friend,\nyour code is {{ code }}.\n");
    let via = url(&sink);
    let base = [
        "send",
        "--via",
        &via,
        "--from",
        "a@a.example",
        "--recipients",
        &list,
    ];
    mailrail(base.iter().chain(&["--text-file", &text]))
        .expect(65, "hello.txt:2:17: row 2: the variable code is not given")
        .expect(65, "1 rows cannot be sent to");
    assert_eq!(sink.report().messages, 0);
}
