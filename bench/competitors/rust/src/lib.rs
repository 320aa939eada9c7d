//! What the Rust competitors share: arguments, the message, the work counter and the result line.
//!
//! Every competitor, whatever its language, is called as `NAME HOST PORT CONNECTIONS MESSAGES SIZE`
//! and prints one line: `{"name":…,"messages":…,"seconds":…,"ok":…,"failed":…}`.
//!
//! What is fair: the content is made once, before the clock starts, and handed over as bytes, so
//! that no competitor is charged for composing mail. Every connection is open and greeted, and has
//! carried one message, before the clock starts. The clock stops when the last reply is in; QUIT
//! is not timed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The reverse-path of every message.
pub const SENDER: &str = "bench@example.com";
/// The one recipient of every message.
pub const RECIPIENT: &str = "someone@example.net";

/// What to send, and where.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Host name or address of the receiver.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Connections kept busy at once.
    pub connections: usize,
    /// Messages sent while the clock runs.
    pub messages: usize,
    /// Length of each message's content, header section included.
    pub size_bytes: usize,
}

impl Arguments {
    /// Reads the five positional arguments, or says how the program is called and exits with 64.
    pub fn from_env() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        Self::parse(&words).unwrap_or_else(|| {
            eprintln!("usage: HOST PORT CONNECTIONS MESSAGES SIZE");
            std::process::exit(64);
        })
    }

    fn parse(words: &[String]) -> Option<Self> {
        let [host, port, connections, messages, size_bytes] = words else {
            return None;
        };
        Some(Self {
            host: host.clone(),
            port: port.parse().ok()?,
            connections: connections.parse().ok()?,
            messages: messages.parse().ok()?,
            size_bytes: size_bytes.parse().ok()?,
        })
    }

    /// The content: a header section and a body of plain lines, `size_bytes` long, CRLF throughout.
    pub fn content(&self) -> Vec<u8> {
        let line = format!("{}\r\n", "x".repeat(70));
        let mut content =
            format!("From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: bench\r\n\r\n").into_bytes();
        while content.len() < self.size_bytes {
            content.extend_from_slice(line.as_bytes());
        }
        content.truncate(self.size_bytes.saturating_sub(2));
        while content
            .last()
            .is_some_and(|byte| matches!(byte, b'\r' | b'\n'))
        {
            content.pop();
        }
        content.extend_from_slice(b"\r\n");
        content
    }
}

/// Counts messages out to the tasks and their results back in.
#[derive(Debug)]
pub struct Work {
    left: AtomicUsize,
    ok: AtomicUsize,
    failed: AtomicUsize,
}

impl Work {
    /// `messages` to hand out in all.
    pub fn new(messages: usize) -> Self {
        Self {
            left: AtomicUsize::new(messages),
            ok: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        }
    }

    /// Takes one message to send; `false` when none is left.
    pub fn take(&self) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
    }

    /// Books the outcome of one message.
    pub fn book(&self, sent: bool) {
        let counter = if sent { &self.ok } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Prints the result line. Messages that nobody took (every task lost its connection) failed.
    pub fn print(&self, name: &str, took: Duration) {
        let ok = self.ok.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed) + self.left.load(Ordering::Relaxed);
        println!(
            r#"{{"name":"{name}","messages":{},"seconds":{:.6},"ok":{ok},"failed":{failed}}}"#,
            ok + failed,
            took.as_secs_f64()
        );
    }
}
