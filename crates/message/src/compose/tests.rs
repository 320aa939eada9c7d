//! What is composed, read back by a parser that is not ours.

use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;

fn mailbox(text: &str) -> Mailbox {
    text.parse().unwrap()
}

fn message() -> Message {
    Message::new(mailbox("Ann <ann@example.org>")).to(mailbox("bob@example.net"))
}

fn now() -> Timestamp {
    "2026-11-23T06:00:00Z".parse().unwrap()
}

fn compose(message: &Message) -> String {
    let content = message.compose(now()).unwrap();
    assert!(content.is_7bit());
    String::from_utf8(content.as_bytes().to_vec()).unwrap()
}

#[test]
fn a_plain_message_reads_as_it_was_meant() {
    let text = compose(
        &message()
            .cc(mailbox("Jörg <j@example.net>"))
            .reply_to(mailbox("r@example.org"))
            .subject("Grüße")
            .text("hello\n.world\n")
            .message_id("<1@example.org>")
            .header("X-Campaign", "autumn"),
    );
    assert_eq!(
        text,
        "From: Ann <ann@example.org>\r\n\
         Reply-To: r@example.org\r\n\
         To: bob@example.net\r\n\
         Cc: =?utf-8?Q?J=C3=B6rg?= <j@example.net>\r\n\
         Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n\
         Date: Mon, 23 Nov 2026 06:00:00 +0000\r\n\
         Message-ID: <1@example.org>\r\n\
         X-Campaign: autumn\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         hello\r\n.world\r\n"
    );
}

#[test]
fn bcc_is_in_the_envelope_and_never_in_the_content() {
    let message = message()
        .to(mailbox("bob@example.net"))
        .bcc(mailbox("Hidden <secret@example.com>"))
        .text("x");
    let text = compose(&message).to_lowercase();
    assert!(!text.contains("secret") && !text.contains("hidden") && !text.contains("bcc"));
    let envelope = message.envelope().unwrap();
    let to: Vec<_> = envelope
        .recipients()
        .iter()
        .map(|r| r.address.as_str())
        .collect();
    assert_eq!(to, ["bob@example.net", "secret@example.com"]);
}

#[test]
fn all_parts_are_found_where_they_belong() {
    let text = compose(
        &message()
            .text("plain")
            .html("<img src=\"cid:logo@example.org\">")
            .attach(Attachment::new("übersicht.pdf", &[0, 1, 255]).unwrap())
            .attach(Attachment::inline("logo@example.org", "logo.png", b"png").unwrap()),
    );
    let parsed = MessageParser::new().parse(text.as_bytes()).unwrap();
    let types: Vec<_> = (0..parsed.parts.len())
        .map(|i| {
            let t = parsed.part(i as u32).unwrap().content_type().unwrap();
            format!("{}/{}", t.ctype(), t.subtype().unwrap())
        })
        .collect();
    assert_eq!(
        types,
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "application/pdf"
        ]
    );
    let pdf = parsed.part(6).unwrap();
    assert_eq!(pdf.attachment_name(), Some("übersicht.pdf"));
    assert_eq!(pdf.contents(), [0, 1, 255]);
    assert_eq!(
        parsed.part(5).unwrap().content_id(),
        Some("logo@example.org")
    );
}

#[test]
fn control_characters_are_refused_and_the_header_is_named() {
    let bad = "x\r\nBcc: evil@example.com";
    let named = Mailbox::named("a\nb", "a@example.org".parse().unwrap());
    for (message, header) in [
        (message().subject(bad), "Subject"),
        (message().subject("nul\0"), "Subject"),
        (message().subject("bare\rcr"), "Subject"),
        (message().header("X-A", bad), "X-A"),
        (message().to(named.clone()), "To"),
        (message().cc(named.clone()), "Cc"),
        (message().reply_to(named.clone()), "Reply-To"),
        (message().sender(named.clone()), "Sender"),
        (Message::new(named.clone()), "From"),
    ] {
        match message.compose(now()) {
            Err(ComposeError::Header(HeaderError::Control { header: h, .. })) => {
                assert_eq!(h, header);
            }
            other => panic!("{header}: {other:?}"),
        }
    }
    for name in ["", "a b", "a:b", "X\r\nBcc", "é"] {
        let error = message().header(name, "x").compose(now()).unwrap_err();
        assert!(matches!(
            error,
            ComposeError::Header(HeaderError::Name { .. })
        ));
    }
    for name in ["bcc", "From", "DKIM-Signature", "content-type"] {
        let error = message().header(name, "x").compose(now()).unwrap_err();
        assert!(matches!(
            error,
            ComposeError::Header(HeaderError::Reserved { .. })
        ));
    }
    for id in ["", "a", "a@", "a b@c", "a@b>\r\nX: y", "<a@b", "a@b@c"] {
        let error = message().message_id(id).compose(now()).unwrap_err();
        assert!(matches!(error, ComposeError::MessageId(_)), "{id}");
    }
}

#[test]
fn message_ids_differ_and_carry_the_from_domain() {
    let id = || {
        let text = compose(&message());
        let parsed = MessageParser::new().parse(text.as_bytes()).unwrap();
        parsed.message_id().unwrap().to_owned()
    };
    let (one, two) = (id(), id());
    assert_ne!(one, two);
    assert!(one.ends_with("@example.org"));
}

#[test]
fn a_non_ascii_local_part_needs_smtputf8_and_nothing_else_does() {
    let content = message()
        .to(mailbox("jörg@bücher.example"))
        .compose(now())
        .unwrap();
    assert!(content.header_needs_smtputf8());
    let content = message()
        .to(mailbox("Jörg <j@bücher.example>"))
        .subject("日本語")
        .text("日本語")
        .compose(now())
        .unwrap();
    assert!(content.is_7bit() && !content.header_needs_smtputf8());
}

#[test]
fn the_body_is_the_same_for_each_composing() {
    let message = message()
        .text("a")
        .html("b")
        .attach(Attachment::new("a.pdf", b"c").unwrap());
    let body = |m: &Message| compose(m).split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(body(&message), body(&message.clone().subject("other")));
}

#[test]
fn ten_thousand_recipients_fold() {
    let mut message = message();
    for n in 0..10_000 {
        message = message.to(mailbox(&format!("a{n}@example.org")));
    }
    assert!(compose(&message).lines().all(|line| line.len() <= 78));
}

proptest! {
    #[test]
    fn any_message_is_canonical_and_reads_back(
        name in "\\PC{0,60}",
        subject in "\\PC{0,300}",
        text in "(\\PC|[\r\n=.-]){0,300}",
        html in "(\\PC|[\r\n=.-]){0,300}",
    ) {
        let message = Message::new(Mailbox::named(&name, "a@example.org".parse().unwrap()))
            .subject(subject.clone())
            .text(text.clone())
            .html(html.clone());
        let content = message.compose(now()).unwrap();
        prop_assert!(content.is_7bit());
        let parsed = MessageParser::new().parse(content.as_bytes()).unwrap();
        prop_assert_eq!(parsed.parts.len(), 3);
        let same = |a: &str, b: &str| {
            let norm = |s: &str| s.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned();
            norm(a) == norm(b)
        };
        prop_assert!(same(&parsed.body_text(0).unwrap(), &text));
        prop_assert!(same(&parsed.body_html(0).unwrap(), &html));
        prop_assert_eq!(parsed.subject().unwrap_or(""), subject.trim_matches([' ', '\t']));
    }
}
