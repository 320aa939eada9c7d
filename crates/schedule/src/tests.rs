//! Behaviour of the whole schedule, under virtual time.
//!
//! Over 500 lines: each promise is a short story in the same world.

use std::time::Duration;

use flow::retry::ErrorClass;

use super::*;

mod model;

const T0: Time = Time::from_secs(1_800_000_000);
const OK: Feedback = Feedback::Delivered {
    rtt: Duration::from_millis(5),
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A schedule with a tenant and a wide open site, and what came out of it.
struct World {
    schedule: Schedule,
    now: Time,
    granted: Vec<Job>,
    expired: Vec<Job>,
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            schedule: Schedule::new(config, 7),
            now: T0,
            granted: Vec::new(),
            expired: Vec::new(),
        }
    }

    fn site(&mut self, name: &str, window: u16) -> SiteId {
        self.schedule
            .site(name, &SitePolicy::refusals(window, window))
    }

    fn tenant(&mut self, name: &str) -> TenantId {
        self.schedule.tenant(name, &TenantPolicy::default())
    }

    fn binding(&self, site: SiteId) -> Limit {
        self.schedule.site_view(site).unwrap().binding
    }

    fn job(&self, key: u64, site: SiteId, tenant: TenantId) -> Job {
        Job {
            key,
            site,
            tenant,
            priority: 1,
            cost: 1,
            due_at: self.now,
            expires_at: self.now + Time::from_secs(86_400),
            ..Job::default()
        }
    }

    fn insert(&mut self, key: u64, site: SiteId, tenant: TenantId) -> Job {
        let job = self.job(key, site, tenant);
        self.schedule.insert(job, self.now);
        job
    }

    /// What one poll grants.
    fn poll(&mut self) -> Vec<u64> {
        let mut grants = Vec::new();
        self.schedule.poll(self.now, &mut grants, &mut self.expired);
        self.granted.extend(&grants);
        grants.iter().map(|job| job.key).collect()
    }

    fn settle_all(&mut self, feedback: Feedback) {
        for job in std::mem::take(&mut self.granted) {
            self.schedule.settle(self.now, &job, feedback);
        }
    }
}

#[test]
fn what_is_due_is_granted_in_order_as_the_window_allows() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 2), world.tenant("t"));
    for key in 0..5 {
        world.insert(key, site, tenant);
    }
    assert_eq!(world.poll(), [0, 1]);
    assert_eq!(world.poll(), []);
    world.settle_all(OK);
    assert_eq!(world.poll(), [2, 3]);
    world.settle_all(OK);
    assert_eq!(world.poll(), [4]);
    assert!(world.schedule.is_empty());
}

#[test]
fn a_refusal_for_rate_puts_back_at_the_head_and_slows_the_site() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 2), world.tenant("t"));
    for key in 0..5 {
        world.insert(key, site, tenant);
    }
    world.poll();
    world.now += ms(5);
    let jobs = std::mem::take(&mut world.granted);
    for job in &jobs {
        world.schedule.settle(world.now, job, Feedback::RateRefused);
        let put_back = world.schedule.put_back(*job, world.now);
        assert!(matches!(put_back, PutBack::Kept(_)));
    }
    let mut order = Vec::new();
    for _ in 0..5000 {
        world.now += ms(1);
        order.extend(world.poll());
        world.settle_all(OK);
    }
    assert_eq!(order, [0, 1, 2, 3, 4]);
    let view = world.schedule.site_view(site).unwrap();
    assert!(view.pace_per_s.is_some());
}

#[test]
fn tenants_share_a_site_by_weight_in_recipients() {
    let mut world = World::new(Config::default());
    let site = world.site("a.example", 1);
    let weights = [1, 2, 5];
    for (index, weight) in weights.into_iter().enumerate() {
        let policy = TenantPolicy {
            weight,
            ..TenantPolicy::default()
        };
        let tenant = world.schedule.tenant(&format!("t{index}"), &policy);
        // Few big messages, many small ones: it is recipients that count.
        for key in 0..4000 {
            let job = world.job(key, site, tenant);
            let cost = [40, 1, 7][index];
            world.schedule.insert(Job { cost, ..job }, world.now);
        }
    }
    let mut got = [0_u32; 3];
    for _ in 0..3000 {
        world.poll();
        for job in &world.granted {
            got[job.tenant.0 as usize] += u32::from(job.cost);
        }
        world.settle_all(OK);
    }
    let all: u32 = got.iter().sum();
    for (got, weight) in got.into_iter().zip(weights) {
        let share = f64::from(got) / f64::from(all) * 8.0;
        assert!((share - f64::from(weight)).abs() < 0.1, "{weight}: {share}");
    }
}

