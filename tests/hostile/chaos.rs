//! A server that does any of it at random, and a book of what it took: what is called accepted was
//! taken once, what is called failed was not taken, and only what is called unknown may be either.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use mailrail::client::{Concurrency, Kind, Timeouts};
use mailrail::flow::rng::Rng;
use mailrail::smtp::{Address, Content, Envelope};

use crate::peer::{Conn, peer};
use crate::{OFFERS, WIRES, pool};

const MESSAGES: usize = 80;

/// Who got which message from whom, and how often.
type Book = Arc<Mutex<HashMap<(String, String, String), usize>>>;

/// What goes on with a transaction on the server's side.
#[derive(Default)]
struct Transaction {
    from: Option<String>,
    to: Vec<String>,
}

struct Chaos {
    conn: Conn<TcpStream>,
    rng: Rng,
    book: Book,
    open: Transaction,
}

impl Chaos {
    /// True in one case of `cases`.
    fn one_in(&mut self, cases: u64) -> bool {
        self.rng.up_to(cases - 1) == 0
    }

    /// Says `usual` or, now and then, something else. Gives whether it was `usual`; `None` ends the
    /// connection.
    fn answer(&mut self, usual: &str) -> Option<bool> {
        let other = match self.rng.up_to(59) {
            0 => "451 4.3.0 later\r\n",
            1 => "550 5.7.1 no\r\n",
            2 => "451-4.3.0 on\r\n451 4.3.0 two lines\r\n",
            // Some close after it, some do not.
            3 => "421 4.3.2 busy\r\n",
            4 if self.one_in(4) => return None,
            5 if self.one_in(4) => {
                self.conn.say([0, 255, b'\n']);
                return None;
            }
            _ => usual,
        };
        let is_heard = self.conn.say(other);
        let closes = other.starts_with("421") && self.one_in(2);
        (is_heard && !closes).then_some(other == usual)
    }

    fn serve(&mut self) -> Option<()> {
        self.conn.say("220 chaos.example\r\n");
        loop {
            let line = self.conn.hear()?;
            let path = |line: &str| {
                let path = line.split(['<', '>']).nth(1);
                path.unwrap_or_default().to_owned()
            };
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" => {
                    self.conn
                        .say(format!("250-chaos.example\r\n{OFFERS}250 HELP\r\n"));
                }
                "RSET" => {
                    self.open = Transaction::default();
                    self.conn.say("250 ok\r\n");
                }
                "MAIL" if self.open.from.is_none() => {
                    if self.answer("250 ok\r\n")? {
                        self.open.from = Some(path(&line));
                    }
                }
                "RCPT" if self.open.from.is_some() => {
                    if self.answer("250 ok\r\n")? {
                        self.open.to.push(path(&line));
                    }
                }
                // Some say 354 although nobody was taken.
                "DATA" if !self.open.to.is_empty() || self.one_in(2) => {
                    if self.answer("354 go\r\n")? {
                        let content = self.hear_content()?;
                        self.finish(&content)?;
                    }
                }
                "BDAT" => {
                    let size = line.split(' ').nth(1)?.parse().ok()?;
                    let content = self.conn.take_octets(size)?;
                    self.finish(&String::from_utf8(content).ok()?)?;
                }
                "QUIT" => {
                    self.conn.say("221 bye\r\n");
                    return None;
                }
                _ => {
                    self.conn.say("503 5.5.1 not now\r\n");
                }
            }
        }
    }

    fn hear_content(&mut self) -> Option<String> {
        let mut content = String::new();
        loop {
            let line = self.conn.hear()?;
            if line == "." {
                return Some(content);
            }
            content.push_str(&line);
            content.push('\n');
        }
    }

    /// Takes the message or not, and says so or not.
    fn finish(&mut self, content: &str) -> Option<()> {
        let Transaction { from, to } = std::mem::take(&mut self.open);
        let (Some(from), false) = (from, to.is_empty()) else {
            self.conn.say("554 5.5.1 nobody\r\n");
            return Some(());
        };
        let refusal = match self.rng.up_to(39) {
            0 => Some("451 4.3.0 later\r\n"),
            1 => Some("552 5.3.4 too much\r\n"),
            2 => Some("421 4.3.2 busy\r\n"),
            3 => return None,
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.conn.say(refusal);
            return Some(());
        }
        let subject = content.lines().next().unwrap_or_default().to_owned();
        for to in to {
            let key = (subject.clone(), from.clone(), to);
            *self.book.lock().unwrap().entry(key).or_default() += 1;
        }
        if self.one_in(40) {
            return None;
        }
        self.conn.say("250 2.0.0 taken\r\n").then_some(())
    }
}

fn message(number: usize) -> (Envelope, Content) {
    let address = |text: String| text.parse::<Address>().unwrap();
    let recipients =
        (0..=number % 2).map(|n| address(format!("r{n}-{number}@dest.example")).into());
    let envelope = Envelope::new(
        address(format!("s{number}@src.example")),
        recipients.collect(),
    );
    let content = format!("Subject: {number}\r\n\r\n.\r\nBody\r\n");
    (envelope.unwrap(), Content::new(content).unwrap())
}

#[tokio::test]
async fn whatever_a_server_does_each_outcome_is_true() {
    let mut seen = HashMap::<&str, usize>::new();
    for (seed, wire) in (0..24).flat_map(|seed| WIRES.map(|wire| (seed, wire))) {
        let book = Book::default();
        let connections = AtomicU64::new(0);
        let (addr, _) = peer({
            let book = Arc::clone(&book);
            move |conn| {
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let mut chaos = Chaos {
                    conn,
                    rng: Rng::new(seed * 1_000_003 + number),
                    book: Arc::clone(&book),
                    open: Transaction::default(),
                };
                chaos.serve();
            }
        });
        let pool = pool(addr)
            .wire(wire)
            .concurrency(Concurrency::Fixed(3))
            .timeouts(Timeouts::all(Duration::from_secs(20)))
            .build()
            .unwrap();
        let sends = (0..MESSAGES).map(|number| {
            let (envelope, content) = message(number);
            pool.send(envelope, content)
        });
        let reports = join_all(sends).await;
        pool.close().await;
        let book = book.lock().unwrap();
        for (number, report) in reports.iter().enumerate() {
            for (index, result) in report.results.iter().enumerate() {
                let key = (
                    format!("Subject: {number}"),
                    format!("s{number}@src.example"),
                    format!("r{index}-{number}@dest.example"),
                );
                let taken = book.get(&key).copied().unwrap_or(0);
                let (name, is_true) = match result {
                    Ok(_) => ("accepted", taken == 1),
                    Err(failure) if failure.kind == Kind::Unknown => ("unknown", taken <= 1),
                    Err(_) => ("failed", taken == 0),
                };
                *seen.entry(name).or_default() += 1;
                assert!(is_true, "{seed} {wire:?} {key:?} taken {taken}: {result:?}");
            }
        }
        let copies: usize = book.values().sum();
        let keys = reports
            .iter()
            .map(|report| report.results.len())
            .sum::<usize>();
        assert!(
            copies <= keys,
            "{seed} {wire:?}: some went where nobody sent them"
        );
    }
    for name in ["accepted", "unknown", "failed"] {
        assert!(seen.contains_key(name), "{seen:?}");
    }
}
