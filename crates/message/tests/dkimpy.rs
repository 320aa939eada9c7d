//! Our DKIM signatures, verified by dkimpy: an implementation that shares no code with ours.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use message::dkim::{Algorithm, Signer, SigningKey};
use message::{Attachment, ListUnsubscribe, Mailbox, Message};
use serde_json::{Value, json};
use smtp::Content;

/// `$MAILRAIL_PYTHON`, or the one that `make setup` installs.
fn python() -> PathBuf {
    let python = std::env::var_os("MAILRAIL_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "{} is missing: run `make setup`",
        python.display()
    );
    python
}

/// What dkimpy objects to.
fn verify(task: &Value) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_dkim.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(task.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "the script failed: run `make setup`?"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn now() -> Timestamp {
    // dkimpy refuses signatures from the future and takes old ones.
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn contents() -> Vec<(&'static str, Content)> {
    let from: Mailbox = "Jörg Ångström <news@example.org>".parse().unwrap();
    let base = || Message::new(from.clone()).to("ann@example.net".parse::<Mailbox>().unwrap());
    let composed = |message: Message| message.compose(now()).unwrap();
    let raw = |text: &str| Content::from_text(text.as_bytes()).unwrap();
    vec![
        ("empty", composed(base())),
        (
            "text",
            composed(base().subject("Grüße").text("a  b \n\tc\n\n\n")),
        ),
        (
            "all parts",
            composed(
                base()
                    .subject("x".repeat(1500))
                    .text("plain")
                    .html("<p>  Ünïcode</p>\n".repeat(50))
                    .attach(Attachment::new("ü.pdf", &[7; 5000]).unwrap())
                    .attach(Attachment::inline("logo", "l.png", b"x").unwrap())
                    .list_unsubscribe(
                        ListUnsubscribe::new(&["https://example.org/u", "mailto:u@example.org"])
                            .unwrap(),
                    ),
            ),
        ),
        ("no body at all", raw("From: a@example.org")),
        ("only empty lines", raw("From: a@example.org\n\n\n \n\t\n")),
        (
            "folds and repetitions",
            raw(
                "Received: x\nTo: a@b,\n\t  c@d \nTo: e@f\nfrom:a@example.org\nSubject:\n x\n\n trailing \t \nx\t\ty\n",
            ),
        ),
    ]
}

fn task(contents: &[(&str, Content)], signatures: usize, valid: bool, records: &Value) -> Value {
    let message = |(name, content): &(&str, Content)| {
        json!({
            "name": name,
            "base64": STANDARD.encode(content.as_bytes()),
            "signatures": signatures,
            "valid": valid,
        })
    };
    json!({
        "records": records,
        "messages": contents.iter().map(message).collect::<Vec<_>>(),
    })
}

struct Setup {
    signer: Signer,
    records: Value,
}

/// One signer with both algorithms, and the records that `keygen` would have had published.
fn setup() -> Setup {
    let rsa = SigningKey::generate(Algorithm::Rsa).unwrap();
    let ed25519 = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let records = json!({
        "r._domainkey.example.org.": rsa.public_record().unwrap(),
        "e._domainkey.example.org.": ed25519.public_record().unwrap(),
    });
    let domain = || "example.org".parse().unwrap();
    let signer = Signer::new(domain(), "r", rsa)
        .and_then(|signer| signer.and(domain(), "e", ed25519))
        .unwrap();
    Setup { signer, records }
}

#[test]
fn dkimpy_verifies_both_signatures_of_every_message() {
    let setup = setup();
    let signed: Vec<_> = contents()
        .into_iter()
        .map(|(name, content)| (name, setup.signer.sign(&content, now()).unwrap()))
        .collect();
    assert_eq!(verify(&task(&signed, 2, true, &setup.records)), "");
}

#[test]
fn dkimpy_refuses_what_was_changed_or_added_after_signing() {
    let setup = setup();
    let (_, content) = contents().remove(1);
    let signed = setup.signer.sign(&content, now()).unwrap();
    let text = String::from_utf8(signed.as_bytes().to_vec()).unwrap();
    let unsubscribe = "List-Unsubscribe: <https://evil.example/>";
    let changes = [
        ("body", text.replace("a  b", "a  c")),
        ("more body", format!("{text}more\r\n")),
        ("subject", text.replace("\r\nSubject: ", "\r\nSubject: re ")),
        ("a second From", format!("From: evil@example.org\r\n{text}")),
        ("an unsubscribe", format!("{unsubscribe}\r\n{text}")),
        (
            "a Reply-To",
            format!("Reply-To: evil@example.org\r\n{text}"),
        ),
        ("a later signing time", text.replace("; t=", "; t=1")),
    ];
    let changed: Vec<_> = changes
        .into_iter()
        .map(|(name, changed)| {
            assert_ne!(changed, text, "{name}");
            (name, Content::new(changed).unwrap())
        })
        .collect();
    assert_eq!(verify(&task(&changed, 2, false, &setup.records)), "");
}
