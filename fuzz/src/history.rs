//! A file of history that somebody wrote: it is read or named as damaged, the same way each time, and
//! whatever is read is found again by what it is about.
//!
//! An input is a data file. It is tried as it is, and with its checksums put right, so that what they
//! guard is reached too.

use std::ops::ControlFlow;
use std::sync::Arc;

use journal::files::{Files, MemoryFiles, write_all_at};
use store::history::{
    Cursor, History, HistoryOptions, HistoryReader, LIMIT_MAX, OpenError, Order, Query,
};
use store::{Event, Time};

use crate::Target;

const NAME: &str = "0000000000000064.events";
const START_BYTES: usize = 16;
const HEADER_BYTES: usize = 88;

pub(crate) const TARGET: Target = Target {
    name: "history",
    check,
    examples: &[include_bytes!(
        "../../crates/store/src/history/tests/version-1.events"
    )],
    words: &["mrBlock\x01", "mrEnd\0\0\x01", "\0\0\0\0", "\u{7f}", "\x01"],
    rounds: 1_500,
};

fn check(input: &[u8]) {
    check_file(input);
    check_file(&mended(input));
}

fn check_file(bytes: &[u8]) {
    let files = MemoryFiles::new();
    let file = files.create(NAME).expect("an empty folder");
    write_all_at(&*file, 0, &[bytes]).expect("room");
    let beside = match HistoryReader::open_on(&files) {
        Ok(reader) => read(&reader),
        Err(OpenError::Version { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let first = open(&files);
    let events = ask(&first, Query::default(), Order::Oldest);
    assert_eq!(events, beside);
    let mut newest = ask(&first, Query::default(), Order::Newest);
    newest.reverse();
    assert_eq!(newest, events);
    for event in events.iter().take(5) {
        check_found(&first, event);
    }
    let _ = first.minutes(Time::ZERO, Time::MAX);
    drop(first);
    let again = open(&files);
    assert_eq!(ask(&again, Query::default(), Order::Oldest), events);
}

fn open(files: &MemoryFiles) -> History {
    let options = HistoryOptions {
        thread: false,
        ..HistoryOptions::default()
    };
    History::open_on(Arc::new(files.clone()), &options).expect("damage is no error")
}

fn read(reader: &HistoryReader) -> Vec<Event> {
    let query = Query {
        order: Order::Oldest,
        ..Query::default()
    };
    let mut events = Vec::new();
    let each = |event| {
        events.push(event);
        ControlFlow::Continue(())
    };
    reader.for_each(&query, each).expect("the disk works");
    events
}

fn ask(history: &History, query: Query, order: Order) -> Vec<Event> {
    let mut query = Query {
        order,
        limit: LIMIT_MAX,
        ..query
    };
    let (mut events, mut last): (_, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = history.query(&query).expect("the disk works");
        events.extend(page.events);
        if !page.more {
            return events;
        }
        assert_ne!(last, Some(page.cursor), "it goes on");
        last = Some(page.cursor);
        query.cursor = last;
    }
}

fn check_found(history: &History, event: &Event) {
    let by_message = Query {
        message: Some(event.message),
        ..Query::default()
    };
    let by_recipient = Query {
        recipient: Some((*event.address).into()),
        tenant: Some((*event.tenant).into()),
        ..Query::default()
    };
    for query in [by_message, by_recipient] {
        assert!(ask(history, query, Order::Oldest).contains(event));
    }
}

/// The same with a sound start, and with blocks whose lengths and checksums are right.
fn mended(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let Some(start) = bytes.first_chunk_mut::<START_BYTES>() else {
        return bytes;
    };
    start[..12].copy_from_slice(b"mrHist\r\n\x01\0\0\0");
    let crc = crc32c::crc32c(&start[..12]);
    start[12..].copy_from_slice(&crc.to_le_bytes());
    let mut rest = &mut bytes[START_BYTES..];
    while let Some((header, after)) = rest.split_first_chunk_mut::<HEADER_BYTES>() {
        header[..8].copy_from_slice(b"mrBlock\x01");
        let said = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let len = after.len().min(said as usize);
        let (body, next) = after.split_at_mut(len);
        header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        header[72..76].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        let crc = crc32c::crc32c(&header[..84]);
        header[84..].copy_from_slice(&crc.to_le_bytes());
        rest = next;
    }
    bytes
}
