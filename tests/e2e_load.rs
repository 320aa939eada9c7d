//! Load of the kinds that hurt others' mail: clients that stall, a huge message, a tenant's long queue, a
//! dead site. What is asserted is that others get through and in which order, never how fast.
//!
//! Sized for CI. `LOAD_CLIENTS=5000 LOAD_QUEUED=100000 LOAD_WAITING=1000000` is the whole of it.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use client::{Concurrency, Pool, Relay, Wire};
use flow::backoff::Backoff;
use flow::retry::RetryPolicy;
use flow::rng::Rng;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sink::{Action, Builder, Rule, Sink, Stage};
use smtp::{Address, Content, Envelope};
use support::serving::{Home, Serving, route_to};
use support::{recipients, setting, start, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

fn taking_sink() -> Builder {
    Sink::builder().keep_records()
}

/// Until a server that protects itself is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// One message in lockstep, by hand: it may stop in the middle of any command.
struct Session {
    stream: TcpStream,
    commands: [String; 6],
    /// Octets of the current command that are said.
    said: usize,
}

/// Places among the commands.
const MAIL: usize = 1;
const CONTENT: usize = 4;
const QUIT: usize = 5;

impl Session {
    /// From an address of this machine to the server.
    async fn open(from: &str, server: &Serving<'_>, to: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let address: SocketAddr = server.smtp_address().parse().unwrap();
        let stream = socket.connect(address).await;
        let mut session = Self {
            stream: stream.unwrap(),
            commands: [
                "EHLO x.example\r\n".to_owned(),
                "MAIL FROM:<a@x.example>\r\n".to_owned(),
                format!("RCPT TO:<{to}>\r\n"),
                "DATA\r\n".to_owned(),
                "From: a@x.example\r\nSubject: hi\r\n\r\nHello.\r\n.\r\n".to_owned(),
                "QUIT\r\n".to_owned(),
            ],
            said: 0,
        };
        let greeting = session.reply().await;
        assert!(greeting.starts_with("220"), "{greeting}");
        session
    }

    /// Everything before a command, and half of that.
    async fn stall_in(&mut self, command: usize) {
        self.say_all(0..command).await;
        self.said = self.commands[command].len() / 2;
        let half = &self.commands[command].as_bytes()[..self.said];
        self.stream.write_all(half).await.unwrap();
    }

    /// The rest, from this command on.
    async fn finish_from(mut self, command: usize) {
        self.say_all(command..self.commands.len()).await;
    }

    /// A message that the server refuses for now, as it may when it is short of anything, is said again.
    async fn say_all(&mut self, mut commands: Range<usize>) {
        while let Some(command) = commands.next() {
            let reply = self.say(command).await;
            let want = match command {
                3 => "354",
                QUIT => "221",
                _ => "250",
            };
            if command == CONTENT && reply.starts_with("452") {
                tokio::time::sleep(PAUSE).await;
                commands.start = MAIL;
            } else {
                assert!(reply.starts_with(want), "want {want}: {reply}");
            }
        }
    }

    async fn say(&mut self, command: usize) -> String {
        let rest = &self.commands[command].as_bytes()[std::mem::take(&mut self.said)..];
        self.stream.write_all(rest).await.unwrap();
        self.reply().await
    }

    async fn reply(&mut self) -> String {
        let mut text = String::new();
        let mut octets = [0; 1024];
        while !text.ends_with("\r\n") || !is_last(text.lines().last().unwrap()) {
            let read = self.stream.read(&mut octets).await.unwrap();
            assert!(read > 0, "cut after {text:?}");
            text.push_str(std::str::from_utf8(&octets[..read]).unwrap());
        }
        text
    }
}

/// So many recipients, and no two the same.
#[track_caller]
fn assert_each_once(sink: &Sink, count: u64) {
    let mut arrived = recipients(sink);
    assert_eq!(arrived.len() as u64, count);
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived.len() as u64, count, "some arrived twice");
}

fn is_last(line: &str) -> bool {
    line.as_bytes().get(3) == Some(&b' ')
}

