//! The client session against scripted replies.

use super::*;
use crate::client::End;
use crate::envelope::Recipient;
use crate::{Address, ReversePath};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;
const ALL: &str = "host\nPIPELINING\nCHUNKING\n8BITMIME\nSIZE 1000\nLIMITS RCPTMAX=3";
const WINDOWED: Mode = Mode::Windowed {
    transactions_max: 4,
    bytes_max: Mode::WINDOW_BYTES_MAX,
};

fn session(mode: Mode, offers: &str) -> Session {
    Session::new(
        mode,
        Extensions::from_reply(&Reply::fixed(250, None, offers)),
    )
}

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients
        .iter()
        .map(|text| text.parse::<Address>().unwrap().into())
        .collect::<Vec<Recipient>>();
    Envelope::new("s@x.example".parse::<ReversePath>().unwrap(), recipients).unwrap()
}

fn content(text: &str) -> Content {
    Content::from_text(text.as_bytes()).unwrap()
}

/// Begins a message `text` to one recipient.
fn begin(session: &mut Session, text: &str) -> u64 {
    session
        .begin(&envelope(&["r@y.example"]), content(text), false, NOW)
        .unwrap()
}

fn written(session: &mut Session) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = session.slices(&mut slices);
        if count == 0 {
            return String::from_utf8(bytes).unwrap();
        }
        let flight = slices[..count]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect::<Vec<_>>();
        bytes.extend_from_slice(&flight);
        session.advance(flight.len(), NOW);
    }
}

fn receive(session: &mut Session, replies: &[&str]) {
    for reply in replies {
        session
            .receive(format!("{reply} x\r\n").as_bytes(), NOW)
            .unwrap();
    }
}

/// `id: end`, refused recipients in brackets.
fn settled(session: &mut Session) -> Vec<String> {
    std::iter::from_fn(|| session.settled())
        .map(
            |Settled {
                 id, refused, end, ..
             }| {
                let end = match end {
                    End::Final(reply) => format!("final {}", reply.code()),
                    End::Refused(stage, reply) => format!("{stage:?} {}", reply.code()),
                    End::AllRefused => "all refused".into(),
                    End::NotSent => "not sent".into(),
                    End::Unknown => "unknown".into(),
                };
                let refused: Vec<_> = refused
                    .iter()
                    .map(|(index, reply)| format!(" [{index} {}]", reply.code()))
                    .collect();
                format!("{id}: {end}{}", refused.concat())
            },
        )
        .collect()
}

