//! What holds against every real server.

use std::sync::Arc;

use mailrail::client::{
    Cause, Concurrency, Failure, Kind, Pool, PoolBuilder, Relay, Report, Scope, Stage, TlsMode,
    Wire,
};
use mailrail::smtp::{Address, Content, Envelope, ReplyCode};

use super::{PATIENCE, POLL, Server};

const WIRES: [Wire; 4] = [
    Wire::Lockstep,
    Wire::Pipelined,
    Wire::Overlapped,
    Wire::Windowed(8),
];

/// In what the servers differ.
pub(crate) struct Quirks {
    pub(crate) resumes_tls: bool,
    pub(crate) takes_smtputf8: bool,
}

/// One message, and who shall have it.
struct Mail {
    from: String,
    to: Vec<String>,
    content: Content,
}

impl Mail {
    /// The `number`th of a run; numbers differ in shape as mails do.
    fn new(run: &str, number: usize) -> Self {
        let body = match number % 6 {
            0 => "Hello.\r\n".to_owned(),
            1 => ".\r\n..\r\n.dot first\r\n\r\n.\r\nEnd.\r\n".to_owned(),
            2 => format!("{}\r\n.{}\r\n", "x".repeat(998), "y".repeat(997)),
            3 => "Grüße, 8-bit: ÄÖÜ ß €\r\n".repeat(20),
            4 => format!("{}\r\n", "0123456789".repeat(7)).repeat(2000),
            _ => String::new(),
        };
        let to = (0..=number % 3).map(|n| format!("r{n}-{run}-{number}@dest.example"));
        Self {
            to: to.collect(),
            ..Self::to(run, number, "nobody@dest.example", &body)
        }
    }

    fn to(run: &str, number: usize, to: &str, body: &str) -> Self {
        // Complete, so that no server has a reason to add to it.
        let bytes = format!(
            "Message-ID: <{run}.{number}@src.example>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
             From: <a@src.example>\r\nSubject: {run} {number}\r\n\r\n{body}"
        );
        Self {
            from: format!("{run}-{number}@src.example"),
            to: vec![to.to_owned()],
            content: Content::new(bytes.into_bytes()).unwrap(),
        }
    }

    fn envelope(&self) -> Arc<Envelope> {
        let address = |text: &String| text.parse::<Address>().unwrap();
        let recipients = self.to.iter().map(|to| address(to).into()).collect();
        Arc::new(Envelope::new(address(&self.from), recipients).unwrap())
    }
}

fn pool(server: &Server, wire: Wire, connections: usize) -> PoolBuilder {
    Pool::builder(Relay::plaintext(server.addr))
        .wire(wire)
        .concurrency(Concurrency::Fixed(connections))
        .ehlo_name("client.example".parse().unwrap())
}

fn encrypted(server: &Server) -> Relay {
    Relay {
        tls: TlsMode::Required,
        ..Relay::plaintext(server.addr)
    }
}

/// Offers all at once, so that they queue in this order.
async fn send_all(pool: &Pool, mails: &[Mail]) -> Vec<Report> {
    let sends = mails
        .iter()
        .map(|mail| pool.send(mail.envelope(), mail.content.clone()));
    futures_util::future::join_all(sends).await
}

/// Checks that these arrived, each once, and nothing else did.
async fn check_arrived<'a>(server: &Server, mails: impl IntoIterator<Item = &'a Mail>) {
    let mut want: Vec<&Mail> = mails.into_iter().collect();
    let started = std::time::Instant::now();
    while server.sink.records().len() < want.len() {
        assert!(
            started.elapsed() < PATIENCE,
            "{} of {} arrived; {}",
            server.sink.records().len(),
            want.len(),
            server.logs()
        );
        tokio::time::sleep(POLL).await;
    }
    let mut got = server.sink.records();
    want.sort_by(|a, b| a.from.cmp(&b.from));
    got.sort_by(|a, b| a.from.cmp(&b.from));
    for (record, mail) in got.iter().zip(&want) {
        let mut to = record.to.clone();
        to.sort();
        assert_eq!((&record.from, &to), (&mail.from, &mail.to));
        // The server puts trace fields in front (RFC 5321 §4.4) and changes nothing else.
        let content = record.content.as_ref().unwrap();
        let own = content.len().checked_sub(mail.content.len());
        let own = own.unwrap_or_else(|| panic!("{} is shorter than it was", mail.from));
        assert!(
            content[own..] == *mail.content.as_bytes(),
            "{} was changed: {:?}",
            mail.from,
            String::from_utf8_lossy(&content[..content.len().min(2000)])
        );
        assert!(content[..own].starts_with(b"Received:"), "{}", mail.from);
    }
    assert_eq!(got.len(), want.len(), "some arrived twice");
}

#[track_caller]
fn check_accepted(reports: &[Report]) {
    for report in reports {
        if let Some(failure) = report.first_failure() {
            panic!("{failure}");
        }
    }
}

#[track_caller]
fn failure(report: &Report) -> &Failure {
    report.first_failure().expect("a failure")
}

