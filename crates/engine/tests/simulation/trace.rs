//! What happened in a storm, in order: a digest of all of it, the lines for who looks into one, and
//! what was seen to be wrong.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Clones write into the same trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    began: Option<Instant>,
    digest: u64,
    is_shown: bool,
    wrong: Vec<String>,
}

impl Trace {
    pub(crate) fn new(is_shown: bool) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            began: None,
            digest: 0xcbf2_9ce4_8422_2325,
            is_shown,
            wrong: Vec::new(),
        })))
    }

    /// Something happened now.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let mut lines = self.lock();
        let now = Instant::now();
        let at = now - *lines.began.get_or_insert(now);
        let line = format!("{:>10.3} {what}", at.as_secs_f64());
        for byte in line.bytes() {
            lines.digest = (lines.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if lines.is_shown {
            println!("{line}");
        }
    }

    /// An invariant does not hold.
    pub(crate) fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// The digest, and what was wrong.
    pub(crate) fn end(&self) -> (u64, Vec<String>) {
        let lines = self.lock();
        (lines.digest, lines.wrong.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap()
    }
}

/// Takes the log of all that runs in a storm: errors that no storm excuses are wrong.
pub(crate) struct Log(pub(crate) Trace);

/// What the engine says only where one of its own rules is broken.
const NEVER: [&str; 3] = ["refused by the spool", "could not be tidied", "is damaged"];

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said(String::new());
        event.record(&mut said);
        if NEVER.iter().any(|never| said.0.contains(never)) {
            self.0.wrong(format!("the log says: {}", said.0));
        }
        if tokio::runtime::Handle::try_current().is_ok() {
            self.0
                .note(format_args!("log {} {}", event.metadata().level(), said.0));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Said(String);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}
