//! Through the whole program: clients of other hands hand mail in, and servers of other hands take it, each
//! message once, octet by octet, over TLS; whom the server refuses bounces with its own words.

mod clients;
mod real;
mod support;

use std::collections::BTreeMap;

use clients::{Access, Client, Mail};
use mailrail::sink::TlsMode;
use real::exim::exim;
use real::postfix::postfix;
use serde_json::{Value, json};
use sink::Record;
use support::serving::{Home, Serving};
use support::wait_until;

const REFUSED: &str = "refused@dest.example";

/// Messages with all that needs care on the way; complete, so that nobody has a reason to add to them.
fn mails(run: &str) -> Vec<Mail> {
    let mail = |name: &str, to: &[&str], mime: &str, body: String| Mail {
        from: format!("{name}-{run}@src.example"),
        to: to.iter().map(|&to| to.to_owned()).collect(),
        content: format!(
            "Message-ID: <{name}.{run}@src.example>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
             From: <a@src.example>\r\nSubject: {name}\r\nMIME-Version: 1.0\r\n{mime}\r\n{body}"
        )
        .into_bytes(),
    };
    let text = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    let one = &["one@dest.example"];
    let three = &["one@dest.example", REFUSED, "two@dest.example"];
    vec![
        mail(
            "dots",
            three,
            "",
            ".\r\n..\r\n.dot\r\n\r\n.\r\nEnd\r\n".into(),
        ),
        mail("eight", one, text, "Grüße: ÄÖÜ ß €\r\n".repeat(20)),
        mail(
            "long",
            one,
            "",
            format!("{}\r\n.{}\r\n", "x".repeat(998), "y".repeat(997)),
        ),
        mail("mixed", &three[..1], ATTACHED, attachment()),
    ]
}

const ATTACHED: &str = "Content-Type: multipart/mixed; boundary=\"b\"\r\n";

/// A text, and two megabytes as base64 has them.
fn attachment() -> String {
    let lines = format!("{}\r\n", "QUJD".repeat(19)).repeat(2_000_000 / 78);
    format!(
        "--b\r\nContent-Type: text/plain\r\n\r\nSee below.\r\n--b\r\n\
         Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"a.bin\"\r\n\r\n{lines}--b--\r\n"
    )
}

/// In front of the server, over verified TLS, with its certificate as ours.
fn home(server: &real::Server) -> Home {
    let pem = |name| server.pem(name).display().to_string();
    Home::new(&format!(
        "[[route]]\ndomain = \"*\"\nname = \"real\"\nvia = \"smtp://localhost:{port}?tls=required\"\n\
         [tls]\nauthorities = {authority:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [suppression]\nhard_bounces = false\n",
        port = server.addr.port(),
        authority = pem("authority.pem"),
        certificate = pem("cert.pem"),
        key = pem("key.pem"),
    ))
}

fn access(server: &real::Server, serving: &Serving<'_>, tls: TlsMode) -> Access {
    let port = serving.smtp_address().rsplit_once(':').unwrap().1;
    let is_secure = tls != TlsMode::None;
    let key = serving.key().unwrap().to_owned();
    Access {
        port: port.parse().unwrap(),
        tls,
        authority: is_secure.then(|| server.pem("authority.pem")),
        login: is_secure.then(|| ("anybody".to_owned(), key)),
        dir: tempfile::tempdir().unwrap(),
    }
}

/// What arrived behind the server, by reverse-path; two of one would be a copy too many.
#[track_caller]
fn arrived(server: &real::Server) -> BTreeMap<String, Record> {
    let mut arrived = BTreeMap::new();
    for record in server.sink.records() {
        let is_notice = record.from.is_empty();
        let name = if is_notice {
            &record.to[0]
        } else {
            &record.from
        };
        let name = format!("{}{name}", if is_notice { "notice to " } else { "" });
        let again = arrived.insert(name.clone(), record);
        assert!(again.is_none(), "{name} came twice");
    }
    arrived
}

