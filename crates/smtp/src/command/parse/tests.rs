//! Commands: what parses, what is refused, and with which reply.

use proptest::prelude::*;

use super::*;
use crate::command::{write_bdat_last, write_mail, write_rcpt};
use crate::extension::Mechanism;

fn offered() -> Extensions {
    let mut offered = Extensions::default().with_auth(Mechanism::Plain);
    offered.eight_bit_mime = true;
    offered.smtputf8 = true;
    offered.dsn = true;
    offered.starttls = true;
    offered.size_bytes_max = Some(0);
    offered
}

fn parse(line: &str) -> Result<Command<'_>, CommandError> {
    Command::parse(line.as_bytes(), &offered(), &host())
}

fn host() -> Domain {
    "mx.example.org".parse().unwrap()
}

#[test]
fn a_request_of_http_ends_the_connection() {
    for line in [
        "POST / HTTP/1.1",
        "GET /x HTTP/1.0",
        "PUT /a?b=c HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT mx.example:25 HTTP/1.1",
        "Host: 127.0.0.1:2525",
        "host:x",
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.desynchronizes(), "{line}: {error}");
    }
    for line in ["NOOP HTTP/1.1", "VRFY a HTTP/1.1", "FOO HTTP/2"] {
        assert!(
            !parse(line).is_err_and(|error| error.desynchronizes()),
            "{line}"
        );
    }
}

#[test]
fn commands_are_read_whatever_their_case() {
    for (line, command) in [
        ("EHLO client.example", Command::Ehlo("client.example")),
        ("ehlo [127.0.0.1]", Command::Ehlo("[127.0.0.1]")),
        ("HELO under_score", Command::Helo("under_score")),
        ("StartTls", Command::StartTls),
        ("AUTH PLAIN", Command::Auth("PLAIN", None)),
        ("auth login dQ==", Command::Auth("login", Some("dQ=="))),
        ("DATA ", Command::Data),
        (
            "BDAT 12",
            Command::Bdat {
                octets: 12,
                last: false,
            },
        ),
        (
            "bdat 0 last",
            Command::Bdat {
                octets: 0,
                last: true,
            },
        ),
        ("RSET", Command::Rset),
        ("NOOP whatever", Command::Noop),
        ("VRFY a b", Command::Vrfy("a b")),
        ("EXPN list", Command::Expn("list")),
        ("HELP", Command::Help),
        ("quit  ", Command::Quit),
    ] {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
}

#[test]
fn paths_are_read_with_routes_quotes_and_postmaster() {
    for (line, want) in [
        ("RCPT TO:<a@b.example>", "a@b.example"),
        ("rcpt to: <a@b.example> ", "a@b.example"),
        ("RCPT TO:<\"a>b\"@c.example>", "\"a>b\"@c.example"),
        ("RCPT TO:<\"a\\\">b\"@c.example>", "\"a\\\">b\"@c.example"),
        ("RCPT TO:<@a.example,@b.example:c@d.example>", "c@d.example"),
        ("RCPT TO:<Postmaster>", "Postmaster@mx.example.org"),
    ] {
        let address: Address = want.parse().unwrap();
        assert_eq!(parse(line), Ok(Command::Rcpt(address.into())), "{line}");
    }
    assert_eq!(
        parse("MAIL FROM:<>"),
        Ok(Command::Mail(ReversePath::Null, MailParameters::default()))
    );
}

#[test]
fn what_is_wrong_is_named_with_its_code() {
    #[rustfmt::skip]
    let cases = [
        ("", "500 5.5.1 command not recognized"),
        ("FOO", "500 5.5.1 command not recognized"),
        ("MAILFROM:<>", "500 5.5.1 command not recognized"),
        ("EHLO", "501 5.5.4 usage: EHLO name"),
        ("DATA x", "501 5.5.4 usage: DATA"),
        ("NOOP \u{1}", "500 5.5.2 the line has a control character or is not UTF-8"),
        ("MAIL FROM:a@b.example", "501 5.5.4 usage: MAIL FROM:<reverse-path> [parameters]"),
        ("MAIL FROM:<a@b.example", "501 5.5.4 usage: MAIL FROM:<reverse-path> [parameters]"),
        ("MAIL TO:<a@b.example>", "501 5.5.4 usage: MAIL FROM:<reverse-path> [parameters]"),
        ("MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4 usage: a space stands after the path"),
        ("MAIL FROM:<a>", "501 5.1.7 reverse-path: there is no @ in the address"),
        ("RCPT TO:<>", "501 5.1.3 forward-path: there is no @ in the address"),
        ("RCPT TO:<a@b..c>", "501 5.1.3 forward-path: the domain is not a valid host name"),
        ("MAIL FROM:<> FOO=1", "555 5.5.4 parameter \"FOO\" is not recognized"),
        ("MAIL FROM:<> F\u{e9}", "555 5.5.4 parameter \"F?\" is not recognized"),
        ("RCPT TO:<a@b.example> SIZE=1", "555 5.5.4 parameter \"SIZE\" is not recognized"),
        ("MAIL FROM:<> SIZE=+1", "501 5.5.4 the value of SIZE is malformed"),
        ("MAIL FROM:<> SIZE", "501 5.5.4 the value of SIZE is malformed"),
        ("MAIL FROM:<> SIZE=1 SIZE=1", "501 5.5.4 SIZE is given twice"),
        ("MAIL FROM:<> BODY=BINARYMIME", "501 5.5.4 the value of BODY is malformed"),
        ("MAIL FROM:<> ENVID=+4", "501 5.5.4 the value of ENVID is malformed"),
        ("RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", "501 5.5.4 the value of NOTIFY is malformed"),
        ("BDAT x", "501 5.5.4 usage: BDAT octets [LAST]"),
    ];
    for (line, reply) in cases {
        let refused = parse(line).unwrap_err();
        assert_eq!(refused.reply().to_string(), reply, "{line}");
    }
    assert_eq!(
        Command::parse(b"NOOP \xff", &offered(), &host()),
        Err(CommandError::Characters)
    );
}

#[test]
fn what_is_not_offered_is_refused() {
    let parse = |line: &'static str| {
        let refusal = Command::parse(line.as_bytes(), &Extensions::default(), &host());
        refusal.unwrap_err().reply().code().get()
    };
    assert_eq!(parse("STARTTLS"), 502);
    for parameter in [
        "SIZE=1",
        "BODY=8BITMIME",
        "SMTPUTF8",
        "RET=FULL",
        "ENVID=a",
        "AUTH=<>",
    ] {
        let line = format!("MAIL FROM:<> {parameter}");
        assert_eq!(parse(line.leak()), 555, "{parameter}");
    }
    for parameter in ["NOTIFY=NEVER", "ORCPT=rfc822;a@b.example"] {
        let line = format!("RCPT TO:<a@b.example> {parameter}");
        assert_eq!(parse(line.leak()), 555, "{parameter}");
    }
}

