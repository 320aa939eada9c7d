//! Whenever the power fails, or a call: nothing is lost, nothing is doubled.

use journal::files::Fault;

use super::*;

const COUNT: usize = 150;

/// Takes events and flushes now and then, until something fails; says what was durable.
fn run(files: &MemoryFiles, spool: &Spool) -> Option<Position> {
    let history = History::open_on(Arc::new(files.clone()), &small()).ok()?;
    let mut durable = history.durable();
    spool.recover(&history);
    durable = history.durable().max(durable);
    let _ = history.flush();
    history.durable().max(durable)
}

/// A first run up to the failure, in steps; then what a restart finds.
#[track_caller]
fn check(cut: Cut, break_it: impl FnOnce(&MemoryFiles)) {
    let records = Sample::new(20).take(COUNT);
    let files = MemoryFiles::new();
    break_it(&files);
    let mut durable = None;
    for count in [1, 20, 21, 90, 120] {
        let Some(now) = run(&files, &Spool::of(&records[..count])) else {
            continue;
        };
        durable = durable.max(Some(now));
    }
    files.restart(cut);
    let history = open(&files, &small());
    assert!(
        history.durable() >= durable,
        "the journal may have let go of it"
    );
    let spool = Spool::of(&records);
    spool.recover(&history);
    assert_same(&ask(&history, &all()), &events_of(&records));
    assert_eq!(history.stats().damage, []);
    history.flush().unwrap();
    drop(history);
    let history = open(&files, &small());
    spool.recover(&history);
    assert_same(&ask(&history, &all()), &events_of(&records));
}

/// Calls that the whole run makes.
fn calls() -> u64 {
    let files = MemoryFiles::new();
    let records = Sample::new(20).take(COUNT);
    for count in [1, 20, 21, 90, 120] {
        run(&files, &Spool::of(&records[..count])).unwrap();
    }
    files.calls()
}

#[test]
fn power_cut_before_any_call() {
    let calls = calls();
    assert!(calls > 100, "{calls}");
    for call in 0..calls {
        for cut in [Cut::Nothing, Cut::Any(call)] {
            check(cut, |files| files.fail(call, Fault::PowerCut));
        }
    }
}

#[test]
fn power_cut_in_the_middle_of_any_write() {
    for bytes in (0..12_000).step_by(101) {
        check(Cut::Any(bytes), |files| files.cut_after(bytes));
    }
}

#[test]
fn any_call_fails_once() {
    use io::ErrorKind::{Other, StorageFull};
    for call in 0..calls() {
        let half = [Fault::Half(Other), Fault::Short][call as usize % 2];
        for fault in [Fault::Error(Other), Fault::Error(StorageFull), half] {
            check(Cut::Any(call), |files| files.fail(call, fault));
        }
    }
}

#[test]
fn a_crash_amid_merging_leaves_every_event_once() {
    let records = Sample::new(21).take(64);
    let options = HistoryOptions {
        file_events: 60,
        block_events: 32,
        ..small()
    };
    let fill = |files: &MemoryFiles| {
        let Ok(history) = History::open_on(Arc::new(files.clone()), &options) else {
            return;
        };
        for records in records.chunks(3) {
            commit(&history, records);
            let _ = history.flush();
        }
    };
    let files = MemoryFiles::new();
    fill(&files);
    for call in 0..files.calls() {
        let files = MemoryFiles::new();
        files.fail(call, Fault::PowerCut);
        fill(&files);
        files.restart(Cut::Any(call));
        let history = open(&files, &options);
        Spool::of(&records).recover(&history);
        assert_same(&ask(&history, &all()), &events_of(&records));
        assert_eq!(history.stats().damage, [], "{call}");
    }
}
