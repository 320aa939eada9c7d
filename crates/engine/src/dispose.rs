//! The one place that decides what an attempt's outcome means: for the recipient and for the site.
//!
//! | What happened | Recipient | Site |
//! |---|---|---|
//! | accepted | delivered | delivered |
//! | 5yz to the recipient or the message | bounced | refused |
//! | 4yz to the recipient or the message | deferred | refused |
//! | 421, and 4yz that speak of rate or load | put back, no attempt counted | rate refused |
//! | 4yz in place of a greeting | put back | connection refused |
//! | 5yz at greeting, EHLO, STARTTLS or AUTH | deferred: that is about us or the site, not the message | handshake failed |
//! | 530, 534, 535 or 538 at MAIL or later | deferred: we are to log in | handshake failed |
//! | no connection, no TLS, no session | deferred | connect or handshake failed |
//! | connection lost before the end of the content | deferred | lost |
//! | content sent, no reply | retried or held, as the route says | lost |
//! | SMTPUTF8, 8BITMIME or the size is beyond the server | bounced | refused |
//! | no free connection in time, pool closed | put back | nothing |
//!
//! Every function here is total; a recipient is never lost between two rows.

use client::{Accepted, Cause, Failure, Kind, Stage, Timings};
use flow::retry::ErrorClass;
pub use schedule::Feedback;
use smtp::client::BeginError;
use smtp::{EnhancedStatus, Reply};
use store::{Outcome, Said, Status, Time};

use crate::route::{ResolveError, UnknownPolicy};

/// Octets of a reply's text that are kept.
const TEXT_LEN_MAX: usize = 1024;

/// What an attempt's outcome means for its recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The next hop took responsibility.
    Delivered,
    /// Not now; the class says which retry curve.
    Deferred(ErrorClass),
    /// To the head of its site's ready jobs: it costs no attempt.
    PutBack(ErrorClass),
    /// Refused for good.
    Bounced,
    /// It may have been taken; somebody decides.
    Held,
}

/// Both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// For the recipient.
    pub disposition: Disposition,
    /// For the site.
    pub feedback: Feedback,
}

impl Verdict {
    const fn new(disposition: Disposition, feedback: Feedback) -> Self {
        Self {
            disposition,
            feedback,
        }
    }

    const fn deferred(class: ErrorClass, feedback: Feedback) -> Self {
        Self::new(Disposition::Deferred(class), feedback)
    }

    const fn put_back(feedback: Feedback) -> Self {
        Self::new(Disposition::PutBack(ErrorClass::Throttled), feedback)
    }

    const BOUNCED: Self = Self::new(Disposition::Bounced, Feedback::Refused);
}

impl Disposition {
    /// The recipient's new state, and when the next attempt is.
    ///
    /// * `next`: when the schedule would try again; `None` if not before it expires.
    #[must_use]
    pub fn status(self, next: Option<Time>) -> (Status, Option<Time>) {
        match self {
            Self::Delivered => (Status::Delivered, None),
            Self::Bounced => (Status::Bounced, None),
            Self::Held => (Status::Held, None),
            Self::Deferred(_) | Self::PutBack(_) if next.is_some() => (Status::Deferred, next),
            Self::Deferred(_) | Self::PutBack(_) => (Status::Expired, None),
        }
    }
}

/// What one recipient's result means.
///
/// * `has_progress`: another recipient of the same transaction was accepted.
#[must_use]
pub fn judge(
    result: &Result<Accepted, Failure>,
    timings: &Timings,
    unknown: UnknownPolicy,
    has_progress: bool,
) -> Verdict {
    match result {
        Ok(_) => {
            let on_wire = timings.mail + timings.rcpt + timings.content + timings.final_reply;
            // What waits for a connection is in flight for the schedule, and waits because there are too many.
            let rtt = timings.queue + on_wire;
            Verdict::new(Disposition::Delivered, Feedback::Delivered { rtt })
        }
        Err(failure) => judge_failure(failure, unknown, has_progress),
    }
}

