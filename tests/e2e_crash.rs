//! Nothing acknowledged is lost: the program is killed at random, again and again, while mail comes in
//! and goes out, and the sink's own records say what arrived.
//!
//! `CRASH_SEED` repeats a run, `CRASH_MESSAGES` makes it longer.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Concurrency, Pool, Relay};
use flow::rng::Rng;
use rustix::process::Signal;
use sink::{Action, Rule, Sink, Stage};
use smtp::{Address, Content, Envelope};
use support::serving::{Home, agent};
use support::{recipients, setting, start, wait_until};

/// Connections of the server to the sink, and round trips that a message takes there.
const CONNECTIONS: usize = 4;
/// Messages on the wire at once: a relay's window on each connection.
const IN_FLIGHT_MAX: u64 = 8 * CONNECTIONS as u64;
/// A record that nobody waits for may stay in memory for some milliseconds: half a round trip, in which
/// the link lets no more than this through.
const UNRECORDED_MAX: u64 = IN_FLIGHT_MAX;
const RTT: Duration = Duration::from_millis(10);

/// What was acknowledged, by recipient number.
#[derive(Default)]
struct Ledger {
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

impl Ledger {
    fn count(&self) -> u64 {
        self.acknowledged.lock().unwrap().len() as u64
    }
}

fn address(number: u64) -> String {
    format!("m{number}@x.example")
}

/// Hands in messages over several connections until the server goes or there are enough.
async fn submit(pool: Pool, ledger: Arc<Ledger>, messages: u64) {
    let from: Address = "app@a.example".parse().unwrap();
    let content = Content::from_text(b"From: app@a.example\nSubject: hi\n\nhello\n").unwrap();
    while ledger.count() < messages {
        let number = ledger.next.fetch_add(1, Ordering::Relaxed);
        let to: Address = address(number).parse().unwrap();
        let report = pool
            .send(Envelope::single(from.clone(), to), content.clone())
            .await;
        if !report.is_accepted() {
            return;
        }
        ledger.acknowledged.lock().unwrap().push(number);
    }
}

/// Kills the server at a random moment while mail flows, until so many messages are acknowledged;
/// says how often it was killed.
///
/// * `disk`: gets full in the middle of a life now and then, and has room again in the middle of the next.
fn storm(
    home: &Home,
    ledger: &Arc<Ledger>,
    messages: u64,
    seed: u64,
    mut disk: Option<&mut SmallDisk>,
) -> u64 {
    let mut rng = Rng::new(seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kills = 0;
    while ledger.count() < messages {
        let server = home.serve();
        let relay = format!("{}?tls=none", server.smtp());
        let pool = Pool::builder(relay.parse::<Relay>().unwrap());
        let pool = runtime.block_on(async { pool.concurrency(Concurrency::Fixed(20)).build() });
        let pool = pool.unwrap();
        let submitting = (0..20).map(|_| submit(pool.clone(), Arc::clone(ledger), messages));
        let submitting: Vec<_> = submitting.map(|one| runtime.spawn(one)).collect();
        let life = Duration::from_millis(100) + rng.duration_up_to(Duration::from_millis(400));
        runtime.block_on(async {
            let all = futures_util::future::join_all(submitting);
            let changes = disk
                .as_ref()
                .is_some_and(|disk| disk.is_full || rng.chance(0.3));
            if let (Some(disk), true) = (&mut disk, changes) {
                tokio::time::sleep(rng.duration_up_to(life)).await;
                disk.change();
            }
            let _ = tokio::time::timeout(life, all).await;
        });
        server.end(Signal::KILL);
        kills += 1;
    }
    kills
}

/// Every acknowledged message is there; duplicates are what a crash may cause. Gives their number.
#[track_caller]
fn account(sink: &Sink, ledger: &Ledger) -> u64 {
    let mut times: BTreeMap<String, u64> = BTreeMap::new();
    for recipient in recipients(sink) {
        *times.entry(recipient).or_default() += 1;
    }
    let acknowledged = ledger.acknowledged.lock().unwrap();
    let lost: Vec<&u64> = acknowledged
        .iter()
        .filter(|number| !times.contains_key(&address(**number)))
        .collect();
    assert!(
        lost.is_empty(),
        "{} were lost, such as {:?}",
        lost.len(),
        lost.first()
    );
    times.values().map(|times| times - 1).sum()
}

fn config(sink: &Sink) -> String {
    let route = support::serving::route_to(sink);
    format!("{route}connections_max = {CONNECTIONS}\n")
}

/// Lets the last server deliver what is left.
fn deliver_the_rest(home: &Home, sink: &Sink, ledger: &Ledger) {
    let server = home.serve();
    let acknowledged = ledger.acknowledged.lock().unwrap().clone();
    wait_until("all that was acknowledged is delivered", || {
        // Before so many have come there is no need to look which.
        if sink.report().messages < acknowledged.len() as u64 {
            return false;
        }
        let there: HashSet<String> = recipients(sink).into_iter().collect();
        let mut numbers = acknowledged.iter();
        numbers.all(|number| there.contains(&address(*number)))
    });
    assert_eq!(server.end(Signal::TERM), Some(0), "{}", home.log());
}

#[test]
fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let (seed, messages) = (setting("CRASH_SEED", 1), setting("CRASH_MESSAGES", 10_000));
    let sink = start(Sink::builder().keep_records().rtt(RTT));
    let home = Home::new(&config(&sink));
    let ledger = Arc::new(Ledger::default());
    let kills = storm(&home, &ledger, messages, seed, None);
    deliver_the_rest(&home, &sink, &ledger);
    let duplicates = account(&sink, &ledger);
    println!("seed {seed}: {messages} acknowledged, {kills} kills, {duplicates} duplicates");
    assert_few(duplicates, kills, 0);
}

/// As many as may have been in flight when it was killed, or on a connection that was cut.
#[track_caller]
fn assert_few(duplicates: u64, kills: u64, cuts: u64) {
    let in_flight = kills * (IN_FLIGHT_MAX + UNRECORDED_MAX);
    let most = in_flight + cuts * IN_FLIGHT_MAX / CONNECTIONS as u64;
    assert!(
        duplicates <= most,
        "{duplicates} duplicates of {kills} kills and {cuts} cuts, {most} at most"
    );
}

#[test]
fn nothing_acknowledged_is_lost_though_the_disk_gets_full_between_kills() {
    let (seed, messages) = (
        setting("CRASH_SEED", 3),
        setting("CRASH_MESSAGES", 10_000) / 2,
    );
    let sink = start(Sink::builder().keep_records().rtt(RTT));
    let limits = "[limits]\ndisk_free_min = \"0 MiB\"\n";
    let home = Home::new(&format!("{limits}{}", config(&sink)));
    let Some(mut disk) = SmallDisk::mount(home.data_dir(), 400) else {
        return;
    };
    let ledger = Arc::new(Ledger::default());
    let kills = storm(&home, &ledger, messages, seed, Some(&mut disk));
    if disk.is_full {
        disk.free();
    }
    deliver_the_rest(&home, &sink, &ledger);
    let duplicates = account(&sink, &ledger);
    let fills = disk.fills;
    println!(
        "seed {seed}: {messages} acknowledged, {kills} kills, {fills} times full, {duplicates} duplicates"
    );
    assert!(fills > 0, "the disk was never full");
    assert_few(duplicates, kills, 0);
}

/// A small disk for the server's data; needs root.
struct SmallDisk {
    path: std::path::PathBuf,
    is_full: bool,
    /// How often it got full.
    fills: u64,
}

impl SmallDisk {
    fn mount(path: std::path::PathBuf, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        if !is_mounted {
            eprintln!("skipped: a file system can be mounted by root only");
        }
        is_mounted.then_some(Self {
            path,
            is_full: false,
            fills: 0,
        })
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path.join("ballast")
    }

