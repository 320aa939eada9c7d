//! The header section on its way in: traced, completed, and freed of what was meant for us alone.
//!
//! One pass over the fields, no parsing of MIME. In front goes `Received` (RFC 5321 §4.4), and
//! `Date` and `Message-ID` where they are missing (RFC 6409 §8). `Bcc` goes, and so do the fields
//! that tell us what to do ([`Wishes`]):
//!
//! | Field | Value |
//! |---|---|
//! | `Idempotency-Key` | 1 to 256 characters: the same message again within a day is taken once |
//! | `X-Mailrail-Tag` | `name=value`, as often as there are labels |
//! | `X-Mailrail-Priority` | `high`, `normal` or `bulk` |
//! | `X-Mailrail-Send-At` | RFC 3339, or seconds since the Unix epoch |
//!
//! All other fields stay as they are, octet by octet, in their order. A line that is no field ends
//! the header section: it and all that follows become the body, for nobody shall read a header
//! there that we did not see. The line `From …` that mailboxes begin with is dropped.
//!
//! Invariant: what is added cannot hold more lines than it has here, whatever a client calls
//! itself.

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use memchr::memchr;
use sha2::{Digest, Sha256};
use smtp::Reply;
use store::{MessageId, Priority, Time};

/// Labels of one message.
const TAGS_MAX: usize = 50;
/// Octets of a label's name and of its value.
const TAG_BYTES_MAX: usize = 256;
/// Characters of a subject that are kept for lists.
const SUBJECT_CHARS_MAX: usize = 200;

/// Octets that a message grows by at most, with what is put in front of it and added where it is missing.
pub const ADDED_BYTES_MAX: usize = 2048;

/// Where a message came from and where it is now, for its `Received`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace<'a> {
    /// Our name.
    pub(crate) host: &'a str,
    /// The client and what it calls itself; `None` to keep that to ourselves.
    pub(crate) client: Option<(&'a str, IpAddr)>,
    /// How it came: `ESMTPSA` and the like (RFC 3848, RFC 6531 §4.3).
    pub(crate) with: &'static str,
    /// The id it is to have.
    pub(crate) id: MessageId,
    /// When it came.
    pub(crate) at: Time,
}

/// What the fields said that is ours to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wishes {
    /// `Idempotency-Key`.
    pub(crate) idempotency_key: Option<String>,
    /// `X-Mailrail-Tag`.
    pub(crate) tags: Vec<(Box<str>, Box<str>)>,
    /// `X-Mailrail-Priority`.
    pub(crate) priority: Priority,
    /// `X-Mailrail-Send-At`.
    pub(crate) send_at: Option<Time>,
    /// The subject, decoded and cut.
    pub(crate) subject: Box<str>,
}

/// Why a header section is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has been through too many hands: a loop (RFC 5321 §6.3).
    #[error("Too many Received fields: the message is going round in circles")]
    Loop,
    /// One of our own fields says what it cannot.
    #[error("{0}")]
    Field(&'static str),
}

impl Refusal {
    pub(crate) fn reply(self) -> Reply {
        let enhanced = match self {
            Self::Loop => (5, 4, 6),
            Self::Field(_) => (5, 6, 0),
        };
        Reply::fixed(554, Some(enhanced), &self.to_string())
    }
}

const BAD_KEY: Refusal = Refusal::Field("Idempotency-Key has 1 to 256 characters, once");
const BAD_TAG: Refusal = Refusal::Field(
    "X-Mailrail-Tag is name=value of at most 256 printable characters each, at most 50 times",
);
const BAD_PRIORITY: Refusal = Refusal::Field("X-Mailrail-Priority is high, normal or bulk");
const BAD_SEND_AT: Refusal = Refusal::Field(
    "X-Mailrail-Send-At is a time as RFC 3339 has it, or seconds since the Unix epoch",
);

/// What a field is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Kept,
    Received,
    Date,
    MessageId,
    Subject,
    Bcc,
    Key,
    Tag,
    Priority,
    SendAt,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        // Lengths first: most fields are told apart by them.
        let known: &[(&[u8], Self)] = match name.len() {
            3 => &[(b"bcc", Self::Bcc)],
            4 => &[(b"date", Self::Date)],
            7 => &[(b"subject", Self::Subject)],
            8 => &[(b"received", Self::Received)],
            10 => &[(b"message-id", Self::MessageId), (b"resent-bcc", Self::Bcc)],
            14 => &[(b"x-mailrail-tag", Self::Tag)],
            15 => &[(b"idempotency-key", Self::Key)],
            18 => &[(b"x-mailrail-send-at", Self::SendAt)],
            19 => &[(b"x-mailrail-priority", Self::Priority)],
            _ => &[],
        };
        let found = known
            .iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        found.map_or(Self::Kept, |(_, kind)| *kind)
    }

    fn is_removed(self) -> bool {
        matches!(
            self,
            Self::Bcc | Self::Key | Self::Tag | Self::Priority | Self::SendAt
        )
    }

    /// Whether a client that sends the same message again may write it anew.
    fn is_of_the_moment(self) -> bool {
        matches!(self, Self::Received | Self::Date | Self::MessageId)
    }
}

