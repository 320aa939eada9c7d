//! Records round-trip; what an older release wrote stays readable; damage is refused.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use smtp::{Content, EnhancedStatus, Envelope, EnvelopeId, Notify, Recipient, Ret, ReversePath};

use super::*;
use crate::{Event, Head, Message, MessageId, Outcome, Priority, Said, StageTimes, Status, Time};

/// The example that the fixture of version 1 was written from.
pub(crate) fn example_message() -> Message {
    let mut second = Recipient::from("\"a b\"@example.org".parse::<smtp::Address>().unwrap());
    second.notify = Some(Notify::FAILURE.and(Notify::DELAY).unwrap());
    second.original = Some("a.b@old.example".parse().unwrap());
    let first = "gr\u{fc}n@example.net".parse::<smtp::Address>().unwrap();
    let reverse_path: ReversePath = "bounces@sender.example".parse().unwrap();
    let envelope = Envelope::new(reverse_path, vec![first.into(), second])
        .unwrap()
        .with_ret(Ret::Headers)
        .with_id(EnvelopeId::new("order 17").unwrap());
    Message::new(
        Head {
            id: MessageId::assemble(1_790_000_000_123, 5, 0x1234_5678_9abc_def0),
            accepted_at: Time::from_nanos(1_790_000_000_123_456_789),
            tenant: "shop".into(),
            envelope: envelope.into(),
            tags: [
                ("campaign".into(), "spring".into()),
                ("k".into(), "".into()),
            ]
            .into(),
            subject: "hi".into(),
            priority: Priority::High,
            due_at: Time::from_millis(1_790_000_001_000),
            expires_at: Time::from_secs(1_790_400_000),
        },
        Content::new("Subject: hi\r\n\r\n.dot \u{e9}\r\n").unwrap(),
    )
}

pub(crate) fn example_event() -> Event {
    Event {
        at: Time::from_nanos(1_790_000_002_000_000_001),
        message: example_message().id,
        recipient: 1,
        address: "\"a b\"@example.org".into(),
        tenant: "shop".into(),
        tags: example_message().tags.clone(),
        status: Status::Deferred,
        due_at: Some(Time::from_secs(1_790_000_300)),
        outcome: Some(Box::new(Outcome {
            attempt: 3,
            site: "mx.example.org".into(),
            host: "mx1.example.org:25".into(),
            source: "".into(),
            stage: "rcpt".into(),
            class: 4,
            said: Said {
                code: 451,
                enhanced: EnhancedStatus::new(4, 7, 1),
                text: "4.7.1 slow down\nplease".into(),
            },
            times: StageTimes([1, 0, 300, 70_000, 5, 6, 7, 8, 9, 10, u32::MAX]),
        })),
        heading: None,
    }
}

fn example_standings() -> Vec<Standing> {
    let event = example_event();
    vec![
        Standing {
            recipient: 0,
            status: Status::Accepted,
            attempts: 0,
            class: 0xff,
            due_at: Time::from_secs(1_790_000_001),
            last: None,
            is_told: false,
        },
        Standing {
            recipient: 1,
            status: Status::Deferred,
            attempts: 3,
            class: 4,
            due_at: event.due_at.unwrap(),
            last: Some((event.at, event.outcome.unwrap())),
            is_told: false,
        },
    ]
}

fn example_change() -> Rescheduled {
    Rescheduled {
        message: example_message().id,
        due_at: Time::from_secs(1_790_000_400),
        recipients: vec![0, 300],
    }
}

fn example_told() -> Told {
    Told {
        message: example_message().id,
        recipients: vec![1, 300],
    }
}

fn record_of(message: &Message, packer: &Packer) -> Bytes {
    let packed = packer.pack(message.content.as_bytes());
    let mut record = Vec::new();
    encode_head(message, packed.is_some(), &mut record);
    record.extend_from_slice(packed.as_deref().unwrap_or(message.content.as_bytes()));
    record.into()
}

fn moved_record() -> Vec<u8> {
    let mut record = Vec::new();
    encode_standings(&example_standings(), &mut record);
    record.extend_from_slice(&record_of(&example_message(), &plain()));
    record
}

