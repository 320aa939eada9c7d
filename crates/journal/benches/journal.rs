//! What a journal costs on this disk: `cargo bench -p mailrail-journal [FOLDER [SECONDS]]`.
//!
//! One line for each load: records and groups a second, records a group, CPU time a record (of the
//! whole process, the loader included) and sync times. Segments are removed as soon as the next is
//! begun, so after the first ones they are made of spares, as under a steady load.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use journal::{Check, Commit, DirFiles, Journal, Options, Stats};
use rustix::time::{ClockId, clock_gettime};

const CONTENT: [u8; 4096] = [b'x'; 4096];
const HEAD: [u8; 200] = [b'h'; 200];

fn main() {
    let arguments = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"));
    let arguments: Vec<String> = arguments.collect();
    let folder = arguments
        .first()
        .map_or("target/journal-bench", String::as_str);
    let seconds = arguments
        .get(1)
        .map_or(2.0, |text| text.parse().expect("seconds"));
    let time = Duration::from_secs_f64(seconds);
    println!(
        "                     load  records/s groups/s rec/group CPU µs/rec  sync µs mean/max reused"
    );
    for (name, load) in LOADS {
        let folder = Path::new(folder);
        let _ = std::fs::remove_dir_all(folder);
        measure(name, folder, time, *load);
        std::fs::remove_dir_all(folder).expect("the folder can be removed");
    }
    opening(Path::new(folder));
}

type Load = fn(&Journal, &dyn Fn() -> bool);

const LOADS: &[(&str, Load)] = &[
    ("100 x 4 KiB a group", |journal, is_over| {
        groups_of(journal, is_over, 100);
    }),
    ("10 x 4 KiB a group", |journal, is_over| {
        groups_of(journal, is_over, 10);
    }),
    ("4 KiB, one at a time", |journal, is_over| {
        groups_of(journal, is_over, 1);
    }),
    ("20 waiters, 2 threads", |journal, is_over| {
        waiters(journal, is_over, 2, 10);
    }),
    ("20 waiters, 20 threads", |journal, is_over| {
        waiters(journal, is_over, 20, 1);
    }),
    ("200 waiters, 2 threads", |journal, is_over| {
        waiters(journal, is_over, 2, 100);
    }),
    ("lazy, 200 bytes", lazy),
];

fn measure(name: &str, folder: &Path, time: Duration, load: Load) {
    let files = Arc::new(DirFiles::open(folder).expect("the folder can be made"));
    let (journal, _) = Journal::open(files, Options::default()).expect("it is empty");
    // Two segments full: from here on they are made of spares.
    while journal.end().segment() < 3 {
        let (_, commit) = journal.append(1, &[&[0; 1 << 20]]).expect("there is room");
        commit.wait().expect("the disk works");
        journal
            .remove_before(journal.durable().segment())
            .expect("the disk works");
    }
    let (before, cpu, start) = (journal.stats(), cpu_time(), Instant::now());
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let remover = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                journal
                    .remove_before(journal.durable().segment())
                    .expect("the disk works");
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        load(&journal, &|| start.elapsed() > time);
        is_done.store(true, Ordering::Relaxed);
        remover.thread().unpark();
    });
    journal.flush().wait().expect("the disk works");
    report(
        name,
        before,
        journal.stats(),
        start.elapsed(),
        cpu_time() - cpu,
    );
}

/// What opening takes, with a warm cache.
fn opening(folder: &Path) {
    const SEGMENTS: u32 = 5;
    let open = |check| {
        let files = Arc::new(DirFiles::open(folder).expect("the folder can be made"));
        let options = Options {
            check,
            ..Options::default()
        };
        let start = Instant::now();
        let (journal, _) = Journal::open(files, options).expect("it is sound");
        (journal, start.elapsed())
    };
    let (journal, _) = open(Check::All);
    while journal.end().segment() <= SEGMENTS {
        append(&journal).wait().expect("the disk works");
        for _ in 0..1000 {
            let lazily = journal.append_lazily(1, &[&HEAD, &CONTENT]);
            lazily.expect("there is room");
        }
    }
    drop(journal);
    for check in [Check::All, Check::Tail] {
        println!(
            "opening {SEGMENTS} full segments, {check:?}: {:.0?}",
            open(check).1
        );
    }
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

fn report(name: &str, before: Stats, after: Stats, time: Duration, cpu: Duration) {
    let records = (after.records - before.records) as f64;
    let groups = (after.groups - before.groups) as f64;
    let sync = (after.sync.sum - before.sync.sum).as_secs_f64() / groups;
    println!(
        "{name:>25} {:10.0} {:8.0} {:9.1} {:10.2} {:8.0} / {:<8} {}",
        records / time.as_secs_f64(),
        groups / time.as_secs_f64(),
        records / groups,
        cpu.as_secs_f64() * 1e6 / records,
        sync * 1e6,
        after.sync.max.as_micros(),
        after.segments_reused,
    );
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn append(journal: &Journal) -> Commit {
    journal
        .append(1, &[&HEAD, &CONTENT])
        .expect("there is room")
        .1
}

fn groups_of(journal: &Journal, is_over: &dyn Fn() -> bool, records: usize) {
    while !is_over() {
        for _ in 1..records {
            let lazily = journal.append_lazily(1, &[&HEAD, &CONTENT]);
            lazily.expect("there is room");
        }
        append(journal).wait().expect("the disk works");
    }
}

/// As connections do that wait for one answer before they send the next message.
fn waiters(journal: &Journal, is_over: &dyn Fn() -> bool, threads: usize, each: usize) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| wait_in_turn(journal, &is_done, each));
        }
        while !is_over() {
            thread::sleep(Duration::from_millis(10));
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait_in_turn(journal: &Journal, is_done: &AtomicBool, each: usize) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut commits: Vec<Commit> = (0..each).map(|_| append(journal)).collect();
    while !is_done.load(Ordering::Relaxed) {
        for commit in &mut commits {
            if let Poll::Ready(result) = Pin::new(&mut *commit).poll(&mut context) {
                result.expect("the disk works");
                *commit = append(journal);
                let _ = Pin::new(commit).poll(&mut context);
            }
        }
        thread::park_timeout(Duration::from_millis(100));
    }
}

fn lazy(journal: &Journal, is_over: &dyn Fn() -> bool) {
    while !is_over() {
        for _ in 0..1000 {
            if journal.append_lazily(2, &[&HEAD]).is_err() {
                journal.flush().wait().expect("the disk works");
            }
        }
    }
}
