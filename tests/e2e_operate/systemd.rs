//! What systemd is told, and what the unit that we ship says to it.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::support::path_str;
use crate::support::serving::{Home, Serving};

/// Where systemd would listen.
struct Systemd(UnixDatagram);

impl Systemd {
    fn of(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(socket)
    }

    /// A server that systemd started, by a shell that has these words first.
    fn start<'h>(&self, home: &'h Home, words: &str, watchdog_us: Option<u32>) -> Serving<'h> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{words} exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_mailrail"))
            .env("NOTIFY_SOCKET", home.path("notify"))
            .env_remove("JOURNAL_STREAM");
        if let Some(us) = watchdog_us {
            shell.env("WATCHDOG_USEC", us.to_string());
        }
        home.serve_by(shell)
    }

    fn told(&self) -> String {
        let mut text = [0; 4096];
        let len = self.0.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    }

    /// What is told until something is.
    fn told_until(&self, word: &str) -> Vec<String> {
        let mut all = Vec::new();
        while all.last().is_none_or(|it: &String| !it.contains(word)) {
            all.push(self.told());
        }
        all
    }
}

#[test]
fn systemd_is_told_when_it_is_ready_reloading_and_stopping() {
    let home = Home::new("");
    let systemd = Systemd::of(&home);
    let server = systemd.start(&home, "", None);
    let ready = systemd.told();
    assert!(
        ready.contains("READY=1") && ready.contains("STATUS=SMTP on 127.0.0.1:"),
        "{ready}"
    );
    server.signal(Signal::HUP);
    let reloading = systemd.told();
    assert!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(systemd.told().contains("READY=1"));
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(systemd.told().contains("STOPPING=1"));
}

#[test]
fn the_watchdog_is_fed_while_the_engine_lives_and_while_it_drains() {
    let home = Home::new("");
    let systemd = Systemd::of(&home);
    let server = systemd.start(&home, "", Some(20_000));
    for _ in 0..3 {
        systemd.told_until("WATCHDOG=1");
    }
    server.signal(Signal::HUP);
    systemd.told_until("RELOADING=1");
    systemd.told_until("WATCHDOG=1");
    assert_eq!(server.end(Signal::TERM), Some(0));
    systemd.told_until("STOPPING=1");
}

/// Neither the journal nor the log can be written: as on a disk that fails.
#[test]
fn a_failed_journal_is_told_and_ends_the_process_though_no_log_can_be_written() {
    let home = Home::new("[[route]]\ndomain = \"*\"\nvia = \"smtp://127.0.0.1:1?tls=none\"\n");
    let systemd = Systemd::of(&home);
    // So that a write beyond the limit fails and does not end the process.
    let server = systemd.start(&home, "trap '' XFSZ;", Some(20_000));
    systemd.told_until("WATCHDOG=1");
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    prlimit(Some(server.pid()), Resource::Fsize, nothing).unwrap();
    let text = "From: a@x.example\nTo: b@y.example\n\nhi\n";
    let refused = server.sendmail(&["-t", "-i"], text);
    refused.expect(75, "4.3.0");
    systemd.told_until("STATUS=to be restarted: the journal has failed");
    assert_eq!(server.wait(), Some(75));
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_exposes_little() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("mailrail.service");
    let text = include_str!("../../packaging/mailrail.service");
    let there = env!("CARGO_BIN_EXE_mailrail");
    std::fs::write(&unit, text.replace("/usr/local/bin/mailrail", there)).unwrap();
    let analyze = |args: &[&str]| {
        let run = Command::new("systemd-analyze")
            .args(args)
            .arg(path_str(&unit))
            .output();
        let run = run.ok()?;
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        Some((run.status.code(), said.into_owned()))
    };
    let Some((code, said)) = analyze(&["verify"]) else {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    };
    assert_eq!((code, said.as_str()), (Some(0), ""));
    // Exposure is from 0 to 10, here in tenths.
    let (code, said) = analyze(&["security", "--offline=true", "--threshold=20"]).unwrap();
    assert_eq!(code, Some(0), "{said}");
}