#[test]
fn an_original_recipient_of_another_type_is_read_and_dropped() {
    for original in ["x400;c=de", "rfc822;nobody", "utf-8;a@b.example"] {
        let line = format!("RCPT TO:<a@b.example> ORCPT={original} NOTIFY=DELAY");
        let Ok(Command::Rcpt(recipient)) = parse(&line) else {
            panic!("{line}");
        };
        assert_eq!(
            (recipient.original, recipient.notify),
            (None, Some(Notify::DELAY))
        );
    }
}

fn address() -> impl Strategy<Value = Address> {
    ("\\PC{1,20}", "[a-z]{1,9}(\\.[a-z]{2,5})?").prop_filter_map("an address", |(local, domain)| {
        Address::new(&local, &domain.parse().ok()?).ok()
    })
}

fn parameters() -> impl Strategy<Value = MailParameters> {
    (
        any::<Option<u64>>(),
        prop::option::of(prop::sample::select(vec![
            Body::SevenBit,
            Body::EightBitMime,
        ])),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec![Ret::Full, Ret::Headers])),
        prop::option::of("[ -~]{1,100}"),
    )
        .prop_map(|(size_bytes, body, smtputf8, ret, id)| MailParameters {
            size_bytes,
            body,
            smtputf8,
            ret,
            id: id.map(|id| EnvelopeId::new(&id).unwrap()),
        })
}

/// The line of what was written, without its CRLF.
fn line(wire: &[u8]) -> &[u8] {
    wire.strip_suffix(b"\r\n").unwrap()
}

proptest! {
    #[test]
    fn mail_as_written_parses_back(from in prop::option::of(address()), parameters in parameters()) {
        let from = from.map_or(ReversePath::Null, ReversePath::Address);
        let mut wire = Vec::new();
        write_mail(&mut wire, &from, &parameters);
        let got = Command::parse(line(&wire), &offered(), &host());
        prop_assert_eq!(got, Ok(Command::Mail(from, parameters)));
    }

    #[test]
    fn rcpt_as_written_parses_back(
        to in address(),
        original in prop::option::of(address()),
        notify in prop::option::of(prop::sample::select(vec![Notify::NEVER, Notify::DELAY])),
    ) {
        let recipient = Recipient { address: to, notify, original };
        let mut wire = Vec::new();
        write_rcpt(&mut wire, &recipient, true);
        let got = Command::parse(line(&wire), &offered(), &host());
        prop_assert_eq!(got, Ok(Command::Rcpt(recipient)));
    }

    #[test]
    fn bdat_as_written_parses_back(octets in any::<u64>()) {
        let mut wire = Vec::new();
        write_bdat_last(&mut wire, octets);
        let got = Command::parse(line(&wire), &offered(), &host());
        prop_assert_eq!(got, Ok(Command::Bdat { octets, last: true }));
    }

    #[test]
    fn no_line_makes_the_parser_panic_or_yield_a_line_break(
        verb in prop::sample::select(&["MAIL FROM:<", "RCPT TO:<", "AUTH ", "EHLO ", "BDAT ", ""][..]),
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let line = [verb.as_bytes(), &rest].concat();
        match Command::parse(&line, &offered(), &host()) {
            Ok(Command::Ehlo(text) | Command::Vrfy(text) | Command::Auth(text, _)) => {
                prop_assert!(!text.bytes().any(|b| b.is_ascii_control()));
            }
            Ok(_) => {}
            Err(error) => prop_assert!(error.reply().code().get() >= 500),
        }
    }
}
