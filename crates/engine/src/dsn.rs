//! Notices to whom a message came from: delivery status notifications (RFC 3461, 3464, 6522).
//!
//! A notice has three parts: words for people, the same as fields for programs, and the message's
//! header section (or all of it where that was asked for and it is small). It goes out under the null
//! reverse-path, and none is ever written about a message that came under it.

mod words;

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use memchr::memmem;
use smtp::{
    Address, Content, Domain, EnhancedStatus, Envelope, Notify, Recipient, Ret, ReversePath,
};
use store::{Head, MessageId, Outcome, Status, Time};

/// A message asked for in full is returned up to this size, in octets; above, its header section is.
pub const FULL_BYTES_MAX: usize = 256 * 1024;
/// Octets of a header section that are returned.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Where fields are folded if they can be, and where they are cut if they cannot.
const FOLD_AT: usize = 76;
const WORD_LEN_MAX: usize = 900;

/// What is told of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Refused for good.
    Failed,
    /// Given up at the message's age limit.
    Expired,
    /// Not yet delivered, and still being tried.
    Delayed,
    /// Handed to a server that gives no notices of its own.
    Relayed,
}

impl Action {
    /// What a recipient's new state is told as; `None` where nothing is.
    #[must_use]
    pub fn of(status: Status) -> Option<Self> {
        match status {
            Status::Bounced => Some(Self::Failed),
            Status::Expired => Some(Self::Expired),
            Status::Deferred => Some(Self::Delayed),
            Status::Accepted
            | Status::Held
            | Status::Delivered
            | Status::Suppressed
            | Status::Canceled => None,
        }
    }

    /// Whether anybody is to be told this of one of a message's recipients.
    #[must_use]
    pub fn is_told_of(self, message: &Head, recipient: u32) -> bool {
        let recipient = message.envelope.recipients().get(recipient as usize);
        let is_wanted = recipient.is_some_and(|recipient| self.is_wanted_by(recipient));
        is_wanted && message.envelope.reverse_path().address().is_some()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Failed | Self::Expired => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }

    /// Whether the recipient's NOTIFY asks for it. Without one, failures are told, and delays may be
    /// (RFC 3461 §4.1).
    fn is_wanted_by(self, recipient: &Recipient) -> bool {
        match (self, recipient.notify) {
            (Self::Failed | Self::Expired | Self::Delayed, None) => true,
            (Self::Relayed, None) => false,
            (Self::Failed | Self::Expired, Some(notify)) => notify.wants(Notify::FAILURE),
            (Self::Delayed, Some(notify)) => notify.wants(Notify::DELAY),
            (Self::Relayed, Some(notify)) => notify.wants(Notify::SUCCESS),
        }
    }
}

/// One recipient that a notice is about.
#[derive(Clone, Copy, Debug)]
pub struct Affected<'a> {
    /// Index in the envelope.
    pub recipient: usize,
    /// What became of it.
    pub action: Action,
    /// The last attempt, or what is said in its place.
    pub outcome: &'a Outcome,
    /// When that attempt ended; `None`: there was none.
    pub tried_at: Option<Time>,
}

/// What a notice says.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// The message it is about.
    pub message: &'a Head,
    /// Its content; empty where that cannot be read.
    pub content: &'a [u8],
    /// Our own name.
    pub host: &'a Domain,
    /// The notice's own id; gives its Message-ID.
    pub id: MessageId,
    /// Now.
    pub now: Time,
    /// Whom it is about, all in one notice.
    pub recipients: &'a [Affected<'a>],
}

/// A recipient with what is known of it, as the parts need it.
struct Entry<'a> {
    recipient: &'a Recipient,
    action: Action,
    outcome: &'a Outcome,
    tried_at: Option<Time>,
}

