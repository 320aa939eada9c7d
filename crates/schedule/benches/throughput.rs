//! How fast the schedule is, and how much memory it takes: `cargo bench -p mailrail-schedule --bench throughput`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use flow::rate::{RateLimit, Unit};
use flow::rng::Rng;
use schedule::{
    Admission, Config, Feedback, JOB_BYTES, Job, Quota, Schedule, SiteId, SitePolicy, TenantId,
    TenantPolicy, Time,
};

const SITES: u32 = 1_000_000;
const T0: Time = Time::from_secs(1_800_000_000);

fn main() {
    for round in 0..3 {
        println!("round {round}");
        let sites = sites();
        cycle("one job a site, in order", sites, |i| i);
        let sites = self::sites();
        cycle("one job a site, at random", sites, |i| {
            i.wrapping_mul(2_654_435_761) % SITES
        });
        one_site();
        wait();
        admission();
    }
}

/// A million sites of three tenants.
fn sites() -> Schedule {
    let config = Config {
        inflight_max: u32::MAX,
        grants_max: 1024,
        ..Config::default()
    };
    let mut schedule = Schedule::new(config, 1);
    for name in ["a", "b", "c"] {
        schedule.tenant(name, &TenantPolicy::default());
    }
    let before = rss();
    let begun = Cpu::now();
    for index in 0..SITES {
        schedule.site(&format!("mx{index}.example"), &SitePolicy::STRANGER);
    }
    let bytes = rss().saturating_sub(before) / SITES as usize;
    println!(
        "  {SITES} sites made in {:.2} s, {bytes} bytes a site",
        begun.elapsed().as_secs_f64()
    );
    schedule
}

fn job(key: u64, site: u32, now: Time) -> Job {
    Job {
        key,
        site: SiteId(site),
        tenant: TenantId((key % 3) as u32),
        priority: (key % 3) as u8,
        cost: 1,
        due_at: now,
        expires_at: now + Duration::from_secs(432_000),
        ..Job::default()
    }
}

/// Insert, grant and settle, a few thousand at a time, as an engine does.
fn cycle(name: &str, mut schedule: Schedule, site: impl Fn(u32) -> u32) {
    const BATCH: u32 = 4096;
    let (mut grants, mut expired) = (Vec::new(), Vec::new());
    let (mut now, mut done) = (T0, 0_u64);
    let begun = Cpu::now();
    for start in (0..SITES * 2).step_by(BATCH as usize) {
        now += Duration::from_micros(1500);
        for index in start..start + BATCH {
            schedule.insert(job(index.into(), site(index) % SITES, now), now);
        }
        loop {
            schedule.poll(now, &mut grants, &mut expired);
            if grants.is_empty() {
                break;
            }
            done += grants.len() as u64;
            for job in grants.drain(..) {
                let rtt = Duration::from_millis(1);
                schedule.settle(now, &job, Feedback::Delivered { rtt });
            }
        }
    }
    report(name, done, begun);
    assert!(schedule.is_empty() && expired.is_empty());
}

/// All to one site, from a thousand tenants.
fn one_site() {
    let config = Config {
        inflight_max: u32::MAX,
        ..Config::default()
    };
    let mut schedule = Schedule::new(config, 1);
    let site = schedule.site("big.example", &SitePolicy::refusals(5000, 5000));
    for index in 0..1000 {
        schedule.tenant(&format!("t{index}"), &TenantPolicy::default());
    }
    let (mut grants, mut expired, mut done) = (Vec::new(), Vec::new(), 0);
    let begun = Cpu::now();
    for round in 0..200_u64 {
        for index in 0..5000 {
            let tenant = TenantId((index % 1000) as u32);
            let job = job(round, site.0, T0);
            schedule.insert(Job { tenant, ..job }, T0);
        }
        while !schedule.is_empty() {
            schedule.poll(T0, &mut grants, &mut expired);
            done += grants.len() as u64;
            for job in grants.drain(..) {
                let rtt = Duration::from_millis(1);
                schedule.settle(T0, &job, Feedback::Delivered { rtt });
            }
        }
    }
    report("one site, 1000 tenants", done, begun);
}

/// A million jobs in the retry wheel, due over four hours, and out of it.
fn wait() {
    let mut schedule = Schedule::new(Config::default(), 1);
    let tenant = schedule.tenant("t", &TenantPolicy::default());
    let site = schedule.site("dead.example", &SitePolicy::STRANGER);
    schedule.suspend_site("dead.example");
    let (before, mut rng) = (rss(), Rng::new(1));
    let begun = Cpu::now();
    for key in 0..1_000_000 {
        let due_at = T0 + rng.duration_up_to(Duration::from_secs(4 * 3600));
        let job = job(key, site.0, T0);
        schedule.insert(
            Job {
                due_at,
                tenant,
                ..job
            },
            T0,
        );
    }
    report("into the wheel", 1_000_000, begun);
    let bytes = rss().saturating_sub(before);
    println!(
        "  a million waiting: {} MB resident, {JOB_BYTES} bytes a job in use",
        bytes >> 20
    );
    let (mut grants, mut expired, mut now, mut longest) =
        (Vec::new(), Vec::new(), T0, Duration::ZERO);
    let begun = Cpu::now();
    while schedule.totals().waiting > 0 {
        let poll = Instant::now();
        let next = schedule.poll(now, &mut grants, &mut expired);
        longest = longest.max(poll.elapsed());
        now = next.unwrap().max(now + Duration::from_millis(50));
    }
    report("out of the wheel, over four hours", 1_000_000, begun);
    println!("  longest poll {} µs", longest.as_micros());
}

fn admission() {
    const TENANTS: u32 = 10_000;
    let mut admission = Admission::new();
    for index in 0..TENANTS {
        let quota = Quota {
            rate: RateLimit::new(1_000_000, Unit::Second).ok(),
            burst: 1000,
            daily_max: Some(u64::MAX),
            stock_max: Some(u64::MAX),
            is_suspended: false,
        };
        admission.set(TenantId(index), quota, T0);
    }
    let (mut rng, mut now, mut passed) = (Rng::new(1), T0, 0_u64);
    let tenants: Vec<_> = (0..4096)
        .map(|_| TenantId(rng.up_to(u64::from(TENANTS) - 1) as u32))
        .collect();
    let begun = Cpu::now();
    for _ in 0..5000 {
        now += Duration::from_micros(400);
        for tenant in &tenants {
            passed += u64::from(black_box(admission.check(*tenant, 1, now)).is_ok());
        }
    }
    report("admission checks, 10000 tenants", 5000 * 4096, begun);
    assert!(passed > 0);
}

fn report(name: &str, count: u64, begun: Cpu) {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = count as f64 / seconds / 1e6;
    println!("  {name}: {rate:.2} million a second");
}

/// Time that this thread was running: others may run on the machine. Wall time where the system does not tell.
#[derive(Clone, Copy)]
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse().ok());
        let wall = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Self(ns.map_or_else(wall, Duration::from_nanos))
    }

    fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Resident memory in bytes, where the system tells it.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
