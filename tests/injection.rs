//! CR, LF and NUL in anything that a user or a list gives us: refused before a byte is written.
//!
//! Most is refused where the text becomes a type, so that no command can be written with it at all;
//! the rest when the pool is built or the message composed. Last, the binary itself, against a
//! server that hears nothing.

#[path = "hostile/peer.rs"]
#[allow(dead_code, reason = "hostile.rs uses the rest")]
mod peer;
mod support;

use std::net::SocketAddr;

use mailrail::client::{BuildError, Pool, Relay, Secret};
use mailrail::message::{Attachment, ListUnsubscribe, Mailbox, Message, Source, Template};
use mailrail::smtp::client::Credentials;
use mailrail::smtp::{Address, ClientName, Content, Domain, EnvelopeId, ReversePath};

/// What would end a line, or a string, and what somebody would put behind it.
const INJECTIONS: [&str; 6] = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    "\r\nRCPT TO:<evil@src.example>",
    "\r\n\r\n.\r\nMAIL FROM:<evil@src.example>\r\n",
];

/// `base` with each of these at each place.
fn injected(base: &str) -> Vec<String> {
    let places = base.char_indices().map(|(at, _)| at).chain([base.len()]);
    let spoil = |at: usize| INJECTIONS.map(|it| format!("{}{it}{}", &base[..at], &base[at..]));
    places.flat_map(spoil).collect()
}

/// `is_taken` says whether a text becomes what it is meant to be.
#[track_caller]
fn check(what: &str, base: &str, is_taken: impl Fn(&str) -> bool) {
    assert!(is_taken(base), "{what}: {base:?} is sound");
    for text in injected(base) {
        assert!(!is_taken(&text), "{what}: {text:?} was taken");
    }
}

fn parses<T: std::str::FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

#[test]
fn nothing_that_goes_into_a_command_can_end_its_line() {
    check("address", "user@host.example", parses::<Address>);
    check(
        "quoted address",
        "\"us er\"@host.example",
        parses::<Address>,
    );
    check("address literal", "user@[127.0.0.1]", parses::<Address>);
    check("UTF-8 address", "grüße@bücher.example", parses::<Address>);
    let host: Domain = "host.example".parse().unwrap();
    check("local part", "us er", |text| {
        Address::new(text, &host).is_ok()
    });
    check("reverse-path", "user@host.example", parses::<ReversePath>);
    check("domain", "host.example", parses::<Domain>);
    check("EHLO name", "host.example", parses::<ClientName>);
    check("EHLO address literal", "[127.0.0.1]", parses::<ClientName>);
    check("ENVID", "QQ314159", |text| EnvelopeId::new(text).is_ok());
}

#[test]
fn nothing_in_a_relay_url_can_end_a_line() {
    check(
        "relay",
        "smtp://user:word@host.example:587",
        parses::<Relay>,
    );
    for escape in ["%0d", "%0a", "%0D%0A", "%00"] {
        for url in [
            format!("smtp://us{escape}er:word@host.example"),
            format!("smtp://user:wo{escape}rd@host.example"),
        ] {
            assert!(!parses::<Relay>(&url), "{url}");
        }
    }
}

#[test]
fn nothing_in_a_user_or_password_reaches_a_connection() {
    check("user", "user", |text| {
        Credentials::new(text, "word").is_ok()
    });
    check("password", "word", |text| {
        Credentials::new("user", text).is_ok()
    });
    // A relay can be put together without its URL; then the pool refuses to be built.
    let addr = SocketAddr::from(([127, 0, 0, 1], 1));
    let builds = |user: &str, password: &str| {
        let relay = Relay {
            user: Some(user.to_owned()),
            password: Some(Secret::new(password)),
            ..Relay::plaintext(addr)
        };
        match Pool::builder(relay).build() {
            Ok(_) => true,
            Err(BuildError::Credentials(said)) => {
                assert!(!said.contains(['\r', '\n', '\0']), "{said:?}");
                false
            }
            Err(other) => panic!("{other}"),
        }
    };
    check("relay's user", "user", |text| builds(text, "word"));
    check("relay's password", "word", |text| builds("user", text));
}

fn base() -> Message {
    Message::new(address())
        .to("b@dest.example".parse::<Address>().unwrap())
        .message_id("1@src.example")
        .subject("s")
        .text("t")
}

fn address() -> Address {
    "a@src.example".parse().unwrap()
}

fn compose(message: &Message) -> Option<Content> {
    message.compose(jiff::Timestamp::UNIX_EPOCH).ok()
}

