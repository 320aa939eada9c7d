//! What a waiting message costs: `cargo bench -p mailrail-store --bench spool -- [MESSAGES] [FOLDER]`.
//!
//! First, what records cost to write and read, and content to pack. Then appends that many messages of 4 KiB to a journal in a folder (a temporary one if none is named),
//! defers each, then opens the folder again. Prints CPU time and wall time a message and what memory
//! grew by. The folder's disk and what it has cached decide the wall times.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::{Check, DirFiles, Journal, Options};
use smtp::{Content, Envelope};
use store::codec;
use store::{Event, Head, Message, Outcome, Priority, Said, Spool, SpoolOptions, Status, Time};

const NOW: Time = Time::from_secs(1_790_000_000);

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let messages = arguments
        .first()
        .map_or(100_000, |n| n.parse().expect("a number"));
    records();
    if let Some(folder) = arguments.get(1) {
        run(Path::new(folder), messages);
    } else {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        run(folder.path(), messages);
    }
}

fn run(folder: &Path, messages: u64) {
    let is_filled = folder.join("0000000001.journal").exists();
    if !is_filled {
        fill(folder, messages);
    }
    recover(folder, messages);
}

fn open(folder: &Path) -> Journal {
    std::fs::create_dir_all(folder).expect("a folder");
    let files = Arc::new(DirFiles::open(folder).expect("a folder"));
    let options = Options {
        check: Check::Tail,
        backlog_bytes_max: 64 << 20,
        ..Options::default()
    };
    Journal::open(files, options).expect("a journal").0
}

fn options(folder: &Path) -> SpoolOptions {
    let digests = folder.join("digests");
    std::fs::create_dir_all(&digests).expect("a folder");
    SpoolOptions {
        digests: Some(Arc::new(DirFiles::open(&digests).expect("a folder"))),
        ..SpoolOptions::default()
    }
}

fn fill(folder: &Path, messages: u64) {
    let (spool, recovery) = Spool::open(open(folder), options(folder));
    assert_eq!(recovery.count(), 0);
    let line = "A line of a message, seventy-six octets long, as mail programs make them.\r\n";
    let content = Content::new(format!("Subject: hi\r\n\r\n{}", line.repeat(54))).expect("lines");
    let mut kept = Vec::with_capacity(messages as usize);
    let mut group = Vec::new();
    let meter = Meter::start();
    for n in 0..messages {
        let message = message(&spool, n, content.clone());
        let (slot, commit) = spool.append(message).expect("room");
        kept.push(slot);
        group.push(commit);
        if group.len() == 256 {
            group
                .drain(..)
                .for_each(|commit| commit.wait().expect("durable"));
        }
    }
    group
        .into_iter()
        .for_each(|commit| commit.wait().expect("durable"));
    meter.print("append", messages);
    let meter = Meter::start();
    spool.follow();
    meter.print("follow, for digests", messages);

    let meter = Meter::start();
    for (n, slot) in (0..).zip(kept) {
        let event = deferred(&spool, slot, n);
        while spool.record(slot, &event).is_err() {
            spool.journal().flush().wait().expect("durable");
        }
    }
    spool.journal().flush().wait().expect("durable");
    meter.print("defer", messages);
    spool.follow();
    println!("{:?}", spool.stats());
}

fn recover(folder: &Path, messages: u64) {
    let meter = Meter::start();
    let journal = open(folder);
    meter.print("open the journal", messages);
    let meter = Meter::start();
    let (spool, recovery) = Spool::open(journal, options(folder));
    println!("accepting after {:.3?}", meter.begun.elapsed());
    let mut first = None;
    let mut recovered = 0;
    for found in recovery {
        first.get_or_insert_with(|| meter.begun.elapsed());
        let found = found.expect("readable");
        recovered += found.recipients.len() as u64;
    }
    meter.print("recover", recovered);
    println!("the first after {:.3?}", first.unwrap_or_default());
    println!("{:?}", spool.stats());
}

fn message(spool: &Spool, n: u64, content: Content) -> Message {
    let id = spool.next_id(NOW + Time::from_micros(n));
    let from: smtp::Address = "bounces@sender.example".parse().expect("an address");
    let to: smtp::Address = format!("user{n}@mail{}.example", n % 1000)
        .parse()
        .expect("an address");
    Message::new(
        Head {
            id,
            accepted_at: id.time(),
            tenant: "shop".into(),
            envelope: Arc::new(Envelope::single(from, to)),
            tags: [].into(),
            subject: "hi".into(),
            priority: Priority::Normal,
            due_at: id.time(),
            expires_at: id.time() + Duration::from_hours(120),
        },
        content,
    )
}

