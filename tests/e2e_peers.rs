//! The sink, taking mail from clients of other hands: Python's smtplib, nodemailer, swaks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mailrail::sink::{Action, Builder, Rule, Sink, Stage, TlsMode};
use mailrail::smtp::Reply;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Recipients refused, each with its code.
type Refused = Vec<(String, u64)>;

#[derive(Debug, Clone, Copy)]
enum Client {
    Smtplib,
    Nodemailer,
    Swaks,
}

struct Mail {
    from: &'static str,
    to: &'static [&'static str],
    content: String,
}

const ONE: &[&str] = &["one@dest.example"];
const SOME_REFUSED: &[&str] = &[
    "one@dest.example",
    "refused@dest.example",
    "two@dest.example",
];

/// Whole messages with all that needs care on the wire.
fn mails() -> Vec<Mail> {
    let mail = |to, body: String| Mail {
        from: "sender@src.example",
        to,
        content: format!(
            "Subject: from afar\r\nX-Octets: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    vec![
        mail(ONE, "Hello.\r\n".into()),
        mail(SOME_REFUSED, ".\r\n..\r\n.dot\r\n\r\n.\r\nEnd\r\n".into()),
        mail(ONE, format!("{}\r\n", "x".repeat(998))),
        mail(ONE, attachment()),
    ]
}

/// Four megabytes as base64 has them.
fn attachment() -> String {
    format!("{}\r\n", "QUJD".repeat(19)).repeat(4_000_000 / 78)
}

fn with_refusal(builder: Builder) -> Builder {
    let refusal = Action::Reply(Reply::fixed(550, Some((5, 1, 1)), "No such user"));
    let address = "refused@dest.example".parse().unwrap();
    builder.rule(Rule::new(Stage::Rcpt, refusal).address(address))
}

/// What a client needs to know of a sink.
struct Access {
    sink: Sink,
    tls: TlsMode,
    user: Option<&'static str>,
    dir: TempDir,
}

impl Access {
    async fn new(tls: TlsMode, user: Option<&'static str>) -> Self {
        let mut builder = with_refusal(Sink::builder()).tls(tls).keep_content();
        if let Some(user) = user {
            builder = builder.user(user, "pencil");
        }
        let sink = builder.threads(1).start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self {
            sink,
            tls,
            user,
            dir,
        }
    }

    fn authority(&self) -> Option<PathBuf> {
        let pem = self.sink.identity()?.authority_pem()?;
        Some(self.write("authority.pem", pem))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn tls_name(&self) -> &'static str {
        match self.tls {
            TlsMode::None => "none",
            TlsMode::StartTls => "starttls",
            TlsMode::Implicit => "implicit",
        }
    }

    fn send(&self, client: Client, mails: &[Mail]) -> Refused {
        match client {
            Client::Smtplib => self.run_script("python3", "tests/peers/send.py", mails),
            Client::Nodemailer => {
                need("tests/node/node_modules/nodemailer");
                self.run_script("node", "tests/node/send.js", mails)
            }
            Client::Swaks => mails.iter().flat_map(|mail| self.swaks(mail)).collect(),
        }
    }

    fn run_script(&self, interpreter: &str, script: &str, mails: &[Mail]) -> Refused {
        let mails = mails.iter().enumerate().map(|(number, mail)| {
            let content = self.write(&format!("{number}.eml"), &mail.content);
            json!({"from": mail.from, "to": mail.to, "content": content})
        });
        let job = json!({
            "host": "localhost",
            "port": self.sink.addr().port(),
            "tls": self.tls_name(),
            "authority": self.authority(),
            "user": self.user,
            "password": "pencil",
            "mails": mails.collect::<Value>(),
        });
        let mut command = Command::new(interpreter);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        let answer = run(command, &job.to_string());
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// One run a message: that is all it does.
    fn swaks(&self, mail: &Mail) -> Refused {
        let swaks = need(".tools/swaks/usr/bin/swaks");
        // It ends the last line itself.
        let data = self.write("swaks.eml", mail.content.strip_suffix("\r\n").unwrap());
        let mut command = Command::new("perl");
        command
            .arg(swaks)
            .env("PERL5LIB", perl_libraries())
            .args(["--server", "localhost", "--port"])
            .arg(self.sink.addr().port().to_string())
            .args(["--from", mail.from, "--to", &mail.to.join(",")])
            .args(["--ehlo", "swaks.example", "--hide-informational"])
            .arg("--data")
            .arg(format!("@{}", data.display()));
        if let Some(authority) = self.authority() {
            let flag = match self.tls {
                TlsMode::Implicit => "--tls-on-connect",
                _ => "--tls",
            };
            command.args([flag, "--tls-verify", "--tls-ca-path"]);
            command.arg(authority);
        }
        if let Some(user) = self.user {
            command.args(["--auth", "PLAIN", "--auth-user", user]);
            command.args(["--auth-password", "pencil"]);
        }
        let answer = run(command, "");
        read_transcript(&answer)
    }
}

/// `<** 550 …` (or `<~* …` over TLS) is the reply to the RCPT before it.
fn read_transcript(transcript: &str) -> Refused {
    let mut refused = Refused::new();
    let mut recipient = "";
    for line in transcript.lines() {
        let Some((mark, text)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("RCPT TO:<") {
            recipient = rest.trim_end_matches('>');
        } else if mark.starts_with('<') && mark.ends_with('*') && text.starts_with('5') {
            refused.push((recipient.to_owned(), text[..3].parse().unwrap()));
        }
    }
    refused
}

/// A file that `make setup` brings.
fn need(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let exists = path.exists();
    assert!(exists, "{} is missing: run `make setup`", path.display());
    path
}

/// Where the unpacked Perl modules are: the folder's name has Perl's version in it.
fn perl_libraries() -> String {
    let machine = std::env::consts::ARCH;
    let libraries = need(&format!(".tools/swaks/usr/lib/{machine}-linux-gnu/perl5"));
    let versions = std::fs::read_dir(libraries).unwrap().flatten();
    let mut paths = vec![need(".tools/swaks/usr/share/perl5").display().to_string()];
    paths.extend(versions.map(|version| version.path().display().to_string()));
    paths.join(":")
}

fn run(mut command: Command, input: &str) -> String {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}: run `make setup`"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {said}{complained}");
    said
}

fn check_arrived(client: Client, access: &Access, mails: &[Mail]) {
    let records = access.sink.records();
    assert_eq!(records.len(), mails.len(), "{client:?}");
    for (record, mail) in records.iter().zip(mails) {
        let taken = mail.to.iter().filter(|to| !to.starts_with("refused"));
        let taken: Vec<_> = taken.map(|&to| to.to_owned()).collect();
        assert_eq!((record.from.as_str(), &record.to), (mail.from, &taken));
        let content = record.content.as_ref().unwrap();
        assert!(
            content == mail.content.as_bytes(),
            "{client:?} changed {content:?}"
        );
        assert_eq!(record.tls, access.tls != TlsMode::None, "{client:?}");
        assert_eq!(record.user.as_deref(), access.user, "{client:?}");
    }
}

async fn check(client: Client) {
    for (tls, user) in [
        (TlsMode::None, None),
        (TlsMode::None, Some("user@dest.example")),
        (TlsMode::StartTls, None),
        (TlsMode::StartTls, Some("user")),
        (TlsMode::Implicit, Some("user")),
    ] {
        let access = Access::new(tls, user).await;
        let mails = mails();
        let refused = access.send(client, &mails);
        check_arrived(client, &access, &mails);
        assert_eq!(
            refused,
            [("refused@dest.example".to_owned(), 550)],
            "{client:?}"
        );
    }
}

#[tokio::test]
async fn smtplib_delivers_octet_by_octet_and_hears_of_refusals() {
    check(Client::Smtplib).await;
}

#[tokio::test]
async fn nodemailer_delivers_octet_by_octet_and_hears_of_refusals() {
    check(Client::Nodemailer).await;
}

#[tokio::test]
async fn swaks_delivers_octet_by_octet_and_hears_of_refusals() {
    check(Client::Swaks).await;
}