/// Checks a text that may have white space around its parts, which is no part of them: what can be
/// composed all the same has the header fields of the sound message and no others.
#[track_caller]
fn check_fields(what: &str, base: &str, message: impl Fn(&str) -> Option<Message>) {
    let fields = |text: &str| Some(field_names(&compose(&message(text)?)?));
    let sound = fields(base);
    assert!(sound.is_some(), "{what}: {base:?} is sound");
    let spoiled = injected(base);
    let taken: Vec<_> = spoiled.iter().filter(|it| fields(it).is_some()).collect();
    for text in &taken {
        assert_eq!(fields(text), sound, "{what}: {text:?}");
    }
    assert!(
        taken.len() * 2 < spoiled.len(),
        "{what}: {taken:?} were taken"
    );
}

fn field_names(content: &Content) -> Vec<String> {
    let text = String::from_utf8_lossy(content.as_bytes());
    let header = text.split("\r\n\r\n").next().unwrap_or_default();
    let begins = header
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']));
    begins
        .map(|line| line.split(':').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn nothing_in_a_header_can_end_it() {
    type Spoil = fn(&str) -> Option<Message>;
    let cases: [(&str, &str, Spoil); 10] = [
        ("mailbox", "Ann <a@src.example>", |text| {
            Some(base().to(text.parse::<Mailbox>().ok()?))
        }),
        ("display name", "Ann", |name| {
            Some(base().to(Mailbox::named(name, address())))
        }),
        ("subject", "Hello", |text| Some(base().subject(text))),
        ("header value", "x", |text| {
            Some(base().header("X-Own", text))
        }),
        ("header name", "X-Own", |name| {
            Some(base().header(name, "x"))
        }),
        ("Message-ID", "1@src.example", |id| {
            Some(base().message_id(id))
        }),
        ("attachment's name", "a.pdf", |name| {
            Some(base().attach(Attachment::new(name, b"x").ok()?))
        }),
        ("media type", "text/plain", |media_type| {
            Some(base().attach(Attachment::typed("a", media_type, b"x").ok()?))
        }),
        ("Content-ID", "logo", |id| {
            Some(base().attach(Attachment::inline(id, "a.png", b"x").ok()?))
        }),
        ("List-Unsubscribe", "https://host.example/u", |uri| {
            Some(base().list_unsubscribe(ListUnsubscribe::new(&[uri]).ok()?))
        }),
    ];
    for (what, sound, message) in cases {
        check_fields(what, sound, message);
    }
}

#[test]
fn what_a_list_puts_into_a_subject_cannot_end_it() {
    let subject = Source::inline("subject", "Hello {{ name }}");
    let template = Template::load(Some(subject), None, None).unwrap();
    check("subject's variable", "Ann", |name| {
        let variables = serde_json::json!({ "name": name });
        template
            .render(variables.as_object().unwrap(), Some(2))
            .is_ok()
    });
}

#[test]
fn content_has_no_nul_and_no_line_end_but_crlf() {
    for text in [
        "a\rb\r\n", "a\nb\r\n", "a\0b\r\n", "a\r\r\n", "a\n\r\n", "a\r\n\n",
    ] {
        assert!(Content::new(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_binary_says_no_before_it_connects() {
    let (addr, heard) = peer::raw_peer(|_, heard| heard.note("connected"));
    let via = format!("smtp://{addr}?tls=none");
    let sound = [
        ("--from", "a@src.example"),
        ("--to", "b@dest.example"),
        ("--subject", "ss"),
        ("--text", "t"),
        ("--header", "X-Own: xx"),
        ("--ehlo-name", "host.example"),
    ];
    // No argument of a program can have a NUL.
    let injections = INJECTIONS.into_iter().filter(|it| !it.contains('\0'));
    for injection in injections {
        for (spoiled, _) in sound.iter().filter(|(flag, _)| *flag != "--text") {
            let mut args = vec!["send".to_owned(), "--via".to_owned(), via.clone()];
            for (flag, value) in sound {
                let (head, tail) = value.split_at(value.len() - 1);
                let injection = if flag == *spoiled { injection } else { "" };
                args.extend([flag.to_owned(), format!("{head}{injection}{tail}")]);
            }
            let run = support::mailrail(&args);
            // EX_USAGE or EX_DATAERR.
            let is_refused = matches!(run.code, Some(64 | 65));
            assert!(is_refused, "{spoiled} {injection:?}: {run:?}");
        }
    }
    assert_eq!(heard.lines(), [""; 0]);
}
