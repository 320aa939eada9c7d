//! One storm, from its seed to its account.
//!
//! Over 500 lines: lives, senders and listeners are tasks of one type that share what is known.

mod operator;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::TlsContext;
use engine::views::Filter;
use engine::{AcceptError, ClaimError, Config, Engine, Options, Submission};
use flow::rng::Rng;
use futures_util::FutureExt;
use journal::files::Cut;
use smtp::server::{Profile, ServerConfig};
use store::{Event, MessageId, Time};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::check;
use crate::net::{Line, Net};
use crate::peer::{Peers, Weather};
use crate::plan::{self, Blow, Change, HOSTS, Plan, Planned};
use crate::trace::{Log, Trace};
use crate::world::{Disk, Ground, Names};

/// The wall clock when the storm begins.
const EPOCH: Time = Time::from_secs(1_750_000_000);
/// Nothing waits longer once the weather is fair.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);
const TENANT: &str = "default";

/// What a storm came to.
pub(crate) struct Report {
    /// Of all that happened, in order.
    pub(crate) digest: u64,
    /// Invariants that did not hold.
    pub(crate) wrong: Vec<String>,
}

/// Lets a storm blow.
pub(crate) fn blow(plan: Plan, tls: &TlsContext, is_shown: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let trace = Trace::new(is_shown);
    let log = tracing::Dispatch::new(Log(trace.clone()));
    tracing::dispatcher::with_default(&log, || {
        runtime.block_on(Storm::run(plan, tls.clone(), trace.clone()));
    });
    let (digest, wrong) = trace.end();
    Report { digest, wrong }
}

/// A storm under way, and what is known of it.
pub(crate) struct Storm {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
    pub(crate) net: Net,
    pub(crate) peers: Peers,
    pub(crate) began: Instant,
    disk: Disk,
    tls: TlsContext,
    dns_fails: Arc<Mutex<f64>>,
    /// Through [`Storm::set_alive`].
    alive: Mutex<Option<Alive>>,
    alive_changed: Notify,
    pub(crate) seen: Mutex<Seen>,
}

/// The engine's present life.
#[derive(Clone)]
struct Alive {
    life: u32,
    engine: Engine,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// By the message's number.
    pub(crate) acks: Vec<Option<MessageId>>,
    /// What each life was told, as it happened.
    pub(crate) told: Vec<Told>,
    /// Spans of time in which a life ended: what was not durable at their begin may be forgotten.
    pub(crate) gaps: Vec<(Instant, Instant)>,
    /// Each life's ground.
    pub(crate) grounds: Vec<Arc<Ground>>,
    /// Messages that somebody wanted to take back, by number, and since when that is known to be done.
    pub(crate) canceled: BTreeMap<usize, Option<Instant>>,
    /// When everything that waited was made due.
    pub(crate) retried: Vec<Instant>,
    /// When the weather became fair.
    pub(crate) healed: Option<Instant>,
    acked: usize,
    rng: Option<Rng>,
}

pub(crate) struct Told {
    pub(crate) life: u32,
    pub(crate) at: Instant,
    pub(crate) event: Arc<Event>,
}

impl Storm {
    async fn run(plan: Plan, tls: TlsContext, trace: Trace) {
        let mut rng = Rng::new(plan.seed ^ 0x5707_0000);
        let storm = Arc::new(Self {
            net: Net::new(trace.clone(), rng.fork()),
            peers: Peers::new(trace.clone(), rng.fork()),
            began: Instant::now(),
            disk: Disk::default(),
            tls,
            dns_fails: Arc::new(Mutex::new(plan.dns_fails)),
            alive: Mutex::new(None),
            alive_changed: Notify::new(),
            seen: Mutex::new(Seen {
                acks: vec![None; plan.messages.len()],
                rng: Some(rng.fork()),
                ..Seen::default()
            }),
            plan,
            trace,
        });
        storm.listen(&mut rng);
        let lives = tokio::spawn(Arc::clone(&storm).live());
        tokio::spawn(Arc::clone(&storm).change());
        let orders: Vec<_> = (0..storm.plan.orders.len())
            .map(|number| tokio::spawn(Arc::clone(&storm).order(number)))
            .collect();
        let senders: Vec<_> = (0..storm.plan.messages.len())
            .map(|number| tokio::spawn(Arc::clone(&storm).submit(number)))
            .collect();
        tokio::time::sleep_until(storm.began + storm.plan.chaos).await;
        storm.heal();
        lives.await.expect("the lives end well");
        for sender in senders {
            sender.await.expect("a sender ends well");
        }
        for order in orders {
            order.await.expect("an order is carried out");
        }
        storm.settle().await;
    }

