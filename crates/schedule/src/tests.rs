//! Behaviour of the whole schedule, under virtual time.

use std::time::Duration;

use flow::retry::ErrorClass;

use super::*;

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

    fn insert(&mut self, key: u64, site: SiteId, tenant: TenantId) -> Job {
        let job = Job {
            key,
            site,
            tenant,
            priority: 1,
            cost: 1,
            due_at: self.now,
            expires_at: self.now + Time::from_secs(86_400),
            ..Job::default()
        };
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
        assert_eq!(world.schedule.put_back(*job, world.now), PutBack::Kept);
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
