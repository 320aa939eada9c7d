//! What `send` gives back, and what the pool counts.

use std::sync::Arc;
use std::time::Duration;

use smtp::Reply;

use crate::failure::Failure;

/// The server took responsibility for this recipient (RFC 5321 §6.1).
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Its reply to the content.
    pub reply: Reply,
    /// `host:port` of the server.
    pub endpoint: Arc<str>,
    /// The server offers DSN: what NOTIFY asks for is its business from here on (RFC 3461 §5.2).
    pub offers_dsn: bool,
}

/// The outcome of one `send`.
#[derive(Clone, Debug)]
pub struct Report {
    /// One per recipient of the envelope, in its order.
    pub results: Vec<Result<Accepted, Failure>>,
    /// Where the time of the last attempt went.
    pub timings: Timings,
    /// Attempts made; retries on stale connections are not counted. 0 where none reached a server.
    pub attempts: u32,
}

impl Report {
    /// Of one attempt.
    pub(crate) fn new(results: Vec<Result<Accepted, Failure>>, timings: Timings) -> Self {
        Self {
            results,
            timings,
            attempts: 1,
        }
    }

    /// Whether every recipient was accepted.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.results.iter().all(Result::is_ok)
    }

    /// The first failure, if any.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Failure> {
        self.results.iter().find_map(|result| result.as_ref().err())
    }
}

/// Where the time of one message went. Stages overlap where commands are pipelined: each runs
/// from the end of the one before, so that their sum is the time on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From `send` to the first byte written for it, less the making of a connection.
    pub queue: Duration,
    /// Name resolution, if this message's connection was new. So for the next five.
    pub dns: Duration,
    /// TCP connect.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// Until the server's greeting.
    pub greeting: Duration,
    /// EHLO, STARTTLS and the second EHLO.
    pub ehlo: Duration,
    /// AUTH.
    pub auth: Duration,
    /// From the first byte to the reply to MAIL.
    pub mail: Duration,
    /// To the reply to the last RCPT.
    pub rcpt: Duration,
    /// To the last byte of content written, the wait for 354 included.
    pub content: Duration,
    /// To the reply to the content.
    pub final_reply: Duration,
    /// The connection had carried a message before, or had been warmed up.
    pub reused: bool,
    /// `Some(true)` where TLS was resumed, `None` without TLS.
    pub tls_resumed: Option<bool>,
}

impl Timings {
    /// Name and value of each stage, in order.
    #[must_use]
    pub fn stages(&self) -> [(&'static str, Duration); 11] {
        [
            ("queue", self.queue),
            ("dns", self.dns),
            ("connect", self.connect),
            ("tls", self.tls),
            ("greeting", self.greeting),
            ("ehlo", self.ehlo),
            ("auth", self.auth),
            ("mail", self.mail),
            ("rcpt", self.rcpt),
            ("content", self.content),
            ("final", self.final_reply),
        ]
    }

    /// The sum of the stages.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.stages().iter().map(|(_, stage)| *stage).sum()
    }
}

/// What a pool has done so far and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections made ready since the start.
    pub connections_opened: u64,
    /// Connections that failed before they were ready.
    pub connections_failed: u64,
    /// Open or being opened now; never above the cap.
    pub connections_open: usize,
    /// Of those, without work.
    pub connections_idle: usize,
    /// The most that were open at once.
    pub connections_open_max: usize,
    /// TLS handshakes in full.
    pub tls_full: u64,
    /// TLS handshakes resumed.
    pub tls_resumed: u64,
    /// Messages sent again on another connection because theirs had died unused.
    pub stale_retries: u64,
    /// Messages waiting for a connection.
    pub waiting: usize,
    /// Connections allowed to work now: the cap, or what `auto` has found.
    pub concurrency: usize,
}
