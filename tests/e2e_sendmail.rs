//! `mailrail sendmail` as the programs that call it see it.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use sink::{Script, Sink};
use support::serving::Home;
use support::{Run, command, recipients, start, url, wait_until};

/// Runs a program that calls sendmail, with a message on its standard input.
fn pipe(mut command: Command, text: &str) -> Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read all.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap().into()
}

fn sendmail(server: &str, args: &[&str], text: &str) -> Run {
    let mut command = command([&["sendmail"], args].concat());
    command.env("MAILRAIL_SMTP", server);
    pipe(command, text)
}

#[test]
fn called_by_its_old_name_it_takes_a_message_from_the_header_and_adds_what_is_missing() {
    let sink = start(Sink::builder().keep_records());
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mailrail"), &link).unwrap();
    let mut command = Command::new(&link);
    command
        .args(["-t", "-i", "-f", "me@x.example"])
        .env("MAILRAIL_SMTP", url(&sink));
    let text = "To: a@y.example\nBcc: b@y.example\nSubject: x\n\none\n.\ntwo\n";
    pipe(command, text).expect(0, "");
    assert_eq!(recipients(&sink), ["a@y.example", "b@y.example"]);
    let record = &sink.records()[0];
    assert_eq!(record.from, "me@x.example");
}

#[test]
fn php_and_cron_call_it_as_they_always_have() {
    let sink = start(Sink::builder().keep_records());
    let text = "To: a@y.example\nFrom: me@x.example\nSubject: x\n\nhi\n";
    for args in [
        &["-t", "-i"][..],
        &["-oi", "-oem", "-t", "-f", "me@x.example"],
        &["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "a@y.example"],
        &["-G", "-i", "-fme@x.example", "--", "a@y.example"],
    ] {
        sendmail(&url(&sink), args, text).expect(0, "");
    }
    assert_eq!(recipients(&sink).len(), 4);
}

#[test]
fn the_exit_code_says_what_became_of_it() {
    let rules = "[[rule]]\nat = \"rcpt\"\naddress = \"gone@y.example\"\nreply = \"550 5.1.1 No such user\"\n\
        [[rule]]\nat = \"rcpt\"\naddress = \"later@y.example\"\nreply = \"451 4.3.0 Later\"\n\
        [[rule]]\nat = \"final\"\naddress = \"picky@y.example\"\nreply = \"554 5.6.0 Not like this\"\n";
    let sink = start(
        Sink::builder()
            .keep_records()
            .script(rules.parse::<Script>().unwrap()),
    );
    let text = "From: me@x.example\nSubject: x\n\nhi\n";
    for (args, code, words) in [
        (&["a@y.example"][..], 0, ""),
        (&["gone@y.example"], 67, "No such user"),
        (&["a@y.example", "gone@y.example"], 67, "gone@y.example"),
        (&["later@y.example"], 75, "Later"),
        (&["picky@y.example"], 65, "Not like this"),
        (&["a@@y"], 67, "a@@y"),
        (&[], 64, "nobody to send to"),
        (&["-Z", "a@y.example"], 64, "unknown flag -Z"),
        (&["-bd"], 64, "mailrail serve"),
        (&["-bi"], 0, ""),
        (&["-q30m"], 0, ""),
    ] {
        sendmail(&url(&sink), args, text).expect(code, words);
    }
    let nobody = "smtp://127.0.0.1:1?tls=none";
    sendmail(nobody, &["a@y.example"], text).expect(69, "connect");
}

#[test]
fn it_speaks_smtp_on_standard_input_and_output() {
    let sink = start(Sink::builder().keep_records());
    let session = "EHLO me\r\nMAIL FROM:<me@x.example>\r\nRCPT TO:<a@y.example>\r\nDATA\r\n\
        Subject: x\r\n\r\nhi\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.example>\r\nRSET\r\nQUIT\r\n";
    let run = sendmail(&url(&sink), &["-bs"], session);
    run.expect(0, "221");
    let codes: Vec<&str> = run
        .stdout
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .map(|line| &line[..3])
        .collect();
    assert_eq!(
        codes,
        [
            "220", "250", "250", "250", "354", "250", "250", "250", "250", "221"
        ]
    );
    assert_eq!(recipients(&sink), ["a@y.example"]);
}

#[test]
fn a_server_of_ours_takes_it_and_mailq_shows_what_waits() {
    let sink = start(Sink::builder().keep_records());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "");
    server.send_to("a@y.example");
    let mut mailq = command(["sendmail", "-bp"]);
    mailq.env("MAILRAIL_DATA_DIR", home.data_dir());
    pipe(mailq, "").expect(0, "default");
    server.run(&["resume", "--tenant", "default"]).expect(0, "");
    wait_until("it is delivered", || recipients(&sink).len() == 1);
}
