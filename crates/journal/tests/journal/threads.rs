//! Many at once, and the thread that writes.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use journal::{AppendError, Files, Journal, MemoryFiles, Mode, Options, Position};

use super::harness::{body, options};

fn open(files: &MemoryFiles, mode: Mode) -> Journal {
    let options = Options { mode, ..options() };
    Journal::open(Arc::new(files.clone()), options).unwrap().0
}

#[test]
fn many_threads_append_at_once_and_all_is_there_in_the_order_of_places() {
    let files = MemoryFiles::new();
    let journal = open(&files, Mode::Thread);
    let mut appended = thread::scope(|scope| {
        let each = |thread: u64| {
            let journal = journal.clone();
            move || {
                let append = |n: u64| {
                    let bytes = body(thread << 32 | n, (n % 900) as usize);
                    let (at, commit) = loop {
                        match journal.append(1, &[&bytes]) {
                            Err(AppendError::Busy) => thread::yield_now(),
                            appended => break appended.unwrap(),
                        }
                    };
                    commit.wait().unwrap();
                    assert!(at < journal.durable());
                    assert_eq!(journal.read(at).unwrap().bytes, bytes);
                    (at, bytes)
                };
                (0..300).map(append).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(each(thread))).collect();
        let joined = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        joined.collect::<Vec<_>>()
    });
    let stats = journal.stats();
    assert!(stats.groups < stats.records, "{stats:?}");
    appended.sort_by_key(|(at, _)| *at);
    journal.close().unwrap();
    let journal = open(&files, Mode::Inline);
    let mut found = Vec::new();
    let scanned = journal.scan(Position::START, &mut |at, _, bytes| {
        found.push((at, bytes.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!(scanned.unwrap(), journal.end());
    assert!(found == appended);
}

#[test]
fn what_nobody_waits_for_becomes_durable_by_itself() {
    let journal = open(&MemoryFiles::new(), Mode::Thread);
    let at = journal.append_lazily(1, &[b"alone"]).unwrap();
    while journal.durable() <= at {
        thread::yield_now();
    }
    assert_eq!(&journal.read(at).unwrap().bytes[..], b"alone");
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_scan_goes_on_behind_a_seal_that_was_durable_before_the_next_segment_was() {
    let journal = open(&MemoryFiles::new(), Mode::Manual);
    let (mut from, mut appended, mut found) = (Position::START, 0, 0);
    while journal.end().segment() < 4 {
        // Where it begins a segment, the seal of the one before is a group of its own.
        let (_, commit) = journal.append(1, &[&[7; 1000]]).unwrap();
        appended += 1;
        while journal.turn() {
            let scanned = journal.scan(from, &mut |_, _, _| {
                found += 1;
                ControlFlow::Continue(())
            });
            from = scanned.unwrap();
            assert_eq!(from, journal.durable());
        }
        commit.wait().unwrap();
    }
    assert_eq!(found, appended);
}

#[test]
fn a_commit_wakes_each_who_polled_it_once_and_not_before_the_sync() {
    let journal = open(&MemoryFiles::new(), Mode::Manual);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut first = pin!(journal.append(1, &[b"a"]).unwrap().1);
    let mut second = pin!(journal.append(1, &[b"b"]).unwrap().1);
    let mut flush = pin!(journal.flush());
    for _ in 0..3 {
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(flush.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    assert!(journal.turn());
    assert_eq!(count.0.load(Ordering::Relaxed), 3);
    assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    assert_eq!(flush.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    assert!(second.is_done());
    assert!(journal.flush().is_done());
}

#[test]
fn a_closed_journal_takes_nothing_and_still_reads() {
    let journal = open(&MemoryFiles::new(), Mode::Thread);
    let at = journal.append_lazily(1, &[b"last"]).unwrap();
    journal.close().unwrap();
    assert_eq!(&journal.read(at).unwrap().bytes[..], b"last");
    assert_eq!(journal.append_lazily(1, &[]), Err(AppendError::Closed));
    journal.close().unwrap();
}

#[test]
fn limits_are_kept() {
    let files = MemoryFiles::new();
    let options = Options {
        record_bytes_max: 100,
        ..options()
    };
    let journal = Journal::open(Arc::new(files.clone()), options.clone())
        .unwrap()
        .0;
    assert_eq!(
        journal.append_lazily(1, &[&[0; 60], &[0; 41]]),
        Err(AppendError::TooLarge)
    );
    while journal.append_lazily(1, &[&[0; 100]]).is_ok() {}
    let backlog = journal.stats().backlog_bytes;
    assert!((options.backlog_bytes_max..options.backlog_bytes_max + 200).contains(&backlog));
    assert_eq!(journal.append_lazily(1, &[]), Err(AppendError::Busy));
    assert!(journal.turn());
    journal.append_lazily(1, &[&[0; 100]]).unwrap();
    for segment_bytes_max in [0, 4096, 4 << 30] {
        let options = Options {
            segment_bytes_max,
            ..options.clone()
        };
        assert!(Journal::open(Arc::new(MemoryFiles::new()), options).is_err());
    }
}

/// Owns the journal, as a task does that waits for it.
struct Owner(#[expect(dead_code, reason = "dropped with the waker")] Journal);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn the_last_handle_may_go_with_a_waker_in_the_writers_own_thread() {
    let files = MemoryFiles::new();
    for _ in 0..100 {
        let journal = open(&files, Mode::Thread);
        let mut commit = pin!(journal.append(1, &[b"a"]).unwrap().1);
        let waker = Waker::from(Arc::new(Owner(journal)));
        let _ = commit.as_mut().poll(&mut Context::from_waker(&waker));
        drop(waker);
        while !commit.is_done() {
            thread::yield_now();
        }
        // The folder is free once the writer has let go.
        while files.lock().is_err() {
            thread::yield_now();
        }
    }
}