#[test]
fn one_message_beside_a_flood_of_another_tenant_goes_next() {
    let mut world = World::new(Config::default());
    let site = world.site("a.example", 1);
    let (many, one) = (world.tenant("many"), world.tenant("one"));
    (0..100_000).for_each(|key| {
        world.insert(key, site, many);
    });
    world.poll();
    world.insert(1_000_000, site, one);
    let mut next = Vec::new();
    for _ in 0..2 {
        world.settle_all(OK);
        next.extend(world.poll());
    }
    assert!(next.contains(&1_000_000), "{next:?}");
}

#[test]
fn a_tenant_with_many_sites_leaves_room_for_another() {
    let config = Config {
        inflight_max: 100,
        ..Config::default()
    };
    let mut world = World::new(config);
    let (many, one) = (world.tenant("many"), world.tenant("one"));
    for index in 0..5000 {
        let site = world.site(&format!("mx{index}.example"), 5);
        (0..5).for_each(|key| {
            world.insert(key, site, many);
        });
    }
    assert_eq!(world.poll().len(), 100);
    let site = world.site("other.example", 5);
    world.insert(1_000_000, site, one);
    // One place becomes free, of a hundred.
    let job = world.granted.pop().unwrap();
    world.schedule.settle(world.now, &job, OK);
    assert_eq!(world.poll(), [1_000_000]);
}

#[test]
fn high_never_waits_for_more_than_one_of_bulk_and_bulk_always_goes_on() {
    for sites in [1, 8] {
        let config = Config {
            inflight_max: 1,
            ..Config::default()
        };
        let mut world = World::new(config);
        let tenant = world.tenant("t");
        for key in 0..900_u64 {
            let site = world.site(&format!("mx{}.example", key % sites), 1);
            let job = world.job(key, site, tenant);
            let priority = (key / sites % 3) as u8;
            world.schedule.insert(Job { priority, ..job }, world.now);
        }
        let mut order = Vec::new();
        for _ in 0..160 {
            world.poll();
            order.extend(world.granted.iter().map(|job| (job.site, job.priority)));
            world.settle_all(OK);
        }
        let of = |priority| order.iter().filter(|job| job.1 == priority).count();
        assert_eq!(of(1), 0, "{sites}: {order:?}");
        assert!((5..=16).contains(&of(2)), "{sites}: {order:?}");
        for site in 0..sites as u32 {
            let here = order.iter().filter(|job| job.0 == SiteId(site));
            let here: Vec<_> = here.map(|job| job.1).collect();
            assert!(!here.windows(2).any(|two| two == [2, 2]), "{here:?}");
        }
    }
}