    fn listen(&self, rng: &mut Rng) {
        for (ip, site) in HOSTS {
            let ip: IpAddr = ip.parse().unwrap();
            let latency = rng.duration_up_to(Duration::from_millis(120));
            let cap = self.plan.routes[usize::from(site > 0)].connections_max;
            let accepted = self.net.listen(ip, site, cap, latency);
            let mut config = ServerConfig::new("mx.example.net".parse().unwrap());
            config.offers.pipelining = rng.chance(0.8);
            config.offers.chunking = rng.chance(0.7);
            self.peers.serve(ip, Profile::new(config), accepted);
        }
    }

    /// Changes of the weather.
    async fn change(self: Arc<Self>) {
        for (at, ip, change) in &self.plan.changes {
            tokio::time::sleep_until(self.began + *at).await;
            match *change {
                Change::Weather(weather) => self.peers.set_weather(*ip, weather),
                Change::Line(line) => self.net.set_line(*ip, line),
                Change::CutFor(time) => self.net.set_line(*ip, Line::Cut(Instant::now() + time)),
                Change::Reset => self.net.reset_host(*ip),
            }
        }
    }

    fn heal(&self) {
        self.trace.note(format_args!("the weather is fair"));
        *self.dns_fails.lock().unwrap() = 0.0;
        for (ip, _) in HOSTS {
            let ip = ip.parse().unwrap();
            self.peers.set_weather(ip, Weather::Fair);
            self.net.set_line(ip, Line::Open);
        }
        self.seen.lock().unwrap().healed = Some(Instant::now());
    }

    /// Life after life, until the weather is fair.
    async fn live(self: Arc<Self>) {
        let end = self.began + self.plan.chaos;
        let mut blows = self.plan.blows.iter();
        let mut blow = blows.next();
        loop {
            if !self.begin_life().await {
                return;
            }
            while let Some(Alive { life, .. }) = self.alive() {
                let next = blow.map_or(end, |(at, _)| (self.began + *at).min(end));
                tokio::select! {
                    biased;
                    () = self.until_over(life) => {}
                    () = tokio::time::sleep_until(next) => match blow {
                        Some((_, how)) if next < end => {
                            self.strike(*how).await;
                            blow = blows.next();
                        }
                        _ => return,
                    }
                }
            }
            let down = self.dice(|rng| rng.duration_up_to(Duration::from_secs(20)));
            tokio::time::sleep(down).await;
        }
    }

    async fn begin_life(self: &Arc<Self>) -> bool {
        let life = self.seen.lock().unwrap().grounds.len() as u32;
        // The wall clock may have been set while nobody looked.
        let jump = self.dice(|rng| match rng.up_to(9) {
            0 => -(rng.up_to(600) as f64),
            1 => rng.up_to(600) as f64,
            _ => 0.0,
        });
        let before = self.seen.lock().unwrap().grounds.last().cloned();
        let now = Instant::now();
        let shown = before.map_or(EPOCH, |ground| ground.time(now));
        let shown = Time::from_secs_f64(shown.as_secs_f64() + jump);
        let ground = Arc::new(Ground {
            net: self.net.clone(),
            life,
            disk: self.disk.clone(),
            wall: (shown, now),
            rng: Mutex::new(self.dice(Rng::fork)),
        });
        self.seen.lock().unwrap().grounds.push(Arc::clone(&ground));
        self.trace.note(format_args!(
            "life {life} begins at {:.3}",
            shown.as_secs_f64()
        ));
        self.net.begin_life(life);
        let engine = match Engine::open(self.config(ground)).await {
            Ok(engine) => engine,
            Err(error) => {
                self.trace
                    .wrong(format!("life {life} cannot begin: {error}"));
                return false;
            }
        };
        tokio::spawn(Arc::clone(self).listen_to(engine.follow(), life));
        self.set_alive(Some(Alive { life, engine }));
        true
    }

