//! Servers that misbehave. Whatever they do, a send ends in a typed failure within its timeout,
//! nothing panics, nothing grows past a limit, and no message is called accepted that was not.
//!
//! A step under test has a short timeout, all others a long one: on a busy machine a short one would
//! end a step that was not meant.
//!
//! Over 500 lines: one for each way to misbehave, short, before one judge.

#[path = "hostile/chaos.rs"]
mod chaos;
#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/smuggling.rs"]
mod smuggling;
#[path = "hostile/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use mailrail::client::{
    Cause, Concurrency, Failure, Kind, Pool, PoolBuilder, Relay, Report, Scope, Secret, Stage,
    Timeouts, TlsMode, Wire,
};
use mailrail::sink::{self, Action, Rule, Sink};
use mailrail::smtp::{Address, Content, Envelope, Reply, ReplyCode};

use peer::peer;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);
const OFFERS: &str = "250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n";
const WIRES: [Wire; 4] = [
    Wire::Lockstep,
    Wire::Pipelined,
    Wire::Overlapped,
    Wire::Windowed(4),
];

fn pool(addr: SocketAddr) -> PoolBuilder {
    Pool::builder(Relay::plaintext(addr))
        .concurrency(Concurrency::Fixed(1))
        .timeouts(Timeouts::all(LONG))
        .allow_plaintext_auth()
}

fn envelope() -> Envelope {
    let address = |text: &str| text.parse::<Address>().unwrap();
    Envelope::single(address("s@src.example"), address("r@dest.example"))
}

fn content() -> Content {
    Content::new("Subject: x\r\n\r\nBody\r\n.dot\r\n").unwrap()
}

/// More than the buffers of a loopback connection hold.
fn big_content() -> Content {
    Content::new(format!("{}\r\n", "x".repeat(98)).repeat(400_000)).unwrap()
}

async fn send(pool: &Pool) -> Report {
    let report = pool.send(envelope(), content());
    tokio::time::timeout(LONG, report).await.expect("it ends")
}

async fn failure_of(pool: PoolBuilder) -> Failure {
    let report = send(&pool.build().unwrap()).await;
    report.first_failure().expect("a failure").clone()
}

#[track_caller]
fn check(failure: &Failure, stage: Stage, scope: Scope, kind: Kind) {
    let seen = (failure.stage, failure.scope, failure.kind);
    assert_eq!(seen, (stage, scope, kind), "{failure}");
}

/// A short timeout for one step.
fn short(stage: Stage) -> Timeouts {
    let mut timeouts = Timeouts::all(LONG);
    match stage {
        Stage::Greeting => timeouts.greeting = SHORT,
        Stage::Ehlo | Stage::StartTls => timeouts.ehlo = SHORT,
        Stage::Tls => timeouts.tls = SHORT,
        Stage::Auth => timeouts.auth = SHORT,
        Stage::Mail => timeouts.mail = SHORT,
        Stage::Rcpt => timeouts.rcpt = SHORT,
        Stage::Data => timeouts.data = SHORT,
        Stage::Content => timeouts.content = SHORT,
        Stage::Final => (timeouts.final_base, timeouts.final_per_mib) = (SHORT, Duration::ZERO),
        other => panic!("{other} has no timeout of its own"),
    }
    timeouts
}

/// Every step at which a server speaks, and how the command that it answers begins.
const STEPS: [(Stage, &str); 8] = [
    (Stage::Greeting, "GREETING"),
    (Stage::Ehlo, "EHLO"),
    (Stage::StartTls, "STARTTLS"),
    (Stage::Auth, "AUTH"),
    (Stage::Mail, "MAIL"),
    (Stage::Rcpt, "RCPT"),
    (Stage::Data, "DATA"),
    (Stage::Final, "FINAL"),
];

/// A relay that makes the client come to this step.
fn relay(addr: SocketAddr, stage: Stage) -> Relay {
    let mut relay = Relay::plaintext(addr);
    if stage == Stage::StartTls {
        relay.tls = TlsMode::Opportunistic;
    }
    if stage == Stage::Auth {
        relay.user = Some("user".into());
        relay.password = Some(Secret::new("pencil"));
    }
    relay
}