#[test]
fn lockstep_writes_one_command_for_each_reply() {
    let mut session = session(Mode::Lockstep, ALL);
    begin(&mut session, "A");
    for (wire, reply) in [
        ("MAIL FROM:<s@x.example> SIZE=3\r\n", "250"),
        ("RCPT TO:<r@y.example>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("A\r\n.\r\n", "250"),
    ] {
        assert!(!session.may_begin(1));
        assert_eq!(written(&mut session), wire);
        receive(&mut session, &[reply]);
    }
    assert_eq!(settled(&mut session), ["1: final 250"]);
    begin(&mut session, "B");
    assert_eq!(written(&mut session), "MAIL FROM:<s@x.example> SIZE=3\r\n");
    receive(&mut session, &["250"]);
    assert_eq!(written(&mut session), "RCPT TO:<r@y.example>\r\n");
    receive(&mut session, &["550"]);
    assert_eq!(settled(&mut session), ["2: all refused [0 550]"]);
    begin(&mut session, "C");
    assert_eq!(written(&mut session), "RSET\r\n");
}

#[test]
fn without_pipelining_every_mode_is_lockstep() {
    for mode in [Mode::Pipelined, Mode::Overlapped, WINDOWED] {
        assert_eq!(session(mode, "host\nCHUNKING").mode(), Mode::Lockstep);
    }
    assert_eq!(
        session(WINDOWED, "host\nPIPELINING").mode(),
        Mode::Overlapped
    );
}

#[test]
fn rfc2920_3_1_pipelined_groups_the_commands_of_a_transaction() {
    let mut session = session(Mode::Pipelined, ALL);
    begin(&mut session, "A");
    let group = "MAIL FROM:<s@x.example> SIZE=3\r\nRCPT TO:<r@y.example>\r\nDATA\r\n";
    assert_eq!(written(&mut session), group);
    receive(&mut session, &["250", "250", "354"]);
    assert!(!session.may_begin(1));
    assert_eq!(written(&mut session), "A\r\n.\r\n");
    receive(&mut session, &["250"]);
    begin(&mut session, "B");
    assert_eq!(written(&mut session), format!("RSET\r\n{group}"));
}

#[test]
fn overlapped_puts_the_next_transaction_behind_the_content() {
    let mut session = session(Mode::Overlapped, ALL);
    begin(&mut session, "A");
    assert!(!session.may_begin(1));
    let group = "MAIL FROM:<s@x.example> SIZE=3\r\nRCPT TO:<r@y.example>\r\nDATA\r\n";
    assert_eq!(written(&mut session), group);
    receive(&mut session, &["250", "250", "354"]);
    begin(&mut session, "B");
    assert_eq!(written(&mut session), format!("A\r\n.\r\nRSET\r\n{group}"));
    receive(&mut session, &["250", "250", "250", "250", "354"]);
    assert_eq!(settled(&mut session), ["1: final 250"]);
    assert_eq!(written(&mut session), "B\r\n.\r\n");
    assert_eq!(session.awaits(), Some((TransactionStage::Final, 3)));
}

#[test]
fn windowed_leaves_whole_transactions_unanswered() {
    let mut session = session(WINDOWED, ALL);
    for text in ["A", "B", "C", "D"] {
        begin(&mut session, text);
    }
    assert!(!session.may_begin(1));
    let wire = written(&mut session);
    assert!(wire.starts_with(
        "MAIL FROM:<s@x.example> SIZE=3\r\nRCPT TO:<r@y.example>\r\nBDAT 3 LAST\r\nA\r\nRSET\r\nMAIL"
    ));
    receive(
        &mut session,
        &["250", "250", "250", "250", "250", "550", "503"],
    );
    assert_eq!(
        settled(&mut session),
        ["1: final 250", "2: all refused [0 550]"]
    );
    receive(&mut session, &["250", "250", "250", "452"]);
    session.end();
    assert_eq!(settled(&mut session), ["3: final 452", "4: unknown"]);
}

#[test]
fn the_window_is_bounded_in_octets_too() {
    let mode = Mode::Windowed {
        transactions_max: 9,
        bytes_max: 8,
    };
    let mut session = session(mode, ALL);
    assert!(session.may_begin(1000));
    begin(&mut session, "12345");
    assert!(!session.may_begin(2));
    assert!(session.may_begin(1));
}

#[test]
fn asked_first_a_window_begins_without_content() {
    let mut session = session(WINDOWED, ALL);
    session
        .begin(&envelope(&["r@y.example"]), content("A"), true, NOW)
        .unwrap();
    assert!(!session.may_begin(1));
    assert!(written(&mut session).ends_with("DATA\r\n"));
    receive(&mut session, &["250", "250", "354"]);
    begin(&mut session, "B");
    assert!(written(&mut session).starts_with("A\r\n.\r\nRSET\r\nMAIL"));
    receive(&mut session, &["250", "250", "250", "250", "250"]);
    assert_eq!(settled(&mut session), ["1: final 250", "2: final 250"]);
}

#[test]
fn one_bad_recipient_does_not_fail_the_others() {
    let mut session = session(Mode::Overlapped, ALL);
    session
        .begin(
            &envelope(&["a@y.example", "b@y.example", "c@y.example"]),
            content("A"),
            false,
            NOW,
        )
        .unwrap();
    written(&mut session);
    receive(
        &mut session,
        &["250", "250", "550", "450", "354", "250"][..5],
    );
    written(&mut session);
    receive(&mut session, &["250"]);
    assert_eq!(settled(&mut session), ["1: final 250 [1 550] [2 450]"]);
}

#[test]
fn all_refused_and_354_all_the_same_gets_the_lone_dot() {
    let mut session = session(Mode::Overlapped, ALL);
    begin(&mut session, "A");
    written(&mut session);
    receive(&mut session, &["250", "550", "354"]);
    begin(&mut session, "B");
    assert!(written(&mut session).starts_with(".\r\nRSET\r\nMAIL"));
    receive(&mut session, &["250", "250", "250", "250", "354"]);
    assert_eq!(settled(&mut session), ["1: all refused [0 550]"]);
    assert_eq!(written(&mut session), "B\r\n.\r\n");
}

#[test]
fn a_refused_mail_is_the_verdict_and_its_rcpt_replies_say_nothing() {
    for (replies, wire) in [
        (["451", "503", "503"], ""),
        (["451", "503", "354"], ".\r\n"),
    ] {
        let mut session = session(Mode::Pipelined, ALL);
        begin(&mut session, "A");
        written(&mut session);
        receive(&mut session, &replies);
        assert_eq!(written(&mut session), wire);
        if !wire.is_empty() {
            receive(&mut session, &["554"]);
        }
        assert_eq!(settled(&mut session), ["1: Mail 451"]);
    }
}

#[test]
fn end_of_stream_tells_unknown_from_not_sent() {
    let mut session = session(Mode::Overlapped, ALL);
    begin(&mut session, "A");
    written(&mut session);
    receive(&mut session, &["250", "250", "354"]);
    begin(&mut session, "B");
    written(&mut session);
    session.end();
    assert_eq!(settled(&mut session), ["1: unknown", "2: not sent"]);
}

#[test]
fn content_not_wholly_written_cannot_have_been_taken() {
    let mut session = session(Mode::Overlapped, ALL);
    begin(&mut session, "A");
    written(&mut session);
    receive(&mut session, &["250", "250", "354"]);
    session.advance("A\r\n.\r".len(), NOW);
    assert_eq!(session.awaits(), Some((TransactionStage::Content, 3)));
    session.end();
    assert_eq!(settled(&mut session), ["1: not sent"]);
}

/// Three messages in one flight, and a 421 to the second one's RSET.
fn closing() -> Session {
    let mut session = session(WINDOWED, ALL);
    for text in ["A", "B", "C"] {
        begin(&mut session, text);
    }
    written(&mut session);
    receive(&mut session, &["250", "250", "250", "421"]);
    assert!(session.is_closing() && !session.may_begin(1));
    session
}

#[test]
fn rfc5321_3_8_after_421_and_the_end_of_the_stream_nothing_was_done() {
    let mut session = closing();
    session.end();
    assert_eq!(
        settled(&mut session),
        ["1: final 250", "2: Rset 421", "3: not sent"]
    );
}

#[test]
fn a_server_that_goes_on_after_421_is_heard_to_the_end() {
    let mut session = closing();
    receive(&mut session, &["250", "550", "503"]);
    receive(&mut session, &["250", "250", "250", "250"]);
    assert!(session.is_over());
    assert_eq!(
        settled(&mut session),
        ["1: final 250", "2: all refused [0 550]", "3: final 250"]
    );
}

#[test]
fn what_a_server_that_goes_on_after_421_does_not_answer_is_unknown() {
    let mut session = closing();
    receive(&mut session, &["250"]);
    session.end();
    assert_eq!(
        settled(&mut session),
        ["1: final 250", "2: unknown", "3: unknown"]
    );
    let mut silent = closing();
    silent.give_up();
    assert_eq!(
        settled(&mut silent),
        ["1: final 250", "2: unknown", "3: unknown"]
    );
}

#[test]
fn a_421_to_all_that_was_written_ends_the_session_at_once() {
    for (mode, replies, end) in [
        (Mode::Lockstep, &["421"][..], "1: Mail 421"),
        (Mode::Lockstep, &["250", "421"], "1: all refused [0 421]"),
        (Mode::Lockstep, &["250", "250", "421"], "1: Data 421"),
        (Mode::Overlapped, &["250", "250", "421"], "1: Data 421"),
        (
            Mode::Overlapped,
            &["250", "421", "354"],
            "1: all refused [0 421]",
        ),
        (
            Mode::Overlapped,
            &["250", "250", "354", "421"],
            "1: final 421",
        ),
    ] {
        let mut session = session(mode, ALL);
        begin(&mut session, "A");
        for reply in replies {
            written(&mut session);
            receive(&mut session, &[reply]);
        }
        assert!(session.is_over(), "{replies:?}");
        assert_eq!(settled(&mut session), [end], "{replies:?}");
    }
}

#[test]
fn a_421_to_one_of_several_recipients_holds_for_all_if_the_server_closes() {
    for (goes_on, end) in [
        (false, "1: Rcpt 421 [1 421]"),
        (true, "1: final 250 [1 421]"),
    ] {
        let mut session = session(WINDOWED, ALL);
        let recipients = envelope(&["a@y.example", "b@y.example", "c@y.example"]);
        session
            .begin(&recipients, content("A"), false, NOW)
            .unwrap();
        written(&mut session);
        receive(&mut session, &["250", "250", "421"]);
        if goes_on {
            receive(&mut session, &["250", "250"]);
        }
        session.end();
        assert_eq!(settled(&mut session), [end]);
    }
}

#[test]
fn replies_that_nothing_asked_for_end_the_session() {
    let mut idle = session(Mode::Overlapped, ALL);
    assert!(matches!(
        idle.receive(b"250 x\r\n", NOW),
        Err(ProtocolError::Unsolicited(_))
    ));

    let mut early = session(WINDOWED, ALL);
    begin(&mut early, "A");
    let commands = written(&mut early).len();
    assert!(commands > 0);
    let result = early.receive(b"250 x\r\n250 x\r\n250 x\r\n250 x\r\n", NOW);
    assert!(matches!(result, Err(ProtocolError::Unsolicited(_))));
    assert_eq!(settled(&mut early), ["1: final 250"]);

    let mut unwritten = session(WINDOWED, ALL);
    begin(&mut unwritten, "A");
    unwritten.advance("MAIL FROM:<s@x.example> SIZE=3\r\n".len(), NOW);
    assert!(matches!(
        unwritten.receive(b"250 x\r\n250 x\r\n", NOW),
        Err(ProtocolError::Unsolicited(_))
    ));
    assert_eq!(settled(&mut unwritten), ["1: not sent"]);
}

#[test]
fn a_refusal_in_mid_content_counts_and_ends_the_session() {
    let mut session = session(Mode::Overlapped, ALL);
    begin(&mut session, "A");
    written(&mut session);
    receive(&mut session, &["250", "250", "354"]);
    session.advance(2, NOW);
    receive(&mut session, &["552"]);
    assert!(session.is_over());
    assert_eq!(settled(&mut session), ["1: final 552"]);
}

#[test]
fn what_the_server_cannot_take_is_refused_before_a_byte() {
    let mut plain = session(
        Mode::Overlapped,
        "host\nPIPELINING\nSIZE 5\nLIMITS RCPTMAX=1",
    );
    let one = envelope(&["r@y.example"]);
    for (envelope, text, error) in [
        (&one, "\u{e9}", BeginError::No8BitMime),
        (
            &one,
            "123456",
            BeginError::TooLarge {
                size_bytes: 8,
                size_bytes_max: 5,
            },
        ),
        (
            &envelope(&["a@y.example", "b@y.example"]),
            "A",
            BeginError::TooManyRecipients { recipients_max: 1 },
        ),
        (
            &envelope(&["\u{e9}@y.example"]),
            "A",
            BeginError::NoSmtpUtf8,
        ),
    ] {
        assert_eq!(plain.begin(envelope, content(text), false, NOW), Err(error));
        assert!(!plain.has_output());
    }
    begin(&mut plain, "A");
}

#[test]
fn quit_is_pipelined_and_is_the_last_word() {
    let mut session = session(WINDOWED, ALL);
    begin(&mut session, "A");
    session.quit();
    assert!(written(&mut session).ends_with("A\r\nQUIT\r\n"));
    assert!(!session.may_begin(1));
    receive(&mut session, &["250", "250", "250", "221"]);
    assert!(session.is_over());
    assert_eq!(settled(&mut session), ["1: final 250"]);
}

#[test]
fn a_reply_before_quit_is_written_is_unsolicited_and_leaves_nothing_to_write() {
    let mut session = session(Mode::Pipelined, ALL);
    session.quit();
    let error = session.receive(b"221 bye\r\n", NOW).unwrap_err();
    assert!(matches!(error, ProtocolError::Unsolicited(_)));
    assert!(session.is_over() && !session.has_output());
}

proptest! {
    /// However the server's bytes are split, whatever they are, and however little is written at
    /// a time: each transaction is settled once, and none is accepted whose content was not written.
    #[test]
    fn each_transaction_is_settled_exactly_once(
        mode in prop::sample::select(vec![Mode::Lockstep, Mode::Pipelined, Mode::Overlapped, WINDOWED]),
        steps in prop::collection::vec(prop_oneof![
            Just(None),
            (1usize..80).prop_map(|n| Some(Err(n))),
            prop::sample::select(vec!["250 x\r\n", "25", "0 x\r\n", "354 x\r\n", "550 x\r\n", "451 x\r\n", "421 x\r\n", "x\r\n", "250-a\r\n"]).prop_map(|text| Some(Ok(text))),
        ], 0..80),
    ) {
        let mut session = session(mode, ALL);
        let mut begun = 0;
        for step in steps {
            match step {
                None if session.may_begin(3) => {
                    begin(&mut session, ".A");
                    begun += 1;
                }
                None => {}
                Some(Err(octets)) => {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let count = session.slices(&mut slices);
                    let ready: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                    session.advance(octets.min(ready), NOW);
                }
                Some(Ok(bytes)) => {
                    let _ = session.receive(bytes.as_bytes(), NOW);
                }
            }
        }
        session.end();
        let mut ids = Vec::new();
        while let Some(settled) = session.settled() {
            ids.push(settled.id);
            if let End::Final(reply) = &settled.end && reply.code().is_completed() {
                prop_assert!(settled.marks.content().is_some());
            }
            if settled.end == End::Unknown {
                prop_assert!(settled.marks.content().is_some());
            }
        }
        prop_assert_eq!(ids, (1..=begun).collect::<Vec<u64>>());
    }
}