    fn config(&self, ground: Arc<Ground>) -> Config {
        let mut config = Config::new("storm", "mail.example.org".parse().unwrap());
        config.routes = self.plan.routes.clone();
        config.policy.schedule.retry = plan::retry();
        config.policy.max_age = Duration::from_secs(3600);
        config.policy.suppress_bounced = false;
        config.tls = Some(self.tls.clone());
        config.dns = Some(Arc::new(Names {
            mx: plan::mx(),
            rng: Mutex::new(self.dice(Rng::fork)),
            fails: Arc::clone(&self.dns_fails),
        }));
        config.seed = self.plan.seed;
        config.shards = 1 + (self.plan.seed % 2) as usize;
        config.world = Some(ground);
        config
    }

    /// Notes what the engine says happens.
    async fn listen_to(self: Arc<Self>, mut follower: engine::Follower, life: u32) {
        loop {
            let mut next = pin!(follower.next());
            let followed = tokio::select! {
                biased;
                () = self.until_over(life) => return,
                followed = &mut next => followed,
            };
            let Ok(Some(followed)) = followed else { return };
            let event = followed.event;
            self.trace.note(format_args!(
                "{} is {} due {:?}",
                event.address,
                event.status.name(),
                event.due_at
            ));
            let at = Instant::now();
            self.seen
                .lock()
                .unwrap()
                .told
                .push(Told { life, at, event });
        }
    }