fn offers(stage: Stage) -> &'static str {
    match stage {
        Stage::StartTls => "250-STARTTLS\r\n",
        Stage::Auth => "250-AUTH PLAIN\r\n",
        _ => OFFERS,
    }
}

/// A server that says `noise` at one step for as long as it is heard.
fn noisy(
    stage: Stage,
    command: &'static str,
    noise: impl Fn(&mut peer::Conn<std::net::TcpStream>) + Send + Sync + 'static,
) -> SocketAddr {
    let (addr, _) = peer(move |mut conn| {
        conn.serve(offers(stage), |conn, line| {
            line.starts_with(command).then(|| {
                noise(conn);
                conn.fall_silent();
                false
            })
        });
    });
    addr
}

fn expected(stage: Stage) -> (Scope, Kind) {
    match stage {
        Stage::Final => (Scope::Connection, Kind::Unknown),
        stage if stage >= Stage::Mail => (Scope::Connection, Kind::Transient),
        _ => (Scope::Endpoint, Kind::Transient),
    }
}

fn builder_at(addr: SocketAddr, stage: Stage) -> PoolBuilder {
    Pool::builder(relay(addr, stage))
        .concurrency(Concurrency::Fixed(1))
        .allow_plaintext_auth()
}

#[tokio::test]
async fn replies_split_into_octets_are_the_same_replies() {
    for wire in WIRES {
        let (addr, _) = peer(|conn| {
            conn.split().serve(OFFERS, |_, _| None);
        });
        let pool = pool(addr).wire(wire).build().unwrap();
        let reports = join_all((0..6).map(|_| send(&pool))).await;
        for report in reports {
            assert!(report.is_accepted(), "{wire:?} {report:?}");
        }
        assert_eq!(pool.stats().connections_opened, 1, "{wire:?}");
        pool.close().await;
    }
}

#[tokio::test]
async fn a_reply_that_never_comes_ends_in_the_timeout_of_its_step() {
    for (stage, command) in STEPS {
        let addr = noisy(stage, command, |_| ());
        let pool = builder_at(addr, stage).timeouts(short(stage));
        let failure = failure_of(pool).await;
        let (scope, kind) = expected(stage);
        check(&failure, stage, scope, kind);
        assert!(matches!(failure.cause, Cause::Timeout(SHORT)), "{failure}");
    }
}

#[tokio::test]
async fn a_window_whose_first_reply_never_comes_is_unknown_as_a_whole() {
    for (stage, command) in [(Stage::Mail, "MAIL"), (Stage::Rcpt, "RCPT")] {
        // It takes a message, by which the window opens, and then says no more.
        let (addr, _) = peer(move |mut conn| {
            let mut seen = 0;
            conn.serve(offers(stage), |conn, line| {
                seen += usize::from(line.starts_with(command));
                (seen > 1).then(|| {
                    conn.fall_silent();
                    false
                })
            });
        });
        let pool = builder_at(addr, stage).timeouts(short(stage));
        let pool = pool.wire(Wire::Windowed(4)).build().unwrap();
        assert!(send(&pool).await.is_accepted());
        for report in join_all((0..2).map(|_| send(&pool))).await {
            let failure = report.first_failure().unwrap();
            assert_eq!(failure.kind, Kind::Unknown, "{failure}");
            assert!(matches!(failure.cause, Cause::Timeout(SHORT)), "{failure}");
        }
        assert_eq!(pool.stats().connections_opened, 1);
    }
}

/// Octets of a reply that has no end are no progress.
#[tokio::test]
async fn a_reply_that_drips_ends_in_the_timeout_of_its_step() {
    for (stage, command) in STEPS {
        let addr = noisy(stage, command, |conn| {
            while conn.say("2") {
                std::thread::sleep(SHORT / 10);
            }
        });
        let pool = builder_at(addr, stage).timeouts(short(stage));
        let failure = failure_of(pool).await;
        let (scope, kind) = expected(stage);
        check(&failure, stage, scope, kind);
        assert!(matches!(failure.cause, Cause::Timeout(SHORT)), "{failure}");
    }
}