#[track_caller]
fn check_refusal(failure: &Failure, code: u16, stage: Stage, scope: Scope, kind: Kind) {
    assert_eq!(failure.code().map(ReplyCode::get), Some(code), "{failure}");
    let seen = (failure.stage, failure.scope, failure.kind);
    assert_eq!(seen, (stage, scope, kind), "{failure}");
}

pub(crate) async fn every_mode_delivers(server: &Server, quirks: &Quirks, messages: usize) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("mode{index}");
        let mails: Vec<Mail> = (0..messages)
            .map(|number| Mail::new(&run, number))
            .collect();
        let pool = pool(server, wire, 1).build().unwrap();
        check_accepted(&send_all(&pool, &mails).await);
        assert_eq!(pool.stats().connections_opened, 1, "{wire:?}");
        pool.close().await;
        sent.extend(mails);
    }
    if quirks.takes_smtputf8 {
        let mail = Mail::to("utf8", 0, "grüße@dest.example", "Hello.\r\n");
        let pool = pool(server, Wire::Overlapped, 1).build().unwrap();
        let mails = [mail];
        check_accepted(&send_all(&pool, &mails).await);
        sent.extend(mails);
    }
    check_arrived(server, &sent).await;
}

pub(crate) async fn refused_recipients_fail_alone(server: &Server) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("some{index}");
        let mut mails = vec![Mail::new(&run, 0), Mail::new(&run, 2), Mail::new(&run, 1)];
        mails[1].to.insert(1, "refused@dest.example".into());
        mails[1].to.insert(2, "full@dest.example".into());
        let pool = pool(server, wire, 1).build().unwrap();
        let reports = send_all(&pool, &mails).await;
        check_accepted(&reports[..1]);
        check_accepted(&reports[2..]);
        let results = &reports[1].results;
        let accepted: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(accepted, [true, false, false, true, true], "{wire:?}");
        let of = |index: usize| results[index].as_ref().unwrap_err();
        check_refusal(of(1), 550, Stage::Rcpt, Scope::Recipient, Kind::Permanent);
        check_refusal(of(2), 452, Stage::Rcpt, Scope::Recipient, Kind::Transient);
        let enhanced = of(1).reply().unwrap().enhanced().unwrap();
        assert_eq!(enhanced.to_string(), "5.1.1", "{wire:?}");
        assert_eq!(pool.stats().connections_opened, 1, "{wire:?}");
        mails[1].to.drain(1..3);
        sent.extend(mails);
    }
    check_arrived(server, &sent).await;
}

pub(crate) async fn all_refused_leaves_no_trace(server: &Server) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("none{index}");
        let mut mails: Vec<Mail> = (0..8).map(|number| Mail::new(&run, number)).collect();
        for refused in [0, 2, 3, 6] {
            mails[refused].to = vec!["refused@dest.example".into(), "full@dest.example".into()];
        }
        let pool = pool(server, wire, 1).build().unwrap();
        let reports = send_all(&pool, &mails).await;
        for (mail, report) in mails.into_iter().zip(&reports) {
            if mail.to[0] == "refused@dest.example" {
                let failure = failure(report);
                check_refusal(failure, 550, Stage::Rcpt, Scope::Recipient, Kind::Permanent);
                assert_eq!(report.results.iter().filter(|it| it.is_ok()).count(), 0);
            } else {
                check_accepted(std::slice::from_ref(report));
                sent.push(mail);
            }
        }
        assert_eq!(pool.stats().connections_opened, 1, "{wire:?}");
    }
    check_arrived(server, &sent).await;
}

pub(crate) async fn a_421_hits_one_message(server: &Server) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("busy{index}");
        let mut mails: Vec<Mail> = (0..9).map(|number| Mail::new(&run, number)).collect();
        mails[4].to = vec!["busy@dest.example".into()];
        let pool = pool(server, wire, 1).build().unwrap();
        let reports = send_all(&pool, &mails).await;
        let failure = failure(&reports[4]);
        check_refusal(
            failure,
            421,
            Stage::Rcpt,
            Scope::Connection,
            Kind::Transient,
        );
        mails.remove(4);
        check_accepted(&reports[..4]);
        check_accepted(&reports[5..]);
        assert_eq!(pool.stats().connections_opened, 2, "{wire:?}");
        sent.extend(mails);
    }
    check_arrived(server, &sent).await;
}

/// Every third message is to somebody; the others make the server's count of errors grow.
pub(crate) async fn a_server_that_has_enough_of_errors(server: &Server) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("errors{index}");
        let mut mails: Vec<Mail> = (0..30).map(|number| Mail::new(&run, number)).collect();
        for (number, mail) in mails.iter_mut().enumerate() {
            if number % 9 != 0 {
                mail.to = vec!["refused@dest.example".into()];
            }
        }
        let pool = pool(server, wire, 1).build().unwrap();
        let reports = send_all(&pool, &mails).await;
        for (number, (mail, report)) in mails.into_iter().zip(&reports).enumerate() {
            if number % 9 == 0 {
                check_accepted(std::slice::from_ref(report));
                sent.push(mail);
            } else {
                let failure = failure(report);
                let code = failure.code().map(ReplyCode::get);
                assert!(matches!(code, Some(550 | 421)), "{wire:?} {failure}");
            }
        }
        assert!(pool.stats().connections_opened > 1, "{wire:?}");
    }
    check_arrived(server, &sent).await;
}

