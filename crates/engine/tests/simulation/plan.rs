//! What a seed makes of a storm: who sends what, what the weather does, and when the engine dies.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Relay, Timeouts, Wire};
use engine::route::{Pattern, Route, UnknownPolicy, Via};
use flow::backoff::Backoff;
use flow::retry::{ErrorClass, RetryPolicy};
use flow::rng::Rng;
use smtp::{Address, Content, Domain, Envelope, ReversePath};

use crate::net::Line;
use crate::peer::Weather;

/// Every host: its address and its site, by number.
pub(crate) const HOSTS: [(&str, usize); 6] = [
    ("198.51.100.1", 0),
    ("198.51.100.2", 0),
    ("198.51.100.11", 1),
    ("198.51.100.12", 1),
    ("198.51.100.21", 2),
    ("198.51.100.31", 3),
];
/// Domains of the MX route: hosts by name and address.
pub(crate) fn mx() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    vec![
        (
            "a.example",
            vec![("mx1.a.example", HOSTS[2].0), ("mx2.a.example", HOSTS[3].0)],
        ),
        ("b.example", vec![("mx.b.example", HOSTS[4].0)]),
        ("app.example", vec![("mx.app.example", HOSTS[5].0)]),
    ]
}
/// Where recipients are; the first is the smarthosts', the last does not exist.
const DOMAINS: [&str; 4] = ["relay.example", "a.example", "b.example", "gone.example"];

const WIRES: [Wire; 4] = [
    Wire::Lockstep,
    Wire::Pipelined,
    Wire::Overlapped,
    Wire::Windowed(4),
];

pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How long the weather is bad.
    pub(crate) chaos: Duration,
    pub(crate) messages: Vec<Planned>,
    pub(crate) changes: Vec<(Duration, IpAddr, Change)>,
    pub(crate) blows: Vec<(Duration, Blow)>,
    pub(crate) orders: Vec<(Duration, Order)>,
    /// The engine dies at the moment of these acknowledgements.
    pub(crate) fatal_acks: BTreeSet<usize>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns_fails: f64,
    pub(crate) is_holding: bool,
}

/// One message that an application hands in.
pub(crate) struct Planned {
    pub(crate) number: usize,
    pub(crate) at: Duration,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) content: Content,
    /// It comes again with the same key until it is acknowledged.
    pub(crate) has_key: bool,
    pub(crate) delay: Option<Duration>,
    pub(crate) max_age: Duration,
    /// Put on the suppression list before.
    pub(crate) suppressed: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Weather(Weather),
    Line(Line),
    CutFor(Duration),
    Reset,
}

/// How a life of the engine ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    /// The process dies, and what was written stays.
    Kill,
    /// The power fails: what was not synced may be gone.
    PowerCut,
    /// The same at a call to the journal's files that is so many away.
    PowerCutAt(u64),
    /// The disk fails at such a call.
    DiskFailsAt(u64),
    /// There is room for so many octets more, and for more again after a while.
    DiskFull(u64, Duration),
    /// It is asked to stop.
    Drain(Duration),
}

/// What an operator does meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Takes back the message of this number.
    Cancel(usize),
    /// Stops everything for so long.
    Suspend(Duration),
    /// Reads the configuration again; it says another way of grouping commands.
    Reload(Wire),
}

fn seconds(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_secs(from) + rng.duration_up_to(Duration::from_secs(to - from))
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.up_to(of.len() as u64 - 1) as usize]
}