/// Appends the header section as it goes out, up to but without the empty line.
///
/// * `raw`: the section as it came, canonical lines without the empty one; the last may lack its
///   CRLF.
/// * `received_max`: of `Received` fields in it.
///
/// # Errors
/// See [`Refusal`]; what was appended then is of no use.
pub(crate) fn rewrite(
    raw: &[u8],
    trace: &Trace<'_>,
    received_max: usize,
    out: &mut Vec<u8>,
) -> Result<Wishes, Refusal> {
    let mut wishes = Wishes::default();
    let (mut received, mut has_date, mut has_id) = (0, false, false);
    let mut removed = Vec::new();
    let mut fields = Fields::new(raw);
    for field in &mut fields {
        match field.kind {
            Kind::Kept | Kind::Bcc => {}
            Kind::Received => received += 1,
            Kind::Date => has_date = true,
            Kind::MessageId => has_id = true,
            Kind::Subject => wishes.subject = subject(&raw[field.start..field.end]),
            _ => wish(&mut wishes, field.kind, &raw[field.value..field.end])?,
        }
        if field.kind.is_removed() {
            removed.push(field.start..field.end);
        }
    }
    if received > received_max {
        return Err(Refusal::Loop);
    }
    let id = wishes.idempotency_key.is_none().then_some(trace.id);
    write_received(out, trace, id);
    if !has_date {
        out.extend_from_slice(b"Date: ");
        write_date(out, trace.at);
        out.extend_from_slice(b"\r\n");
    }
    if !has_id {
        out.extend_from_slice(b"Message-ID: <");
        out.extend_from_slice(trace.id.to_string().as_bytes());
        out.push(b'@');
        out.extend_from_slice(trace.host.as_bytes());
        out.extend_from_slice(b">\r\n");
    }
    let mut from = fields.start;
    for gap in removed {
        out.extend_from_slice(&raw[from..gap.start]);
        from = gap.end;
    }
    out.extend_from_slice(&raw[from..fields.at]);
    if fields.at < raw.len() {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&raw[fields.at..]);
    }
    Ok(wishes)
}

/// A digest under way of what makes a message the same message when it is sent again: the
/// envelope, and all fields but those that tell of the moment. The body is still to be added.
pub(crate) fn digest(raw: &[u8], envelope: (&str, &[smtp::Recipient])) -> Sha256 {
    let mut digest = Sha256::new();
    let (reverse_path, recipients) = envelope;
    digest.update(reverse_path);
    for recipient in recipients {
        digest.update([0]);
        digest.update(recipient.address.as_str());
    }
    digest.update([0, 0]);
    let mut fields = Fields::new(raw);
    for field in &mut fields {
        if !field.kind.is_of_the_moment() {
            digest.update(&raw[field.start..field.end]);
        }
    }
    digest.update(&raw[fields.at..]);
    digest
}

/// Where a field stands in the section.
struct Field {
    kind: Kind,
    start: usize,
    /// Of what stands behind the colon.
    value: usize,
    end: usize,
}

/// The fields, up to the first line that is none; `at` is where that is, or the end.
struct Fields<'a> {
    raw: &'a [u8],
    /// Behind what mailboxes begin with.
    start: usize,
    at: usize,
}

impl<'a> Fields<'a> {
    fn new(raw: &'a [u8]) -> Self {
        let is_mailbox = raw.starts_with(b"From ") || raw.starts_with(b">From ");
        let start = if is_mailbox { line_end(raw, 0) } else { 0 };
        Self {
            raw,
            start,
            at: start,
        }
    }
}

impl Iterator for Fields<'_> {
    type Item = Field;

    fn next(&mut self) -> Option<Field> {
        let (raw, start) = (self.raw, self.at);
        let name_len = raw[start..]
            .iter()
            .position(|b| !matches!(b, b'!'..=b'9' | b';'..=b'~'))?;
        // RFC 5322 §4.5: blanks before the colon were allowed once.
        let blanks = raw[start + name_len..]
            .iter()
            .position(|b| !matches!(b, b' ' | b'\t'))?;
        let colon = start + name_len + blanks;
        if name_len == 0 || raw[colon] != b':' {
            return None;
        }
        let mut end = line_end(raw, colon);
        while matches!(raw.get(end), Some(b' ' | b'\t')) {
            end = line_end(raw, end);
        }
        self.at = end;
        Some(Field {
            kind: Kind::of(&raw[start..start + name_len]),
            start,
            value: colon + 1,
            end,
        })
    }
}

