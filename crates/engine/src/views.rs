//! What the engine shows of itself: messages, the queue, sites, health.

use std::sync::Arc;
use std::time::Duration;

use store::{Event, Heading, MessageId, Outcome, Status, Tags, Time};

/// A message and where each of its recipients stands.
#[derive(Clone, Debug)]
pub struct MessageView {
    /// Its id.
    pub id: MessageId,
    /// Whose.
    pub tenant: Arc<str>,
    /// When it was accepted.
    pub accepted_at: Time,
    /// Not before this, where the application asked for later.
    pub due_at: Time,
    /// Its labels.
    pub tags: Tags,
    /// From whom it is and what about; `None` if history is too old to know.
    pub heading: Option<Arc<Heading>>,
    /// The message itself, while a recipient is unsettled; afterwards only history is left.
    pub message: Option<store::Message>,
    /// One per recipient, in the envelope's order.
    pub recipients: Vec<RecipientView>,
}

/// Where one recipient stands.
#[derive(Clone, Debug)]
pub struct RecipientView {
    /// Index in the envelope.
    pub index: u32,
    /// Its address.
    pub address: Arc<str>,
    /// Its state.
    pub status: Status,
    /// Since when.
    pub at: Time,
    /// The next attempt, where one is to come.
    pub due_at: Option<Time>,
    /// How the last attempt went.
    pub outcome: Option<Box<Outcome>>,
}

/// Which of the waiting mail is meant. Conditions hold together; none means all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<Arc<str>>,
    /// For this site.
    pub site: Option<Arc<str>>,
    /// This message.
    pub message: Option<MessageId>,
    /// To this domain.
    pub domain: Option<Box<str>>,
    /// To this address.
    pub recipient: Option<Box<str>>,
    /// With this label.
    pub tag: Option<(Box<str>, Box<str>)>,
}

/// Waiting mail of one tenant for one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLine {
    /// The site.
    pub site: Arc<str>,
    /// The tenant.
    pub tenant: Arc<str>,
    /// Jobs that could go now.
    pub ready: u64,
    /// Jobs whose time has not come.
    pub waiting: u64,
    /// Jobs on the wire.
    pub in_flight: u64,
    /// Recipients whose outcome is unknown, held for a decision.
    pub held: u64,
    /// The operator has stopped it.
    pub suspended: bool,
}

/// One site: limits in force, and which one binds.
#[derive(Clone, Debug)]
pub struct SiteView {
    /// Its name.
    pub name: Arc<str>,
    /// Jobs that could go now.
    pub ready: u64,
    /// Jobs whose time has not come.
    pub waiting: u64,
    /// Jobs on the wire.
    pub in_flight: u64,
    /// Messages that may be on the wire at once, now.
    pub window: f64,
    /// Messages a second, learned; `None` while none has been.
    pub pace_per_s: Option<f64>,
    /// Messages a second, configured.
    pub rate_per_s: Option<f64>,
    /// `closed`, `half-open` or `open`.
    pub breaker: &'static str,
    /// When a breaker that is open lets a probe out.
    pub breaker_until: Option<Time>,
    /// The operator has stopped it.
    pub suspended: bool,
    /// What keeps it from going faster, in one word.
    pub binding: &'static str,
    /// The same in a sentence.
    pub why: String,
    /// Connections open.
    pub connections_open: u64,
    /// Of them, without work.
    pub connections_idle: u64,
}

/// How the engine is and what it does about it.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why nothing is accepted; `None` while mail is.
    pub refusing: Option<String>,
    /// 1.0: windows are as wide as they may; less: the machine is short.
    pub window_factor: f64,
    /// What binds, in words, worst first: `cpu 93 % of 80 %`. Then what is damaged.
    pub pressures: Vec<String>,
    /// Places of the journal that could not be read: the mail in them is not delivered.
    pub journal_damaged: u64,
    /// Places of the history that could not be read: what they said is forgotten.
    pub history_damaged: u64,
    /// Share of the machine's CPU that this process uses, 0 to 1.
    pub cpu_share: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// The limit it is held against, if any is known.
    pub memory_bytes_max: Option<u64>,
    /// Free on the disk of the data folder.
    pub disk_free_bytes: u64,
    /// The last syncs of the journal, smoothed.
    pub journal_sync: Duration,
    /// Recovery after the start has not ended yet.
    pub recovering: bool,
    /// The engine is draining.
    pub draining: bool,
}

/// Counters since the start and levels now.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Messages accepted.
    pub accepted: u64,
    /// Submissions refused, all reasons.
    pub refused: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Attempts deferred.
    pub deferred: u64,
    /// Recipients bounced.
    pub bounced: u64,
    /// Recipients expired.
    pub expired: u64,
    /// Recipients suppressed.
    pub suppressed: u64,
    /// Recipients canceled.
    pub canceled: u64,
    /// Recipients held now.
    pub held: u64,
    /// Attempts whose outcome is unknown.
    pub unknown: u64,
    /// Grants given back because the site spoke of rate or load.
    pub rate_refused: u64,
    /// Notices written.
    pub notices: u64,
    /// Messages unsettled now.
    pub messages: u64,
    /// Recipients unsettled now.
    pub recipients: u64,
    /// Jobs that could go now. A job is one message's recipients for one site.
    pub ready: u64,
    /// Jobs whose time has not come.
    pub waiting: u64,
    /// Jobs on the wire now.
    pub in_flight: u64,
    /// Octets that live mail takes on disk.
    pub live_bytes: u64,
    /// Octets that the journal takes on disk, room reserved in it included.
    pub used_bytes: u64,
    /// Octets that history takes on disk.
    pub history_bytes: u64,
    /// Syncs of the journal.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_time: Duration,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections opened since the start.
    pub connections_opened: u64,
}

/// An event and its place in the order of events, to resume from.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Grows with every event.
    pub sequence: u64,
    /// What happened.
    pub event: Arc<Event>,
}

/// An address that gets no mail of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// The address.
    pub address: Box<str>,
    /// Since when.
    pub since: Time,
    /// Why: the reply that bounced, or an operator's words.
    pub reason: Box<str>,
}
