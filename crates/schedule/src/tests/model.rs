//! The whole schedule against what an outsider may demand of it, whatever happens in whatever order.

use std::collections::{HashMap, HashSet};

use flow::rate::{RateLimit, Unit};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

const SITES: u64 = 4;
const TENANTS: u64 = 3;
const INFLIGHT_MAX: u32 = 12;

#[derive(Debug, Clone)]
enum Step {
    Insert {
        who: u64,
        due_ms: u64,
        lives_ms: u64,
        cost: u16,
    },
    Poll {
        after_ms: u64,
    },
    Settle {
        which: u64,
        how: u8,
    },
    Suspend {
        who: u64,
        on: bool,
    },
    Tenant {
        who: u64,
        on: bool,
    },
    Remove {
        who: u64,
    },
    Reschedule {
        who: u64,
        due_ms: u64,
    },
    Pressure {
        percent: u8,
    },
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let ms = || prop_oneof![Just(0), 0..100_u64, 0..100_000_u64];
    prop_oneof![
        6 => (any::<u64>(), ms(), 1..400_000_u64, 1..20_u16)
            .prop_map(|(who, due_ms, lives_ms, cost)| Step::Insert { who, due_ms, lives_ms, cost }),
        6 => ms().prop_map(|after_ms| Step::Poll { after_ms }),
        6 => (any::<u64>(), 0..8_u8).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(who, on)| Step::Suspend { who, on }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(who, on)| Step::Tenant { who, on }),
        1 => any::<u64>().prop_map(|who| Step::Remove { who }),
        1 => (any::<u64>(), ms()).prop_map(|(who, due_ms)| Step::Reschedule { who, due_ms }),
        1 => (0..=100_u8).prop_map(|percent| Step::Pressure { percent }),
        1 => Just(Step::Forget),
    ]
}

/// The schedule, and a book of what should be in it.
struct Model {
    schedule: Schedule,
    now: Time,
    next_key: u64,
    /// Jobs handed in and not out, by key.
    inside: HashMap<u64, Job>,
    inflight: Vec<Job>,
    out: HashSet<u64>,
    tenant_grants: HashMap<TenantId, Vec<Time>>,
    site_grants: HashMap<String, Vec<Time>>,
}

fn per_second(count: u64) -> Option<RateLimit> {
    RateLimit::new(count, Unit::Second).ok()
}

fn site_name(index: u64) -> String {
    format!("mx{index}.example")
}

/// Site 1 has a rate of 20/s and a burst of 3.
fn site_policy(index: u64) -> SitePolicy {
    let mut policy = SitePolicy::refusals(1 + index as u16 * 2, 8);
    if index == 1 {
        (policy.rate, policy.burst) = (per_second(20), 3);
    }
    if index == 2 {
        policy = SitePolicy::relay(6);
    }
    policy
}

/// Tenant 1 has 30/s and a burst of 2, tenant 2 at most 2 in flight.
fn tenant_policy(index: u64) -> TenantPolicy {
    let mut policy = TenantPolicy {
        weight: 1 + index as u16,
        ..TenantPolicy::default()
    };
    match index {
        1 => (policy.rate, policy.burst) = (per_second(30), 2),
        2 => policy.inflight_max = 2,
        _ => {}
    }
    policy
}

impl Model {
    fn new(seed: u64) -> Self {
        let config = Config {
            inflight_max: INFLIGHT_MAX,
            grants_max: 5,
            timers_max: 16,
            ..Config::default()
        };
        let mut schedule = Schedule::new(config, seed);
        for index in 0..TENANTS {
            schedule.tenant(&format!("t{index}"), &tenant_policy(index));
        }
        Self {
            schedule,
            now: T0,
            next_key: 0,
            inside: HashMap::new(),
            inflight: Vec::new(),
            out: HashSet::new(),
            tenant_grants: HashMap::new(),
            site_grants: HashMap::new(),
        }
    }