#[tokio::test]
async fn floods_and_garbage_are_protocol_errors_and_take_no_memory() {
    let before = peak_memory_kib();
    // What is said the first time, the second, and so on.
    type Noise = fn(usize) -> Vec<u8>;
    let noises: [(&str, Noise); 5] = [
        ("lines without end", |_| b"250-and more\r\n".repeat(5000)),
        ("a line without end", |at| {
            let start: &[u8] = if at == 0 { b"250 " } else { b"x" };
            [start, &[b'x'; 65_536]].concat()
        }),
        ("binary", |at| {
            (0..=255)
                .map(|n: u8| n.wrapping_add(at as u8))
                .cycle()
                .take(70_000)
                .collect()
        }),
        ("a code that is none", |_| b"999 hello\r\n".to_vec()),
        ("codes that change", |_| b"250-one\r\n251 two\r\n".to_vec()),
    ];
    for (stage, command) in STEPS {
        for (name, noise) in noises {
            let addr = noisy(stage, command, move |conn| {
                let mut said = 0;
                while conn.say(noise(said)) && said < 100_000 {
                    said += 1;
                }
            });
            let pool = builder_at(addr, stage).timeouts(Timeouts::all(LONG));
            let failure = failure_of(pool).await;
            let (scope, kind) = expected(stage);
            assert!(
                matches!(failure.cause, Cause::Protocol(_)),
                "{name} {failure}"
            );
            check(&failure, stage, scope, kind);
        }
    }
    let grown = peak_memory_kib() - before;
    assert!(grown < 32 * 1024, "{grown} KiB more at the peak");
}

/// The most memory this process ever had (proc(5), VmHWM).
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_end_of_stream_is_told_with_its_step() {
    for (stage, command) in STEPS {
        let (addr, heard) = peer(move |mut conn| {
            conn.serve(offers(stage), |_, line| {
                line.starts_with(command).then_some(false)
            });
        });
        let failure = failure_of(builder_at(addr, stage).timeouts(Timeouts::all(LONG))).await;
        let (scope, kind) = expected(stage);
        check(&failure, stage, scope, kind);
        assert!(
            matches!(failure.cause, Cause::Closed | Cause::Io(_)),
            "{failure}"
        );
        if stage == Stage::Final {
            assert_eq!(
                heard.count("DATA"),
                1,
                "what may have been taken is not sent again"
            );
        }
    }
}