fn plain() -> Packer {
    Packer::new(usize::MAX, 1)
}

fn bytes_of<T: ?Sized>(value: &T, encode: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let octet = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(octet).collect()
}

/// One record of each kind.
fn written() -> [(&'static str, Vec<u8>); 5] {
    [
        ("accepted", record_of(&example_message(), &plain()).to_vec()),
        ("event", bytes_of(&example_event(), encode_event)),
        ("moved", moved_record()),
        (
            "rescheduled",
            bytes_of(&example_change(), encode_rescheduled),
        ),
        ("told", bytes_of(&example_told(), encode_told)),
    ]
}

/// Records of one of each kind, as hex after their kind's name.
const FIXTURE: &str = include_str!("tests/version-1.hex");

#[test]
fn records_of_version_1_read_back_and_are_still_written_so() {
    let lines: Vec<_> = FIXTURE
        .lines()
        .map(|l| l.split_once(' ').unwrap())
        .collect();
    let written = written();
    let now: Vec<_> = written
        .iter()
        .map(|(kind, bytes)| (*kind, hex(bytes)))
        .collect();
    let now: Vec<_> = now
        .iter()
        .map(|(kind, hex)| (*kind, hex.as_str()))
        .collect();
    assert_eq!(lines, now);
    let [accepted, event, moved, change, told] = [0, 1, 2, 3, 4].map(|at| unhex(lines[at].1));
    assert_eq!(decode_message(&accepted.into()).unwrap(), example_message());
    assert_eq!(decode_event(&event).unwrap(), example_event());
    let read = decode_moved(&moved).unwrap();
    let message = decode_message(&Bytes::from(moved).slice(read.message_at..));
    assert_eq!(read.standings, example_standings());
    assert_eq!(message.unwrap(), example_message());
    assert_eq!(decode_rescheduled(&change).unwrap(), example_change());
    assert_eq!(decode_told(&told).unwrap(), example_told());
}

#[test]
fn whether_anybody_was_told_is_kept_with_where_a_recipient_stands() {
    let mut standings = example_standings();
    standings[1].is_told = true;
    let mut record = bytes_of(&standings[..], encode_standings);
    record.extend_from_slice(&record_of(&example_message(), &plain()));
    assert_eq!(decode_moved(&record).unwrap().standings, standings);
}

#[test]
fn a_record_cut_anywhere_is_refused() {
    let event = bytes_of(&example_event(), encode_event);
    let message = record_of(&example_message(), &plain());
    let change = bytes_of(&example_change(), encode_rescheduled);
    let moved = moved_record();
    let told = bytes_of(&example_told(), encode_told);
    for end in 0..told.len() {
        assert!(decode_told(&told[..end]).is_err(), "{end}");
    }
    for end in 0..event.len() {
        assert!(decode_event(&event[..end]).is_err(), "{end}");
    }
    for end in 0..message.len() {
        assert!(decode_message(&message.slice(..end)).is_err(), "{end}");
    }
    for end in 0..change.len() {
        assert!(decode_rescheduled(&change[..end]).is_err(), "{end}");
    }
    for end in 0..moved.len() - message.len() {
        assert!(decode_moved(&moved[..end]).is_err(), "{end}");
    }
    let longer = [&event[..], b"x"].concat();
    assert_eq!(decode_event(&longer), Err(DecodeError::Trailing));
}

#[test]
fn a_later_version_is_named() {
    let mut event = bytes_of(&example_event(), encode_event);
    event[0] = 2;
    assert_eq!(decode_event(&event), Err(DecodeError::Version(2)));
    assert_eq!(decode_event(b""), Err(DecodeError::Truncated));
}

#[test]
fn long_content_is_packed_and_comes_back() {
    let mut message = example_message();
    let body = "Subject: hi\r\n\r\nthe same line again and again\r\n".repeat(1000);
    message.content = Content::new(body).unwrap();
    let packer = Packer::new(1024, 1);
    let record = record_of(&message, &packer);
    assert!(record.len() < message.content.len() / 10);
    assert_eq!(decode_message(&record).unwrap(), message);
    for end in 0..record.len() {
        assert!(decode_message(&record.slice(..end)).is_err(), "{end}");
    }
}

#[test]
fn content_that_does_not_get_shorter_is_stored_as_it_is() {
    let mut seed = 1u32;
    let mut letter = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        32 + (seed >> 24) as u8 % 223
    };
    let mut noise: Vec<u8> = Vec::new();
    for _ in 0..50 {
        noise.extend((0..76).map(|_| letter()));
        noise.extend_from_slice(b"\r\n");
    }
    assert_eq!(Packer::new(16, 1).pack(&noise), None);
}