    fn site(&mut self, who: u64) -> SiteId {
        let index = who % SITES;
        self.schedule.site(&site_name(index), &site_policy(index))
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Insert {
                who,
                due_ms,
                lives_ms,
                cost,
            } => self.insert(who, due_ms, lives_ms, cost),
            Step::Poll { after_ms } => {
                self.now += ms(after_ms);
                self.poll()?;
            }
            Step::Settle { which, how } => self.settle(which, how),
            Step::Suspend { who, on } => {
                let name = site_name(who % SITES);
                match on {
                    true => self.schedule.suspend_site(&name),
                    false => self.schedule.resume_site(&name),
                }
            }
            Step::Tenant { who, on } => {
                let tenant = TenantId((who % TENANTS) as u32);
                match on {
                    true => self.schedule.suspend_tenant(tenant),
                    false => self.schedule.resume_tenant(tenant),
                }
            }
            Step::Remove { who } => {
                let is_meant = |job: &Job| job.key % 7 == who % 7;
                let removed = self.schedule.remove_where(is_meant);
                let before = self.inside.len();
                self.inside.retain(|_, job| !is_meant(job));
                prop_assert_eq!(removed, before - self.inside.len());
            }
            Step::Reschedule { who, due_ms } => self.reschedule(who, due_ms),
            Step::Pressure { percent } => self.schedule.pressure(f64::from(percent) / 100.0),
            Step::Forget => {
                self.schedule.forget_idle(self.now, ms(0));
            }
        }
        prop_assert_eq!(self.schedule.len(), self.inside.len());
        prop_assert_eq!(
            self.schedule.totals().inflight as usize,
            self.inflight.len()
        );
        Ok(())
    }

    fn insert(&mut self, who: u64, due_ms: u64, lives_ms: u64, cost: u16) {
        let job = Job {
            key: self.next_key,
            site: self.site(who),
            tenant: TenantId((who / 7 % TENANTS) as u32),
            priority: (who / 31 % 3) as u8,
            cost,
            due_at: self.now + ms(due_ms),
            expires_at: self.now + ms(lives_ms),
            ..Job::default()
        };
        self.next_key += 1;
        self.inside.insert(job.key, job);
        self.schedule.insert(job, self.now);
    }

    fn reschedule(&mut self, who: u64, due_ms: u64) {
        let due_at = self.now + ms(due_ms);
        let change = |job: &Job| (job.key % 5 == who % 5).then_some(due_at);
        self.schedule.reschedule_where(self.now, change);
        for job in self
            .inside
            .values_mut()
            .filter(|job| job.key % 5 == who % 5)
        {
            job.due_at = due_at;
        }
    }

    fn poll(&mut self) -> Result<Option<Time>, TestCaseError> {
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        let next = self.schedule.poll(self.now, &mut grants, &mut expired);
        for job in expired {
            let known = self.inside.remove(&job.key);
            prop_assert!(known.is_some(), "{job:?} came out twice");
            prop_assert!(job.expires_at <= self.now, "{job:?} expired early");
            self.out.insert(job.key);
        }
        for job in grants {
            let known = self.inside.remove(&job.key);
            prop_assert!(known.is_some(), "{job:?} came out twice");
            prop_assert!(known.unwrap().due_at <= self.now, "{job:?} is early");
            prop_assert!(self.now < job.expires_at, "{job:?} is late");
            let site = self.schedule.site_view(job.site).unwrap().name;
            let of_site = self.site_grants.entry(site.to_string());
            of_site.or_default().push(self.now);
            let of_tenant = self.tenant_grants.entry(job.tenant);
            of_tenant.or_default().push(self.now);
            self.inflight.push(job);
        }
        self.check_inflight()?;
        Ok(next)
    }

    fn check_inflight(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.inflight.len() <= INFLIGHT_MAX as usize);
        let of_two = self.inflight.iter().filter(|job| job.tenant == TenantId(2));
        prop_assert!(of_two.count() <= 2);
        for view in self.schedule.sites() {
            let count = self
                .inflight
                .iter()
                .filter(|job| job.site == view.id)
                .count();
            prop_assert_eq!(view.inflight as usize, count);
        }
        Ok(())
    }

    fn settle(&mut self, which: u64, how: u8) {
        if self.inflight.is_empty() {
            return;
        }
        let job = self
            .inflight
            .swap_remove(which as usize % self.inflight.len());
        let feedback = match how {
            0 | 1 => OK,
            2 => Feedback::Refused,
            3 => Feedback::RateRefused,
            4 => Feedback::ConnectFailed,
            5 => Feedback::ConnectionRefused,
            6 => Feedback::HandshakeFailed,
            _ => Feedback::Withdrawn,
        };
        self.schedule.settle(self.now, &job, feedback);
        match how {
            3 | 5 | 7 => match self.schedule.put_back(job, self.now) {
                PutBack::Kept(_) => drop(self.inside.insert(job.key, job)),
                PutBack::Spent => {}
            },
            2 | 4 => self.retry(job),
            _ => {}
        }
    }

    fn retry(&mut self, mut job: Job) {
        job.attempts += 1;
        job.refusals = 0;
        let retry = self.schedule.retry_at(&job, ErrorClass::Connect, self.now);
        if let Retry::At(at) = retry {
            assert!(at > self.now && at < job.expires_at);
            job.due_at = at;
            self.inside.insert(job.key, job);
            self.schedule.insert(job, self.now);
        }
    }

    /// With all held back let go, and all that is granted delivered, everything comes out, at the times that poll told.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.schedule.pressure(1.0);
        for who in 0..SITES {
            self.schedule.resume_site(&site_name(who));
        }
        for who in 0..TENANTS {
            self.schedule.resume_tenant(TenantId(who as u32));
        }
        for _ in 0..200_000 {
            let next = self.poll()?;
            while !self.inflight.is_empty() {
                self.settle(0, 0);
            }
            if self.inside.is_empty() {
                return Ok(());
            }
            let again = self.schedule.totals().ready > 0 && next.is_none();
            let next = if again { Some(self.now) } else { next };
            prop_assert!(next.is_some(), "{} would wait for ever", self.inside.len());
            self.now = self.now.max(next.unwrap());
        }
        prop_assert!(false, "{} are stuck", self.inside.len());
        Ok(())
    }

    fn check_rates(&self) -> Result<(), TestCaseError> {
        let none = Vec::new();
        let of_tenant = self.tenant_grants.get(&TenantId(1)).unwrap_or(&none);
        within(of_tenant, 30.0, 2.0)?;
        let of_site = self.site_grants.get(&site_name(1)).unwrap_or(&none);
        within(of_site, 20.0, 3.0)
    }
}