    /// Takes all that is free.
    fn fill(&mut self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
        self.is_full = true;
        self.fills += 1;
    }

    fn free(&mut self) {
        std::fs::remove_file(self.ballast()).unwrap();
        self.is_full = false;
    }

    fn change(&mut self) {
        match self.is_full {
            true => self.free(),
            false => self.fill(),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.path)
            .status();
    }
}

/// The spool stores content compressed: this does not let itself be.
fn incompressible_megabyte() -> Content {
    let mut rng = Rng::new(3);
    let mut text = String::from("Subject: big\n\n");
    for place in 1..1_000_000 {
        text.push(char::from(b'!' + rng.up_to(93) as u8));
        if place % 900 == 0 {
            text.push('\n');
        }
    }
    Content::from_text(text.as_bytes()).unwrap()
}

#[test]
fn a_full_disk_refuses_for_now_loses_nothing_and_mends_itself() {
    let sink = start(Sink::builder().keep_records().rtt(RTT));
    let limits = "[limits]\ndisk_free_min = \"0 MiB\"\n";
    let home = Home::new(&format!("{limits}{}", config(&sink)));
    let Some(mut disk) = SmallDisk::mount(home.data_dir(), 200) else {
        return;
    };
    let ledger = Arc::new(Ledger::default());
    let server = home.serve();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relay = format!("{}?tls=none", server.smtp());
    let pool = Pool::builder(relay.parse::<Relay>().unwrap());
    let pool = runtime.block_on(async { pool.concurrency(Concurrency::Fixed(4)).build() });
    let pool = pool.unwrap();
    runtime.block_on(submit(pool.clone(), Arc::clone(&ledger), 200));
    assert_eq!(ledger.count(), 200);

    disk.fill();
    let refused = runtime.block_on(async {
        let from: Address = "app@a.example".parse().unwrap();
        let content = incompressible_megabyte();
        let mut report = None;
        // What was made ready before may take some.
        for number in 0..100 {
            let to: Address = format!("big{number}@x.example").parse().unwrap();
            let sent = pool
                .send(Envelope::single(from.clone(), to), content.clone())
                .await;
            if !sent.is_accepted() {
                report = Some(sent);
                break;
            }
        }
        report.expect("a full disk takes no message of a megabyte")
    });
    let code = refused.first_failure().and_then(client::Failure::code);
    assert_eq!(code.map(smtp::ReplyCode::get), Some(452), "{refused:?}");
    let ready = || {
        let asked = agent().get(format!("{}/readyz", server.http())).call();
        let mut answer = asked.unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), text)
    };
    let (status, why) = ready();
    assert!(
        status == 503 && why.contains("next segment takes 64 MiB"),
        "{status} {why}"
    );

    disk.free();
    wait_until("it says that mail is taken", || ready().0 == 200);
    wait_until("mail is taken again", || {
        let more = ledger.count() + 1;
        runtime.block_on(submit(pool.clone(), Arc::clone(&ledger), more));
        ledger.count() >= more
    });
    server.end(Signal::KILL);
    deliver_the_rest(&home, &sink, &ledger);
    account(&sink, &ledger);
}

#[test]
fn nothing_acknowledged_is_lost_to_a_server_that_cuts_connections() {
    let (seed, messages) = (
        setting("CRASH_SEED", 2),
        setting("CRASH_MESSAGES", 10_000) / 5,
    );
    let cut = |stage, chance: f64| Rule::new(stage, Action::Drop).probability(chance);
    let sink = start(
        Sink::builder()
            .keep_records()
            .seed(seed)
            .rule(cut(Stage::Content, 0.002))
            .rule(cut(Stage::Rcpt, 0.002)),
    );
    let soon = ["connect", "handshake", "transient"]
        .map(|class| format!("[retry.{class}]\nfirst = \"1s\"\n"));
    let home = Home::new(&format!("{}{}", config(&sink), soon.concat()));
    let ledger = Arc::new(Ledger::default());
    let kills = storm(&home, &ledger, messages, seed, None);
    deliver_the_rest(&home, &sink, &ledger);
    let duplicates = account(&sink, &ledger);
    let connections = sink.report().connections;
    println!(
        "seed {seed}: {messages} acknowledged, {kills} kills, {connections} connections, {duplicates} duplicates"
    );
    assert_few(duplicates, kills, connections);
}
