//! What history costs: records a second in, bytes a record, and how long questions take.
//!
//! `cargo bench -p mailrail-store --bench history [-- MILLIONS [FOLDER]]`: one million records where
//! nothing is said. Records are taken, packed, written and indexed on one thread; making them up is
//! not counted. Times are of the CPU, so that what else the machine does counts little; for questions
//! those of the clock, too. Records' plain size is that of the spool's own compact codec, not of JSON.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use smtp::EnhancedStatus;
use store::history::{EventSink, History, HistoryOptions, Order, Position, Query};
use store::{Event, Heading, MessageId, Outcome, Said, StageTimes, Status, Tags, Time, codec};

const BATCH: usize = 50_000;
const QUESTIONS: usize = 300;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let millions: f64 = args
        .next()
        .map_or(1.0, |arg| arg.parse().expect("a number"));
    let count = (millions * 1e6) as usize;
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = args
        .next()
        .map_or(temporary.path().to_owned(), PathBuf::from);
    let folder = folder.join("history");
    let mut world = World::new(count);
    fill(&folder, count, &mut world);
    ask(&folder, &world);
}

fn options() -> HistoryOptions {
    HistoryOptions {
        age_max: None,
        bytes_max: None,
        thread: false,
        ..HistoryOptions::default()
    }
}

fn fill(folder: &Path, count: usize, world: &mut World) {
    let history = History::open(folder, &options()).expect("a new history");
    let (mut took, mut plain, mut record) = (Duration::ZERO, 0, Vec::new());
    let mut position = 0;
    let mut rest = count;
    while rest > 0 {
        let batch: Vec<Event> = (0..rest.min(BATCH)).map(|_| world.next()).collect();
        rest -= batch.len();
        for event in batch.iter().step_by(16) {
            record.clear();
            codec::encode_event(event, &mut record);
            plain += 16 * (record.len() + event.heading.as_deref().map_or(0, plain_bytes));
        }
        let start = cpu();
        for event in batch {
            position += 1;
            history.committed(Position::from_u64(position), event);
        }
        took += cpu() - start;
    }
    let start = cpu();
    history.flush().expect("room");
    took += cpu() - start;
    let stats = history.stats();
    let each = |bytes: f64| bytes / count as f64;
    let index: u64 = sizes(folder, "index");
    let rate = count as f64 / took.as_secs_f64();
    println!("records                 {count}");
    println!(
        "in                      {rate:.0} records/s, {:.2} µs each",
        1e6 / rate
    );
    println!(
        "plain                   {:.1} bytes a record",
        each(plain as f64)
    );
    println!(
        "stored                  {:.1} bytes a record, of which index {:.1}: {:.1} % of plain",
        each(stats.bytes as f64),
        each(index as f64),
        100.0 * stats.bytes as f64 / plain as f64,
    );
    println!("files                   {}", stats.sealed_files);
}

/// What a heading takes in the record of an accepted message: two texts with their lengths.
fn plain_bytes(heading: &Heading) -> usize {
    2 + heading.from.len() + heading.subject.len()
}

fn sizes(folder: &Path, extension: &str) -> u64 {
    let files = std::fs::read_dir(folder).expect("the folder");
    let files = files.map(|file| file.expect("a file"));
    let wanted = files.filter(|file| file.path().extension().is_some_and(|it| it == extension));
    wanted
        .map(|file| file.metadata().expect("its size").len())
        .sum()
}