/// What it means that nobody is known to send to.
#[must_use]
pub fn judge_resolve(error: &ResolveError) -> Verdict {
    if error.is_permanent() {
        Verdict::new(Disposition::Bounced, Feedback::Withdrawn)
    } else {
        Verdict::deferred(ErrorClass::Connect, Feedback::Withdrawn)
    }
}

fn judge_failure(failure: &Failure, unknown: UnknownPolicy, has_progress: bool) -> Verdict {
    match (&failure.cause, failure.kind) {
        (_, Kind::Unknown) => match unknown {
            UnknownPolicy::Retry => Verdict::deferred(ErrorClass::Transient, Feedback::Lost),
            UnknownPolicy::Hold => Verdict::new(Disposition::Held, Feedback::Lost),
        },
        (Cause::Deadline | Cause::PoolClosed, _) => Verdict::put_back(Feedback::Withdrawn),
        (Cause::Unsupported(_), _) => Verdict::BOUNCED,
        (Cause::Reply(reply), kind) => judge_reply(failure.stage, kind, reply, has_progress),
        // All else is about a connection, and none of it about the message.
        _ => judge_loss(failure.stage),
    }
}

/// A connection that did not come about, or did not last.
fn judge_loss(stage: Stage) -> Verdict {
    match stage {
        Stage::Dns | Stage::Connect => {
            Verdict::deferred(ErrorClass::Connect, Feedback::ConnectFailed)
        }
        Stage::Tls | Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Auth => {
            Verdict::deferred(ErrorClass::Handshake, Feedback::HandshakeFailed)
        }
        _ => Verdict::deferred(ErrorClass::Transient, Feedback::Lost),
    }
}

fn judge_reply(stage: Stage, kind: Kind, reply: &Reply, has_progress: bool) -> Verdict {
    let is_permanent = kind == Kind::Permanent;
    match stage {
        Stage::Greeting | Stage::Ehlo if !is_permanent => {
            Verdict::put_back(Feedback::ConnectionRefused)
        }
        _ if stage < Stage::Mail => judge_loss(stage),
        _ if matches!(reply.code().get(), 530 | 534 | 535 | 538) => judge_loss(Stage::Auth),
        Stage::Rcpt if is_too_many_recipients(reply) => {
            if has_progress {
                Verdict::put_back(Feedback::Refused)
            } else {
                Verdict::deferred(ErrorClass::Transient, Feedback::Refused)
            }
        }
        _ if is_permanent => Verdict::BOUNCED,
        _ => judge_deferral(stage, reply),
    }
}

/// 452, and the 552 that older servers say in its place (RFC 5321 §4.5.3.1.10); a full mailbox has
/// a code of its own.
fn is_too_many_recipients(reply: &Reply) -> bool {
    let is_about_count = match reply.enhanced() {
        Some(status) => (status.subject(), status.detail()) == (5, 3),
        None => reply
            .text()
            .to_ascii_lowercase()
            .contains("too many recipients"),
    };
    matches!(reply.code().get(), 452 | 552) && is_about_count
}

/// 4yz within a transaction.
fn judge_deferral(stage: Stage, reply: &Reply) -> Verdict {
    let class = match soft_reason(stage, reply) {
        Soft::Rate => return Verdict::put_back(Feedback::RateRefused),
        Soft::Greylisted => ErrorClass::Greylisted,
        Soft::MailboxFull => ErrorClass::MailboxFull,
        Soft::Other => ErrorClass::Transient,
    };
    Verdict::deferred(class, Feedback::Refused)
}

enum Soft {
    Rate,
    Greylisted,
    MailboxFull,
    Other,
}

/// Why a server says 4yz. The texts are what the large providers and the common servers write; the
/// enhanced status codes are RFC 3463's, and 4.7.28, by which rates are meant in practice.
fn soft_reason(stage: Stage, reply: &Reply) -> Soft {
    let text = reply.text().to_ascii_lowercase();
    let status = reply
        .enhanced()
        .map(|status| (status.subject(), status.detail()));
    let speaks_of_rate = speaks_of_rate(&text);
    match status {
        _ if text.contains("greylist") || text.contains("graylist") => Soft::Greylisted,
        Some((2, 2)) => Soft::MailboxFull,
        Some((7, 28)) => Soft::Rate,
        _ if speaks_of_rate || reply.code().get() == 421 => Soft::Rate,
        // Our rate is known at MAIL; who is told this of a recipient is greylisted (RFC 6647 §5).
        Some((7, 0 | 1)) if stage == Stage::Rcpt => Soft::Greylisted,
        Some((7, 0 | 1) | (3, 1 | 2) | (4, 5)) => Soft::Rate,
        _ => Soft::Other,
    }
}

