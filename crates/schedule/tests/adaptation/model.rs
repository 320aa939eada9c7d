//! A receiver with limits that it tells nobody, and a sender that has only the schedule to go by; in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use flow::retry::ErrorClass;
use flow::rng::Rng;
use flow::window::{Law, WindowLimits};
use schedule::{
    Config, Feedback, Job, Learned, PutBack, Retry, Schedule, SiteId, SitePolicy, TenantPolicy,
    Time, WindowPolicy,
};

/// When the receiver's limits begin: any epoch will do.
const T0: Time = Time::from_secs(1_800_000_000);

/// What the receiver does from a time on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// For so long.
    pub(crate) lasts: Duration,
    /// Messages a second that it takes; 0: none.
    pub(crate) rate: f64,
    /// Messages at once after a pause.
    pub(crate) burst: f64,
    /// Connections that it takes.
    pub(crate) connections: usize,
}

/// How it says no to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 451 4.7.1 at MAIL.
    Temporary,
    /// 421 4.7.0 at MAIL, and the end of the connection.
    Close,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) steps: Vec<Step>,
    pub(crate) answer: Answer,
    /// Round trip and what the receiver thinks about a message: between once and thrice this.
    pub(crate) latency: Duration,
    /// Refusals for another reason: this share of attempts, whatever their rate.
    pub(crate) stubborn: f64,
    pub(crate) policy: SitePolicy,
    /// The schedule is replaced by a new one after so long.
    pub(crate) restart: Option<Duration>,
    pub(crate) seed: u64,
}

/// 100, 300, then 60 a second for ten seconds each, on ten connections.
pub(crate) fn steps() -> Vec<Step> {
    [100.0, 300.0, 60.0].map(step).into()
}

/// Ten seconds with a tenth of a second's burst, on ten connections.
pub(crate) fn step(rate: f64) -> Step {
    Step {
        lasts: Duration::from_secs(10),
        rate,
        burst: rate / 10.0,
        connections: 10,
    }
}

/// A window of that law, with or without a learned pace.
pub(crate) fn policy(law: Law, open: u16, pace: bool) -> SitePolicy {
    let limits = WindowLimits {
        open,
        max: 100,
        law,
    };
    let mut policy = SitePolicy::STRANGER;
    policy.window = WindowPolicy::Refusals(limits);
    policy.pace = pace;
    policy
}

impl Setting {
    pub(crate) fn new(policy: SitePolicy) -> Self {
        Self {
            steps: steps(),
            answer: Answer::Temporary,
            latency: Duration::from_millis(2),
            stubborn: 0.0,
            policy,
            restart: None,
            seed: 1,
        }
    }

    /// What the receiver would take of a sender who knew.
    fn capacity(&self) -> f64 {
        let of = |step: &Step| step.rate * step.lasts.as_secs_f64();
        self.steps.iter().map(of).sum()
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) taken: u32,
    pub(crate) attempts: u32,
    pub(crate) refused: u32,
    /// Given up by the site queue for the retry wheel.
    pub(crate) spent: u32,
    /// Share of the limit used, in all.
    pub(crate) used: f64,
    /// By tenths of a second: taken, refused, and the limit.
    pub(crate) tenths: Vec<(u32, u32, f64)>,
    /// By step: how long until the rate of the next half second lay within a tenth of the limit.
    pub(crate) converged: Vec<Option<Duration>>,
}

impl Account {
    pub(crate) fn refused_share(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.attempts.max(1))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The sender looks again.
    Poll,
    /// MAIL (1) or a connection (0) reaches the receiver.
    Arrive { job: usize, connected: bool },
    /// The reply is back.
    Reply { job: usize, reply: Said },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Taken,
    Refused,
    RefusedAndClosed,
    ConnectionRefused,
}

struct Receiver {
    tokens: f64,
    paid: Time,
    open: usize,
    rng: Rng,
}

