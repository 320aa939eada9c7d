//! `mailrail sink` as a program: what it prints, what it writes, how it ends.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use rustix::process::Signal;
use support::{command, mailrail, path_str, signal};

/// A sink that listens.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(flags: &[&str]) -> Self {
        let args = ["sink"].iter().chain(flags);
        let mut child = command(args).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        // Octet by octet, so that nothing of the report is read with it.
        while !line.ends_with('\n') {
            let mut octet = [0];
            stdout.read_exact(&mut octet).unwrap();
            line.push(octet[0].into());
        }
        let address = line.strip_prefix("listening on ").unwrap().trim();
        Self {
            address: address.to_owned(),
            child,
        }
    }

    /// Says `lines`, one reply each, and gives the replies' codes.
    fn say(&self, lines: &[&str]) -> Vec<String> {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let mut replies = BufReader::new(socket.try_clone().unwrap()).lines();
        let mut code = || loop {
            let line = replies.next().unwrap().unwrap();
            if line.as_bytes()[3] == b' ' {
                return line[..3].to_owned();
            }
        };
        assert_eq!(code(), "220");
        let say = |line: &&str| {
            socket.write_all(line.as_bytes()).unwrap();
            code()
        };
        lines.iter().map(say).collect()
    }

    /// Signals it to end; gives its exit code and its report.
    fn end(self, how: Signal) -> (Option<i32>, String) {
        signal(&self.child, how);
        let output = self.child.wait_with_output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), report)
    }
}

const MESSAGE: [&str; 6] = [
    "EHLO me\r\n",
    "MAIL FROM:<a@a.example>\r\n",
    "RCPT TO:<b@b.example>\r\n",
    "DATA\r\n",
    "Message-ID: <1@a.example>\r\n\r\nHello\r\n.\r\n",
    "QUIT\r\n",
];

#[test]
fn a_signal_ends_it_with_a_report() {
    for how in [Signal::INT, Signal::TERM] {
        let sink = Running::start(&["--json"]);
        let codes = sink.say(&MESSAGE);
        assert_eq!(codes, ["250", "250", "250", "354", "250", "221"]);
        let (code, report) = sink.end(how);
        assert_eq!(code, Some(0));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["messages"], 1);
        assert_eq!(report["connections"], 1);
        assert!(report["duplicates"].is_null());
    }
}

#[test]
fn a_record_outlives_kill_9_once_the_mail_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("records.jsonl");
    let mut sink = Running::start(&["--jsonl", path_str(&records)]);
    assert_eq!(sink.say(&MESSAGE)[4], "250");
    sink.child.kill().unwrap();
    sink.child.wait().unwrap();
    let record = std::fs::read_to_string(records).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["message_id"], "1@a.example");
    assert_eq!(record["to"], serde_json::json!(["b@b.example"]));
}

#[test]
fn rules_come_from_a_file_and_from_flags() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.toml");
    let text = "[[rule]]\nat = \"rcpt\"\naddress = \"b@b.example\"\nreply = \"550 5.1.1 No\"\n";
    std::fs::write(&rules, text).unwrap();
    let flag = "at = \"mail\", times = 1, reply = \"451 4.3.0 Later\"";
    let sink = Running::start(&["--rules", path_str(&rules), "--rule", flag]);
    assert_eq!(sink.say(&MESSAGE[..2]), ["250", "451"]);
    assert_eq!(sink.say(&MESSAGE[..4]), ["250", "250", "550", "554"]);
    let (_, report) = sink.end(Signal::INT);
    assert!(report.contains("2 refusals"), "{report}");
}

#[test]
fn mistakes_are_told_all_at_once_before_it_listens() {
    let run = mailrail([
        "sink",
        "--auth",
        "nobody",
        "--rate",
        "fast",
        "--rule",
        "at = \"x\"",
    ]);
    run.expect(64, "--auth")
        .expect(64, "--rate")
        .expect(64, "--rule");
    assert_eq!(run.stdout, "");
    mailrail(["sink", "--listen", "192.0.2.1:1"]).expect(69, "cannot listen on 192.0.2.1:1");
    mailrail(["sink", "--jsonl", "/nowhere/x"]).expect(69, "/nowhere/x");
}
