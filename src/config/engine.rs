//! The sections about the engine's own ways: limits, retries, signatures, notices, what is kept.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::retry::ErrorClass;
use message::dkim::{Signer, SigningKey};
use smtp::Domain;
use toml::de::DeValue;

use super::beside;
use super::read::{Section, Setting};
use super::settings::{Word, read_word};
use super::units::{Share, Size};

/// `[limits]`: ceilings that protect the machine.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Octets of one message.
    pub(crate) message_max: Size,
    /// Recipients of one message.
    pub(crate) recipients_max: NonZeroU32,
    /// SMTP connections in.
    pub(crate) connections_max: NonZeroU32,
    /// Of them, from one client.
    pub(crate) connections_per_client_max: NonZeroU32,
    /// A client that says nothing for so long is cut.
    pub(crate) idle_max: Duration,
    /// Commands in error after which a client is cut.
    pub(crate) errors_max: NonZeroU32,
    /// Messages on the wire at once.
    pub(crate) in_flight_max: NonZeroU32,
    /// How far ahead a message may be scheduled.
    pub(crate) ahead_max: Duration,
    /// CPU above which we slow down.
    pub(crate) cpu_max: Share,
    /// Memory near which we slow down; the cgroup's limit where there is none.
    pub(crate) memory_max: Option<Size>,
    /// Free disk below which nothing is accepted.
    pub(crate) disk_free_min: Size,
    /// After SIGTERM, for what is on the wire.
    pub(crate) drain_max: Duration,
}

impl Limits {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let limits = Self {
            message_max: section.get("message_max", "\"50 MiB\""),
            recipients_max: section.get("recipients_max", "1000"),
            connections_max: section.get("connections_max", "10000"),
            connections_per_client_max: section.get("connections_per_client_max", "10000"),
            idle_max: section.get("idle_max", "\"5m\""),
            errors_max: section.get("errors_max", "20"),
            in_flight_max: section.get("in_flight_max", "2000"),
            ahead_max: section.get("ahead_max", "\"30d\""),
            cpu_max: section.get("cpu_max", "\"80 %\""),
            memory_max: section.maybe("memory_max"),
            disk_free_min: section.get("disk_free_min", "\"512 MiB\""),
            drain_max: section.get("drain_max", "\"30s\""),
        };
        if limits.message_max.0 < 64 << 10 {
            section.wrong(
                "message_max",
                "every server takes 64 KiB (RFC 5321 §4.5.3.1.7)",
            );
        }
        if limits.recipients_max.get() < 100 {
            section.wrong(
                "recipients_max",
                "every server takes 100 (RFC 5321 §4.5.3.1.8)",
            );
        }
        section.end();
        limits
    }
}

/// When a class of failure is tried again: after `first`, twice that, … up to `longest`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Curve {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// `[retry]`: when what failed for now is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Retry {
    /// Given up after so long (RFC 5321 §4.5.4.1).
    pub(crate) max_age: Duration,
    /// By class; those that are never retried have none.
    pub(crate) curves: Vec<(ErrorClass, Curve)>,
}

/// Class, its table, and its default.
const CURVES: &[(ErrorClass, &str, &str, &str)] = &[
    (ErrorClass::Connect, "connect", "\"1m\"", "\"1h\""),
    (ErrorClass::Handshake, "handshake", "\"2m\"", "\"1h\""),
    (ErrorClass::Throttled, "throttled", "\"1m\"", "\"30m\""),
    (ErrorClass::Greylisted, "greylisted", "\"6m\"", "\"1h\""),
    (ErrorClass::MailboxFull, "mailbox_full", "\"30m\"", "\"4h\""),
    (ErrorClass::Transient, "transient", "\"5m\"", "\"2h\""),
];