impl Receiver {
    fn takes(&mut self, now: Time, limits: &Step) -> bool {
        let elapsed = now.saturating_sub(self.paid).as_secs_f64();
        let burst = if limits.rate > 0.0 {
            limits.burst.max(1.0)
        } else {
            0.0
        };
        self.tokens = (self.tokens + elapsed * limits.rate).min(burst);
        self.paid = now;
        let takes = self.tokens >= 1.0;
        if takes {
            self.tokens -= 1.0;
        }
        takes
    }
}

struct World<'a> {
    setting: &'a Setting,
    schedule: Schedule,
    site: SiteId,
    events: BinaryHeap<Reverse<(Time, u64, What)>>,
    sequence: u64,
    jobs: Vec<Job>,
    receiver: Receiver,
    /// Open and unused.
    idle: usize,
    rng: Rng,
    account: Account,
    next_poll: Option<Time>,
}

/// Runs it.
pub(crate) fn run(setting: &Setting) -> Account {
    let lasts: Duration = setting.steps.iter().map(|step| step.lasts).sum();
    let mut world = World::new(setting);
    let (end, mut restart) = (T0 + lasts, setting.restart.map(|after| T0 + after));
    world.fill(T0, &[]);
    world.poll_at(T0);
    while let Some(Reverse((now, _, what))) = world.events.pop() {
        if now >= end {
            break;
        }
        if restart.is_some_and(|at| now >= at) {
            restart = None;
            world.restart(now);
            continue;
        }
        world.step(now, what);
    }
    world.close()
}

impl<'a> World<'a> {
    fn new(setting: &'a Setting) -> Self {
        let mut rng = Rng::new(setting.seed);
        let receiver = Receiver {
            tokens: setting.steps[0].burst,
            paid: T0,
            open: 0,
            rng: rng.fork(),
        };
        Self {
            setting,
            schedule: Schedule::new(Config::default(), rng.next_u64()),
            site: SiteId(0),
            events: BinaryHeap::new(),
            sequence: 0,
            jobs: Vec::new(),
            receiver,
            idle: 0,
            rng,
            account: Account::default(),
            next_poll: None,
        }
    }

    /// A backlog that outlasts the run.
    fn fill(&mut self, now: Time, learned: &[(std::sync::Arc<str>, Learned)]) {
        self.schedule.import_learned(learned.iter().cloned());
        self.site = self.schedule.site("far.example", &self.setting.policy);
        let tenant = self.schedule.tenant("t", &TenantPolicy::default());
        let could = self.setting.capacity();
        for key in 0..(could * 1.2) as u64 + 1000 {
            let job = Job {
                key,
                site: self.site,
                tenant,
                priority: 1,
                cost: 1,
                due_at: now,
                expires_at: now + Duration::from_secs(432_000),
                ..Job::default()
            };
            self.schedule.insert(job, now);
        }
    }

    /// Everything but what was learned is gone.
    fn restart(&mut self, now: Time) {
        let learned = self.schedule.export_learned();
        self.schedule = Schedule::new(Config::default(), self.rng.next_u64());
        self.events.clear();
        (self.receiver.open, self.idle, self.next_poll) = (0, 0, None);
        self.fill(now, &learned);
        self.poll_at(now);
    }

    fn poll_at(&mut self, at: Time) {
        self.next_poll = Some(at);
        self.push(at, What::Poll);
    }

