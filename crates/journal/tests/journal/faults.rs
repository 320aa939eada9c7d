//! Calls that fail, and disks that are full.

use std::io::ErrorKind;

use journal::files::{Cut, Fault};
use journal::{AppendError, CommitError};

use super::harness::{Known, Run};

const FAULTS: [Fault; 5] = [
    Fault::Error(ErrorKind::Other),
    Fault::Error(ErrorKind::StorageFull),
    Fault::Short,
    Fault::Half(ErrorKind::Other),
    Fault::Half(ErrorKind::StorageFull),
];

#[test]
fn each_call_failing_in_turn_loses_nothing_acknowledged() {
    for seed in 0..3 {
        for call in 0.. {
            let mut is_over = false;
            for fault in FAULTS {
                let mut run = Run::new(seed);
                run.files.fail(call, fault);
                if run.open().is_err() {
                    run.reopen();
                }
                for _ in 0..60 {
                    run.step();
                    if run.journal.is_none() {
                        run.reopen();
                    }
                }
                is_over = run.files.calls() < call;
                let cut = [Cut::Everything, Cut::Nothing, Cut::Any(call)][call as usize % 3];
                run.crash(cut);
            }
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_poisons_for_good_and_is_never_tried_again() {
    let mut run = Run::new(1);
    run.open().unwrap();
    run.append(10, true).unwrap();
    let (write, sync) = (run.files.calls(), run.files.calls() + 1);
    run.files.fail(sync, Fault::Error(ErrorKind::Other));
    assert!(!run.journal().turn());
    assert_eq!(run.files.calls(), write + 2);
    assert!(run.journal().is_poisoned());
    for is_awaited in [true, false] {
        assert_eq!(run.append(10, is_awaited), Err(AppendError::Poisoned));
    }
    assert_eq!(run.journal().flush().wait(), Err(CommitError::Poisoned));
    assert!(!run.journal().turn());
    assert_eq!(run.journal().close(), Err(CommitError::Poisoned));
    assert_eq!(run.files.calls(), write + 2);
    assert!(run.journal().stats().is_poisoned);
    run.crash(Cut::Any(1));
}

#[test]
fn a_full_disk_refuses_those_who_wait_takes_what_settles_and_is_used_again_when_there_is_room() {
    let mut run = Run::new(1);
    run.open().unwrap();
    run.files.set_capacity(Some(6 * 16 * 1024));
    let mut taken = 0;
    while run.append(500, true).is_ok() {
        run.journal().turn();
        taken += 1;
        assert!(taken < 1000);
    }
    run.learn();
    assert!(run.journal().stats().is_full);
    assert!(
        run.entries
            .iter()
            .all(|entry| entry.known == Known::Durable)
    );
    // What settles mail still goes through, and makes room.
    run.append(20, false).unwrap();
    assert!(run.journal().turn());
    run.verify(false);
    run.removed_before = 3;
    run.journal().remove_before(3).unwrap();
    assert!(!run.journal().stats().is_full);
    run.append(500, true).unwrap();
    assert!(run.journal().turn());
    run.learn();
    run.crash(Cut::Nothing);
}

#[test]
fn a_restart_on_a_full_disk_works_and_settles() {
    let mut run = Run::new(1);
    run.open().unwrap();
    run.files.set_capacity(Some(6 * 16 * 1024));
    while run.append(500, true).is_ok() {
        run.journal().turn();
    }
    for _ in 0..3 {
        run.crash(Cut::Nothing);
        assert!(run.journal().stats().is_full);
        assert_eq!(run.append(20, true), Err(AppendError::Full));
        run.append(20, false).unwrap();
        assert!(run.journal().turn());
    }
    run.files.set_capacity(None);
    run.append(500, true).unwrap();
    run.journal().turn();
    run.crash(Cut::Nothing);
}

#[test]
fn a_reserved_write_that_meets_a_full_disk_keeps_lazy_records_in_their_places() {
    let mut run = Run::new(1);
    run.open().unwrap();
    run.append(20, true).unwrap();
    run.append(20, false).unwrap();
    run.append(20, true).unwrap();
    let write = run.files.calls();
    run.files.fail(write, Fault::Half(ErrorKind::StorageFull));
    assert!(!run.journal().turn());
    run.learn();
    let known: Vec<Known> = run.entries.iter().map(|entry| entry.known).collect();
    assert_eq!(known, [Known::Refused, Known::Open, Known::Refused]);
    assert!(run.journal().stats().is_full);
    assert!(run.journal().turn(), "there is room again");
    assert!(!run.journal().stats().is_full);
    run.append(20, true).unwrap();
    run.journal().turn();
    run.learn();
    run.verify(false);
    run.crash(Cut::Nothing);
    assert_eq!(run.entries.len(), 2);
}

#[test]
fn a_record_larger_than_the_room_is_refused_and_leaves_no_trace() {
    let mut run = Run::new(1);
    run.open().unwrap();
    run.append(20, true).unwrap();
    run.journal().turn();
    run.learn();
    run.files.set_capacity(Some(4 * 16 * 1024));
    run.append(60_000, true).unwrap();
    while run.journal().turn() {}
    run.learn();
    assert_eq!(run.entries[1].known, Known::Refused);
    run.append(500, true).unwrap();
    while run.journal().turn() {}
    run.learn();
    assert_eq!(run.entries[2].known, Known::Durable);
    run.verify(false);
    run.crash(Cut::Nothing);
}

#[test]
fn what_was_refused_for_want_of_room_never_comes_back_behind_what_followed() {
    let mut run = Run::new(1);
    run.open().unwrap();
    for _ in 0..4 {
        run.append(100, true).unwrap();
    }
    // Two of the four are on the disk, whole.
    run.files
        .fail(run.files.calls(), Fault::Half(ErrorKind::StorageFull));
    assert!(!run.journal().turn());
    run.learn();
    assert!(
        run.entries
            .iter()
            .all(|entry| entry.known == Known::Refused)
    );
    run.append(100, true).unwrap();
    assert!(run.journal().turn());
    run.learn();
    run.crash(Cut::Everything);
    assert_eq!(run.entries.len(), 1);
}
