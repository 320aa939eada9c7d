//! What comes out of a header section, for good ones, odd ones and hostile ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn trace() -> Trace<'static> {
    Trace {
        host: "mx.example.org",
        client: Some(("app.example", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))),
        with: "ESMTPSA",
        id: MessageId::from_bits(0x0190_a1b2_c3d4_7e5f_8a6b_7c8d_9e0f_1a2b),
        at: Time::from_secs(1_700_000_000),
    }
}

fn rewritten(raw: &str) -> (String, Wishes) {
    let mut out = Vec::new();
    let wishes = rewrite(raw.as_bytes(), &trace(), 100, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), wishes)
}

const RECEIVED: &str = "Received: from app.example ([192.0.2.7])\r\n\tby mx.example.org with ESMTPSA \
     id 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b;\r\n\tTue, 14 Nov 2023 22:13:20 -0000\r\n";
const ADDED: &str = "Date: Tue, 14 Nov 2023 22:13:20 -0000\r\n\
     Message-ID: <0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b@mx.example.org>\r\n";

#[test]
fn rfc6409_8_what_is_missing_is_added_and_only_that() {
    let (out, _) = rewritten("Subject: x\r\n");
    assert_eq!(out, format!("{RECEIVED}{ADDED}Subject: x\r\n"));
    let whole = "DATE: now\r\nmessage-id : <a@b>\r\nSubject: x\r\n y\r\n";
    assert_eq!(rewritten(whole).0, format!("{RECEIVED}{whole}"));
    assert_eq!(rewritten("").0, format!("{RECEIVED}{ADDED}"));
}

#[test]
fn a_message_grows_by_no_more_than_is_said() {
    let name = "x".repeat(255);
    let longest = Trace {
        host: &name,
        client: Some((&name, IpAddr::V6(Ipv6Addr::from([0xff; 16])))),
        ..trace()
    };
    let mut out = Vec::new();
    rewrite(b"", &longest, 100, &mut out).unwrap();
    assert!(
        (500..=ADDED_BYTES_MAX).contains(&out.len()),
        "{}",
        out.len()
    );
}

#[test]
fn fields_for_us_alone_go_with_their_folded_lines() {
    let (out, wishes) = rewritten(
        "Date: d\r\nBcc: a@b,\r\n\tc@d\r\nMessage-ID: m\r\nIdempotency-Key: order-7\r\n\
         X-Mailrail-Tag: campaign = may\r\nX-mailrail-tag: kind=\r\nX-Mailrail-Priority: High\r\n\
         To: x@y\r\nX-Mailrail-Send-At: 2026-01-02T03:04:05Z\r\nResent-Bcc:\r\n z\r\n",
    );
    assert!(
        out.ends_with("-0000\r\nDate: d\r\nMessage-ID: m\r\nTo: x@y\r\n"),
        "{out}"
    );
    assert!(
        !out.contains(" id "),
        "another id may come to be the message's: {out}"
    );
    assert_eq!(wishes.idempotency_key.as_deref(), Some("order-7"));
    let tags: Vec<_> = wishes.tags.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(tags, [("campaign", "may"), ("kind", "")]);
    assert_eq!(wishes.priority, Priority::High);
    assert_eq!(wishes.send_at, Some(Time::from_secs(1_767_323_045)));
    let (_, wishes) = rewritten("X-Mailrail-Send-At: 1767323045\r\n");
    assert_eq!(wishes.send_at, Some(Time::from_secs(1_767_323_045)));
}

#[test]
fn fields_that_only_look_like_ours_stay() {
    let raw = "Date: d\r\nMessage-ID: m\r\nX-Bcc: a\r\nBccc: b\r\nSubject: Bcc: c\r\n Bcc: d\r\n";
    assert_eq!(rewritten(raw).0, format!("{RECEIVED}{raw}"));
}

#[test]
fn what_our_fields_cannot_say_is_refused() {
    let long = format!("Idempotency-Key: {}\r\n", "x".repeat(257));
    let tags = "X-Mailrail-Tag: a=b\r\n".repeat(51);
    for (raw, refusal) in [
        ("Idempotency-Key:\r\n", BAD_KEY),
        ("Idempotency-Key: a\r\nIdempotency-Key: a\r\n", BAD_KEY),
        (&long, BAD_KEY),
        ("X-Mailrail-Tag: a\r\n", BAD_TAG),
        ("X-Mailrail-Tag: =a\r\n", BAD_TAG),
        ("X-Mailrail-Tag: a=\u{1}\r\n", BAD_TAG),
        (&tags, BAD_TAG),
        ("X-Mailrail-Priority: urgent\r\n", BAD_PRIORITY),
        ("X-Mailrail-Send-At: tomorrow\r\n", BAD_SEND_AT),
        ("X-Mailrail-Send-At: -1\r\n", BAD_SEND_AT),
    ] {
        let result = rewrite(raw.as_bytes(), &trace(), 100, &mut Vec::new());
        assert_eq!(result, Err(refusal), "{raw}");
        assert_eq!(refusal.reply().code().get(), 554);
    }
}