impl Plan {
    /// A message a second in fair weather, for what is to be seen alone.
    pub(crate) fn fair(count: usize) -> Self {
        let mut rng = Rng::new(0);
        let message = |number: usize| {
            let mut planned = planned(number, Duration::from_secs(1), &mut rng);
            let to: Address = format!("ok.0.m{number}@relay.example").parse().unwrap();
            let from: Address = format!("m{number}@app.example").parse().unwrap();
            planned.at = Duration::from_secs(number as u64);
            planned.envelope = Arc::new(Envelope::single(from, to));
            planned.max_age = Duration::from_secs(1800);
            (planned.has_key, planned.delay, planned.suppressed) = (false, None, None);
            planned
        };
        Self {
            seed: 0,
            chaos: Duration::from_secs(60),
            messages: (0..count).map(message).collect(),
            changes: Vec::new(),
            blows: Vec::new(),
            orders: Vec::new(),
            fatal_acks: BTreeSet::new(),
            routes: routes(false, &mut rng),
            dns_fails: 0.0,
            is_holding: false,
        }
    }

    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let chaos = seconds(&mut rng, 40, 400);
        let count = 5 + rng.up_to(30) as usize;
        let is_holding = rng.chance(0.2);
        let messages = (0..count).map(|number| planned(number, chaos, &mut rng));
        let messages: Vec<_> = messages.collect();
        let blows = blows(chaos, &mut rng);
        let mut fatal_acks = BTreeSet::new();
        if rng.chance(0.4) {
            fatal_acks.insert(rng.up_to(count as u64 - 1) as usize);
        }
        Self {
            seed,
            chaos,
            changes: changes(chaos, &mut rng),
            blows,
            fatal_acks,
            routes: routes(is_holding, &mut rng),
            dns_fails: pick(&mut rng, &[0.0, 0.1, 0.5]),
            is_holding,
            orders: orders(chaos, &messages, &mut rng),
            messages,
        }
    }
}

fn planned(number: usize, chaos: Duration, rng: &mut Rng) -> Planned {
    let mut recipients = Vec::new();
    let mut is_long = false;
    for index in 0..1 + rng.up_to(3) * rng.up_to(1) {
        let kind = match rng.up_to(19) {
            0 | 1 => "no",
            2 => "full",
            3 | 4 => "late",
            _ => "ok",
        };
        is_long |= kind == "full";
        let domain = match rng.up_to(19) {
            0 => DOMAINS[3],
            1..=9 => DOMAINS[0],
            10..=15 => DOMAINS[1],
            _ => DOMAINS[2],
        };
        let address: Address = format!("{kind}.{index}.m{number}@{domain}")
            .parse()
            .unwrap();
        recipients.push(address.into());
    }
    let from = if rng.chance(0.1) {
        ReversePath::Null
    } else {
        let address: Address = format!("m{number}@app.example").parse().unwrap();
        address.into()
    };
    let suppressed = rng
        .chance(0.05)
        .then(|| rng.up_to(recipients.len() as u64 - 1) as usize);
    let max_age = match is_long {
        true => seconds(rng, 120, 500),
        false => seconds(rng, 120, 2400),
    };
    Planned {
        number,
        at: rng.duration_up_to(chaos),
        envelope: Arc::new(Envelope::new(from, recipients).unwrap()),
        content: content(number, rng),
        has_key: rng.chance(0.3),
        delay: rng.chance(0.15).then(|| rng.duration_up_to(chaos)),
        max_age,
        suppressed,
    }
}

fn content(number: usize, rng: &mut Rng) -> Content {
    let mut text = format!("From: m{number}@app.example\nSubject: number {number}\n");
    if rng.chance(0.05) {
        text += "X-Kind: JUNK\n";
    }
    text += "\n";
    for _ in 0..pick(rng, &[0, 1, 5, 40, 200]) {
        text += pick(
            rng,
            &[".", "..", ".dot", "", "plain", "a longer line of text"],
        );
        text += &format!(" {:x}\n", rng.next_u64() >> 40);
        if rng.chance(0.2) {
            text += ".\n";
        }
    }
    Content::from_text(text.as_bytes()).unwrap()
}