#[track_caller]
fn check_content(record: &Record, mail: &Mail) {
    let want: Vec<_> = mail
        .to
        .iter()
        .filter(|to| *to != REFUSED)
        .cloned()
        .collect();
    let mut to = record.to.clone();
    to.sort();
    assert_eq!(to, want, "{}", mail.from);
    let content = record.content.as_ref().unwrap();
    assert!(
        content.ends_with(&mail.content),
        "{} was changed: {:?}",
        mail.from,
        String::from_utf8_lossy(&content[..content.len().min(2000)])
    );
    // Nothing but two trace fields is in front: the server's, which speaks of TLS, and ours.
    let front = String::from_utf8_lossy(&content[..content.len() - mail.content.len()]);
    assert_eq!(front.matches("Received:").count(), 2, "{front}");
    assert!(front.to_lowercase().contains("esmtps"), "{front}");
    let is_trace = |line: &str| line.starts_with("Received:") || line.starts_with([' ', '\t']);
    assert!(front.lines().all(is_trace), "{front}");
}

/// The notice names the recipient and repeats what the server said.
#[track_caller]
fn check_notice(record: &Record, mail: &Mail) {
    assert_eq!(record.to, std::slice::from_ref(&mail.from));
    let content = String::from_utf8_lossy(record.content.as_ref().unwrap());
    let has = |part: &str| assert!(content.contains(part), "no {part:?} in {content}");
    has("Content-Type: multipart/report");
    has(&format!("Final-Recipient: rfc822; {REFUSED}"));
    has("Action: failed");
    has("Status: 5.1.1");
    has("No such user");
    for other in mail.to.iter().filter(|to| *to != REFUSED) {
        let field = format!("Final-Recipient: rfc822; {other}");
        assert!(
            !content.contains(&field),
            "{other} was delivered: {content}"
        );
    }
}

/// Our history has so many bounces, each with what the server said.
#[track_caller]
fn check_history(serving: &Serving<'_>, bounces: usize) {
    let events = serving.json(&["events", "--recipient", REFUSED]);
    let events = events["data"].as_array().unwrap();
    let is_bounce = |event: &&Value| event["status"] == "bounced";
    let bounced: Vec<_> = events.iter().filter(is_bounce).collect();
    assert_eq!(bounced.len(), bounces, "{events:?}");
    for event in bounced {
        let said = (&event["code"], &event["enhanced"], &event["stage"]);
        let want = (&json!(550), &json!("5.1.1"), &json!("rcpt"));
        assert_eq!(said, want, "{event}");
        let text = event["text"].as_str().unwrap();
        assert!(text.ends_with("No such user"), "{event}");
    }
}

fn check(client: Client, server: &real::Server) {
    let home = home(server);
    let serving = home.serve();
    let mut sent = Vec::new();
    for (run, tls) in [("plain", TlsMode::None), ("login", TlsMode::StartTls)] {
        let mails = mails(run);
        let refused = access(server, &serving, tls).send(client, &mails);
        assert_eq!(
            refused,
            [],
            "we take what the server refuses: it is not asked yet"
        );
        sent.extend(mails);
    }
    // Each, and a notice of each that had a recipient refused.
    let notices = sent.iter().filter(|mail| mail.to.len() > 1).count();
    wait_until("everything has arrived", || {
        server.sink.records().len() >= sent.len() + notices
    });
    let arrived = arrived(server);
    assert_eq!(arrived.len(), sent.len() + notices);
    for mail in &sent {
        check_content(&arrived[&mail.from], mail);
        if mail.to.len() > 1 {
            check_notice(&arrived[&format!("notice to {}", mail.from)], mail);
        }
    }
    check_history(&serving, notices);
}

#[tokio::test]
async fn what_smtplib_hands_in_arrives_through_postfix() {
    check(Client::Smtplib, &postfix("").await);
}

#[tokio::test]
async fn what_smtplib_hands_in_arrives_through_exim() {
    check(Client::Smtplib, &exim("").await);
}

#[tokio::test]
async fn what_nodemailer_hands_in_arrives_through_postfix() {
    check(Client::Nodemailer, &postfix("").await);
}

#[tokio::test]
async fn what_nodemailer_hands_in_arrives_through_exim() {
    check(Client::Nodemailer, &exim("").await);
}

#[tokio::test]
async fn what_swaks_hands_in_arrives_through_postfix() {
    check(Client::Swaks, &postfix("").await);
}

#[tokio::test]
async fn what_swaks_hands_in_arrives_through_exim() {
    check(Client::Swaks, &exim("").await);
}