impl<'a> Notice<'a> {
    /// Envelope and content, ready to be accepted; `None` where nobody is to be told: under the null
    /// reverse-path, or if no recipient's NOTIFY asks for it.
    #[must_use]
    pub fn compose(&self) -> Option<(Envelope, Content)> {
        let to = self.message.envelope.reverse_path().address()?;
        let all = self.message.envelope.recipients();
        let entry = |affected: &Affected<'a>| {
            let recipient = all.get(affected.recipient)?;
            let entry = Entry {
                recipient,
                action: affected.action,
                outcome: affected.outcome,
                tried_at: affected.tried_at,
            };
            affected.action.is_wanted_by(recipient).then_some(entry)
        };
        let entries: Vec<_> = self.recipients.iter().filter_map(entry).collect();
        if entries.is_empty() {
            return None;
        }
        let bytes = self.write(to, &entries);
        let content = Content::new(bytes).ok()?;
        Some((Envelope::single(ReversePath::Null, to.clone()), content))
    }

    fn write(&self, to: &Address, entries: &[Entry<'_>]) -> Vec<u8> {
        let returned = self.returned(entries);
        let boundary = self.boundary(returned.bytes);
        let mut out = Vec::with_capacity(4096 + returned.bytes.len());
        self.push_header(to, entries, &boundary, &mut out);
        push_delimiter(&boundary, &mut out);
        message::push_text_part(&words::text(self, entries), &mut out);
        push_delimiter(&boundary, &mut out);
        out.extend_from_slice(b"Content-Type: message/delivery-status\r\n\r\n");
        self.push_status(entries, &mut out);
        push_delimiter(&boundary, &mut out);
        push_field("Content-Type", returned.kind, &mut out);
        if !returned.bytes.is_ascii() {
            push_field("Content-Transfer-Encoding", "8bit", &mut out);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(returned.bytes);
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        out
    }

    fn push_header(&self, to: &Address, entries: &[Entry<'_>], boundary: &str, out: &mut Vec<u8>) {
        let host = self.host;
        push_field(
            "From",
            &format!("Mail Delivery System <MAILER-DAEMON@{host}>"),
            out,
        );
        // Not through `push_field`, which makes its text ASCII.
        out.extend_from_slice(format!("To: <{to}>\r\n").as_bytes());
        push_field("Subject", words::subject(entries), out);
        push_field("Date", &date(self.now), out);
        push_field("Message-ID", &format!("<{}@{host}>", self.id), out);
        if let Some(original) = field_of(self.content, "message-id") {
            push_field("In-Reply-To", original, out);
            push_field("References", original, out);
        }
        push_field("Auto-Submitted", "auto-replied", out);
        push_field("MIME-Version", "1.0", out);
        let kind =
            format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
        push_field("Content-Type", &kind, out);
    }

    /// RFC 3464 §2: fields about the message, then about each recipient.
    fn push_status(&self, entries: &[Entry<'_>], out: &mut Vec<u8>) {
        if let Some(id) = self.message.envelope.id() {
            push_field("Original-Envelope-Id", id.as_str(), out);
        }
        push_field("Reporting-MTA", &format!("dns; {}", self.host), out);
        push_field("Arrival-Date", &date(self.message.accepted_at), out);
        for entry in entries {
            out.extend_from_slice(b"\r\n");
            self.push_recipient(entry, out);
        }
    }

    fn push_recipient(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        if let Some(original) = &entry.recipient.original {
            push_field("Original-Recipient", &typed(original), out);
        }
        push_field("Final-Recipient", &typed(&entry.recipient.address), out);
        push_field("Action", entry.action.name(), out);
        push_field("Status", &status(entry).to_string(), out);
        if let Some(host) = remote(entry.outcome) {
            push_field("Remote-MTA", &format!("dns; {host}"), out);
        }
        let said = &entry.outcome.said;
        let diagnostic = match said_by_server(entry.outcome) {
            Some(reply) => format!("smtp; {reply}"),
            None => format!("X-Mailrail; {}", said.text),
        };
        push_field("Diagnostic-Code", &diagnostic, out);
        if let Some(at) = entry.tried_at {
            push_field("Last-Attempt-Date", &date(at), out);
        }
        if entry.action == Action::Delayed {
            push_field("Will-Retry-Until", &date(self.message.expires_at), out);
        }
    }

    /// What is given back: all where RET=FULL asks for it and something failed, else the header
    /// section (RFC 3461 §4.3).
    fn returned(&self, entries: &[Entry<'_>]) -> Returned<'_> {
        let bytes = self.content;
        let has_failed = entries.iter().any(|entry| entry.action <= Action::Expired);
        let wants_all = self.message.envelope.ret() == Some(Ret::Full);
        if has_failed && wants_all && bytes.len() <= FULL_BYTES_MAX {
            let kind = "message/rfc822";
            return Returned { kind, bytes };
        }
        let header = &bytes[..header_len(bytes)];
        let bytes = match header.get(..HEADER_BYTES_MAX) {
            Some(front) => &front[..memmem::rfind(front, b"\r\n").map_or(0, |end| end + 2)],
            None => header,
        };
        Returned {
            kind: "text/rfc822-headers",
            bytes,
        }
    }

    /// A line that stands nowhere in what is returned; no other part can hold it.
    fn boundary(&self, returned: &[u8]) -> String {
        let mut boundary = format!("=_{}", self.id);
        while memmem::find(returned, boundary.as_bytes()).is_some() {
            boundary.push('_');
        }
        boundary
    }
}

struct Returned<'a> {
    kind: &'static str,
    bytes: &'a [u8],
}

/// The header section without the empty line after it.
fn header_len(content: &[u8]) -> usize {
    if content.starts_with(b"\r\n") {
        return 0;
    }
    memmem::find(content, b"\r\n\r\n").map_or(content.len(), |end| end + 2)
}

/// The value of a field that fits in one line, as it stands in a header section.
fn field_of<'a>(content: &'a [u8], name: &str) -> Option<&'a str> {
    let header = std::str::from_utf8(&content[..header_len(content)]).ok()?;
    header.split("\r\n").find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let value = value.trim();
        (field.trim_end().eq_ignore_ascii_case(name) && !value.is_empty()).then_some(value)
    })
}

