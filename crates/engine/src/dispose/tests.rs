//! What servers say, row by row, and that no case is missing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::Scope;
use proptest::prelude::*;
use smtp::ReplyCode;

use super::*;

const NEXT: Option<Time> = Some(Time::from_secs(60));

fn failure(stage: Stage, kind: Kind, cause: Cause) -> Failure {
    Failure {
        stage,
        scope: Scope::Connection,
        kind,
        endpoint: None,
        cause,
    }
}

/// The failure that a reply at this stage stands for, as `client` makes it.
fn replied(stage: Stage, line: &str) -> Failure {
    let (code, text) = line.split_once(' ').unwrap();
    let (enhanced, text) = match EnhancedStatus::parse_prefix(text.as_bytes()) {
        Some((enhanced, len)) => (Some(enhanced), &text[len..]),
        None => (None, text),
    };
    let code = ReplyCode::new(code.parse().unwrap()).unwrap();
    let kind = match code.get() {
        500.. => Kind::Permanent,
        _ => Kind::Transient,
    };
    failure(stage, kind, Cause::Reply(Reply::new(code, enhanced, text)))
}

fn verdict(failure: Failure) -> Verdict {
    let timings = Timings::default();
    judge(&Err(failure), &timings, UnknownPolicy::Retry, false)
}

const BOUNCED: (Disposition, Feedback) = (Disposition::Bounced, Feedback::Refused);
const RATE: (Disposition, Feedback) = (
    Disposition::PutBack(ErrorClass::Throttled),
    Feedback::RateRefused,
);
const NO_SESSION: (Disposition, Feedback) = (
    Disposition::Deferred(ErrorClass::Handshake),
    Feedback::HandshakeFailed,
);
const NOT_ONE_MORE: (Disposition, Feedback) = (
    Disposition::PutBack(ErrorClass::Throttled),
    Feedback::ConnectionRefused,
);

const fn deferred(class: ErrorClass) -> (Disposition, Feedback) {
    (Disposition::Deferred(class), Feedback::Refused)
}

/// What servers say, and what it means.
#[test]
fn a_reply_means_what_it_says_at_its_stage() {
    use Stage::{Auth, Data, Ehlo, Final, Greeting, Mail, Rcpt, StartTls};
    let greylisted = deferred(ErrorClass::Greylisted);
    let transient = deferred(ErrorClass::Transient);
    let full = deferred(ErrorClass::MailboxFull);
    for (stage, line, want) in [
        // Before a session: about us or the site, never about the message.
        (Greeting, "554 5.7.1 no service for you", NO_SESSION),
        (Greeting, "521 host takes no mail", NO_SESSION),
        (Greeting, "421 4.7.0 too many connections", NOT_ONE_MORE),
        (Greeting, "421 4.3.2 shutting down", NOT_ONE_MORE),
        (Ehlo, "450 4.3.0 come later", NOT_ONE_MORE),
        (Ehlo, "550 5.7.1 your name is a lie", NO_SESSION),
        (StartTls, "454 4.7.0 TLS not available", NO_SESSION),
        (StartTls, "502 5.5.1 not here", NO_SESSION),
        (Auth, "535 5.7.8 wrong password", NO_SESSION),
        (Auth, "454 4.7.0 temporary failure", NO_SESSION),
        (Auth, "421 4.7.0 too many attempts", NO_SESSION),
        (Mail, "530 5.7.0 log in first", NO_SESSION),
        (Rcpt, "530 5.7.57 not authenticated", NO_SESSION),
        // Recipients.
        (Rcpt, "550 5.1.1 no such user", BOUNCED),
        (Rcpt, "550 no such user", BOUNCED),
        (Rcpt, "553 5.1.3 what is that", BOUNCED),
        (Rcpt, "552 5.2.2 mailbox full", BOUNCED),
        (Rcpt, "550 5.7.1 blocked by a list", BOUNCED),
        (Rcpt, "452 4.2.2 mailbox full", full),
        (Rcpt, "450 4.2.0 greylisted, try in 300 seconds", greylisted),
        (Rcpt, "451 4.7.1 please try again later", greylisted),
        (Rcpt, "451 4.7.1 Greylisting in action", greylisted),
        (Rcpt, "450 4.1.1 cannot verify the user now", transient),
        (Rcpt, "451 try again", transient),
        (Rcpt, "452 4.5.3 too many recipients", transient),
        (Rcpt, "552 5.5.3 too many recipients", transient),
        (Rcpt, "452 too many recipients", transient),
        (Rcpt, "450 4.7.28 unusual", RATE),
        (Rcpt, "450 4.7.1 you send too fast", RATE),
        (Rcpt, "421 4.7.1 greylisted", greylisted),
        // Rate and load.
        (Mail, "451 4.7.1 slow down", RATE),
        (Mail, "451 4.7.1 later", RATE),
        (Mail, "421 4.7.0 [TSS04] temporarily deferred", RATE),
        (Mail, "421 service closing", RATE),
        (Mail, "452 4.3.1 no room", RATE),
        (Mail, "451 4.3.2 not now", RATE),
        (Mail, "450 rate limit exceeded", RATE),
        (Data, "451 4.4.5 congestion", RATE),
        (Final, "451 server busy", RATE),
        (Final, "421 4.7.28 unusual rate of unsolicited mail", RATE),
        // A word within a word is another word.
        (
            Final,
            "451 corporate policy moderated separately",
            transient,
        ),
        (Mail, "451 4.7.24 the SPF record has problems", transient),
        (Mail, "451 4.3.0 local error", transient),
        (Final, "451 4.3.5 misconfigured", transient),
        // The message.
        (Mail, "550 5.7.1 this sender is not welcome", BOUNCED),
        (Mail, "552 5.3.4 too big", BOUNCED),
        (Data, "554 5.5.1 no valid recipients", BOUNCED),
        (Final, "550 5.7.1 spam", BOUNCED),
        (Final, "554 5.6.0 malformed", BOUNCED),
        (Final, "552 5.2.2 mailbox full", BOUNCED),
        // Not a refusal, and not where it belongs.
        (Mail, "354 go on", transient),
    ] {
        let got = verdict(replied(stage, line));
        assert_eq!((got.disposition, got.feedback), want, "{stage}: {line}");
    }
}

