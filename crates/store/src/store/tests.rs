//! A whole data folder.

use smtp::{Content, Envelope};

use super::*;
use crate::history::Order;
use crate::{Head, Message, MessageId, Priority, Query, Status};

/// History in small blocks and without a thread of its own: the same every time.
fn options() -> StoreOptions {
    StoreOptions {
        salvage: false,
        cache_bytes_max: 0,
        history: HistoryOptions {
            thread: false,
            feed_events_max: 4,
            block_events: 2,
            ..HistoryOptions::default()
        },
        seed: 1,
        ..StoreOptions::default()
    }
}

fn message(id: MessageId) -> Message {
    let address: smtp::Address = "a@example.org".parse().unwrap();
    Message::new(
        Head {
            id,
            accepted_at: id.time(),
            tenant: "shop".into(),
            envelope: Envelope::single(address.clone(), address).into(),
            tags: [].into(),
            subject: "".into(),
            priority: Priority::Normal,
            due_at: id.time(),
            expires_at: id.time() + Duration::from_secs(60),
        },
        Content::new("\r\nhi\r\n").unwrap(),
    )
}

/// Accepts messages and tells history of them.
fn accept(store: &Store, count: usize) -> Vec<MessageId> {
    let now = Time::from_secs(1_790_000_000);
    let ids = (0..count).map(|_| {
        let message = message(store.spool.next_id(now));
        let (_, commit) = store.spool.append(message.clone()).unwrap();
        commit.wait().unwrap();
        message.id
    });
    let ids = ids.collect();
    store.spool.follow();
    ids
}

fn told(store: &Store) -> Vec<MessageId> {
    let query = Query {
        order: Order::Oldest,
        limit: 1000,
        ..Query::default()
    };
    let events = store.history.query(&query).unwrap().events;
    assert!(events.iter().all(|event| event.status == Status::Accepted));
    events.iter().map(|event| event.message).collect()
}

#[test]
fn history_that_could_not_be_written_hears_what_went_by_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (history, away) = (folder.path().join("history"), folder.path().join("away"));
    let store = Store::open(folder.path(), &options(), Time::ZERO).unwrap();
    std::fs::rename(&history, &away).unwrap();
    let mut accepted = accept(&store, 20);
    assert!(store.history.stats().is_behind);

    std::fs::rename(&away, &history).unwrap();
    accepted.extend(accept(&store, 1));
    store.history.flush().unwrap();
    assert!(!store.history.stats().is_behind);
    assert_eq!(told(&store), accepted);
}

#[test]
fn history_that_could_not_be_written_hears_what_went_by_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (history, away) = (folder.path().join("history"), folder.path().join("away"));
    let store = Store::open(folder.path(), &options(), Time::ZERO).unwrap();
    std::fs::rename(&history, &away).unwrap();
    let accepted = accept(&store, 20);
    assert!(store.history.stats().is_behind);
    drop(store);

    std::fs::rename(&away, &history).unwrap();
    let store = Store::open(folder.path(), &options(), Time::ZERO).unwrap();
    store.spool.follow();
    store.history.flush().unwrap();
    assert!(!store.history.stats().is_behind);
    assert_eq!(told(&store), accepted);
}