#[test]
fn a_message_that_goes_round_in_circles_is_stopped() {
    let raw = "Received: by x; y\r\n".repeat(100);
    assert!(rewrite(raw.as_bytes(), &trace(), 100, &mut Vec::new()).is_ok());
    let raw = raw + "received : by x; y\r\n";
    let refusal = rewrite(raw.as_bytes(), &trace(), 100, &mut Vec::new()).unwrap_err();
    assert_eq!(
        refusal.reply().to_string(),
        "554 5.4.6 Too many Received fields: the message is going round in circles"
    );
}

#[test]
fn what_is_no_field_begins_the_body() {
    for body in [
        "hello\r\nBcc: x\r\n",
        ": x\r\n",
        "a b: c\r\n",
        "é: x\r\n",
        "x",
    ] {
        let (out, _) = rewritten(&format!("Date: d\r\nMessage-ID: m\r\n{body}"));
        assert!(
            out.ends_with(&format!("Message-ID: m\r\n\r\n{body}")),
            "{out:?}"
        );
    }
    let (out, _) = rewritten(" folded\r\n");
    assert_eq!(out, format!("{RECEIVED}{ADDED}\r\n folded\r\n"));
    let (out, _) = rewritten("From me Mon Jan 1\r\nDate: d\r\nMessage-ID: m\r\n");
    assert_eq!(out, format!("{RECEIVED}Date: d\r\nMessage-ID: m\r\n"));
}

#[test]
fn what_a_client_calls_itself_cannot_add_a_line() {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    for (name, shown) in [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:::1]", "[IPv6:::1]"),
        ("a b", "unknown"),
        ("x)\r\nBcc: y", "unknown"),
        ("(comment)", "unknown"),
        ("", "unknown"),
        ("[]", "unknown"),
        ("é", "unknown"),
    ] {
        let mut out = Vec::new();
        write_received(
            &mut out,
            &Trace {
                client: Some((name, v6)),
                ..trace()
            },
            None,
        );
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.starts_with(&format!("Received: from {shown} ([IPv6:::1])\r\n\tby ")),
            "{out}"
        );
        assert_eq!(out.matches('\n').count(), 3);
    }
    let mut out = Vec::new();
    write_received(
        &mut out,
        &Trace {
            client: None,
            ..trace()
        },
        None,
    );
    assert!(out.starts_with(b"Received: by mx.example.org with ESMTPSA;\r\n\t"));
}

#[test]
fn a_subject_is_unfolded_decoded_and_cut() {
    for (raw, subject) in [
        ("Subject: a\r\n b\r\n", "a b"),
        (
            "subject:=?utf-8?B?w6TDtg==?= =?iso-8859-1?Q?=FC?=\r\n",
            "äöü",
        ),
        ("Subject: =?x\r\n", "=?x"),
        ("Subject: \u{e4}\u{7}\r\n", "ä"),
        ("Subject:\r\n", ""),
        ("To: x\r\n", ""),
    ] {
        assert_eq!(&*rewritten(raw).1.subject, subject, "{raw}");
    }
    let long = format!("Subject: {}\r\n", "ä".repeat(400));
    assert_eq!(rewritten(&long).1.subject.chars().count(), 200);
}

#[test]
fn a_message_sent_again_has_the_same_fingerprint_whatever_the_moment() {
    let to = |address: &str| {
        vec![smtp::Recipient::from(
            address.parse::<smtp::Address>().unwrap(),
        )]
    };
    let of = |raw: &str, from: &str, rcpt: &str| {
        let digest = digest(raw.as_bytes(), (from, &to(rcpt)));
        <[u8; 32]>::from(digest.finalize())
    };
    let first = of(
        "Date: 1\r\nMessage-ID: 1\r\nSubject: x\r\n",
        "a@b.example",
        "c@d.example",
    );
    let again = of("Date: 2\r\nSubject: x\r\n", "a@b.example", "c@d.example");
    assert_eq!(first, again);
    for (raw, from, rcpt) in [
        ("Subject: y\r\n", "a@b.example", "c@d.example"),
        ("Subject: x\r\n", "", "c@d.example"),
        ("Subject: x\r\n", "a@b.example", "e@d.example"),
    ] {
        assert_ne!(of(raw, from, rcpt), first);
    }
}

proptest! {
    #[test]
    fn any_section_keeps_all_but_what_is_ours(words in prop::collection::vec(prop::sample::select(&[
        "Subject: x\r\n", "Bcc: a\r\n", "\tb\r\n", "From x\r\n", "Date: d\r\n", "no field\r\n",
        "Received: r\r\n", "X-Mailrail-Tag: a=b\r\n", ":\r\n", "Message-ID:m\r\n", "idempotency-key: k\r\n", "To", " : ",
    ][..]), 0..12)) {
        let raw = words.concat() + "\r\n";
        let raw = raw.trim_end_matches("\r\n").to_owned() + "\r\n";
        let mut out = Vec::new();
        if rewrite(raw.as_bytes(), &trace(), 100, &mut out).is_ok() {
            let out = String::from_utf8(out).unwrap();
            let (header, _) = out.split_once("\r\n\r\n").unwrap_or((&out, ""));
            for line in header.lines() {
                let is_ours = ["Bcc:", "X-Mailrail-", "idempotency-key:"].iter().any(|it| line.starts_with(it));
                prop_assert!(!is_ours, "{}", line);
                prop_assert!(line.contains(':') || line.starts_with([' ', '\t']), "{}", line);
            }
            prop_assert!(header.starts_with("Received: "));
        }
    }
}