fn ask(folder: &Path, world: &World) {
    let start = Instant::now();
    let history = History::open(folder, &options()).expect("the history");
    println!("opened in               {:?}", start.elapsed());
    let mut random = Random(99);
    let some = |random: &mut Random| {
        let index = random.below(world.known.len() as u64);
        world.known[index as usize].clone()
    };
    measure("the timeline of a message", || {
        let query = Query {
            message: Some(some(&mut random).0),
            order: Order::Oldest,
            ..Query::default()
        };
        history.query(&query).expect("an answer").events.len()
    });
    measure("the latest of a message", || {
        let message = some(&mut random).0;
        history.latest(message).expect("an answer").events.len()
    });
    measure("all of a recipient", || {
        let query = Query {
            recipient: Some(some(&mut random).1.into()),
            ..Query::default()
        };
        history.query(&query).expect("an answer").events.len()
    });
    measure("a message there is not", || {
        let query = Query {
            message: Some(MessageId::from_bits(random.bits().into())),
            ..Query::default()
        };
        history.query(&query).expect("an answer").events.len()
    });
    measure("the newest 100", || {
        history
            .query(&Query::default())
            .expect("an answer")
            .events
            .len()
    });
    measure("a tenant's newest 100 bounces", || {
        let query = Query {
            tenant: Some(format!("tenant-{}", random.below(20)).into()),
            status: Some(Status::Bounced),
            ..Query::default()
        };
        history.query(&query).expect("an answer").events.len()
    });
    measure("an hour's minutes", || {
        let now = world.now;
        history.minutes(now - Time::from_secs(3600), now).len()
    });
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure(what: &str, mut question: impl FnMut() -> usize) {
    let (mut times, mut cpu_times) = (Vec::new(), Vec::new());
    let mut found = 0;
    for _ in 0..QUESTIONS {
        let start = (Instant::now(), cpu());
        found += black_box(question());
        times.push(start.0.elapsed());
        cpu_times.push(cpu() - start.1);
    }
    let at = |times: &mut Vec<Duration>, percent: usize| {
        times.sort_unstable();
        times[(QUESTIONS - 1) * percent / 100].as_secs_f64() * 1e3
    };
    println!(
        "{what:30} ms of CPU: median {:7.3}, p99 {:7.3}; by the clock: median {:7.3}, p99 {:7.3} \
         ({:.1} found)",
        at(&mut cpu_times, 50),
        at(&mut cpu_times, 99),
        at(&mut times, 50),
        at(&mut times, 99),
        found as f64 / QUESTIONS as f64,
    );
}

/// Bits from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// Small numbers are likelier: as sites and domains are.
    fn skewed(&mut self, bound: usize) -> usize {
        let unit = self.below(1 << 20) as f64 / (1 << 20) as f64;
        (unit.powi(3) * bound as f64) as usize
    }

    /// About this many microseconds.
    fn around(&mut self, us: u64) -> u32 {
        (us / 2 + self.below(us)) as u32
    }

    fn of(&mut self, letters: &[u8], count: usize) -> String {
        let letter = |_| char::from(letters[self.below(letters.len() as u64) as usize]);
        (0..count).map(letter).collect()
    }
}

/// A relay with 20 tenants that sends to 60 sites, about 2,000 messages at a time.
struct World {
    random: Random,
    now: Time,
    count: u64,
    population: u64,
    tenants: Vec<Arc<str>>,
    sites: Vec<(Arc<str>, [Arc<str>; 3])>,
    source: Arc<str>,
    open: Vec<Event>,
    /// Some of the messages and recipients there are.
    known: Vec<(MessageId, String)>,
}

const FIRST: &[&str] = &[
    "anna", "ben", "carla", "david", "elena", "felix", "greta", "hans", "ida", "jonas", "karin",
    "luca", "maria", "nils", "olga", "peter", "quentin", "rosa", "stefan", "tina",
];
const LAST: &[&str] = &[
    "mueller",
    "smith",
    "garcia",
    "rossi",
    "kowalski",
    "dubois",
    "jansen",
    "novak",
    "silva",
    "ito",
    "andersson",
    "oconnor",
    "ivanova",
    "yilmaz",
    "nguyen",
    "schmidt",
];
const BASE32: &[u8] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
const HEX: &[u8] = b"0123456789abcdef";

impl World {
    fn new(count: usize) -> Self {
        let site = |index: usize| {
            let name = format!("mx.provider{index}.example");
            let host = |host: usize| Arc::from(format!("mx{host}.provider{index}.example:25"));
            (Arc::from(name), [host(1), host(2), host(3)])
        };
        Self {
            random: Random(7),
            now: Time::from_millis(1_790_000_000_000),
            count: 0,
            population: (count as u64 / 8).max(1),
            tenants: (0..20)
                .map(|it| Arc::from(format!("tenant-{it}")))
                .collect(),
            sites: (0..60).map(site).collect(),
            source: "".into(),
            open: Vec::new(),
            known: Vec::new(),
        }
    }

    fn next(&mut self) -> Event {
        self.count += 1;
        self.now += Time::from_nanos(10_000 + self.random.below(20_000));
        if self.open.len() < 2000 || self.random.below(2) == 0 && self.open.len() < 2100 {
            self.accepted()
        } else {
            self.attempted()
        }
    }

    fn accepted(&mut self) -> Event {
        let person = self.random.below(self.population);
        let (first, last) = (
            person as usize % FIRST.len(),
            person as usize / 20 % LAST.len(),
        );
        let mut of_person = Random(person);
        let domain = of_person.skewed(400);
        let address = format!(
            "{}.{}{}@company{domain}.example",
            FIRST[first],
            LAST[last],
            person / 320
        );
        let ms = self.now.as_millis() as u64;
        let tenant = self.random.skewed(self.tenants.len());
        let campaign = format!("campaign-2026-{:02}", self.random.skewed(30));
        let tags: Tags = Arc::from([
            ("campaign".into(), campaign.into()),
            (
                "kind".into(),
                ["receipt", "newsletter", "login"][tenant % 3].into(),
            ),
        ]);
        let event = Event {
            at: self.now,
            message: MessageId::assemble(ms, self.count as u16, 0x1234_5678_9abc_def0),
            recipient: 0,
            address: address.as_str().into(),
            tenant: Arc::clone(&self.tenants[tenant]),
            tags,
            status: Status::Accepted,
            due_at: Some(self.now),
            outcome: None,
            heading: Some(Arc::new(self.heading(tenant))),
        };
        if self.random.below(100) == 0 {
            self.known.push((event.message, address));
        }
        self.open.push(event.clone());
        event
    }

