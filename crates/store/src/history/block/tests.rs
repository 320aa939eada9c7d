//! Blocks: what went in comes out, and what is damaged is refused.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::history::Position;
use crate::history::column::Unpacker;
use crate::history::keys;
use crate::history::query::Query;
use crate::history::sample::Sample;
use crate::{Event, Heading, MessageId, Outcome, Said, StageTimes, Status, Tags};

const ALL: [u64; 2] = [0, u64::MAX];

fn read(encoded: &Encoded, query: &Query, seqs: [u64; 2]) -> Result<Vec<(u64, Event)>> {
    let (header, body) = encoded.bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::read(header)?;
    decode(&header, body, &Filter { query, seqs }, &mut Unpacker::new())
}

fn encode(records: &[Record]) -> Encoded {
    Encoder::new(1).encode(&records.iter().collect::<Vec<_>>(), 1000, 0, 0)
}

#[test]
fn events_come_back_as_they_were_with_their_numbers() {
    let records = Sample::new(1).take(3000);
    let encoded = encode(&records);
    let events = read(&encoded, &Query::default(), ALL).unwrap();
    assert_eq!(events.len(), records.len());
    for (index, (seq, event)) in events.into_iter().enumerate() {
        assert_eq!(seq, 1000 + index as u64);
        assert_eq!(event, records[index].event);
    }
}

#[test]
fn each_question_finds_what_it_asks_for_and_no_more() {
    let records = Sample::new(2).take(2000);
    let encoded = encode(&records);
    let some = &records[777].event;
    let site = || some.outcome.as_ref().map(|it| Box::from(&*it.site));
    let all = Query::default();
    for query in [
        Query {
            message: Some(some.message),
            ..all.clone()
        },
        Query {
            recipient: Some(some.address.to_ascii_uppercase().into()),
            ..all.clone()
        },
        Query {
            tenant: Some("shop".into()),
            status: Some(Status::Deferred),
            ..all.clone()
        },
        Query {
            tag: Some(("campaign".into(), "c1".into())),
            ..all.clone()
        },
        Query {
            site: site().or(Some("mx.example".into())),
            ..all.clone()
        },
        Query {
            from: Some(some.at),
            to: Some(records[900].event.at),
            ..all.clone()
        },
    ] {
        let got = read(&encoded, &query, [1010, 2990]).unwrap();
        let want = (1000..)
            .zip(&records)
            .filter(|(seq, record)| (1010..2990).contains(seq) && query.matches(&record.event));
        let want: Vec<_> = want
            .map(|(seq, record)| (seq, record.event.clone()))
            .collect();
        assert!(!want.is_empty(), "{query:?}");
        assert_eq!(got, want, "{query:?}");
        for key in keys::of(&query) {
            assert!(encoded.keys.binary_search(&key).is_ok(), "{query:?}");
        }
    }
}

#[test]
fn keys_and_minutes_are_the_same_when_they_are_made_again() {
    let encoded = encode(&Sample::new(3).take(1000));
    let body = &encoded.bytes[HEADER_BYTES..];
    let again = read_keys(Version::Two, body, &mut Unpacker::new()).unwrap();
    assert_eq!(again.keys, encoded.keys);
    assert_eq!(again.minutes, encoded.minutes);
    let counted: u64 = again.minutes.values().map(|it| it.counts.total()).sum();
    assert_eq!(counted, 1000);
}

#[test]
fn a_recipient_told_of_differently_is_told_of_as_said() {
    let mut records = Sample::new(4).take(5);
    let [first, .., last] = &mut records[..] else {
        unreachable!()
    };
    last.event.message = first.event.message;
    last.event.address = "other@example.net".into();
    let mut again = first.clone();
    again.event.status = Status::Canceled;
    records.push(again);
    let events = read(&encode(&records), &Query::default(), ALL).unwrap();
    let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
    let want: Vec<_> = records.into_iter().map(|record| record.event).collect();
    assert_eq!(events, want);
}

#[test]
fn a_flipped_bit_in_a_header_is_seen() {
    let encoded = encode(&Sample::new(5).take(3));
    let header: [u8; HEADER_BYTES] = encoded.bytes[..HEADER_BYTES].try_into().unwrap();
    assert_eq!(Header::read(&header), Ok(encoded.header));
    for bit in 0..HEADER_BYTES * 8 {
        let mut header = header;
        header[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::read(&header).is_err(), "{bit}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    "[a-z0-9@. \u{0}\u{e9}]{0,12}"
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let texts = (any_text(), any_text(), any_text(), any_text(), any_text());
    let enhanced = prop::option::of((2u8..6, 0u16..1000, 0u16..1000));
    (
        any::<u16>(),
        any::<u16>(),
        any::<u8>(),
        texts,
        enhanced,
        any::<[u32; 11]>(),
    )
        .prop_map(
            |(attempt, code, class, (site, host, source, stage, text), enhanced, times)| Outcome {
                attempt,
                site: site.into(),
                host: host.into(),
                source: source.into(),
                stage: stage.into(),
                class,
                said: Said {
                    code,
                    enhanced: enhanced.and_then(|(class, subject, detail)| {
                        smtp::EnhancedStatus::new(class, subject, detail)
                    }),
                    text: text.into(),
                },
                times: StageTimes(times),
            },
        )
}

fn any_event() -> impl Strategy<Value = Event> {
    let tags = prop::collection::vec((any_text(), any_text()), 0..3);
    let id = prop_oneof![any::<u128>(), 0u128..3];
    let time = || prop_oneof![any::<u64>(), 0u64..100].prop_map(Time::from_micros);
    let due_at = prop::option::of(time());
    let outcome = prop::option::of(any_outcome().prop_map(Box::new));
    let names = (any_text(), any_text());
    let heading = (any_text(), any_text()).prop_map(|(from, subject)| {
        Arc::new(Heading {
            from: from.into(),
            subject: subject.into(),
        })
    });
    let said = (outcome, prop::option::of(heading));
    (time(), id, 0u32..3, names, tags, 1u8..9, due_at, said).prop_map(
        |(at, id, recipient, (address, tenant), tags, status, due_at, (outcome, heading))| Event {
            at,
            message: MessageId::from_bits(id),
            recipient,
            address: address.into(),
            tenant: tenant.into(),
            tags: tags
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect::<Tags>(),
            status: Status::from_number(status).unwrap(),
            due_at,
            outcome,
            heading,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_events_come_back(events in prop::collection::vec(any_event(), 1..40)) {
        let records: Vec<_> = events.iter().map(|event| Record {
            position: Position::from_u64(0),
            event: event.clone(),
        }).collect();
        let got = read(&encode(&records), &Query::default(), ALL).unwrap();
        let got: Vec<_> = got.into_iter().map(|(_, event)| event).collect();
        prop_assert_eq!(got, events);
    }

    #[test]
    fn damage_is_refused_or_harmless(at in 0usize..4000, to in any::<u8>()) {
        let mut encoded = encode(&Sample::new(6).take(100));
        let index = HEADER_BYTES + at % (encoded.bytes.len() - HEADER_BYTES);
        encoded.bytes[index] = to;
        // Without the checksum's help: nothing panics, nothing is allocated beyond all measure.
        let _ = read(&encoded, &Query::default(), ALL);
        let body = &encoded.bytes[HEADER_BYTES..];
        let _ = read_keys(Version::Two, body, &mut Unpacker::new());
    }
}

#[test]
fn realistic_blocks_are_small() {
    let records = Sample::new(7).take(4096);
    let bytes = encode(&records).bytes.len();
    assert!(bytes < 4096 * 45, "{} a record", bytes as f64 / 4096.0);
}