#[test]
fn clients_that_stall_in_any_command_hold_up_nobody_and_are_served_when_they_go_on() {
    let half = setting("LOAD_CLIENTS", 500) / 2;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let sink = start(taking_sink());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    Runtime::new().unwrap().block_on(async {
        let stall = async |number: u64| {
            let to = format!("slow{number}@y.example");
            let mut session = Session::open("127.0.0.1", &server, &to).await;
            let command = number as usize % session.commands.len();
            session.stall_in(command).await;
            (session, command)
        };
        let slow = join_all((0..half).map(stall)).await;
        let send = async |number: u64| {
            let to = format!("quick{number}@y.example");
            let session = Session::open("127.0.0.1", &server, &to).await;
            session.finish_from(0).await;
        };
        join_all((0..half).map(send)).await;
        // One in each command; the one in QUIT has handed its message in.
        let in_quit = slow.iter().filter(|(_, command)| *command == QUIT).count();
        let quick = half as usize + in_quit;
        wait_until("the quick ones' mail has left", || {
            recipients(&sink).len() >= quick
        });
        join_all(
            slow.into_iter()
                .map(|(it, command)| it.finish_from(command)),
        )
        .await;
    });
    wait_until("the slow ones' mail has left", || {
        recipients(&sink).len() as u64 >= 2 * half
    });
    assert_each_once(&sink, 2 * half);
    let mib = server.memory_peak_bytes() >> 20;
    println!("{} clients: at most {mib} MiB resident", 2 * half);
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn pool(server: &Serving<'_>) -> Pool {
    let relay = format!("{}?tls=none", server.smtp());
    let pool = Pool::builder(relay.parse::<Relay>().unwrap());
    pool.wire(Wire::Windowed(16))
        .concurrency(Concurrency::Fixed(8))
        .retry(RetryPolicy::new(100, Backoff::new(PAUSE, 10 * PAUSE)))
        .build()
        .unwrap()
}

/// Hands in so many messages, and comes back when all are acknowledged.
async fn hand_in(server: &Serving<'_>, count: u64, to: impl Fn(u64) -> String) {
    let pool = pool(server);
    let from = address("app@a.example");
    let content = Content::from_text(b"From: app@a.example\nSubject: hi\n\nhello\n").unwrap();
    let send = async |number| {
        let envelope = Envelope::single(from.clone(), address(&to(number)));
        let report = pool.send(envelope, content.clone()).await;
        assert!(report.is_accepted(), "{report:?}");
    };
    stream::iter((0..count).map(send))
        .buffer_unordered(256)
        .for_each(async |()| {})
        .await;
}

/// So many octets that do not compress well, in lines.
fn large_content(octets: usize) -> Vec<u8> {
    let mut rng = Rng::new(1);
    let mut text = "From: app@a.example\r\nSubject: large\r\nMessage-ID: <large@a.example>\r\n\
                    Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n"
        .to_owned();
    while text.len() + 100 < octets {
        write!(text, "{:016x}{:016x}\r\n", rng.next_u64(), rng.next_u64()).unwrap();
    }
    let rest = octets - text.len() - 2;
    text.push_str(&"z".repeat(rest));
    text.push_str("\r\n");
    text.into_bytes()
}

#[test]
fn a_message_of_50_megabytes_arrives_octet_by_octet_in_bounded_memory() {
    let octets = 50_000_000;
    let sink = start(taking_sink().keep_content());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let before = server.memory_peak_bytes();
    let content = large_content(octets);
    assert_eq!(content.len(), octets);
    let report = Runtime::new().unwrap().block_on(async {
        let envelope = Envelope::single(address("app@a.example"), address("large@y.example"));
        let content = Content::new(content.clone()).unwrap();
        pool(&server).send(envelope, content).await
    });
    assert!(report.is_accepted(), "{report:?}");
    wait_until("it has arrived", || !sink.records().is_empty());
    let records = sink.records();
    let arrived = records[0].content.as_ref().unwrap();
    // Our trace field is in front (RFC 5321 §4.4).
    assert!(arrived.starts_with(b"Received:") && arrived.ends_with(&content));
    assert!(arrived.len() < octets + 1000, "{}", arrived.len());
    let peak = server.memory_peak_bytes() - before;
    println!("50 MB took {} MiB of memory", peak >> 20);
    assert!(peak < 5 * octets as u64, "{peak} octets of memory");
}

#[test]
fn one_tenants_single_message_does_not_wait_for_anothers_long_queue() {
    let queued = setting("LOAD_QUEUED", 20_000);
    // About 400 a second.
    let delay = Rule::new(Stage::Final, Action::Continue).delay(Duration::from_millis(10));
    let sink = start(taking_sink().rule(delay));
    let other = "[[tenant]]\nname = \"other\"\nnetworks = [\"127.0.0.2/32\"]\n";
    let home = Home::new(&format!("{}connections_max = 4\n{other}", route_to(&sink)));
    let server = home.serve();
    let before = Runtime::new().unwrap().block_on(async {
        hand_in(&server, queued, |number| format!("m{number}@y.example")).await;
        let session = Session::open("127.0.0.2", &server, "single@y.example").await;
        let before = recipients(&sink).len();
        session.finish_from(0).await;
        before
    });
    let place = || {
        recipients(&sink)
            .iter()
            .position(|to| to == "single@y.example")
    };
    wait_until("the single message has left", || place().is_some());
    let ahead = place().unwrap().saturating_sub(before) as u64;
    println!(
        "{before} of {queued} had left when the single one came; {ahead} more were ahead of it"
    );
    assert!(
        (before as u64) < queued / 2,
        "the queue was too short to say anything: {before} of {queued} had left"
    );
    assert!(ahead <= queued / 50, "{ahead} of {queued} were ahead");
}

#[test]
fn mail_for_a_dead_site_waits_and_holds_up_nothing_else() {
    let waiting = setting("LOAD_WAITING", 10_000);
    let others = 500;
    // Bound and not listening: nobody answers there, and nobody else can take the port.
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let sink = start(taking_sink());
    let home = Home::new(&format!(
        "[[route]]\ndomain = \"dead.example\"\nname = \"dead\"\nvia = \"smtp://{}?tls=none\"\n{}",
        dead.local_addr().unwrap(),
        route_to(&sink)
    ));
    let server = home.serve();
    Runtime::new().unwrap().block_on(async {
        hand_in(&server, waiting, |number| format!("m{number}@dead.example")).await;
        hand_in(&server, others, |number| format!("m{number}@y.example")).await;
    });
    wait_until("the others' mail has left", || {
        recipients(&sink).len() as u64 >= others
    });
    assert_each_once(&sink, others);
    let queue = server.json(&["queue", "--site", "dead"]);
    let sum = |state: &str| -> u64 {
        let lines = queue["data"].as_array().unwrap().iter();
        lines.map(|line| line[state].as_u64().unwrap()).sum()
    };
    let waits: u64 = ["ready", "waiting", "in_flight"].map(sum).iter().sum();
    assert_eq!(waits, waiting, "{queue}");
    let mib = server.memory_peak_bytes() >> 20;
    println!("{waiting} wait for a dead site: at most {mib} MiB resident");
}