    fn push(&mut self, at: Time, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, what)));
    }

    fn limits(&self, now: Time) -> Step {
        let mut since = T0;
        for step in &self.setting.steps {
            since += step.lasts;
            if now < since {
                return *step;
            }
        }
        *self.setting.steps.last().unwrap()
    }

    /// Half a round trip, or more.
    fn half_way(&mut self) -> Duration {
        let half = self.setting.latency / 2;
        half + self.rng.duration_up_to(self.setting.latency)
    }

    fn step(&mut self, now: Time, what: What) {
        match what {
            What::Poll if self.next_poll == Some(now) => self.next_poll = None,
            // Another came before it.
            What::Poll => return,
            What::Arrive { job, connected } => self.arrive(now, job, connected),
            What::Reply { job, reply } => self.reply(now, job, reply),
        }
        self.poll(now);
    }

    fn poll(&mut self, now: Time) {
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        let again = self.schedule.poll(now, &mut grants, &mut expired);
        for job in grants {
            self.account.attempts += 1;
            self.jobs.push(job);
            let job = self.jobs.len() - 1;
            let connected = self.idle > 0;
            self.idle -= usize::from(connected);
            let at = now + self.half_way();
            self.push(at, What::Arrive { job, connected });
        }
        if let Some(again) = again
            && self.next_poll.is_none_or(|at| again < at)
        {
            // A timer is late by up to a millisecond.
            let late = self.rng.duration_up_to(Duration::from_millis(1));
            self.poll_at(again + late);
        }
    }

    fn arrive(&mut self, now: Time, job: usize, connected: bool) {
        let limits = self.limits(now);
        let back = now + self.half_way();
        if !connected {
            if self.receiver.open >= limits.connections {
                let reply = Said::ConnectionRefused;
                return self.push(back, What::Reply { job, reply });
            }
            self.receiver.open += 1;
            // Greeting and EHLO take a round trip of their own.
            let at = back + self.half_way();
            let connected = true;
            return self.push(at, What::Arrive { job, connected });
        }
        let reply = match self.receiver.rng.chance(self.setting.stubborn)
            || !self.receiver.takes(now, &limits)
        {
            false => Said::Taken,
            true if self.setting.answer == Answer::Close => Said::RefusedAndClosed,
            true => Said::Refused,
        };
        if reply == Said::RefusedAndClosed {
            self.receiver.open -= 1;
        }
        self.count(now, reply, limits.rate);
        self.push(back, What::Reply { job, reply });
    }

    fn count(&mut self, now: Time, reply: Said, rate: f64) {
        let tenth = (now - T0).as_millis() as usize / 100;
        if self.account.tenths.len() <= tenth {
            self.account.tenths.resize(tenth + 1, (0, 0, rate));
        }
        let tenth = &mut self.account.tenths[tenth];
        match reply {
            Said::Taken => tenth.0 += 1,
            _ => tenth.1 += 1,
        }
    }

    fn reply(&mut self, now: Time, job: usize, reply: Said) {
        let mut job = self.jobs[job];
        let feedback = match reply {
            Said::Taken => Feedback::Delivered {
                rtt: self.setting.latency,
            },
            Said::Refused | Said::RefusedAndClosed => Feedback::RateRefused,
            Said::ConnectionRefused => Feedback::ConnectionRefused,
        };
        self.idle += usize::from(matches!(reply, Said::Taken | Said::Refused));
        self.schedule.settle(now, &job, feedback);
        if reply == Said::Taken {
            self.account.taken += 1;
            return;
        }
        self.account.refused += 1;
        if self.schedule.put_back(job, now) == PutBack::Spent {
            self.account.spent += 1;
            (job.attempts, job.refusals) = (job.attempts + 1, 0);
            let retry = self.schedule.retry_at(&job, ErrorClass::Throttled, now);
            if let Retry::At(due_at) = retry {
                job.due_at = due_at;
                self.schedule.insert(job, now);
            }
        }
    }

    fn close(mut self) -> Account {
        let steps = &self.setting.steps;
        self.account.used = f64::from(self.account.taken) / self.setting.capacity();
        let mut from = 0;
        for step in steps {
            let to = (from + step.lasts.as_millis() as usize / 100).min(self.account.tenths.len());
            self.account
                .converged
                .push(converged(&self.account.tenths[from.min(to)..to], step.rate));
            from = to;
        }
        self.account
    }
}

/// After how long half a second's rate first lies within a tenth of the limit.
fn converged(tenths: &[(u32, u32, f64)], rate: f64) -> Option<Duration> {
    let within = |five: &[(u32, u32, f64)]| {
        let taken: u32 = five.iter().map(|tenth| tenth.0).sum();
        (f64::from(taken) * 2.0 / rate - 1.0).abs() <= 0.1
    };
    let index = tenths.windows(5).position(within)?;
    Some(Duration::from_millis(index as u64 * 100))
}