#[test]
fn a_frame_that_claims_more_than_the_head_is_refused() {
    let mut message = example_message();
    message.content = Content::new("a\r\n".repeat(5000)).unwrap();
    let packed = Packer::new(1, 1).pack(message.content.as_bytes()).unwrap();
    message.content = Content::new("a\r\n".repeat(4999)).unwrap();
    let mut record = Vec::new();
    encode_head(&message, true, &mut record);
    record.extend_from_slice(&packed);
    assert_eq!(decode_message(&record.into()), Err(DecodeError::Unpack));
}

#[test]
fn an_overlong_text_is_cut_at_a_character_and_reads_back() {
    let mut event = example_event();
    event.tenant = "\u{20ac}".repeat(TEXT_BYTES_MAX / 3 + 1).into();
    let read = decode_event(&bytes_of(&event, encode_event)).unwrap();
    assert_eq!(read.tenant.len(), TEXT_BYTES_MAX / 3 * 3);
}

prop_compose! {
    fn outcome()(
        attempt: u16, texts in vec("\\PC{0,40}", 5), class: u8, code in 0u16..1000,
        enhanced in proptest::option::of((prop::sample::select(&[2u8, 4, 5][..]), 0u16..1000, 0u16..1000)),
        times: [u32; 11],
    ) -> Outcome {
        Outcome {
            attempt,
            site: texts[0].as_str().into(),
            host: texts[1].as_str().into(),
            source: texts[2].as_str().into(),
            stage: texts[3].as_str().into(),
            class,
            said: Said {
                code,
                enhanced: enhanced.and_then(|(c, s, d)| EnhancedStatus::new(c, s, d)),
                text: texts[4].as_str().into(),
            },
            times: StageTimes(times),
        }
    }
}

prop_compose! {
    pub(crate) fn event()(
        at: u64, id: u128, recipient: u32, texts in vec("\\PC{0,40}", 2),
        tags in vec(("\\PC{0,9}", "\\PC{0,9}"), 0..4),
        status in prop::sample::select(&Status::ALL[..]),
        due_at: Option<u64>, outcome in proptest::option::of(outcome()),
    ) -> Event {
        Event {
            at: Time::from_nanos(at),
            message: MessageId::from_bits(id),
            recipient,
            address: texts[0].as_str().into(),
            tenant: texts[1].as_str().into(),
            tags: tags.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            status,
            due_at: due_at.map(Time::from_nanos),
            outcome: outcome.map(Box::new),
            heading: None,
        }
    }
}

proptest! {
    #[test]
    fn any_event_round_trips(event in event()) {
        let bytes = bytes_of(&event, encode_event);
        prop_assert_eq!(decode_event(&bytes).unwrap(), event);
    }

    #[test]
    fn a_flipped_octet_never_panics_and_what_reads_writes_the_same(at in 0usize..4096, by in 1u8..) {
        let mut bytes = bytes_of(&example_event(), encode_event);
        let at = at % bytes.len();
        bytes[at] ^= by;
        if let Ok(event) = decode_event(&bytes) {
            prop_assert_eq!(bytes_of(&event, encode_event), bytes);
        }
        let mut bytes = moved_record();
        let at = at % bytes.len();
        bytes[at] ^= by;
        if let Ok(moved) = decode_moved(&bytes) {
            let again = bytes_of(&moved.standings[..], encode_standings);
            prop_assert_eq!(&again[..], &bytes[..moved.message_at]);
            let _ = decode_message(&Bytes::from(bytes).slice(moved.message_at..));
        }
    }
}