#[tokio::test]
async fn a_refusal_at_any_step_is_told_with_its_code_and_scope() {
    use sink::Stage as At;
    for wire in WIRES {
        for (at, stage) in [
            (At::Greeting, Stage::Greeting),
            (At::Ehlo, Stage::Ehlo),
            (At::Mail, Stage::Mail),
            (At::Rcpt, Stage::Rcpt),
            (At::Data, Stage::Data),
            (At::Final, Stage::Final),
        ] {
            for code in [421, 451, 550] {
                let reply = Reply::fixed(code, Some(((code / 100) as u8, 3, 0)), "Not now");
                let rule = Rule::new(at, Action::Reply(reply));
                let sink = Sink::builder()
                    .rule(rule)
                    .keep_records()
                    .start()
                    .await
                    .unwrap();
                let failure = failure_of(pool(sink.addr()).wire(wire)).await;
                let scope = match (stage, code) {
                    (Stage::Greeting | Stage::Ehlo, _) => Scope::Endpoint,
                    (_, 421) => Scope::Connection,
                    (Stage::Rcpt, _) => Scope::Recipient,
                    _ => Scope::Message,
                };
                let kind = if code == 550 {
                    Kind::Permanent
                } else {
                    Kind::Transient
                };
                // BDAT has no step between its command and the final reply.
                let is_bdat = matches!(wire, Wire::Windowed(_)) && stage == Stage::Data;
                let stage = if is_bdat { Stage::Final } else { stage };
                check(&failure, stage, scope, kind);
                assert_eq!(failure.code().map(ReplyCode::get), Some(code), "{failure}");
                let enhanced = failure.reply().and_then(Reply::enhanced);
                assert_eq!(enhanced.unwrap().subject(), 3, "{failure}");
                assert!(sink.records().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_refused_password_is_the_account_s_and_a_421_the_server_s() {
    for (code, scope, kind) in [
        (421, Scope::Endpoint, Kind::Transient),
        (454, Scope::Account, Kind::Transient),
        (535, Scope::Account, Kind::Permanent),
    ] {
        let refusal = Action::Reply(Reply::fixed(code, None, "Not now"));
        let rule = Rule::new(sink::Stage::Auth, refusal);
        let sink = Sink::builder().user("user", "pencil").rule(rule).start();
        let sink = sink.await.unwrap();
        let pool = builder_at(sink.addr(), Stage::Auth).timeouts(Timeouts::all(LONG));
        let failure = failure_of(pool).await;
        check(&failure, Stage::Auth, scope, kind);
        assert_eq!(failure.code().map(ReplyCode::get), Some(code), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_reads_no_content_ends_in_a_timeout() {
    for wire in WIRES {
        let (addr, _) = peer(move |mut conn| {
            let stop = if matches!(wire, Wire::Windowed(_)) {
                "EHLO"
            } else {
                "DATA"
            };
            conn.serve(OFFERS, |conn, line| {
                let is_last = line.starts_with(stop);
                is_last.then(|| {
                    let last = if stop == "DATA" {
                        "354 go\r\n"
                    } else {
                        "250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
                    };
                    conn.say(last);
                    // Holds the connection and reads nothing.
                    std::thread::park();
                    false
                })
            });
        });
        let mut timeouts = short(Stage::Content);
        timeouts.mail = SHORT;
        let pool = pool(addr).wire(wire).timeouts(timeouts).build().unwrap();
        let report = pool.send(envelope(), big_content());
        let report = tokio::time::timeout(LONG, report).await.unwrap();
        let failure = report.first_failure().unwrap();
        // A window does not wait for the reply to MAIL before it writes content.
        let is_windowed = matches!(wire, Wire::Windowed(_));
        let stage = if is_windowed {
            Stage::Mail
        } else {
            Stage::Content
        };
        check(failure, stage, Scope::Connection, Kind::Transient);
        assert!(matches!(failure.cause, Cause::Timeout(SHORT)), "{failure}");
    }
}

#[tokio::test]
async fn a_250_before_the_content_is_whole_accepts_nothing() {
    for (wire, at, too_early) in [
        (Wire::Lockstep, "DATA", "354 go\r\n250 taken\r\n"),
        (Wire::Overlapped, "DATA", "354 go\r\n250 taken\r\n"),
        (
            Wire::Windowed(4),
            "MAIL",
            "250 ok\r\n250 ok\r\n250 taken\r\n",
        ),
    ] {
        let (addr, _) = peer(move |mut conn| {
            conn.serve(OFFERS, |conn, line| {
                line.starts_with(at).then(|| {
                    conn.say(too_early);
                    // One that read on might have it all in hand before the client has heard it.
                    conn.read_no_more();
                    false
                })
            });
        });
        let pool = pool(addr).wire(wire).build().unwrap();
        let report = pool.send(envelope(), big_content()).await;
        let failure = report.first_failure().expect("a failure");
        check(failure, Stage::Content, Scope::Connection, Kind::Transient);
        assert!(matches!(failure.cause, Cause::Protocol(_)), "{failure}");
    }
}

#[tokio::test]
async fn replies_that_nothing_asked_for_are_protocol_errors() {
    let too_many = "250 ok\r\n".repeat(4);
    let cases = [
        ("EHLO", too_many.clone(), &WIRES[..]),
        // In a window, replies too many are replies to what follows: nobody can tell.
        ("MAIL", too_many.clone(), &WIRES[..3]),
        ("RCPT", too_many, &WIRES[..3]),
        ("DATA", "354 go\r\n354 go\r\n".to_owned(), &WIRES[..3]),
    ];
    for (command, says, wires) in cases {
        for &wire in wires {
            let says = says.clone();
            let (addr, heard) = peer(move |mut conn| {
                conn.serve(OFFERS, |conn, line| {
                    line.starts_with(command).then(|| conn.say(&says))
                });
            });
            let failure = failure_of(pool(addr).wire(wire)).await;
            let is_protocol = matches!(failure.cause, Cause::Protocol(_));
            assert!(is_protocol, "{wire:?} {command} {failure} {heard:?}");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_that_speaks_out_of_turn_is_given_up_for_another() {
    let (addr, heard) = peer(|mut conn| {
        conn.serve(OFFERS, |conn, line| {
            (line == "FINAL").then(|| conn.say("250 taken\r\n250 and more\r\n"))
        });
    });
    let pool = pool(addr).build().unwrap();
    for _ in 0..3 {
        let report = send(&pool).await;
        assert!(report.is_accepted(), "{report:?}");
    }
    assert_eq!(heard.count("DATA"), 3);
}

/// Serves the connections after the first few, which it refuses; takes no message before `wanted`
/// connections are open at once.
fn refuses_at_first(refused: usize, wanted: usize) -> SocketAddr {
    let accepted = AtomicUsize::new(0);
    let open = (Mutex::new(0), Condvar::new());
    let (addr, _) = peer(move |mut conn| {
        let number = accepted.fetch_add(1, Ordering::Relaxed);
        if (1..=refused).contains(&number) {
            conn.say("554 not now\r\n");
            return;
        }
        let (count, grown) = &open;
        conn.serve(OFFERS, |_, line| {
            if line.starts_with("EHLO") {
                *count.lock().unwrap() += 1;
                grown.notify_all();
            }
            if line == "FINAL" {
                let count = count.lock().unwrap();
                drop(grown.wait_while(count, |count| *count < wanted));
            }
            None
        });
    });
    addr
}

#[tokio::test]
async fn after_refused_connections_the_pool_grows_back_to_its_cap() {
    let addr = refuses_at_first(4, 5);
    let pool = pool(addr)
        .concurrency(Concurrency::Fixed(5))
        .build()
        .unwrap();
    for report in join_all((0..20).map(|_| send(&pool))).await {
        assert!(report.is_accepted(), "{report:?}");
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.connections_failed, stats.connections_open_max),
        (4, 5)
    );
}

#[tokio::test]
async fn closing_does_not_wait_for_a_server_that_never_greets() {
    let (addr, heard) = peer::raw_peer(|stream, heard| {
        heard.note("connected");
        peer::Conn::new(stream, heard).fall_silent();
    });
    let pool = pool(addr).build().unwrap();
    let sent = tokio::spawn({
        let pool = pool.clone();
        async move { pool.send(envelope(), content()).await }
    });
    while heard.lines().is_empty() {
        tokio::task::yield_now().await;
    }
    let closed = tokio::time::timeout(LONG / 2, pool.close()).await;
    closed.expect("it closes before the timeout of the greeting");
    let report = sent.await.unwrap();
    let failure = report.first_failure().unwrap();
    assert!(matches!(failure.cause, Cause::PoolClosed), "{failure}");
}

#[tokio::test]
async fn closing_does_not_wait_long_for_the_reply_to_quit() {
    let (addr, heard) = peer(|mut conn| {
        conn.serve(OFFERS, |conn, line| {
            (line == "QUIT").then(|| {
                conn.fall_silent();
                false
            })
        });
    });
    let pool = pool(addr).idle_max(LONG).build().unwrap();
    assert!(send(&pool).await.is_accepted());
    let closed = tokio::time::timeout(LONG / 2, pool.close()).await;
    closed.expect("it closes before any other timeout");
    assert_eq!(heard.count("QUIT"), 1);
}

#[tokio::test]
async fn many_recipients_are_split_by_a_limit_that_is_learned_on_the_way() {
    let (addr, heard) = peer(|mut conn| {
        conn.serve("250-PIPELINING\r\n250-LIMITS RCPTMAX=40\r\n", |_, _| None);
    });
    let address = |text: &str| text.parse::<Address>().unwrap();
    let recipients = (0..250).map(|n| address(&format!("r{n}@dest.example")).into());
    let envelope = Envelope::new(address("s@src.example"), recipients.collect()).unwrap();
    let report = pool(addr).build().unwrap().send(envelope, content()).await;
    assert!(report.is_accepted(), "{:?}", report.first_failure());
    assert_eq!(report.results.len(), 250);
    assert_eq!(heard.count("RCPT"), 250);
    assert!(heard.count("MAIL") >= 7);
}