#[test]
fn what_is_put_back_goes_first_in_the_order_in_which_it_was_due() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 6), world.tenant("t"));
    for key in 0..10 {
        world.now += ms(1);
        world.insert(key, site, tenant);
    }
    assert_eq!(world.poll(), [0, 1, 2, 3, 4, 5]);
    let jobs = std::mem::take(&mut world.granted);
    for index in [3, 1, 5, 0, 4, 2] {
        world
            .schedule
            .settle(world.now, &jobs[index], Feedback::Withdrawn);
        let _ = world.schedule.put_back(jobs[index], world.now);
    }
    assert_eq!(world.poll(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_relay_is_given_more_as_long_as_its_latency_does_not_rise() {
    let mut world = World::new(Config::default());
    let tenant = world.tenant("t");
    let site = world.schedule.site("relay.example", &SitePolicy::relay(64));
    (0..20_000).for_each(|key| {
        world.insert(key, site, tenant);
    });
    for _ in 0..300 {
        world.poll();
        world.now += ms(5);
        world.settle_all(OK);
    }
    assert_eq!(world.schedule.site_view(site).unwrap().window, 64);
    // It answers one after the other: what is in flight waits.
    for _ in 0..1000 {
        world.poll();
        let jobs = std::mem::take(&mut world.granted);
        for job in jobs {
            world.now += ms(5);
            let rtt = world.now - job.granted_at;
            let delivered = Feedback::Delivered { rtt };
            world.schedule.settle(world.now, &job, delivered);
        }
    }
    let window = world.schedule.site_view(site).unwrap().window;
    assert!(window < 24, "{window}");
}

#[test]
fn a_relay_of_uneven_latency_that_refuses_most_gets_its_whole_window() {
    let mut world = World::new(Config::default());
    let tenant = world.tenant("t");
    let site = world.schedule.site("relay.example", &SitePolicy::relay(20));
    (0..20_000).for_each(|key| {
        world.insert(key, site, tenant);
    });
    let mut rng = flow::rng::Rng::new(1);
    for _ in 0..600 {
        world.poll();
        // Two of three recipients are unknown, which it says at once; content takes 5 to 60 ms.
        let jobs = std::mem::take(&mut world.granted);
        let mut ends: Vec<_> = jobs
            .into_iter()
            .map(|job| match rng.chance(0.67) {
                true => (ms(1), job, Feedback::Refused),
                false => {
                    let rtt = ms(5) + rng.duration_up_to(ms(55));
                    (rtt, job, Feedback::Delivered { rtt })
                }
            })
            .collect();
        ends.sort_by_key(|(took, ..)| *took);
        for (took, job, feedback) in ends {
            world.now = world.now.max(job.granted_at + took);
            world.schedule.settle(world.now, &job, feedback);
        }
    }
    assert_eq!(world.schedule.site_view(site).unwrap().window, 20);
}

#[test]
fn a_connection_too_many_tells_the_window() {
    let mut world = World::new(Config::default());
    let tenant = world.tenant("t");
    let site = world
        .schedule
        .site("a.example", &SitePolicy::refusals(10, 20));
    (0..2000).for_each(|key| {
        world.insert(key, site, tenant);
    });
    let mut refused = 0;
    for _ in 0..100 {
        world.poll();
        // The site takes four connections.
        for job in std::mem::take(&mut world.granted).into_iter().rev() {
            let view = world.schedule.site_view(site).unwrap();
            if view.inflight > 4 {
                refused += 1;
                world
                    .schedule
                    .settle(world.now, &job, Feedback::ConnectionRefused);
                let _ = world.schedule.put_back(job, world.now);
            } else {
                world.schedule.settle(world.now, &job, OK);
            }
        }
    }
    assert!((6..20).contains(&refused), "{refused}");
    assert!((4..=5).contains(&world.schedule.site_view(site).unwrap().window));
}

#[test]
fn a_job_that_is_always_refused_is_not_kept_at_the_head_for_ever() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 1), world.tenant("t"));
    world.insert(1, site, tenant);
    for _ in 0..8 {
        world.now += ms(60_000);
        world.poll();
        let job = world.granted.pop().unwrap();
        world
            .schedule
            .settle(world.now, &job, Feedback::RateRefused);
        let put_back = world.schedule.put_back(job, world.now);
        assert!(matches!(put_back, PutBack::Kept(_)));
    }
    world.now += ms(60_000);
    world.poll();
    let job = world.granted.pop().unwrap();
    world
        .schedule
        .settle(world.now, &job, Feedback::RateRefused);
    assert_eq!(world.schedule.put_back(job, world.now), PutBack::Spent);
    assert!(world.schedule.is_empty());
}

#[test]
fn a_site_that_is_down_is_probed_by_one_and_taken_up_again() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 10), world.tenant("t"));
    (0..30).for_each(|key| {
        world.insert(key, site, tenant);
    });
    while let Limit::None | Limit::Window = world.binding(site) {
        world.poll();
        world.settle_all(Feedback::ConnectFailed);
    }
    let Limit::Breaker { until } = world.binding(site) else {
        panic!("{:?}", world.binding(site));
    };
    assert_eq!(world.poll(), []);
    world.now = until + ms(2);
    assert_eq!(world.poll().len(), 1);
    assert_eq!(world.binding(site), Limit::Probe);
    world.settle_all(OK);
    assert!(world.poll().len() > 1);
}

