//! Idempotency keys through crashes: requests are in flight, the server is killed, and the client, which
//! does not know what became of them, repeats them all.
//!
//! `CRASH_SEED` repeats a run.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flow::rng::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};
use sink::Sink;

use crate::support::serving::{Home, Serving, agent, route_to};
use crate::support::{recipients, setting, start, wait_until};

const REQUESTS: usize = 200;
const WORKERS: usize = 8;
const KILLS: u64 = 3;
/// Connections of the server to the sink, and round trips that a message takes there.
const CONNECTIONS: u64 = 2;
const RTT: Duration = Duration::from_millis(5);
/// A crash repeats what was on the wire (a relay's window on each connection), and as much that was
/// delivered a moment before and not yet recorded.
const DUPLICATES_MAX: u64 = KILLS * 2 * 8 * CONNECTIONS;

fn sink_and_home() -> (Sink, Home) {
    let sink = start(Sink::builder().keep_content().rtt(RTT));
    let config = format!(
        "{}connections_max = {CONNECTIONS}\n[limits]\ndisk_free_min = \"0 B\"\n",
        route_to(&sink)
    );
    (sink, Home::new(&config))
}

/// Makes all requests, several at once, again and again, on a server that is killed in the middle; the
/// last one lives. Whoever has an answer gets the same one ever after.
///
/// * `attempt`: makes a request; `None` where the server went away.
fn repeat_all_through_kills<'h>(
    home: &'h Home,
    attempt: impl Fn(&Serving<'_>, usize) -> Option<String> + Sync,
) -> Serving<'h> {
    let mut rng = Rng::new(setting("CRASH_SEED", 1));
    let answers: Vec<OnceLock<String>> = (0..REQUESTS).map(|_| OnceLock::new()).collect();
    for round in 0..=KILLS {
        let server = home.serve();
        let kill_at = 1 + rng.up_to(REQUESTS as u64 - WORKERS as u64) as usize;
        let (begun, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= REQUESTS {
                    return;
                }
                let Some(answer) = attempt(&server, number) else {
                    assert!(round < KILLS, "the last server went away\n{}", home.log());
                    return;
                };
                let first = answers[number].get_or_init(|| answer.clone());
                assert_eq!(*first, answer, "request {number}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(work);
            }
            if round < KILLS {
                wait_until("some are answered", || {
                    answered.load(Ordering::Relaxed) >= kill_at
                });
                server.signal(Signal::KILL);
            }
        });
        if round == KILLS {
            return server;
        }
    }
    unreachable!("the last round returns")
}

/// Waits until nothing is left to do, then counts: everybody got it, and hardly anybody twice.
#[track_caller]
fn account(server: &Serving<'_>, sink: &Sink, expected: usize) {
    wait_until("all is settled", || {
        server.json(&["status"])["counts"]["recipients"] == 0
    });
    let mut times: BTreeMap<String, u64> = BTreeMap::new();
    for recipient in recipients(sink) {
        *times.entry(recipient).or_default() += 1;
    }
    assert_eq!(times.len(), expected);
    let duplicates: u64 = times.values().map(|times| times - 1).sum();
    assert!(
        duplicates <= DUPLICATES_MAX,
        "{duplicates} of at most {DUPLICATES_MAX}"
    );
}

/// Every tenth is a batch.
fn request(number: usize, subject: &str) -> (&'static str, Value) {
    let message = |name: String| {
        json!({
            "from": "a@x.example", "to": format!("{name}@y.example"), "subject": subject, "text": "x",
        })
    };
    match number % 10 {
        0 => {
            let all = (0..3).map(|index| message(format!("p{number}-{index}")));
            ("/emails/batch", all.collect())
        }
        _ => ("/emails", message(format!("p{number}"))),
    }
}

/// POST; `None` where no answer came. Who is refused for now comes again.
fn post(base: &str, key: &str, number: usize, subject: &str) -> Option<(u16, Value)> {
    let (path, body) = request(number, subject);
    let agent = agent();
    loop {
        let sent = agent
            .post(format!("{base}{path}"))
            .header("Authorization", format!("Bearer {key}"))
            .header("Idempotency-Key", format!("order/{number}"))
            .send_json(&body);
        let mut answer = sent.ok()?;
        let said = answer.body_mut().read_json().ok()?;
        match answer.status().as_u16() {
            429 | 503 => {}
            status => return Some((status, said)),
        }
    }
}

#[test]
fn requests_repeated_over_http_after_sigkill_send_each_message_once() {
    let (sink, home) = sink_and_home();
    let key = home.serve().key().unwrap().to_owned();
    let attempt = |server: &Serving<'_>, number: usize| {
        let (status, answer) = post(&server.http(), &key, number, "hi")?;
        assert_eq!(status, 200, "{answer}");
        Some(answer.to_string())
    };
    let server = repeat_all_through_kills(&home, attempt);
    for number in 0..20 {
        let (status, answer) = post(&server.http(), &key, number, "other").unwrap();
        assert_eq!(
            (status, &answer["name"]),
            (409, &json!("invalid_idempotent_request"))
        );
    }
    account(&server, &sink, REQUESTS + 2 * REQUESTS / 10);
}

/// A message under a key; the reply to it, or an error where the server went away. Who is refused for
/// now comes again.
fn submit(address: &str, number: usize, body: &str) -> io::Result<String> {
    let socket = TcpStream::connect(address)?;
    let mut replies = BufReader::new(socket.try_clone()?).lines();
    let mut reply = || loop {
        let line = replies.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok::<_, io::Error>(line);
        }
    };
    reply()?;
    (&socket).write_all(b"EHLO x\r\n")?;
    reply()?;
    let content = format!("Idempotency-Key: order/{number}\r\nSubject: hi\r\n\r\n{body}\r\n");
    let transaction = format!(
        "MAIL FROM:<a@x.example>\r\nRCPT TO:<p{number}@y.example>\r\nBDAT {} LAST\r\n{content}",
        content.len()
    );
    loop {
        (&socket).write_all(transaction.as_bytes())?;
        let replies = [reply()?, reply()?, reply()?];
        match replies.iter().find(|reply| reply.starts_with('4')) {
            Some(reply) if reply.starts_with("421") => return Err(io::ErrorKind::Other.into()),
            Some(_) => {
                (&socket).write_all(b"RSET\r\n")?;
                reply()?;
            }
            None => return Ok(replies[2].clone()),
        }
    }
}

#[test]
fn messages_repeated_over_smtp_after_sigkill_are_sent_once() {
    let (sink, home) = sink_and_home();
    let attempt = |server: &Serving<'_>, number: usize| {
        let reply = submit(server.smtp_address(), number, "hello").ok()?;
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
        Some(reply)
    };
    let server = repeat_all_through_kills(&home, attempt);
    for number in 0..20 {
        let reply = submit(server.smtp_address(), number, "good bye").unwrap();
        assert!(reply.starts_with("554 5.6.0 "), "{reply}");
    }
    account(&server, &sink, REQUESTS);
    // The key is ours: recipients never see it.
    for record in sink.records() {
        let content = String::from_utf8_lossy(record.content.as_ref().unwrap()).into_owned();
        assert!(!content.contains("Idempotency"), "{content}");
    }
}