    /// Receipts have a number, newsletters an issue, logins a code.
    fn heading(&mut self, tenant: usize) -> Heading {
        let random = &mut self.random;
        let subject = match tenant % 3 {
            0 => format!("Your order {} has been shipped", random.below(10_000_000)),
            1 => format!("This week's offers, no. {}", 600 + random.skewed(8)),
            _ => format!(
                "{} is your code for tenant-{tenant}",
                random.below(1_000_000)
            ),
        };
        Heading {
            from: format!("bounces@tenant-{tenant}.example").into(),
            subject: subject.into(),
        }
    }

    fn attempted(&mut self) -> Event {
        // About the oldest first.
        let index = self.random.skewed(self.open.len());
        let mut event = self.open.swap_remove(index);
        let attempt = event.outcome.as_ref().map_or(1, |it| it.attempt + 1);
        event.at = self.now;
        event.heading = None;
        event.status = match self.random.below(100) {
            0..=1 => Status::Bounced,
            2..=6 => Status::Deferred,
            _ => Status::Delivered,
        };
        let is_deferred = event.status == Status::Deferred;
        let later = Time::from_secs(300 + self.random.below(60));
        event.due_at = is_deferred.then_some(self.now + later);
        event.outcome = Some(Box::new(self.outcome(
            attempt,
            event.status,
            &event.address,
        )));
        if is_deferred {
            self.open.push(event.clone());
        }
        event
    }

    fn outcome(&mut self, attempt: u16, status: Status, address: &str) -> Outcome {
        let random = &mut self.random;
        let number = address.bytes().map(u64::from).sum::<u64>();
        let index = Random(number % 400).skewed(self.sites.len());
        let (site, hosts) = &self.sites[index];
        let (code, enhanced, text) = said(random, status, index);
        let mut times = StageTimes::default();
        times.0[0] = random.around(40_000);
        if random.below(50) == 0 {
            for (stage, us) in [(1, 900), (2, 12_000), (3, 25_000), (4, 9_000), (5, 9_000)] {
                times.0[stage] = random.around(us);
            }
        }
        for (stage, us) in [(7, 6_000), (8, 9_000), (9, 400), (10, 60_000)] {
            times.0[stage] = random.around(us);
        }
        Outcome {
            attempt,
            site: Arc::clone(site),
            host: Arc::clone(&hosts[random.below(3) as usize]),
            source: Arc::clone(&self.source),
            stage: if status == Status::Delivered {
                "".into()
            } else {
                "rcpt".into()
            },
            class: if status == Status::Delivered { 0xff } else { 3 },
            said: Said {
                code,
                enhanced,
                text: text.into(),
            },
            times,
        }
    }
}

fn said(random: &mut Random, status: Status, site: usize) -> (u16, Option<EnhancedStatus>, String) {
    match status {
        Status::Bounced => {
            let text = "The email account that you tried to reach does not exist. Please try \
                        double-checking the recipient's address for typos or unnecessary spaces";
            (550, EnhancedStatus::new(5, 1, 1), text.to_owned())
        }
        Status::Deferred => {
            let text = format!("Greylisted, try again in {} seconds", random.below(300));
            (451, EnhancedStatus::new(4, 7, 1), text)
        }
        _ => (250, EnhancedStatus::new(2, 0, 0), queued(random, site)),
    }
}

/// As Postfix, Google, Microsoft and Exim say it.
fn queued(random: &mut Random, site: usize) -> String {
    match site % 4 {
        0 => format!("Ok: queued as 4{}", random.of(BASE32, 14)),
        1 => format!(
            "OK  17900{} {}-{}si{}.{} - gsmtp",
            random.below(100_000),
            random.of(HEX, 12),
            random.of(HEX, 11),
            random.below(99_999_999),
            random.below(999),
        ),
        2 => format!(
            "<{}@company.example> [InternalId={}, Hostname=AM{}PR{}.prod.outlook.example] {} bytes in \
             0.{}, {}.{} KB/sec Queued mail for delivery",
            random.of(HEX, 32),
            random.below(100_000_000_000),
            random.below(9),
            random.of(b"0123456789ABCDEF", 6),
            10_000 + random.below(9_000),
            random.below(999),
            random.below(400),
            random.below(999),
        ),
        _ => format!(
            "OK id=1{}-{}-{}",
            random.of(BASE32, 5),
            random.of(BASE32, 11),
            random.of(BASE32, 4)
        ),
    }
}