#[test]
fn a_recipients_refusal_says_nothing_against_the_site() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 10), world.tenant("t"));
    for key in 0..1000 {
        world.insert(key, site, tenant);
        world.poll();
        world.settle_all(Feedback::Refused);
    }
    let view = world.schedule.site_view(site).unwrap();
    assert_eq!((view.window, view.pace_per_s), (10, None));
    assert_eq!(view.binding, Limit::NothingToSend);
}

#[test]
fn what_is_too_old_expires_wherever_it_waits() {
    let mut world = World::new(Config::default());
    let tenant = world.tenant("t");
    let held = world.schedule.tenant("held", &TenantPolicy::default());
    let names = ["suspended", "full", "down", "wheel", "put back", "tenant"];
    let sites: Vec<_> = names.iter().map(|name| world.site(name, 1)).collect();
    world.schedule.suspend_site(names[0]);
    world.schedule.suspend_tenant(held);
    for (index, site) in sites.iter().enumerate() {
        // The first of a site is granted, or not; the second has to wait for it.
        world.insert(
            index as u64 * 10,
            *site,
            if index == 5 { held } else { tenant },
        );
    }
    world.poll();
    for job in std::mem::take(&mut world.granted) {
        if job.site == sites[2] {
            for _ in 0..5 {
                world
                    .schedule
                    .settle(world.now, &job, Feedback::ConnectFailed);
            }
        } else if job.site == sites[4] {
            world
                .schedule
                .settle(world.now, &job, Feedback::RateRefused);
            let _ = world.schedule.put_back(job, world.now);
        }
    }
    for (index, site) in sites.iter().enumerate() {
        let tenant = if index == 5 { held } else { tenant };
        let mut job = world.job(index as u64 * 10 + 1, *site, tenant);
        job.expires_at = world.now + Time::from_secs(3);
        if index == 3 {
            job.due_at = world.now + Time::from_secs(100);
        }
        if index != 4 {
            world.schedule.insert(job, world.now);
        }
    }
    world.now += Time::from_secs(3) + ms(2);
    world.schedule.pressure(0.0);
    world.poll();
    let keys = |jobs: &[Job]| {
        let mut keys: Vec<_> = jobs.iter().map(|job| job.key).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&world.expired), [1, 11, 21, 31, 51]);
    world.granted.clear();
    world.now += Time::from_secs(86_400);
    world.poll();
    assert!(keys(&world.expired).contains(&0) && keys(&world.expired).contains(&50));
    assert!(world.schedule.is_empty());
}

#[test]
fn a_job_waits_in_64_bytes_at_most() {
    const { assert!(JOB_BYTES <= 64) };
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 1), world.tenant("t"));
    for key in 0..100_000 {
        let job = world.job(key, site, tenant);
        let due_at = world.now + Time::from_secs(key);
        world.schedule.insert(Job { due_at, ..job }, world.now);
    }
    // A table that doubles as it grows has at most twice what is in it.
    let bytes = world.schedule.totals().job_bytes;
    assert!(bytes <= 100_000 * 128, "{bytes}");
}

#[test]
fn what_was_learned_outlives_a_restart_and_being_forgotten() {
    let mut world = World::new(Config::default());
    let tenant = world.tenant("t");
    let known = SitePolicy::refusals(5, 100);
    let site = world.schedule.site("a.example", &known);
    for key in 0..2000 {
        world.insert(key, site, tenant);
    }
    for round in 0..400 {
        world.now += ms(20);
        world.poll();
        let is_refused = round % 50 == 49;
        world.settle_all(if is_refused {
            Feedback::RateRefused
        } else {
            OK
        });
    }
    let pace = world.schedule.export_learned()[0].1.pace_per_s.unwrap();
    world.schedule.remove_where(|_| true);
    assert_eq!(world.schedule.forget_idle(world.now, ms(0)), 1);
    assert_eq!(world.schedule.totals().sites, 0);
    let learned = world.schedule.export_learned();
    assert_eq!(learned[0].1.pace_per_s, Some(pace));

    let mut next = Schedule::new(Config::default(), 1);
    next.import_learned(learned);
    let site = next.site("a.example", &known);
    let view = next.site_view(site).unwrap();
    assert_eq!(view.pace_per_s, Some(pace));
}

