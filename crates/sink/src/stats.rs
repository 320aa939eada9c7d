//! What has happened so far, in counters that every connection adds to.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde::Serialize;

use crate::record::Duplicates;

/// Counters of one sink.
#[derive(Debug)]
pub(crate) struct Stats {
    started: Instant,
    connections: AtomicU64,
    connections_open: AtomicU64,
    messages: AtomicU64,
    recipients: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    messages_per_connection_max: AtomicU64,
    /// Nanoseconds from `started` to the first and the last message.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

/// What came in, from the start until now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Report {
    /// Messages answered 250, and those whose 250 a rule lost.
    pub messages: u64,
    /// Recipients of them.
    pub recipients: u64,
    /// Octets of their content.
    pub bytes: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Messages divided by connections.
    pub messages_per_connection_mean: f64,
    /// Most messages on one connection that has ended.
    pub messages_per_connection_max: u64,
    /// Commands and messages refused by a rule, the rate, greylisting, the limit of connections, for want of
    /// AUTH, or because their content was not canonical; not what was no proper SMTP at all.
    pub refused: u64,
    /// Messages a second between the first and the last; 0 with fewer than two.
    pub messages_per_second: f64,
    /// Recipients sent something twice; `None` where no records are kept.
    pub duplicates: Option<Duplicates>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            connections: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            recipients: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            messages_per_connection_max: AtomicU64::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
        }
    }

    /// A connection opens: its number, from 1, and how many are open now.
    pub(crate) fn open(&self) -> (u64, u64) {
        (
            self.connections.fetch_add(1, Relaxed) + 1,
            self.connections_open.fetch_add(1, Relaxed) + 1,
        )
    }

    pub(crate) fn refuse(&self, times: u64) {
        self.refused.fetch_add(times, Relaxed);
    }

    /// Adds what one batch of reads brought.
    pub(crate) fn add(&self, messages: u64, recipients: u64, bytes: u64) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.messages.fetch_add(messages, Relaxed) == 0 {
            self.first_ns.fetch_min(now, Relaxed);
        }
        self.last_ns.fetch_max(now, Relaxed);
        self.recipients.fetch_add(recipients, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn close(&self, messages: u64) {
        self.connections_open.fetch_sub(1, Relaxed);
        self.messages_per_connection_max
            .fetch_max(messages, Relaxed);
    }

    pub(crate) fn report(&self, duplicates: Option<Duplicates>) -> Report {
        let messages = self.messages.load(Relaxed);
        let connections = self.connections.load(Relaxed);
        let (first, last) = (self.first_ns.load(Relaxed), self.last_ns.load(Relaxed));
        let seconds = last.saturating_sub(first) as f64 / 1e9;
        Report {
            messages,
            recipients: self.recipients.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            connections,
            connections_open: self.connections_open.load(Relaxed),
            messages_per_connection_mean: messages as f64 / connections.max(1) as f64,
            messages_per_connection_max: self.messages_per_connection_max.load(Relaxed),
            refused: self.refused.load(Relaxed),
            messages_per_second: match seconds > 0.0 {
                true => messages as f64 / seconds,
                false => 0.0,
            },
            duplicates,
        }
    }
}

impl fmt::Display for Report {
    /// For people, several lines without a line end at the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} messages to {} recipients, {} octets, {:.0} messages/s",
            self.messages, self.recipients, self.bytes, self.messages_per_second
        )?;
        write!(
            f,
            "{} connections ({} open), {:.1} messages each, {} at most; {} refusals",
            self.connections,
            self.connections_open,
            self.messages_per_connection_mean,
            self.messages_per_connection_max,
            self.refused
        )?;
        if let Some(duplicates) = self.duplicates {
            write!(
                f,
                "\n{} duplicates by content, {} by Message-ID",
                duplicates.by_content, duplicates.by_message_id
            )?;
        }
        Ok(())
    }
}