/// No span of time has more of them than burst and rate allow.
fn within(times: &[Time], rate: f64, burst: f64) -> Result<(), TestCaseError> {
    for (index, from) in times.iter().enumerate() {
        for (count, to) in times[index..].iter().enumerate() {
            let most = burst + rate * (*to - *from).as_secs_f64() + 1e-6;
            prop_assert!(
                count as f64 + 1.0 <= most,
                "{} in {:?}",
                count + 1,
                *to - *from
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn each_job_comes_out_once_in_time_and_within_all_limits(
        steps in proptest::collection::vec(step(), 1..250), seed: u64,
    ) {
        let mut model = Model::new(seed);
        for step in &steps {
            model.apply(step)?;
        }
        model.drain()?;
        model.check_rates()?;
    }

    #[test]
    fn a_rate_is_never_exceeded_over_any_span(
        gaps in proptest::collection::vec((0..200_u64, 0..10_u16), 1..300),
        site_rate in 1..60_u64, tenant_rate in 1..60_u64, all_rate in 1..60_u64,
    ) {
        let config = Config { rate: per_second(all_rate), ..Config::default() };
        let mut world = World::new(config.clone());
        let policy = |window| SitePolicy { rate: per_second(site_rate), burst: 4, ..SitePolicy::refusals(window, 50) };
        let site = world.schedule.site("a.example", &policy(50));
        let of_tenant = |weight| TenantPolicy { weight, rate: per_second(tenant_rate), burst: 5, ..TenantPolicy::default() };
        let tenant = world.schedule.tenant("t", &of_tenant(1));
        (0..300).for_each(|key| { world.insert(key, site, tenant); });
        let mut times = Vec::new();
        for (gap, other) in gaps {
            world.now += ms(gap);
            // Other settings than the rates change.
            match other {
                1 | 2 => drop(world.schedule.site("a.example", &policy(48 + other))),
                3 | 4 => drop(world.schedule.tenant("t", &of_tenant(other))),
                5 | 6 => world.schedule.configure(Config { put_backs_max: other as u8, ..config.clone() }),
                _ => {}
            }
            let count = world.poll().len();
            times.extend(std::iter::repeat_n(world.now, count));
            world.settle_all(OK);
        }
        within(&times, site_rate as f64, 4.0)?;
        within(&times, tenant_rate as f64, 5.0)?;
        within(&times, all_rate as f64, 1.0)?;
    }
}