    async fn strike(&self, how: Blow) {
        let Some(alive) = self.alive() else {
            return;
        };
        self.trace.note(format_args!("{how:?}"));
        let from = Instant::now();
        match how {
            Blow::Kill => self.kill(Cut::Everything, from),
            Blow::PowerCut => self.kill(self.any_cut(), from),
            Blow::PowerCutAt(calls) => {
                self.disk.cut_at_call(calls);
                for _ in 0..600 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if self.disk.is_off() || self.alive().is_none() {
                        break;
                    }
                }
                let from = Instant::now() - Duration::from_millis(50);
                self.kill(self.any_cut(), from);
            }
            Blow::DiskFailsAt(calls) => {
                self.disk.fail_at_call(calls);
                let failed = self.live_on_a_failed_disk(&alive).await;
                self.kill(self.any_cut(), failed.unwrap_or(from));
            }
            Blow::DiskFull(room, time) => {
                self.disk.set_room(Some(room));
                tokio::select! {
                    biased;
                    () = self.until_over(alive.life) => {}
                    () = tokio::time::sleep(time) => {}
                }
                self.disk.set_room(None);
                // What found no room is recorded within a moment.
                tokio::time::sleep(Duration::from_secs(3)).await;
                if self.alive().is_none_or(|now| now.life != alive.life) {
                    self.seen.lock().unwrap().gaps.push((from, Instant::now()));
                }
            }
            Blow::Drain(grace) => {
                let (told, on_the_way) = (self.told(alive.life), alive.engine.stats().in_flight);
                alive.engine.drain(grace).await;
                let (open, in_flight) = (self.net.open(), alive.engine.stats().in_flight);
                let is_in_time = from.elapsed() < grace;
                if is_in_time && (open, in_flight) != (0, 0) {
                    self.trace.wrong(format!(
                        "after a drain {open} connections are open, {in_flight} attempts in flight"
                    ));
                }
                // So that the last word is heard.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let ended = self.told(alive.life) - told;
                let is_fair = self.plan.changes.is_empty() && is_in_time;
                if is_fair && (ended as u64) < on_the_way {
                    self.trace.wrong(format!(
                        "{on_the_way} attempts were on the way when it was to stop, {ended} ended"
                    ));
                }
                if self.alive().is_some() {
                    self.end_life(Cut::Nothing);
                }
            }
        }
    }

    /// Waits until the journal fails, and looks on for a while: what was on its way ends, and nothing
    /// begins. Says when it failed.
    async fn live_on_a_failed_disk(&self, alive: &Alive) -> Option<Instant> {
        let engine = &alive.engine;
        let mut patience = 10 * 50;
        while engine.failed().now_or_never().is_none() {
            if patience == 0 || self.alive().is_none() {
                return None;
            }
            patience -= 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (at, in_flight) = (Instant::now(), engine.stats().in_flight);
        self.trace.note(format_args!(
            "the disk has failed, {in_flight} attempts in flight"
        ));
        tokio::time::sleep(Duration::from_secs(30)).await;
        if self.dice(|rng| rng.chance(0.5)) {
            engine.drain(Duration::from_secs(30)).await;
        }
        let begun = self.peers.book(|book| book.jobs_since(alive.life, at));
        if begun as u64 > in_flight {
            self.trace.wrong(format!(
                "{begun} attempts since the disk failed, of which {in_flight} were under way"
            ));
        }
        // What ended since it was looked at last could not be recorded any more.
        Some(at - Duration::from_millis(20))
    }

    /// What a life has been told so far.
    fn told(&self, life: u32) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.told.iter().filter(|told| told.life == life).count()
    }

    fn any_cut(&self) -> Cut {
        self.dice(|rng| match rng.up_to(2) {
            0 => Cut::Nothing,
            _ => Cut::Any(rng.next_u64()),
        })
    }

    /// The engine dies now.
    ///
    /// * `from`: since when it may not have been able to write.
    fn kill(&self, cut: Cut, from: Instant) {
        if self.alive().is_none() {
            return;
        }
        self.trace.note(format_args!("the engine dies: {cut:?}"));
        self.seen.lock().unwrap().gaps.push((from, Instant::now()));
        self.end_life(cut);
    }

    fn end_life(&self, cut: Cut) {
        self.net.end_life();
        let mut number = 0;
        self.disk.cut(|| {
            number += 1;
            match cut {
                Cut::Any(seed) => Cut::Any(seed.wrapping_add(number)),
                cut => cut,
            }
        });
        self.set_alive(None);
    }

    fn alive(&self) -> Option<Alive> {
        self.alive.lock().unwrap().clone()
    }

    fn set_alive(&self, alive: Option<Alive>) {
        *self.alive.lock().unwrap() = alive;
        self.alive_changed.notify_waiters();
    }

    async fn next_alive(&self) -> Alive {
        loop {
            let changed = self.alive_changed.notified();
            if let Some(alive) = self.alive() {
                return alive;
            }
            changed.await;
        }
    }

    async fn until_over(&self, life: u32) {
        loop {
            let changed = self.alive_changed.notified();
            if self.alive().is_none_or(|alive| alive.life != life) {
                return;
            }
            changed.await;
        }
    }

    fn dice<T>(&self, throw: impl FnOnce(&mut Rng) -> T) -> T {
        throw(self.seen.lock().unwrap().rng.as_mut().unwrap())
    }

    /// An application hands a message in, and comes again where it was told to or has a key.
    async fn submit(self: Arc<Self>, number: usize) {
        let planned = &self.plan.messages[number];
        tokio::time::sleep_until(self.began + planned.at).await;
        loop {
            let now = self.next_alive().await;
            let result = tokio::select! {
                biased;
                result = self.hand_in(&now, planned) => result,
                () = self.until_over(now.life) => Err(Trouble::Lost),
            };
            match result {
                Ok(id) => return self.acknowledged(number, id),
                Err(trouble) => self
                    .trace
                    .note(format_args!("message {number}: {trouble:?}")),
            }
            match result.unwrap_err() {
                Trouble::Lost if !planned.has_key => return,
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    async fn hand_in(&self, now: &Alive, planned: &Planned) -> Result<MessageId, Trouble> {
        let engine = &now.engine;
        let recipients = planned.envelope.recipients();
        if let Some(index) = planned.suppressed {
            let suppressed = engine
                .suppress(TENANT, &recipients[index].address, "asked not to")
                .await;
            suppressed.map_err(|_| Trouble::Refused)?;
        }
        let mut options = Options {
            max_age: Some(planned.max_age),
            send_at: planned.delay.map(|delay| engine.now() + delay),
            ..Options::default()
        };
        let key = format!("key of {}", planned.number);
        let mut claim = None;
        if planned.has_key {
            let claimed = engine.claim(TENANT, &key, [7; 32], 1).await;
            let held = claimed.map_err(|error| match error {
                ClaimError::Accept(error) => Trouble::of(&error),
                _ => Trouble::Refused,
            })?;
            if let Some(accepted) = &held.accepted[0] {
                return Ok(accepted.id);
            }
            options.id = Some(held.ids[0]);
            claim = Some(held);
        }
        let submission = Submission {
            tenant: TENANT.into(),
            envelope: Arc::clone(&planned.envelope),
            content: planned.content.clone(),
            options,
        };
        let accepted = engine.accept(submission).await;
        if accepted == Err(AcceptError::Full) && engine.health().refusing.is_none() {
            self.trace
                .wrong("a message finds no room, and the engine calls itself ready".to_owned());
        }
        drop(claim);
        accepted
            .map(|accepted| accepted.id)
            .map_err(|error| Trouble::of(&error))
    }

    fn acknowledged(&self, number: usize, id: MessageId) {
        self.trace
            .note(format_args!("message {number} is acknowledged as {id}"));
        let at = Instant::now();
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            seen.acks[number] = Some(id);
            seen.acked += 1;
            seen.acked - 1
        };
        if self.plan.fatal_acks.contains(&nth) && at < self.began + self.plan.chaos {
            self.kill(Cut::Nothing, at);
        }
    }

    /// Waits until nothing waits, and takes account.
    async fn settle(&self) {
        let Some(Alive { engine, .. }) = self.alive() else {
            return self.trace.wrong("nobody lives at the end".to_owned());
        };
        let deadline = Instant::now() + PATIENCE;
        let mut rounds = 0;
        while engine.stats().recipients > 0 && Instant::now() < deadline {
            if self.plan.is_holding && rounds % 30 == 0 {
                self.seen.lock().unwrap().retried.push(Instant::now());
                let retried = engine.retry(&Filter::default()).await;
                self.trace.note(format_args!("retried {retried:?}"));
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let left = engine.stats().recipients;
        if left > 0 {
            self.trace.wrong(format!("{left} recipients wait for ever"));
        }
        if let Err(error) = engine.flush().await {
            self.trace
                .wrong(format!("the journal cannot be flushed: {error}"));
        }
        let events = check::history(&engine);
        engine.drain(Duration::from_secs(120)).await;
        let (open, in_flight) = (self.net.open(), engine.stats().in_flight);
        if (open, in_flight) != (0, 0) {
            self.trace.wrong(format!(
                "at the end {open} connections are open, {in_flight} attempts in flight"
            ));
        }
        for event in &events {
            self.trace.note(format_args!(
                "{} {:?} {}",
                event.address,
                event.at,
                event.status.name()
            ));
        }
        check::account(self, &events);
    }
}

/// Why a message was not acknowledged.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Nothing of it is kept.
    Refused,
    /// Nobody knows.
    Lost,
}

impl Trouble {
    fn of(error: &AcceptError) -> Self {
        match error {
            AcceptError::Poisoned => Self::Lost,
            _ => Self::Refused,
        }
    }
}