fn deferred(spool: &Spool, slot: store::Slot, n: u64) -> Event {
    let message = spool.id(slot).expect("it waits");
    Event {
        at: NOW,
        message,
        recipient: 0,
        address: format!("user{n}@mail{}.example", n % 1000).into(),
        tenant: "shop".into(),
        tags: [].into(),
        status: Status::Deferred,
        due_at: Some(NOW + Time::from_millis(n)),
        outcome: Some(Box::new(Outcome {
            attempt: 1,
            site: format!("mail{}.example", n % 1000).into(),
            host: format!("mx.mail{}.example:25", n % 1000).into(),
            stage: "rcpt".into(),
            class: 2,
            said: Said {
                code: 451,
                enhanced: smtp::EnhancedStatus::new(4, 7, 1),
                text: "4.7.1 try again later".into(),
            },
            ..Outcome::default()
        })),
        heading: None,
    }
}

/// What one record costs, by how often it can be done.
fn records() {
    let journal = journal::MemoryFiles::new();
    let opened = Journal::open(Arc::new(journal), Options::default());
    let (spool, _) = Spool::open(opened.expect("a journal").0, SpoolOptions::default());
    for kib in [4, 16, 64, 256] {
        let message = message(&spool, 0, Content::new(letter(kib << 10)).expect("lines"));
        let content = message.content.as_bytes();
        let mut record = Vec::new();
        codec::encode_head(&message, false, &mut record);
        record.extend_from_slice(content);
        let record = bytes::Bytes::from(record);
        println!("content of {kib} KiB:");
        measure("  encode head", || {
            let mut head = Vec::with_capacity(256);
            codec::encode_head(black_box(&message), false, &mut head);
            head
        });
        measure("  decode message", || {
            codec::decode_message(black_box(&record))
        });
        measure("  skim message", || codec::skim_message(black_box(&record)));
        let packer = codec::Packer::new(0, 1);
        measure("  pack", || packer.pack(black_box(content)));
        let packed = packer.pack(content).expect("text packs");
        println!(
            "  packed to {:.0} %",
            100.0 * packed.len() as f64 / content.len() as f64
        );
        let mut record = Vec::new();
        codec::encode_head(&message, true, &mut record);
        record.extend_from_slice(&packed);
        let record = bytes::Bytes::from(record);
        measure("  decode packed message", || {
            codec::decode_message(black_box(&record))
        });
    }
    let (slot, _) = spool
        .append(message(&spool, 0, Content::new("a\r\n").expect("a line")))
        .expect("room");
    let event = deferred(&spool, slot, 0);
    let mut record = Vec::new();
    codec::encode_event(&event, &mut record);
    println!("event of {} octets:", record.len());
    measure("  encode", || {
        let mut out = Vec::with_capacity(256);
        codec::encode_event(black_box(&event), &mut out);
        out
    });
    measure("  decode", || codec::decode_event(black_box(&record)));
    measure("  skim", || codec::skim_event(black_box(&record)));
}

/// Lines of words such as letters have, not too regular.
fn letter(octets: usize) -> Vec<u8> {
    let words = "the of and your order number has been shipped today please find below all items \
        with their prices <td> </td> <tr> <p style=3D\"margin:0\"> href https://shop.example/track? \
        thank you for shopping we hope that see soon unsubscribe here if do not want this mail any more";
    let words: Vec<&str> = words.split_whitespace().collect();
    let (mut text, mut dice) = (b"Subject: hi\r\n\r\n".to_vec(), 1_u64);
    let mut column = 0;
    while text.len() < octets {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = match (dice >> 33) % 5 {
            0 => format!("{:x}", dice >> 44),
            _ => words[(dice >> 35) as usize % words.len()].to_owned(),
        };
        text.extend_from_slice(word.as_bytes());
        column += word.len() + 1;
        text.extend_from_slice(if column > 70 { b"\r\n" } else { b" " });
        column %= 71;
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Prints the best of some rounds.
fn measure<T>(what: &str, mut run: impl FnMut() -> T) {
    const CALLS: u32 = 200;
    let round = |_| {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| drop(black_box(run())));
        begun.elapsed() / CALLS
    };
    let best = (0..50).map(round).min().unwrap_or_default();
    println!("{what}: {best:.2?}");
}

/// Wall, CPU and memory from a moment on.
struct Meter {
    begun: Instant,
    cpu: Duration,
    resident: u64,
}

impl Meter {
    fn start() -> Self {
        Self {
            begun: Instant::now(),
            cpu: cpu(),
            resident: resident(),
        }
    }

    fn print(&self, what: &str, count: u64) {
        let (wall, cpu) = (self.begun.elapsed(), cpu() - self.cpu);
        let grown = resident() as i64 - self.resident as i64;
        println!(
            "{what}: {wall:.2?}, {:.2} us wall and {:.2} us CPU each; memory {:+} MB, {} octets each",
            wall.as_secs_f64() * 1e6 / count as f64,
            cpu.as_secs_f64() * 1e6 / count as f64,
            grown >> 20,
            grown / count.max(1) as i64,
        );
    }
}

/// User and system time of all threads, to 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("a name").split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|f| f.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_whitespace().nth(1).expect("a field");
    pages.parse::<u64>().expect("pages") * 4096
}