#[test]
fn a_site_that_has_jobs_is_not_forgotten() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 1), world.tenant("t"));
    world.insert(1, site, tenant);
    assert_eq!(world.schedule.forget_idle(world.now, ms(0)), 0);
    world.poll();
    assert_eq!(world.schedule.forget_idle(world.now, ms(0)), 0);
    world.settle_all(OK);
    assert_eq!(world.schedule.forget_idle(world.now, ms(0)), 1);
    assert_eq!(world.schedule.find_site("a.example"), None);
}

/// A site that may have two messages an hour, and a tenant with four for it.
fn two_an_hour(world: &mut World) -> (SiteId, SitePolicy) {
    let rate = "2/h".parse().ok();
    let policy = SitePolicy {
        rate,
        ..SitePolicy::refusals(10, 10)
    };
    let (site, tenant) = (world.schedule.site("a.example", &policy), world.tenant("t"));
    (0..4).for_each(|key| {
        world.insert(key, site, tenant);
    });
    assert_eq!(world.poll(), [0]);
    world.settle_all(OK);
    (site, policy)
}

#[test]
fn a_site_whose_rate_holds_it_back_is_not_forgotten() {
    let mut world = World::new(Config::default());
    let (_, policy) = two_an_hour(&mut world);
    let tenant = world.tenant("t");
    world.schedule.remove_where(|_| true);
    for (minutes, count) in [(11, 0), (31, 1)] {
        world.now = T0 + Time::from_secs(minutes * 60);
        assert_eq!(world.schedule.forget_idle(world.now, ms(600_000)), count);
        let site = world.schedule.site("a.example", &policy);
        world.insert(10 + minutes, site, tenant);
        assert_eq!(world.poll().len(), count);
        world.schedule.remove_where(|_| true);
    }
}

#[test]
fn another_rate_holds_at_once_for_what_waits() {
    let mut world = World::new(Config::default());
    let (site, policy) = two_an_hour(&mut world);
    world.now += Time::from_secs(60);
    assert_eq!(world.poll(), []);
    let faster = SitePolicy {
        rate: "2/min".parse().ok(),
        ..policy.clone()
    };
    world.schedule.site("a.example", &faster);
    assert_eq!(world.poll(), [1]);
    world.settle_all(OK);
    world.schedule.site("a.example", &policy);
    world.now += Time::from_secs(29 * 60);
    assert_eq!(world.poll(), []);
    world.now += Time::from_secs(60) + ms(2);
    assert_eq!(world.poll(), [2]);
    assert!(matches!(world.binding(site), Limit::Rate { .. }));
}

#[test]
fn other_settings_hold_from_then_on() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 50), world.tenant("t"));
    (0..50).for_each(|key| {
        world.insert(key, site, tenant);
    });
    let with = |inflight_max, retry| Config {
        inflight_max,
        retry,
        ..Config::default()
    };
    world.schedule.configure(with(3, RETRY));
    assert_eq!(world.poll().len(), 3);
    let soon = RETRY.with_backoff(
        ErrorClass::Greylisted,
        flow::backoff::Backoff::new(ms(10), ms(10)).with_jitter(0.0),
    );
    world.schedule.configure(with(20, soon));
    assert_eq!(world.poll().len(), 17);
    let job = world.granted.pop().unwrap();
    let retry = world
        .schedule
        .retry_at(&job, ErrorClass::Greylisted, world.now);
    assert_eq!(retry, Retry::At(world.now + ms(10)));
}

#[test]
fn pressure_shrinks_every_window_and_goes_as_it_came() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 20), world.tenant("t"));
    (0..100).for_each(|key| {
        world.insert(key, site, tenant);
    });
    world.schedule.pressure(0.25);
    assert_eq!(world.poll().len(), 5);
    assert_eq!(world.binding(site), Limit::Pressure);
    world.schedule.pressure(1.0);
    assert_eq!(world.poll().len(), 15);
    assert_eq!(world.binding(site), Limit::Window);
}