/// Whether a text in lower case complains of how fast or how much we send, or of load.
fn speaks_of_rate(text: &str) -> bool {
    const PHRASES: [&str; 8] = [
        "too many connections",
        "too many messages",
        "too many mails",
        "too much mail",
        "too fast",
        "too quickly",
        "slow down",
        "unusual rate",
    ];
    const WORDS: [&str; 10] = [
        "rate",
        "ratelimit",
        "ratelimited",
        "throttled",
        "throttling",
        "throttle",
        "busy",
        "overloaded",
        "overload",
        "congestion",
    ];
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| WORDS.contains(&word)) || PHRASES.iter().any(|phrase| text.contains(phrase))
}

/// Whether a server refused a recipient as one that is not there (RFC 3463 §3.2), so that more mail
/// to it would count against us. 5.1.7 and 5.1.8 speak of the reverse-path.
#[must_use]
pub fn is_gone(outcome: &Outcome) -> bool {
    let is_address = |status: EnhancedStatus| {
        status.class() == 5 && status.subject() == 1 && !matches!(status.detail(), 7 | 8)
    };
    &*outcome.stage == Stage::Rcpt.name() && outcome.said.enhanced.is_some_and(is_address)
}

/// What was said, or what we say in its place.
#[must_use]
pub fn said(result: &Result<Accepted, Failure>) -> Said {
    let failure = match result {
        Ok(accepted) => return said_by(&accepted.reply),
        Err(failure) => failure,
    };
    match &failure.cause {
        Cause::Reply(reply) => said_by(reply),
        cause => Said {
            code: 0,
            enhanced: own_status(failure.stage, cause),
            text: shortened(&own_words(failure.stage, failure.kind, cause)),
        },
    }
}

fn said_by(reply: &Reply) -> Said {
    Said {
        code: reply.code().get(),
        enhanced: reply.enhanced(),
        text: shortened(reply.text()),
    }
}

fn shortened(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(TEXT_LEN_MAX)].into()
}

/// The enhanced status code for what no server said (RFC 3463 §3, RFC 6531 §3.7, RFC 7504).
fn own_status(stage: Stage, cause: &Cause) -> Option<EnhancedStatus> {
    let (class, subject, detail) = match (cause, stage) {
        (Cause::Unsupported(BeginError::No8BitMime), _) => (5, 6, 3),
        (Cause::Unsupported(BeginError::NoSmtpUtf8), _) => (5, 6, 7),
        (Cause::Unsupported(BeginError::TooLarge { .. }), _) => (5, 3, 4),
        (Cause::Unsupported(_), _) => (5, 5, 0),
        (Cause::Deadline | Cause::PoolClosed, _) => (4, 3, 2),
        (Cause::Tls(_), _) => (4, 7, 5),
        (_, Stage::StartTls) => (4, 7, 10),
        (_, Stage::Auth) => (4, 7, 0),
        (Cause::Dns(_), _) => (4, 4, 3),
        (_, Stage::Connect) => (4, 4, 1),
        (Cause::Protocol(_), _) => (4, 5, 0),
        _ => (4, 4, 2),
    };
    EnhancedStatus::new(class, subject, detail)
}

fn own_words(stage: Stage, kind: Kind, cause: &Cause) -> String {
    match (cause, stage) {
        (_, _) if kind == Kind::Unknown => {
            format!("{cause} after the content was sent: it may have been taken or not")
        }
        (Cause::Unsupported(_) | Cause::Deadline | Cause::PoolClosed | Cause::Dns(_), _) => {
            cause.to_string()
        }
        (Cause::Local(why), Stage::StartTls) => format!("TLS is required: {why}"),
        _ => format!("{cause} (at {stage})"),
    }
}

#[cfg(test)]
mod tests;
