//! What became of one recipient, once: the durable record of a change, and what is shown of it.

use std::sync::Arc;

use smtp::{EnhancedStatus, Envelope};

use crate::message::Tags;
use crate::{MessageId, Time};

/// The state of a recipient after an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// Taken in; due now or at `Event::due_at`.
    Accepted = 1,
    /// An attempt failed for now; `Event::due_at` says when the next is.
    Deferred = 2,
    /// Content was sent and no reply came; held until somebody decides (RFC 1047).
    Held = 3,
    /// The next hop took responsibility. Terminal.
    Delivered = 4,
    /// Refused for good. Terminal.
    Bounced = 5,
    /// Given up at its age limit. Terminal.
    Expired = 6,
    /// Not sent: the recipient is on the suppression list. Terminal.
    Suppressed = 7,
    /// Taken back before it was sent. Terminal.
    Canceled = 8,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Deferred,
        Self::Held,
        Self::Delivered,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Canceled,
    ];

    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Canceled => "canceled",
        }
    }

    /// From its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// From its number in a record.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == number)
    }

    /// Whether nothing follows: the recipient is settled.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::Bounced | Self::Expired | Self::Suppressed | Self::Canceled
        )
    }
}

/// Microseconds spent in each stage of an attempt, in the order queue, dns, connect, tls, greeting,
/// ehlo, auth, mail, rcpt, content, final.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes(pub [u32; 11]);

impl StageTimes {
    /// Names of the stages, in order.
    pub const NAMES: [&'static str; 11] = [
        "queue", "dns", "connect", "tls", "greeting", "ehlo", "auth", "mail", "rcpt", "content",
        "final",
    ];
}

/// What the other side said, or what we say in its place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// Reply code; 0 where there was none (no connection, a timeout).
    pub code: u16,
    /// Enhanced status code (RFC 3463).
    pub enhanced: Option<EnhancedStatus>,
    /// The text of the reply, or the failure in words.
    pub text: Box<str>,
}

/// How an attempt went; the part of an event that `Accepted` and `Canceled` do not have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Attempts made so far, this one included.
    pub attempt: u16,
    /// The site that the recipient's domain resolved to.
    pub site: Arc<str>,
    /// `host:port` that it was tried at, empty if none was reached.
    pub host: Arc<str>,
    /// The egress source it left from, empty for the default.
    pub source: Arc<str>,
    /// The stage it ended at (`client::Stage::name`), empty when all went well.
    pub stage: Box<str>,
    /// The class of the failure (`flow::retry::ErrorClass` as a number); 0xff for none.
    pub class: u8,
    /// What was said.
    pub said: Said,
    /// Where the time went.
    pub times: StageTimes,
}

/// What is kept of a message for as long as history is, when it itself is gone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heading {
    /// The address of its reverse-path; empty for the null one.
    pub from: Arc<str>,
    /// As in [`Message`](crate::Message).
    pub subject: Box<str>,
}

impl Heading {
    /// That of a message with this envelope.
    #[must_use]
    pub fn new(envelope: &Envelope, subject: impl Into<Box<str>>) -> Self {
        let from = envelope.reverse_path().address();
        Self {
            from: from.map_or("", smtp::Address::as_str).into(),
            subject: subject.into(),
        }
    }
}

/// One change of one recipient.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// When it happened.
    pub at: Time,
    /// Which message.
    pub message: MessageId,
    /// Which recipient: index in the envelope.
    pub recipient: u32,
    /// The recipient's address, as accepted.
    pub address: Arc<str>,
    /// Whose message.
    pub tenant: Arc<str>,
    /// The message's labels.
    pub tags: Tags,
    /// The state from now on.
    pub status: Status,
    /// The next attempt: for `Accepted` and `Deferred`.
    pub due_at: Option<Time>,
    /// How the attempt went, if there was one.
    pub outcome: Option<Box<Outcome>>,
    /// For `Accepted`: what the message is, shared by its recipients.
    pub heading: Option<Arc<Heading>>,
}
