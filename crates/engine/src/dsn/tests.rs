//! Notices, read back by two parsers that are not ours.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;
use smtp::{EnvelopeId, Reply};
use store::{Priority, Said};

use super::*;
use store::Message;

const ORIGINAL: &str = "From: me@example.org\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n\
    Message-ID: <original@example.org>\r\n\r\nThe body.\r\n";

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn recipient(text: &str) -> Recipient {
    Recipient::from(address(text))
}

fn message(envelope: Envelope, content: &str) -> Message {
    Message::new(
        Head {
            id: MessageId::assemble(1_700_000_000_000, 1, 2),
            accepted_at: Time::from_secs(1_700_000_000),
            tenant: "default".into(),
            envelope: Arc::new(envelope),
            tags: Arc::new([]),
            subject: "grüße".into(),
            priority: Priority::Normal,
            due_at: Time::from_secs(1_700_000_000),
            expires_at: Time::from_secs(1_700_400_000),
        },
        Content::new(content.as_bytes().to_vec()).unwrap(),
    )
}

fn outcome(host: &str, code: u16, enhanced: Option<(u8, u16, u16)>, text: &str) -> Outcome {
    Outcome {
        host: host.into(),
        said: Said {
            code,
            enhanced: enhanced.and_then(|(a, b, c)| EnhancedStatus::new(a, b, c)),
            text: text.into(),
        },
        ..Outcome::default()
    }
}

fn refused() -> Outcome {
    outcome("mx.example.net:25", 550, Some((5, 1, 1)), "no such user")
}

fn compose(
    message: &Message,
    affected: &[(usize, Action, &Outcome)],
) -> Option<(Envelope, Content)> {
    let affected = affected
        .iter()
        .map(|&(recipient, action, outcome)| Affected {
            recipient,
            action,
            outcome,
            tried_at: Some(Time::from_secs(1_700_000_100)),
        });
    let recipients: Vec<_> = affected.collect();
    let host: Domain = "us.example.org".parse().unwrap();
    let notice = Notice {
        message,
        content: message.content.as_bytes(),
        host: &host,
        id: MessageId::assemble(1_700_000_100_000, 3, 4),
        now: Time::from_secs(1_700_000_100),
        recipients: &recipients,
    };
    notice.compose()
}

fn text(content: &Content) -> String {
    String::from_utf8(content.as_bytes().to_vec()).unwrap()
}

/// The fields of the second part, unfolded, a line each.
fn status_part(content: &Content) -> String {
    let parsed = MessageParser::default().parse(content.as_bytes()).unwrap();
    let part = parsed.part(2).unwrap();
    let kind = part.content_type().unwrap();
    assert_eq!(
        (kind.ctype(), kind.subtype()),
        ("message", Some("delivery-status"))
    );
    String::from_utf8_lossy(part.contents())
        .replace("\r\n ", " ")
        .replace("\r\n", "\n")
}

#[test]
fn a_report_has_three_parts_and_names_each_recipient() {
    let recipients = vec![
        recipient("gone@example.net"),
        recipient("fine@example.net"),
        Recipient {
            original: Some(address("alias@example.com")),
            ..recipient("full@example.net")
        },
    ];
    let envelope = Envelope::new(address("me@example.org"), recipients).unwrap();
    let envelope = envelope.with_id(EnvelopeId::new("QQ 314").unwrap());
    let full = outcome("192.0.2.1:25", 552, Some((5, 2, 2)), "over\nquota");
    let affected = [(0, Action::Failed, &refused()), (2, Action::Failed, &full)];
    let (envelope, content) = compose(&message(envelope, ORIGINAL), &affected).unwrap();
    assert_eq!(*envelope.reverse_path(), ReversePath::Null);
    assert_eq!(envelope.recipients()[0].address, address("me@example.org"));
    assert_eq!(
        status_part(&content).trim_end(),
        "Original-Envelope-Id: QQ 314\n\
         Reporting-MTA: dns; us.example.org\n\
         Arrival-Date: Tue, 14 Nov 2023 22:13:20 -0000\n\
         \n\
         Final-Recipient: rfc822; gone@example.net\n\
         Action: failed\n\
         Status: 5.1.1\n\
         Remote-MTA: dns; mx.example.net\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\n\
         Last-Attempt-Date: Tue, 14 Nov 2023 22:15:00 -0000\n\
         \n\
         Original-Recipient: rfc822; alias@example.com\n\
         Final-Recipient: rfc822; full@example.net\n\
         Action: failed\n\
         Status: 5.2.2\n\
         Remote-MTA: dns; [192.0.2.1]\n\
         Diagnostic-Code: smtp; 552 5.2.2 over quota\n\
         Last-Attempt-Date: Tue, 14 Nov 2023 22:15:00 -0000"
    );
    let parsed = MessageParser::default().parse(content.as_bytes()).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!(
        (kind.ctype(), kind.subtype()),
        ("multipart", Some("report"))
    );
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let words = parsed.body_text(0).unwrap();
    for part in [
        "these 2 recipients",
        "<gone@example.net>",
        "mx.example.net said: 550 5.1.1 no such user",
        "look for a mistake in the address",
        "you wrote to <alias@example.com>",
        "mailbox is full",
        "Subject:  grüße",
    ] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    let returned = parsed.part(3).unwrap();
    assert_eq!(
        returned.content_type().unwrap().subtype(),
        Some("rfc822-headers")
    );
    let headers = String::from_utf8_lossy(returned.contents());
    assert!(headers.contains("<original@example.org>") && !headers.contains("The body"));
    let header = text(&content);
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@us.example.org>\r\n",
        "To: <me@example.org>\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "In-Reply-To: <original@example.org>\r\n",
    ] {
        assert!(header.contains(line), "{line}");
    }
}

