//! The sections about the engine's own ways: limits, retries, signatures, notices, what is kept.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::Signers;
use flow::rate::RateLimit;
use flow::retry::ErrorClass;
use message::dkim::{IdentityError, Signer, SigningKey};
use smtp::Domain;
use toml::de::DeValue;

use super::beside;
use super::read::{Section, Setting};
use super::settings::{Word, read_word};
use super::units::{Percent, Size};

/// Recipients of one message that the engine can tell apart.
const RECIPIENTS_MAX: u32 = engine::Limits::RECIPIENTS_MAX as u32;

/// `[limits]`: ceilings that protect the machine.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Octets of one message.
    pub(crate) message_max: Size,
    /// Recipients of one message.
    pub(crate) recipients_max: NonZeroU32,
    /// SMTP connections in.
    pub(crate) connections_max: NonZeroU32,
    /// Of them, from one address that no network, user or key names.
    pub(crate) connections_per_stranger_max: NonZeroU32,
    /// Of them, one tenant's.
    pub(crate) connections_per_tenant_max: Option<NonZeroU32>,
    /// A client that says nothing for so long is cut.
    pub(crate) idle_max: Duration,
    /// Commands in error after which a client is cut.
    pub(crate) errors_max: NonZeroU32,
    /// Messages on the wire at once.
    pub(crate) in_flight_max: NonZeroU32,
    /// Messages that leave, to all sites.
    pub(crate) rate: Option<RateLimit>,
    /// How far ahead a message may be scheduled.
    pub(crate) ahead_max: Duration,
    /// Share of the machine's CPU above which we slow down.
    pub(crate) cpu_max: Percent,
    /// Memory near which we slow down; the cgroup's limit where that is lower or there is none.
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
            connections_per_stranger_max: section.get("connections_per_stranger_max", "50"),
            connections_per_tenant_max: section.maybe("connections_per_tenant_max"),
            idle_max: section.get("idle_max", "\"5m\""),
            errors_max: section.get("errors_max", "20"),
            in_flight_max: section.get("in_flight_max", "20000"),
            rate: section.maybe("rate"),
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
        match limits.recipients_max.get() {
            100..=RECIPIENTS_MAX => {}
            0..100 => section.wrong(
                "recipients_max",
                "every server takes 100 (RFC 5321 §4.5.3.1.8)",
            ),
            _ => section.wrong("recipients_max", format_args!("is over {RECIPIENTS_MAX}")),
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
    (ErrorClass::Connect, "connect", "\"5m\"", "\"4h\""),
    (ErrorClass::Handshake, "handshake", "\"5m\"", "\"4h\""),
    (ErrorClass::Throttled, "throttled", "\"5m\"", "\"4h\""),
    (ErrorClass::Greylisted, "greylisted", "\"5m\"", "\"5m\""),
    (ErrorClass::MailboxFull, "mailbox_full", "\"1h\"", "\"4h\""),
    (ErrorClass::Transient, "transient", "\"15m\"", "\"4h\""),
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

/// All `[[dkim]]`: who signs mail from a domain. Two for one domain both sign.
#[derive(Debug, Default)]
pub(super) struct Dkim(Vec<(Domain, Signer)>);

impl Dkim {
    pub(super) fn read_all(root: &mut Section<'_>, folder: &Path) -> Signers {
        let mut all = Self::default();
        for mut section in root.list("dkim") {
            let domain = section.must::<Domain>("domain");
            let selector = section.must::<String>("selector");
            let key = section.must::<PathBuf>("key");
            let key = key.and_then(|path| {
                let key = signing_key(&beside(folder, &path));
                key.map_err(|error| section.wrong("key", error)).ok()
            });
            if let (Some(domain), Some(selector), Some(key)) = (domain, selector, key) {
                let added = all.add(domain, &selector, key);
                let _ = added.map_err(|error| section.wrong("selector", error));
            }
            section.end();
        }
        let mut signers = Signers::default();
        for (domain, signer) in all.0 {
            signers.insert(&domain, signer);
        }
        signers
    }

    fn add(
        &mut self,
        domain: Domain,
        selector: &str,
        key: SigningKey,
    ) -> Result<(), IdentityError> {
        let known = self.0.iter().position(|(known, _)| *known == domain);
        let signer = match known.map(|index| self.0.swap_remove(index)) {
            None => Signer::new(domain.clone(), selector, key)?,
            Some((_, signer)) => signer.and(domain.clone(), selector, key)?,
        };
        self.0.push((domain, signer));
        Ok(())
    }
}

fn signing_key(path: &Path) -> Result<SigningKey, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| named(&error))?;
    SigningKey::from_pem(&pem).map_err(|error| named(&error))
}

/// `[dsn]`: what we write to the reverse-path (RFC 3464).
#[derive(Debug, Clone)]
pub(crate) struct Dsn {
    /// Of what bounced or expired; without, there is no notice at all.
    pub(crate) bounces: bool,
    /// Of what still waits after so long; zero: none.
    pub(crate) delays: Duration,
}

impl Dsn {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let dsn = Self {
            bounces: section.get("bounces", "true"),
            delays: section.get("delays", "\"4h\""),
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
#[derive(Debug, Clone, PartialEq)]
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
        if history.age_max < engine::idempotency::KEPT_FOR {
            let why =
                "an Idempotency-Key holds for 24h, and history says what came of it: 24h or more";
            section.wrong("age_max", why);
        }
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
#[derive(Debug, Clone, PartialEq)]
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