fn changes(chaos: Duration, rng: &mut Rng) -> Vec<(Duration, IpAddr, Change)> {
    let mut changes = Vec::new();
    for (ip, _) in HOSTS {
        let ip: IpAddr = ip.parse().unwrap();
        for _ in 0..rng.up_to(5) {
            let change = match rng.up_to(9) {
                0..=2 => Change::Weather(Weather::Fair),
                3..=6 => Change::Weather(pick(rng, &Weather::BAD)),
                7 => Change::Line(pick(rng, &[Line::Closed, Line::Torn(0.5), Line::Open])),
                8 => Change::CutFor(seconds(rng, 1, 120)),
                _ => Change::Reset,
            };
            changes.push((rng.duration_up_to(chaos), ip, change));
        }
    }
    changes.sort_by_key(|(at, ..)| *at);
    changes
}

fn blows(chaos: Duration, rng: &mut Rng) -> Vec<(Duration, Blow)> {
    let mut blows = Vec::new();
    for _ in 0..rng.up_to(4) {
        let blow = match rng.up_to(9) {
            0 | 1 => Blow::Kill,
            2..=4 => Blow::PowerCut,
            5 | 6 => Blow::PowerCutAt(rng.up_to(60)),
            7 => Blow::DiskFailsAt(rng.up_to(20)),
            8 => Blow::DiskFull(rng.up_to(10_000), seconds(rng, 30, 120)),
            _ => Blow::Drain(rng.duration_up_to(Duration::from_secs(60))),
        };
        blows.push((rng.duration_up_to(chaos), blow));
    }
    blows.sort_by_key(|(at, _)| *at);
    blows
}

fn orders(chaos: Duration, messages: &[Planned], rng: &mut Rng) -> Vec<(Duration, Order)> {
    let mut orders = Vec::new();
    for planned in messages {
        if rng.chance(0.1) {
            let after = pick(rng, &[1, 10, 100]);
            let at = planned.at + rng.duration_up_to(Duration::from_secs(after));
            orders.push((at, Order::Cancel(planned.number)));
        }
    }
    if rng.chance(0.3) {
        let time = seconds(rng, 1, 120);
        orders.push((rng.duration_up_to(chaos), Order::Suspend(time)));
    }
    for _ in 0..rng.up_to(2) {
        orders.push((rng.duration_up_to(chaos), Order::Reload(pick(rng, &WIRES))));
    }
    orders
}

fn routes(is_holding: bool, rng: &mut Rng) -> Vec<Route> {
    let host: Domain = "mail.example.org".parse().unwrap();
    let relay = |index: usize, preference| Relay {
        preference,
        ..Relay::plaintext(format!("{}:25", HOSTS[index].0).parse().unwrap())
    };
    let second = pick(rng, &[0, 10]);
    let relays = vec![relay(0, 0), relay(1, second)];
    let mut by_relay = Route::new("relay", Via::Smarthosts(relays), host.clone());
    by_relay.domains = vec![Pattern::Exactly(DOMAINS[0].parse().unwrap())];
    let mut by_mx = Route::new("mx", Via::Mx, host);
    by_mx.tls = client::TlsMode::None;
    let mut routes = vec![by_relay, by_mx];
    for route in &mut routes {
        route.wire = pick(rng, &WIRES);
        route.connections_max = 1 + rng.up_to(3) as usize;
        route.messages_per_connection = pick(rng, &[1, 3, 1000]);
        route.timeouts = Timeouts::all(seconds(rng, 5, 40)).into();
        if is_holding {
            route.unknown = UnknownPolicy::Hold;
        }
    }
    routes
}

/// Retries in seconds rather than minutes, so that a storm sees many.
pub(crate) fn retry() -> RetryPolicy {
    let curve = |base, cap| {
        Backoff::new(Duration::from_secs(base), Duration::from_secs(cap)).with_jitter(0.25)
    };
    RetryPolicy::new(u32::MAX, curve(8, 60))
        .with_backoff(ErrorClass::Connect, curve(4, 60))
        .with_backoff(ErrorClass::Handshake, curve(4, 60))
        .with_backoff(ErrorClass::Throttled, curve(5, 60))
        .with_backoff(ErrorClass::Greylisted, curve(10, 10))
        .with_backoff(ErrorClass::MailboxFull, curve(20, 60))
}