#[test]
fn nobody_is_told_who_did_not_ask() {
    let with = |notify: Option<Notify>| Recipient {
        notify,
        ..recipient("a@example.net")
    };
    let from = |reverse_path: ReversePath, notify| {
        message(Envelope::single(reverse_path, with(notify)), ORIGINAL)
    };
    let me = || ReversePath::from(address("me@example.org"));
    for (reverse_path, notify, told) in [
        (me(), None, "failed expired delayed"),
        (me(), Some(Notify::FAILURE), "failed expired"),
        (me(), Some(Notify::DELAY), "delayed"),
        (me(), Some(Notify::SUCCESS), "relayed"),
        (me(), Some(Notify::NEVER), ""),
        (ReversePath::Null, None, ""),
        (ReversePath::Null, Some(Notify::FAILURE), ""),
    ] {
        let message = from(reverse_path, notify);
        let actions = [
            (Action::Failed, "failed"),
            (Action::Expired, "expired"),
            (Action::Delayed, "delayed"),
            (Action::Relayed, "relayed"),
        ];
        let said = actions
            .iter()
            .filter(|(action, _)| compose(&message, &[(0, *action, &refused())]).is_some());
        let said: Vec<_> = said.map(|(_, name)| *name).collect();
        assert_eq!(said.join(" "), told, "{notify:?}");
    }
}

#[test]
fn the_status_goes_with_the_action() {
    let message = message(
        Envelope::single(address("me@example.org"), recipient("a@example.net")),
        ORIGINAL,
    );
    let later = || outcome("mx.example.net:25", 450, Some((4, 2, 1)), "later");
    let ours = || outcome("", 556, Some((5, 1, 10)), "takes no mail");
    let connect = || {
        outcome(
            "mx.example.net:25",
            0,
            Some((4, 4, 1)),
            "refused (at connect)",
        )
    };
    #[rustfmt::skip]
    let cases = [
        (Action::Failed, refused(), ["Status: 5.1.1\n", "Action: failed\n"]),
        (Action::Failed, outcome("h:25", 550, None, "no"), ["Status: 5.0.0\n", "smtp; 550 no\n"]),
        (Action::Failed, ours(), ["Status: 5.1.10\n", "X-Mailrail; takes no mail\n"]),
        (Action::Expired, later(), ["Status: 4.4.7\n", "smtp; 450 4.2.1 later\n"]),
        (Action::Delayed, later(), ["Status: 4.2.1\n", "Will-Retry-Until: Sun, 19 Nov"]),
        (Action::Delayed, connect(), ["Status: 4.4.1\n", "X-Mailrail; refused (at connect)\n"]),
        (Action::Relayed, outcome("h:25", 250, None, "ok"), ["Status: 2.0.0\n", "Action: relayed\n"]),
    ];
    for (action, outcome, lines) in cases {
        let mut message = message.clone();
        if action == Action::Relayed {
            let recipient = Recipient {
                notify: Some(Notify::SUCCESS),
                ..recipient("a@example.net")
            };
            Arc::make_mut(&mut message.head).envelope =
                Arc::new(Envelope::single(address("me@example.org"), recipient));
        }
        let (_, content) = compose(&message, &[(0, action, &outcome)]).unwrap();
        let fields = status_part(&content);
        for line in lines {
            assert!(
                fields.contains(line),
                "{action:?}: {line} is not in {fields}"
            );
        }
    }
}

