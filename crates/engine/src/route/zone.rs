//! A DNS of a few lines, for tests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use smtp::Domain;

use super::dns::{Dns, DnsError, Found, Mx};

/// Answers from lines such as `a.example MX 10 mx.example`, `a.example MX 0 .`, `mx.example A
/// 192.0.2.1`, `b.example MX FAIL` and `c.example EXISTS`. What stands nowhere does not exist.
#[derive(Debug)]
pub(crate) struct Zone {
    lines: Mutex<HashMap<String, Vec<String>>>,
    ttl: Duration,
    /// Questions so far.
    pub(crate) asked: AtomicU32,
}

impl Zone {
    pub(crate) fn new(ttl: Duration, text: &str) -> Self {
        let zone = Self {
            lines: Mutex::default(),
            ttl,
            asked: AtomicU32::new(0),
        };
        zone.set(text);
        zone
    }

    /// Other records from now on.
    pub(crate) fn set(&self, text: &str) {
        let mut lines: HashMap<String, Vec<String>> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(' ').unwrap();
            lines
                .entry(name.to_owned())
                .or_default()
                .push(rest.to_owned());
        }
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    fn answer<T>(
        &self,
        name: &Domain,
        kind: &str,
        read: impl Fn(&str) -> T,
    ) -> Result<Found<T>, DnsError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let ttl = self.ttl;
        let lines = lines.get(name.as_str()).ok_or(DnsError::NoName { ttl })?;
        let of_kind = lines
            .iter()
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let texts: Vec<&str> = of_kind.collect();
        match &*texts {
            [] => Err(DnsError::NoRecord { ttl }),
            ["FAIL"] => Err(DnsError::Failed("SERVFAIL".into())),
            ["JUNK"] => Ok(Found {
                records: Vec::new(),
                ttl,
            }),
            _ => Ok(Found {
                records: texts.into_iter().map(read).collect(),
                ttl,
            }),
        }
    }
}

impl Dns for Zone {
    fn mx(&self, name: &Domain) -> BoxFuture<'static, Result<Found<Mx>, DnsError>> {
        let answer = self.answer(name, "MX", |text| {
            let (preference, host) = text.split_once(' ').unwrap();
            Mx {
                preference: preference.parse().unwrap(),
                host: (host != ".").then(|| host.parse().unwrap()),
            }
        });
        later(answer)
    }

    fn addresses(
        &self,
        name: &Domain,
        is_v6: bool,
    ) -> BoxFuture<'static, Result<Found<IpAddr>, DnsError>> {
        let kind = if is_v6 { "AAAA" } else { "A" };
        later(self.answer(name, kind, |text| text.parse().unwrap()))
    }
}

/// Not at once, so that several who ask meet.
fn later<T: Send + 'static>(answer: T) -> BoxFuture<'static, T> {
    async move {
        tokio::task::yield_now().await;
        answer
    }
    .boxed()
}