impl Retry {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let max_age: Duration = section.get("max_age", "\"5d\"");
        let mut curves = Vec::new();
        for &(class, name, first, longest) in CURVES {
            let mut section = section.section(name);
            let curve = Curve {
                first: section.get("first", first),
                longest: section.get("longest", longest),
            };
            if curve.first < Duration::from_millis(100) || curve.first > curve.longest {
                section.wrong("first", "is 100ms or more, and no more than `longest`");
            }
            section.end();
            curves.push((class, curve));
        }
        if max_age.is_zero() {
            section.wrong("max_age", "nothing would ever be sent");
        }
        section.end();
        Self { max_age, curves }
    }
}

/// One `[[dkim]]`: signs mail from a domain.
#[derive(Debug, Clone)]
pub(crate) struct Dkim {
    pub(crate) domain: Domain,
    pub(crate) selector: String,
    /// PEM, read and found to be a key.
    pub(crate) key: PathBuf,
}

impl Dkim {
    pub(super) fn read_all(root: &mut Section<'_>, folder: &Path) -> Vec<Self> {
        let sections = root.list("dkim");
        sections
            .into_iter()
            .filter_map(|section| Self::read(section, folder))
            .collect()
    }

    fn read(mut section: Section<'_>, folder: &Path) -> Option<Self> {
        let domain = section.must("domain");
        let selector = section.must("selector");
        let key = section.must::<PathBuf>("key");
        let dkim = domain.zip(selector).zip(key);
        let dkim = dkim.map(|((domain, selector), key)| Self {
            domain,
            selector,
            key: beside(folder, &key),
        });
        if let Some(dkim) = &dkim {
            if let Err((key, error)) = dkim.signer() {
                section.wrong(key, error);
            }
        }
        section.end();
        dkim
    }

    /// The signer, or which setting is wrong and why.
    pub(crate) fn signer(&self) -> Result<Signer, (&'static str, String)> {
        let named = |error: &dyn std::fmt::Display| {
            let path = self.key.display();
            ("key", format!("{path}: {error}"))
        };
        let pem = std::fs::read(&self.key).map_err(|error| named(&error))?;
        let key = SigningKey::from_pem(&pem).map_err(|error| named(&error))?;
        let signer = Signer::new(self.domain.clone(), &self.selector, key);
        signer.map_err(|error| ("selector", error.to_string()))
    }
}

/// `[dsn]`: what we write to the reverse-path (RFC 3464).
#[derive(Debug, Clone)]
pub(crate) struct Dsn {
    /// Of what bounced or expired.
    pub(crate) bounces: bool,
}

impl Dsn {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let dsn = Self {
            bounces: section.get("bounces", "true"),
        };
        section.end();
        dsn
    }
}

/// `[suppression]`: to whom nothing is sent any more.
#[derive(Debug, Clone)]
pub(crate) struct Suppression {
    /// A bounce of class 5.1.x (no such mailbox, no such domain) puts the address on the list.
    pub(crate) hard_bounces: bool,
}

impl Suppression {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let suppression = Self {
            hard_bounces: section.get("hard_bounces", "true"),
        };
        section.end();
        suppression
    }
}

/// `[history]`: how long it is known what became of a message.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) age_max: Duration,
    pub(crate) size_max: Size,
}

impl History {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let history = Self {
            age_max: section.get("age_max", "\"30d\""),
            size_max: section.get("size_max", "\"10 GiB\""),
        };
        section.end();
        history
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    Text,
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("text", Self::Text),
        ("json", Self::Json),
    ];
}

impl Setting for LogFormat {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        read_word(value)
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLevel(pub(crate) tracing::Level);

impl Word for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self(tracing::Level::ERROR)),
        ("warn", Self(tracing::Level::WARN)),
        ("info", Self(tracing::Level::INFO)),
        ("debug", Self(tracing::Level::DEBUG)),
        ("trace", Self(tracing::Level::TRACE)),
    ];
}

impl Setting for LogLevel {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        read_word(value)
    }
}

/// `[log]`: to standard error.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: LogLevel,
}

impl Log {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let log = Self {
            format: section.get("format", "\"auto\""),
            level: section.get("level", "\"info\""),
        };
        section.end();
        log
    }
}