/// `rfc822; …`, or where the address is not ASCII `utf-8; …` with escapes (RFC 6533 §3).
fn typed(address: &Address) -> String {
    if address.as_str().is_ascii() {
        return format!("rfc822; {address}");
    }
    let mut text = "utf-8; ".to_owned();
    for c in address.as_str().chars() {
        match c {
            '!'..='~' if !matches!(c, '\\' | '+' | '=') => text.push(c),
            c => text.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    text
}

/// The reply as it came; `None` where the words are our own.
fn said_by_server(outcome: &Outcome) -> Option<String> {
    let said = &outcome.said;
    let is_ours = said.code == 0 || outcome.host.is_empty();
    (!is_ours).then(|| match said.enhanced {
        None => format!("{} {}", said.code, said.text),
        Some(enhanced) => format!("{} {enhanced} {}", said.code, said.text),
    })
}

/// The server that was tried last, without its port.
fn remote(outcome: &Outcome) -> Option<Cow<'_, str>> {
    let (host, _) = outcome.host.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(Domain::from_ip(ip).to_string().into()),
        Err(_) => Some(host.into()),
    }
}

/// The status code that goes with the action: what was said if it fits, or else the general one.
fn status(entry: &Entry<'_>) -> EnhancedStatus {
    let said = entry.outcome.said.enhanced;
    let (class, general) = match entry.action {
        Action::Failed => (5, (5, 0, 0)),
        // Delivery time expired (RFC 3463 §3.5).
        Action::Expired => (0, (4, 4, 7)),
        Action::Delayed => (4, (4, 0, 0)),
        Action::Relayed => (2, (2, 0, 0)),
    };
    said.filter(|said| said.class() == class)
        .or(EnhancedStatus::new(general.0, general.1, general.2))
        .expect("the general codes are in range")
}

/// RFC 5322 §3.3; the epoch for a time that no date can say.
fn date(time: Time) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or_default();
    let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let printed = DateTimePrinter::new().timestamp_to_string(&timestamp);
    printed.unwrap_or_default()
}

fn push_delimiter(boundary: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
}

/// Appends one field, folded between words. Control characters become spaces, and what is not ASCII
/// a question mark: the fields of a report are ASCII.
fn push_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut len = name.len() + 1;
    for word in value
        .split(|c: char| c.is_control() || c == ' ')
        .filter(|word| !word.is_empty())
    {
        let ascii = word
            .chars()
            .map(|c| if c.is_ascii() { c as u8 } else { b'?' });
        let word: Vec<u8> = ascii.take(WORD_LEN_MAX).collect();
        if len + 1 + word.len() > FOLD_AT && len > name.len() + 1 {
            out.extend_from_slice(b"\r\n");
            len = 0;
        }
        out.push(b' ');
        out.extend_from_slice(&word);
        len += 1 + word.len();
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