#[test]
fn recipients_beyond_what_a_transaction_holds_go_at_once_where_others_went() {
    let failure = replied(Stage::Rcpt, "452 4.5.3 too many recipients");
    let got = judge(
        &Err(failure),
        &Timings::default(),
        UnknownPolicy::Retry,
        true,
    );
    assert!(
        matches!(got.disposition, Disposition::PutBack(_)),
        "{got:?}"
    );
    assert_eq!(got.feedback, Feedback::Refused);
}

#[test]
fn what_no_server_said_is_told_apart_and_named() {
    use Kind::{Permanent, Transient, Unknown};
    use Stage::{Auth, Connect, Content, Dns, Ehlo, Final, Greeting, Mail, Queue, StartTls, Tls};

    let refused = || Cause::Io(Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
    let local = |text: &str| Cause::Local(text.into());
    let connect = (
        Disposition::Deferred(ErrorClass::Connect),
        Feedback::ConnectFailed,
    );
    let lost = (Disposition::Deferred(ErrorClass::Transient), Feedback::Lost);
    let withdrawn = (
        Disposition::PutBack(ErrorClass::Throttled),
        Feedback::Withdrawn,
    );
    let too_large = BeginError::TooLarge {
        size_bytes: 2,
        size_bytes_max: 1,
    };
    #[rustfmt::skip]
    let cases = [
        (Connect, Transient, refused(), connect, "4.4.1", "refused (at connect)"),
        (Connect, Transient, Cause::Timeout(Duration::from_secs(30)), connect, "4.4.1", "30s"),
        (Dns, Transient, Cause::Dns(Arc::new(io::Error::other("none"))), connect, "4.4.3", "resolved"),
        (Greeting, Transient, Cause::Closed, NO_SESSION, "4.4.2", "closed"),
        (Tls, Permanent, Cause::Tls(Arc::new(io::Error::other("expired"))), NO_SESSION, "4.7.5", "expired"),
        (StartTls, Permanent, local("not offered"), NO_SESSION, "4.7.10", "TLS is required: not offered"),
        (Auth, Permanent, local("no mechanism"), NO_SESSION, "4.7.0", "no mechanism"),
        (Ehlo, Transient, Cause::Protocol("odd".into()), NO_SESSION, "4.5.0", "odd"),
        (Mail, Transient, Cause::Closed, lost, "4.4.2", "closed"),
        (Content, Transient, refused(), lost, "4.4.2", "content"),
        (Mail, Permanent, Cause::Unsupported(BeginError::NoSmtpUtf8), BOUNCED, "5.6.7", "SMTPUTF8"),
        (Mail, Permanent, Cause::Unsupported(BeginError::No8BitMime), BOUNCED, "5.6.3", "8BITMIME"),
        (Mail, Permanent, Cause::Unsupported(too_large), BOUNCED, "5.3.4", "octets"),
        (Queue, Transient, Cause::Deadline, withdrawn, "4.3.2", "in time"),
        (Queue, Transient, Cause::PoolClosed, withdrawn, "4.3.2", "closed"),
        (Final, Unknown, Cause::Closed, lost, "4.4.2", "may have been taken"),
    ];
    for (stage, kind, cause, want, code, words) in cases {
        let failure = failure(stage, kind, cause);
        let shown = failure.to_string();
        let said = said(&Err(failure.clone()));
        let got = verdict(failure);
        assert_eq!((got.disposition, got.feedback), want, "{shown}");
        assert_eq!(said.enhanced.unwrap().to_string(), code, "{shown}");
        assert!(
            said.code == 0 && said.text.contains(words),
            "{shown}: {said:?}"
        );
    }
}

#[test]
fn what_is_unknown_is_held_where_the_route_says_so() {
    let failure = failure(Stage::Final, Kind::Unknown, Cause::Closed);
    let got = judge(
        &Err(failure),
        &Timings::default(),
        UnknownPolicy::Hold,
        false,
    );
    assert_eq!(got.disposition, Disposition::Held);
    assert_eq!(got.disposition.status(NEXT), (Status::Held, None));
}

#[test]
fn a_deferral_without_a_next_time_is_an_expiry() {
    let deferred = Disposition::Deferred(ErrorClass::Connect);
    assert_eq!(deferred.status(NEXT), (Status::Deferred, NEXT));
    assert_eq!(deferred.status(None), (Status::Expired, None));
    let put_back = Disposition::PutBack(ErrorClass::Throttled);
    assert_eq!(put_back.status(None), (Status::Expired, None));
    assert_eq!(Disposition::Bounced.status(NEXT), (Status::Bounced, None));
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let text = "é".repeat(TEXT_LEN_MAX);
    let failure = replied(Stage::Rcpt, &format!("550 {text}"));
    assert_eq!(said(&Err(failure)).text.len(), TEXT_LEN_MAX);
}

#[test]
fn only_a_recipient_that_a_server_does_not_know_is_gone() {
    for (stage, status, want) in [
        ("rcpt", Some((5, 1, 1)), true),
        ("rcpt", Some((5, 1, 10)), true),
        ("rcpt", Some((5, 1, 8)), false),
        ("rcpt", Some((4, 1, 1)), false),
        ("rcpt", Some((5, 2, 1)), false),
        ("rcpt", None, false),
        ("mail", Some((5, 1, 1)), false),
        ("dns", Some((5, 1, 2)), false),
    ] {
        let enhanced = status.and_then(|(a, b, c)| EnhancedStatus::new(a, b, c));
        let outcome = Outcome {
            stage: stage.into(),
            said: Said {
                code: 550,
                enhanced,
                ..Said::default()
            },
            ..Outcome::default()
        };
        assert_eq!(is_gone(&outcome), want, "{stage} {status:?}");
    }
}

fn stage() -> impl Strategy<Value = Stage> {
    proptest::sample::select(vec![
        Stage::Queue,
        Stage::Dns,
        Stage::Connect,
        Stage::Tls,
        Stage::Greeting,
        Stage::Ehlo,
        Stage::StartTls,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Content,
        Stage::Final,
    ])
}

fn cause() -> impl Strategy<Value = Cause> {
    let io = || Arc::new(io::Error::other("x"));
    let reply = (
        200..600u16,
        proptest::option::of((0..9u16, 0..30u16)),
        "[a-z ]{0,20}",
    );
    prop_oneof![
        Just(Cause::Io(io())),
        Just(Cause::Dns(io())),
        Just(Cause::Tls(io())),
        Just(Cause::Timeout(Duration::from_secs(1))),
        Just(Cause::Closed),
        Just(Cause::Protocol("x".into())),
        Just(Cause::Local("x".into())),
        Just(Cause::Unsupported(BeginError::NotNow)),
        Just(Cause::Deadline),
        Just(Cause::PoolClosed),
        reply.prop_map(|(code, status, text)| {
            let class = if code < 500 { 4 } else { 5 };
            let status =
                status.and_then(|(subject, detail)| EnhancedStatus::new(class, subject, detail));
            Cause::Reply(Reply::new(ReplyCode::new(code).unwrap(), status, &text))
        }),
    ]
}

proptest! {
    /// Whatever happens, a recipient is delivered only by an acceptance, is bounced only by a 5yz
    /// within a transaction or by what the server does not offer, and has a state afterwards.
    #[test]
    fn no_failure_delivers_and_few_bounce(
        stage in stage(),
        kind in proptest::sample::select(vec![Kind::Transient, Kind::Permanent, Kind::Unknown]),
        cause in cause(),
        hold: bool,
        has_progress: bool,
    ) {
        let unknown = if hold { UnknownPolicy::Hold } else { UnknownPolicy::Retry };
        let is_5yz = matches!(&cause, Cause::Reply(_)) && stage >= Stage::Mail;
        let is_unsupported = matches!(&cause, Cause::Unsupported(_));
        let failure = failure(stage, kind, cause);
        let got = judge(&Err(failure.clone()), &Timings::default(), unknown, has_progress);
        prop_assert_ne!(got.disposition, Disposition::Delivered);
        let is_success = matches!(got.feedback, Feedback::Delivered { .. });
        prop_assert!(!is_success);
        if got.disposition == Disposition::Bounced {
            prop_assert!(is_unsupported || is_5yz && kind == Kind::Permanent);
        }
        prop_assert_eq!(got.disposition == Disposition::Held, hold && kind == Kind::Unknown);
        for next in [None, NEXT] {
            let (status, due) = got.disposition.status(next);
            prop_assert_eq!(due.is_some(), status == Status::Deferred);
            prop_assert!(status.is_terminal() || status == Status::Held || due.is_some());
        }
        prop_assert!(!said(&Err(failure)).text.is_empty() || is_5yz || stage < Stage::Mail);
    }
}