/// Behind the line that `at` is in.
fn line_end(raw: &[u8], at: usize) -> usize {
    memchr(b'\n', &raw[at..]).map_or(raw.len(), |end| at + end + 1)
}

/// Notes what one of our own fields says.
fn wish(wishes: &mut Wishes, kind: Kind, value: &[u8]) -> Result<(), Refusal> {
    let value = unfolded(value);
    match kind {
        Kind::Key => {
            let is_good = (1..=256).contains(&value.chars().count()) && !value.contains(is_control);
            if !is_good || wishes.idempotency_key.is_some() {
                return Err(BAD_KEY);
            }
            wishes.idempotency_key = Some(value);
        }
        Kind::Tag => {
            let tag = tag(&value).ok_or(BAD_TAG)?;
            if wishes.tags.len() == TAGS_MAX {
                return Err(BAD_TAG);
            }
            wishes.tags.push(tag);
        }
        Kind::Priority => {
            wishes.priority = match value.to_ascii_lowercase().as_str() {
                "high" => Priority::High,
                "normal" => Priority::Normal,
                "bulk" => Priority::Bulk,
                _ => return Err(BAD_PRIORITY),
            };
        }
        Kind::SendAt => wishes.send_at = Some(moment(&value).ok_or(BAD_SEND_AT)?),
        _ => {}
    }
    Ok(())
}

fn is_control(c: char) -> bool {
    c.is_control()
}

fn tag(text: &str) -> Option<(Box<str>, Box<str>)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_good = |part: &str| part.len() <= TAG_BYTES_MAX && !part.contains(is_control);
    let is_tag = !name.is_empty() && is_good(name) && is_good(value);
    is_tag.then(|| (name.into(), value.into()))
}

fn moment(text: &str) -> Option<Time> {
    if let Ok(seconds) = text.parse() {
        return Some(Time::from_secs(seconds));
    }
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond())
        .ok()
        .map(Time::from_millis)
}

/// A field's value on one line, without blanks around it.
fn unfolded(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.replace("\r\n", "").trim().to_owned()
}

/// The text of a whole `Subject` field, encoded words decoded (RFC 2047).
fn subject(field: &[u8]) -> Box<str> {
    let value = memchr(b':', field).map_or(&b""[..], |colon| &field[colon + 1..]);
    let text = match memchr::memmem::find(value, b"=?") {
        None => unfolded(value),
        Some(_) => {
            let parsed = mail_parser::MessageParser::new().parse(field);
            let decoded = parsed.as_ref().and_then(mail_parser::Message::subject);
            decoded.map_or_else(|| unfolded(value), str::to_owned)
        }
    };
    let text: String = text
        .chars()
        .filter(|c| !is_control(*c))
        .take(SUBJECT_CHARS_MAX)
        .collect();
    text.into()
}

fn write_received(out: &mut Vec<u8>, trace: &Trace<'_>, id: Option<MessageId>) {
    out.extend_from_slice(b"Received: ");
    if let Some((name, address)) = trace.client {
        out.extend_from_slice(b"from ");
        out.extend_from_slice(if is_name(name) {
            name.as_bytes()
        } else {
            b"unknown"
        });
        let literal = match address.to_canonical() {
            IpAddr::V4(address) => format!(" ([{address}])\r\n\t"),
            IpAddr::V6(address) => format!(" ([IPv6:{address}])\r\n\t"),
        };
        out.extend_from_slice(literal.as_bytes());
    }
    out.extend_from_slice(b"by ");
    out.extend_from_slice(trace.host.as_bytes());
    out.extend_from_slice(b" with ");
    out.extend_from_slice(trace.with.as_bytes());
    if let Some(id) = id {
        out.extend_from_slice(b" id ");
        out.extend_from_slice(id.to_string().as_bytes());
    }
    out.extend_from_slice(b";\r\n\t");
    write_date(out, trace.at);
    out.extend_from_slice(b"\r\n");
}

/// Whether what a client calls itself can stand in a `Received`: a host name or an address
/// literal, by its characters.
fn is_name(name: &str) -> bool {
    let is_plain = |b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let literal = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let (inner, colons) = literal.map_or((name, false), |inner| (inner, true));
    (1..=255).contains(&inner.len()) && inner.bytes().all(|b| is_plain(b) || (colons && b == b':'))
}

/// `Thu, 1 Jan 1970 00:00:00 -0000`.
fn write_date(out: &mut Vec<u8>, at: Time) {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    DateTimePrinter::new()
        .print_timestamp(&at, out)
        .expect("a time since 1970 and before 10000 can be printed");
}

#[cfg(test)]
mod tests;
