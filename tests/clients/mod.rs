//! Clients of other hands: Python's smtplib, nodemailer, swaks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mailrail::sink::TlsMode;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Recipients refused, each with its code.
pub(crate) type Refused = Vec<(String, u64)>;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    Smtplib,
    Nodemailer,
    Swaks,
}

pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// Whole, with all that needs care on the wire.
    pub(crate) content: Vec<u8>,
}

/// What a client needs to know of a server.
pub(crate) struct Access {
    pub(crate) port: u16,
    pub(crate) tls: TlsMode,
    /// Who signed the server's certificate, PEM.
    pub(crate) authority: Option<PathBuf>,
    /// User and password.
    pub(crate) login: Option<(String, String)>,
    pub(crate) dir: TempDir,
}

impl Access {
    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
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

    /// Sends these; says who was refused.
    pub(crate) fn send(&self, client: Client, mails: &[Mail]) -> Refused {
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
            "port": self.port,
            "tls": self.tls_name(),
            "authority": self.authority,
            "user": self.login.as_ref().map(|(user, _)| user),
            "password": self.login.as_ref().map(|(_, password)| password),
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
        let data = self.write("swaks.eml", mail.content.strip_suffix(b"\r\n").unwrap());
        let mut command = Command::new("perl");
        command
            .arg(swaks)
            .env("PERL5LIB", perl_libraries())
            .args(["--server", "localhost", "--port"])
            .arg(self.port.to_string())
            .args(["--from", &mail.from, "--to", &mail.to.join(",")])
            .args(["--ehlo", "swaks.example", "--hide-informational"])
            .arg("--data")
            .arg(format!("@{}", data.display()));
        if let Some(authority) = &self.authority {
            let flag = match self.tls {
                TlsMode::Implicit => "--tls-on-connect",
                _ => "--tls",
            };
            command.args([flag, "--tls-verify", "--tls-ca-path"]);
            command.arg(authority);
        }
        if let Some((user, password)) = &self.login {
            command.args(["--auth", "PLAIN", "--auth-user", user]);
            command.args(["--auth-password", password]);
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