#[test]
fn a_budget_that_is_spent_makes_retries_later_but_gives_nothing_up() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 20), world.tenant("t"));
    let mut job = world.job(1, site, tenant);
    job.attempts = 1;
    let mut delay = |class| match world.schedule.retry_at(&job, class, world.now) {
        Retry::At(at) => (at - world.now).as_secs(),
        other => panic!("{other:?}"),
    };
    for _ in 0..1000 {
        assert!((300..=375).contains(&delay(ErrorClass::Connect)));
    }
    for _ in 0..1000 {
        assert!((450..=750).contains(&delay(ErrorClass::Connect)));
    }
    assert!((300..=360).contains(&delay(ErrorClass::Greylisted)));
}

#[test]
fn a_delay_past_the_age_limit_leaves_one_last_try_before_it() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 20), world.tenant("t"));
    let mut job = world.job(1, site, tenant);
    (job.attempts, job.expires_at) = (1, world.now + Time::from_secs(200));
    match world
        .schedule
        .retry_at(&job, ErrorClass::Connect, world.now)
    {
        Retry::At(at) => assert!(at > world.now && at < job.expires_at),
        other => panic!("{other:?}"),
    }
    job.expires_at = world.now + Time::from_secs(30);
    let retry = world
        .schedule
        .retry_at(&job, ErrorClass::Connect, world.now);
    assert_eq!(retry, Retry::Expired);
    let retry = world
        .schedule
        .retry_at(&job, ErrorClass::Permanent, world.now);
    assert!(matches!(retry, Retry::GiveUp(_)), "{retry:?}");
}

#[test]
fn the_retry_curve_follows_the_class() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 2), world.tenant("t"));
    let mut job = world.insert(1, site, tenant);
    job.attempts = 1;
    let now = world.now;
    match world.schedule.retry_at(&job, ErrorClass::Greylisted, now) {
        Retry::At(at) => assert!((300..=360).contains(&(at - now).as_secs())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_job_is_found_by_where_it_stands_and_no_other_is_looked_at() {
    let mut world = World::new(Config::default());
    let (site, tenant) = (world.site("a.example", 1), world.tenant("t"));
    let (now, later) = (world.now, world.now + ms(500));
    let due_later = |world: &World, key| Job {
        due_at: later,
        ..world.job(key, site, tenant)
    };
    let handles: Vec<Handle> = (0..100)
        .map(|key| {
            let job = match key % 2 {
                0 => due_later(&world, key),
                _ => world.job(key, site, tenant),
            };
            world.schedule.insert(job, now)
        })
        .collect();
    assert_eq!(world.poll(), [1]);
    let schedule = &mut world.schedule;
    // On the wire, never there, and another's.
    assert_eq!(schedule.remove(handles[1], 1), None);
    assert_eq!(schedule.remove(Handle::NONE, 2), None);
    assert_eq!(schedule.remove(handles[4], 2), None);
    // In the wheel, and ready.
    assert_eq!(schedule.remove(handles[2], 2).unwrap().due_at, later);
    assert_eq!(schedule.remove(handles[3], 3).unwrap().due_at, now);
    assert_eq!(schedule.remove(handles[3], 3), None);
    assert_eq!(schedule.len(), 97);
    // A place that is used again is the new job's.
    let job = due_later(&world, 200);
    let schedule = &mut world.schedule;
    let handle = schedule.insert(job, now);
    assert_eq!(handle, handles[3]);
    assert_eq!(schedule.get(handle, 3), None);
    assert_eq!(schedule.get(handle, 200).unwrap().key, 200);
    // Moved to the end of those that are due.
    assert!(schedule.reschedule(handles[4], 4, now, now));
    assert!(!schedule.reschedule(handles[4], 5, now, now));
    assert_eq!(schedule.get(handles[4], 4).unwrap().due_at, now);
    assert_eq!(schedule.totals().searched, 0);
    assert_eq!(schedule.remove_where(|job| job.key == 4), 1);
    assert!(schedule.totals().searched > 97);
}