#[test]
fn the_whole_message_comes_back_where_it_is_asked_for_and_small() {
    let envelope = || Envelope::single(address("me@example.org"), recipient("a@example.net"));
    let big = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(30_000));
    for (ret, content, want) in [
        (Some(Ret::Full), ORIGINAL, "rfc822"),
        (Some(Ret::Headers), ORIGINAL, "rfc822-headers"),
        (None, ORIGINAL, "rfc822-headers"),
        (Some(Ret::Full), &big, "rfc822-headers"),
    ] {
        let envelope = match ret {
            Some(ret) => envelope().with_ret(ret),
            None => envelope(),
        };
        let message = message(envelope, content);
        let (_, content) = compose(&message, &[(0, Action::Failed, &refused())]).unwrap();
        let parsed = MessageParser::default().parse(content.as_bytes()).unwrap();
        let returned = parsed.part(3).unwrap();
        assert_eq!(
            returned.content_type().unwrap().subtype(),
            Some(want),
            "{ret:?}"
        );
        let has_body = text(&content).contains("The body.");
        assert_eq!(has_body, want == "rfc822");
    }
    // A delay returns no more than the header section, whatever is asked for (RFC 3461 §6.2).
    let message = message(envelope().with_ret(Ret::Full), ORIGINAL);
    let (_, content) = compose(&message, &[(0, Action::Delayed, &refused())]).unwrap();
    assert!(!text(&content).contains("The body."));
}

#[test]
fn hostile_words_stay_words() {
    let long = "x".repeat(5000);
    let said = Reply::fixed(550, None, &format!("a\r\nStatus: 2.0.0\n\nü {long}"));
    let hostile = outcome("mx.example.net:25", 550, None, said.text());
    let id = MessageId::assemble(1_700_000_100_000, 3, 4);
    let original = format!("Subject: x\r\n\r\n--=_{id}\r\n--=_{id}--\r\n");
    let envelope = Envelope::single(address("me@example.org"), recipient("\"a b\"@example.net"));
    let message = message(envelope.with_ret(Ret::Full), &original);
    let (_, content) = compose(&message, &[(0, Action::Failed, &hostile)]).unwrap();
    let fields = status_part(&content);
    assert_eq!(fields.matches("\nStatus:").count(), 1, "{fields}");
    let parsed = MessageParser::default().parse(content.as_bytes()).unwrap();
    let parts = parsed.part(0).unwrap().sub_parts().unwrap().len();
    assert_eq!(parts, 3);
}

#[test]
fn an_address_that_is_not_ascii_is_escaped_in_the_fields() {
    let envelope = Envelope::single(address("me@example.org"), recipient("grüße@example.net"));
    let message = message(envelope, ORIGINAL);
    let (_, content) = compose(&message, &[(0, Action::Failed, &refused())]).unwrap();
    let fields = status_part(&content);
    assert!(
        fields.contains("utf-8; gr\\x{FC}\\x{DF}e@example.net\n"),
        "{fields}"
    );
    assert!(!content.header_needs_smtputf8() && content.is_7bit());
}

/// What Python's `email` makes of it: the types of the parts, and the fields of each recipient.
const READ: &str = r#"
import sys, email, email.policy
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
print(m.get_content_type(), m.get_param("report-type"), len(m.defects))
words, status, returned = m.iter_parts()
print(words.get_content_type(), status.get_content_type(), returned.get_content_type())
print("grüße" in words.get_content())
for fields in status.get_payload():
    print(sorted(fields.keys()))
"#;

#[test]
fn pythons_email_reads_it() {
    let envelope = Envelope::single(address("me@example.org"), recipient("a@example.net"));
    let message = message(envelope.with_ret(Ret::Full), ORIGINAL);
    let (_, content) = compose(&message, &[(0, Action::Failed, &refused())]).unwrap();
    let mut python = Command::new("python3")
        .args(["-c", READ])
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(content.as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "multipart/report delivery-status 0\n\
         text/plain message/delivery-status message/rfc822\n\
         True\n\
         ['Arrival-Date', 'Reporting-MTA']\n\
         ['Action', 'Diagnostic-Code', 'Final-Recipient', 'Last-Attempt-Date', 'Remote-MTA', 'Status']\n"
    );
}

proptest! {
    /// Whatever anybody said, there is a notice, and it has its three parts and one status.
    #[test]
    fn any_words_make_a_notice(
        said in "\\PC{0,200}|[a\r\n\t -]{0,2000}",
        host in "[a-z.:\\[\\]0-9]{0,30}",
        subject in "\\PC{0,60}",
        line in "[ -~]{0,900}",
        code in 0..600u16,
        ret: bool,
    ) {
        let envelope = Envelope::single(address("me@example.org"), recipient("a@example.net"));
        let envelope = if ret { envelope.with_ret(Ret::Full) } else { envelope };
        let mut message = message(envelope, &format!("X: {line}\r\n\r\n{line}\r\n"));
        Arc::make_mut(&mut message.head).subject = subject.into();
        let outcome = outcome(&host, code, None, &said);
        let (_, content) = compose(&message, &[(0, Action::Failed, &outcome)]).unwrap();
        let parsed = MessageParser::default().parse(content.as_bytes()).unwrap();
        prop_assert_eq!(parsed.part(0).unwrap().sub_parts().unwrap().len(), 3);
        let fields = status_part(&content);
        prop_assert_eq!(fields.matches("\nStatus: 5.0.0\n").count(), 1, "{}", fields);
        prop_assert_eq!(fields.matches("\n\n").count(), 1, "{}", fields);
    }
}