pub(crate) async fn a_server_that_has_enough_of_a_connection(server: &Server) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("enough{index}");
        let mails: Vec<Mail> = (0..14).map(|number| Mail::new(&run, number)).collect();
        let pool = pool(server, wire, 2).build().unwrap();
        check_accepted(&send_all(&pool, &mails).await);
        assert!(pool.stats().connections_opened >= 4, "{wire:?}");
        assert!(pool.stats().connections_open_max <= 2, "{wire:?}");
        sent.extend(mails);
    }
    check_arrived(server, &sent).await;
}

pub(crate) async fn tls_is_verified(server: &Server, quirks: &Quirks) {
    let mut sent = Vec::new();
    for (index, wire) in WIRES.into_iter().enumerate() {
        let run = format!("tls{index}");
        let mails: Vec<Mail> = (0..9).map(|number| Mail::new(&run, number)).collect();
        let pool = Pool::builder(encrypted(server))
            .wire(wire)
            .concurrency(Concurrency::Fixed(1))
            .messages_per_connection(3)
            .roots(vec![server.authority.clone()])
            .build()
            .unwrap();
        let reports = send_all(&pool, &mails).await;
        check_accepted(&reports);
        assert!(reports.iter().all(|it| it.timings.tls_resumed.is_some()));
        let stats = pool.stats();
        assert_eq!(stats.tls_full + stats.tls_resumed, 3, "{wire:?}");
        assert_eq!(stats.tls_resumed > 0, quirks.resumes_tls, "{wire:?}");
        sent.extend(mails);
    }
    check_arrived(server, &sent).await;

    let stranger = super::stranger();
    let pool = Pool::builder(encrypted(server)).roots(vec![stranger]);
    let mail = Mail::new("stranger", 0);
    let report = pool.build().unwrap();
    let report = report.send(mail.envelope(), mail.content).await;
    let failure = failure(&report);
    assert!(matches!(failure.cause, Cause::Tls(_)), "{failure}");
    let seen = (failure.stage, failure.scope, failure.kind);
    assert_eq!(seen, (Stage::Tls, Scope::Endpoint, Kind::Permanent));
    check_arrived(server, &sent).await;
}

pub(crate) async fn too_large(server: &Server) {
    let pool = pool(server, Wire::Overlapped, 1).build().unwrap();
    let line = format!("{}\r\n", "z".repeat(70));
    let mut mails = vec![
        Mail::to("large", 0, "r@dest.example", &line.repeat(2000)),
        Mail::new("large", 1),
    ];
    let reports = send_all(&pool, &mails).await;
    let failure = failure(&reports[0]);
    assert_eq!(
        (failure.scope, failure.kind),
        (Scope::Message, Kind::Permanent)
    );
    check_accepted(&reports[1..]);
    check_arrived(server, &mails.split_off(1)).await;
}

fn program(args: &[&str]) -> serde_json::Value {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mailrail"))
        .args(args)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The program itself: a list of which one recipient is refused, and a measurement.
pub(crate) async fn the_program_sends_a_mailing(server: &Server) {
    let relay = format!("smtp://{}?tls=none", server.addr);
    let folder = tempfile::tempdir().unwrap();
    for window in ["1", "8"] {
        let list = folder.path().join(format!("window{window}.csv"));
        let people = (0..50).map(|n| format!("w{window}-{n}@dest.example\n"));
        let people: String = people.collect();
        std::fs::write(&list, format!("email\nrefused@dest.example\n{people}")).unwrap();
        let mut args = vec!["send", "--via", &relay, "--from", "news@src.example"];
        args.extend([
            "--subject",
            "{{ email }}",
            "--text",
            "Hello.",
            "--window",
            window,
        ]);
        args.extend(["--json", "--recipients", list.to_str().unwrap()]);
        let summary = program(&args);
        let counts = ["sent", "rejected", "failed", "unknown"].map(|event| summary[event].as_u64());
        assert_eq!(counts, [Some(50), Some(1), Some(0), Some(0)], "{summary}");
    }
    let has_all = || server.sink.report().messages >= 100;
    tokio::time::timeout(PATIENCE, async {
        while !has_all() {
            tokio::time::sleep(POLL).await;
        }
    })
    .await
    .unwrap();
    let mut got: Vec<_> = server
        .sink
        .records()
        .into_iter()
        .flat_map(|r| r.to)
        .collect();
    got.sort();
    got.dedup();
    assert_eq!((got.len(), server.sink.report().messages), (100, 100));
    let to = ["--to", "bench@dest.example", "--from", "bench@src.example"];
    let load = [
        "bench",
        &relay,
        "--messages",
        "50",
        "--connections",
        "2",
        "--json",
    ];
    let measured = program(&[&load[..], &to].concat());
    let counts = ["messages", "failed", "unknown"].map(|count| measured[count].as_u64());
    assert_eq!(counts, [Some(50), Some(0), Some(0)], "{measured}");
}
