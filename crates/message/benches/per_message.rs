//! What one message of about 4 KiB costs to render, compose and sign, on one core.
//!
//! `cargo bench -p mailrail-message [-- PART OF A NAME]`: the best and the median of 15 rounds, in
//! µs a message.

use std::hint::black_box;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use message::dkim::{Algorithm, Signer, SigningKey};
use message::{Mailbox, Mailing, Message, Source, Template, UriTemplate};
use serde_json::{Map, Value, json};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(100);

fn main() {
    println!("{:44} {:>8} {:>8}", "µs a message", "best", "median");
    let text = "The quick brown fox jumps over the lazy dog, and is not tired.\n".repeat(64);
    let html = format!("<p>{}</p>\n", "<b>Grüße</b> an alle, wie immer. ").repeat(100);
    let constant = || mailing(&text, None);
    let personal = || mailing(&format!("Dear {{{{ name }}}},\n{text}"), None);
    let both = || mailing(&format!("Dear {{{{ name }}}},\n{text}"), Some(&html));
    measure("4 KiB text", &personal());
    measure("4 KiB text, constant body", &constant());
    measure("4 KiB text and 4 KiB HTML, UTF-8", &both());
    let ed25519 = || signer(&[Algorithm::Ed25519]);
    measure("constant body, ed25519", &constant().with_signer(ed25519()));
    measure("personal body, ed25519", &personal().with_signer(ed25519()));
    let rsa = || signer(&[Algorithm::Rsa]);
    measure("constant body, rsa", &constant().with_signer(rsa()));
    measure("personal body, rsa", &personal().with_signer(rsa()));
    let two = signer(&[Algorithm::Rsa, Algorithm::Ed25519]);
    measure("personal body, both", &personal().with_signer(two));
}

fn mailing(text: &str, html: Option<&str>) -> Mailing {
    let template = Template::load(
        Some(Source::inline(
            "subject",
            "News for {{ name }} of {{ company }}",
        )),
        Some(Source::inline("text", text)),
        html.map(|html| Source::inline("html", html)),
    );
    let from: Mailbox = "News <news@example.org>".parse().unwrap();
    let uri = "https://example.org/u?e={{ email | urlencode }}";
    let uri = UriTemplate::load(Source::inline("uri", uri)).unwrap();
    Mailing::new(Message::new(from), template.unwrap()).with_unsubscribe(vec![uri])
}

fn signer(algorithms: &[Algorithm]) -> Signer {
    let domain = || "example.org".parse().unwrap();
    let key = |algorithm: &Algorithm| SigningKey::generate(*algorithm).unwrap();
    let first = Signer::new(domain(), "s0", key(&algorithms[0])).unwrap();
    let rest = algorithms[1..].iter();
    rest.fold(first, |signer, algorithm| {
        signer.and(domain(), "s1", key(algorithm)).unwrap()
    })
}

fn measure(name: &str, mailing: &Mailing) {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    if wanted.is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let to: Mailbox = "Ann Lee <ann.lee@example.net>".parse().unwrap();
    let mut variables = variables();
    let now = Timestamp::UNIX_EPOCH;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, mut messages) = (Instant::now(), 0u32);
            while start.elapsed() < ROUND {
                for n in 0..16 {
                    variables["name"] = Value::from(format!("Ann Lee {}", messages + n));
                    black_box(mailing.content(&to, &variables, Some(1), now).unwrap());
                }
                messages += 16;
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(messages)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:44} {:8.1} {:8.1}", rounds[0], rounds[ROUNDS / 2]);
}

fn variables() -> Map<String, Value> {
    let variables = json!({
        "email": "ann.lee@example.net",
        "name": "Ann Lee",
        "company": "Example & Sons",
        "city": "Vienna",
        "id": "18234",
        "language": "en",
    });
    variables.as_object().unwrap().clone()
}
