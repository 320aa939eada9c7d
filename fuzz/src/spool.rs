//! The spool's records: whatever reads as one is written the same, and skimming agrees with reading.

use bytes::Bytes;
use store::codec::{self, Kind, Packer};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "spool_record",
    check,
    examples: &[
        // One of each kind: accepted, event, moved, rescheduled, told; then a table's entry.
        b"\x01\x01\x00\x01\xa0\xc4\x50\x6c\x7b\x70\x05\x92\x34\x56\x78\x9a\xbc\xde\xf0\x15\xcd\x4e\x2b\x84\x5b\xd7\x18\x00\xca\x8d\x5f\x84\x5b\xd7\x18\x00\x00\xdc\x65\x50\xc7\xd8\x18\x00\x04shop\x02hi\x01\x01k\x01v\x06\x16bounces@sender.example\x08order 17\x02\x00\x12g\xc3\xbcn@example.net.x\x03\x0fa.b@example.org\x06\x0fa.b@old.example\x17Subject: hi\r\n\r\n.dot x\r\n",
        b"\x02\x01\x03\x02\x01\xa0\xc4\x50\x6c\x7b\x70\x05\x92\x34\x56\x78\x9a\xbc\xde\xf0\x01\x94\x28\x9b\x84\x5b\xd7\x18\x00\xb8\x57\xfd\xc9\x5b\xd7\x18\x01\x0fa.b@example.org\x04shop\x01\x01k\x01v\x03\x04\x01s\x01h\x00\x04rcpt\xc3\x03\x04\x07\x01\x0a4.7.1 slow\x01\x00\xac\x02\xf0\xa2\x04\x05\x06\x07\x08\x09\x0a\xff\xff\xff\xff\x0f",
        b"\x03\x01\x01\x00\x02\x04\x01\x03\x00\xb8\x57\xfd\xc9\x5b\xd7\x18\x01\x94\x28\x9b\x84\x5b\xd7\x18\x03\x04\x01s\x01h\x00\x04rcpt\xc3\x03\x00\x04slow\x01\x00\x01\x01\x04\x05\x06\x07\x08\x09\x0a\x01\x00\x01\xa0\xc4\x50\x6c\x7b\x70\x05\x92\x34\x56\x78\x9a\xbc\xde\xf0\x15\xcd\x4e\x2b\x84\x5b\xd7\x18\x00\xca\x8d\x5f\x84\x5b\xd7\x18\x00\x00\xdc\x65\x50\xc7\xd8\x18\x00\x01t\x00\x00\x00\x00\x01\x00\x0fa.b@example.org\x03a\r\n",
        b"\x04\x01\x01\xa0\xc4\x50\x6c\x7b\x70\x05\x92\x34\x56\x78\x9a\xbc\xde\xf0\x00\xa0\xce\x45\xe1\x5b\xd7\x18\x02\x00\xac\x02",
        b"\x05\x01\x01\xa0\xc4\x50\x6c\x7b\x70\x05\x92\x34\x56\x78\x9a\xbc\xde\xf0\x02\x00\xac\x02",
        b"\x06\x01\x01\x07\x03key\x00\xa0\xce\x45\xe1\x5b\xd7\x18value",
    ],
    words: &["\x01\x00", "a@b.example", "\u{fc}@b.example", "\"a b\"@c.d", "\x28\u{b5}/\u{fd}"],
    rounds: 40_000,
};

/// The first octet says which kind of record the rest is taken for.
fn check(input: &[u8]) {
    let Some((kind, record)) = input.split_first() else {
        return;
    };
    match Kind::from_number(*kind) {
        Some(Kind::Accepted) => check_message(record),
        Some(Kind::Event) => check_event(record),
        Some(Kind::Moved) => check_moved(record),
        Some(Kind::Rescheduled) => check_rescheduled(record),
        Some(Kind::Told) => check_told(record),
        None => check_entry(record),
    }
    let stem = codec::stem(*kind, record);
    assert!(stem.len() <= record.len() + 64);
}

/// Addresses come back in one spelling, so it is the second writing that must be the first one's.
fn check_message(record: &[u8]) {
    let Ok(message) = codec::decode_message(&Bytes::copy_from_slice(record)) else {
        return;
    };
    let outline = codec::skim_message(record).expect("what reads can be skimmed");
    assert_eq!(outline.id, message.id);
    assert_eq!(outline.due_at, message.due_at);
    assert_eq!(
        outline.recipients as usize,
        message.envelope.recipients().len()
    );
    let accepted = codec::decode_head(record).expect("what reads has a head");
    assert_eq!(accepted.head, *message.head);
    assert_eq!(accepted.content_bytes, message.content.len());
    for least in [0, usize::MAX] {
        let packed = Packer::new(least, 1).pack(message.content.as_bytes());
        let mut again = Vec::new();
        codec::encode_head(&message, packed.is_some(), &mut again);
        again.extend_from_slice(packed.as_deref().unwrap_or(message.content.as_bytes()));
        let again = codec::decode_message(&again.into()).expect("what was written reads");
        assert_eq!(again, message);
    }
}

fn check_event(record: &[u8]) {
    let Ok(event) = codec::decode_event(record) else {
        return;
    };
    let mut again = Vec::new();
    codec::encode_event(&event, &mut again);
    assert_eq!(again, record);
    let change = codec::skim_event(record).expect("what reads can be skimmed");
    assert_eq!(change, codec::Change::from(&event));
    let stem = codec::stem(Kind::Event as u8, record);
    assert_eq!(codec::skim_event(&stem), Ok(change));
}

fn check_moved(record: &[u8]) {
    let Ok(moved) = codec::decode_moved(record) else {
        return;
    };
    let mut again = Vec::new();
    codec::encode_standings(&moved.standings, &mut again);
    assert_eq!(again, record[..moved.message_at]);
    check_message(&record[moved.message_at..]);
}

fn check_told(record: &[u8]) {
    if let Ok(told) = codec::decode_told(record) {
        let mut again = Vec::new();
        codec::encode_told(&told, &mut again);
        assert_eq!(again, record);
    }
}

fn check_rescheduled(record: &[u8]) {
    let Ok(change) = codec::decode_rescheduled(record) else {
        return;
    };
    let mut again = Vec::new();
    codec::encode_rescheduled(&change, &mut again);
    assert_eq!(again, record);
}

fn check_entry(record: &[u8]) {
    let Ok(entry) = codec::decode_entry(record) else {
        return;
    };
    let mut again = Vec::new();
    codec::encode_entry(&entry, &mut again);
    again.extend_from_slice(entry.value);
    assert_eq!(again, record);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_records() {
        let [accepted, event, moved, change, told, entry] = TARGET.examples else {
            panic!("one of each kind");
        };
        codec::decode_message(&Bytes::from_static(&accepted[1..])).unwrap();
        codec::decode_event(&event[1..]).unwrap();
        let read = codec::decode_moved(&moved[1..]).unwrap();
        codec::decode_message(&Bytes::from_static(&moved[1 + read.message_at..])).unwrap();
        codec::decode_rescheduled(&change[1..]).unwrap();
        codec::decode_told(&told[1..]).unwrap();
        codec::decode_entry(&entry[1..]).unwrap();
    }
}
