//! The sink, taking mail from clients of other hands: Python's smtplib, nodemailer, swaks.

mod clients;

use clients::{Access, Client, Mail};
use mailrail::sink::{Action, Builder, Rule, Sink, Stage, TlsMode};
use mailrail::smtp::Reply;

const ONE: &[&str] = &["one@dest.example"];
const SOME_REFUSED: &[&str] = &[
    "one@dest.example",
    "refused@dest.example",
    "two@dest.example",
];

/// Whole messages with all that needs care on the wire.
fn mails() -> Vec<Mail> {
    let mail = |to: &[&str], body: String| Mail {
        from: "sender@src.example".to_owned(),
        to: to.iter().map(|&to| to.to_owned()).collect(),
        content: format!(
            "Subject: from afar\r\nX-Octets: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
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

/// A sink, and how clients get into it.
struct Entry {
    sink: Sink,
    access: Access,
}

impl Entry {
    async fn new(tls: TlsMode, user: Option<&str>) -> Self {
        let mut builder = with_refusal(Sink::builder()).tls(tls).keep_content();
        if let Some(user) = user {
            builder = builder.user(user, "pencil");
        }
        let sink = builder.threads(1).start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let authority = sink.identity().and_then(|it| it.authority_pem());
        let authority = authority.map(|pem| {
            let path = dir.path().join("authority.pem");
            std::fs::write(&path, pem).unwrap();
            path
        });
        let access = Access {
            port: sink.addr().port(),
            tls,
            authority,
            login: user.map(|user| (user.to_owned(), "pencil".to_owned())),
            dir,
        };
        Self { sink, access }
    }
}

fn check_arrived(client: Client, Entry { sink, access }: &Entry, mails: &[Mail]) {
    let records = sink.records();
    assert_eq!(records.len(), mails.len(), "{client:?}");
    for (record, mail) in records.iter().zip(mails) {
        let taken = mail.to.iter().filter(|to| !to.starts_with("refused"));
        let taken: Vec<_> = taken.cloned().collect();
        assert_eq!((&record.from, &record.to), (&mail.from, &taken));
        let content = record.content.as_ref().unwrap();
        assert!(*content == mail.content, "{client:?} changed {content:?}");
        assert_eq!(record.tls, access.tls != TlsMode::None, "{client:?}");
        let user = access.login.as_ref().map(|(user, _)| user);
        assert_eq!(record.user.as_ref(), user, "{client:?}");
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
        let entry = Entry::new(tls, user).await;
        let mails = mails();
        let refused = entry.access.send(client, &mails);
        check_arrived(client, &entry, &mails);
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
