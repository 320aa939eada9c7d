//! A message as its author means it, and the content it becomes (RFC 5322, RFC 2045–2047).
//!
//! Everything is written into one buffer, in order, without a tree of parts between. Boundaries
//! are drawn once per [`Message`] and kept by its clones: a body that is the same for every
//! recipient stays the same octet for octet, and the DKIM body hash is computed once.
//!
//! The structure, outermost first: mixed (attachments), alternative (text, HTML), related (HTML
//! and the images it shows); each only where there is something for it to hold.

use aws_lc_rs::rand;
use jiff::Timestamp;
use jiff::fmt::StdIoWrite;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;
use smtp::{Address, Content, ContentError, Envelope, EnvelopeError, Recipient};

use crate::attachment::Attachment;
use crate::encode::{BOUNDARY_MARK, Encoding};
use crate::header::{HeaderError, HeaderWriter, check_name, check_value};
use crate::mailbox::Mailbox;
use crate::unsubscribe::ListUnsubscribe;

/// Why a [`Message`] does not become content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// A header that cannot be written; it says which.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A Message-ID that is not `left@right`, both without spaces or brackets (RFC 5322 §3.6.4).
    #[error("{0:?} is not a message id")]
    MessageId(String),
    /// `now` is outside the years that a Date header can say.
    #[error("the date cannot be written in a Date header")]
    Date,
    /// A header that cannot be folded below 998 octets a line.
    #[error("the message cannot be written: {0}")]
    Content(#[from] ContentError),
    /// The system gave no randomness.
    #[error("no randomness for the message id")]
    Random,
}

/// Headers that [`Message`] writes itself, and those that must not be sent or are a signer's.
const RESERVED: &[&str] = &[
    "bcc",
    "cc",
    "content-disposition",
    "content-id",
    "content-transfer-encoding",
    "content-type",
    "date",
    "dkim-signature",
    "from",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "message-id",
    "mime-version",
    "reply-to",
    "resent-bcc",
    "sender",
    "subject",
    "to",
];

/// A message to be composed. Built by chaining; what is wrong with it comes out of
/// [`Message::compose`].
#[derive(Clone, Debug)]
pub struct Message {
    from: Mailbox,
    sender: Option<Mailbox>,
    reply_to: Vec<Mailbox>,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment>,
    headers: Vec<(String, String)>,
    message_id: Option<String>,
    unsubscribe: Option<ListUnsubscribe>,
    /// Makes boundaries differ from those of messages nested in this one.
    boundary_tag: u64,
}

impl Message {
    /// A message from somebody, with nothing in it yet.
    #[must_use]
    pub fn new(from: impl Into<Mailbox>) -> Self {
        let mut tag = [0; 8];
        // Without randomness the tag is 0; compose() fails then anyway for want of a message id.
        let _ = rand::fill(&mut tag);
        Self {
            from: from.into(),
            sender: None,
            reply_to: Vec::new(),
            to: Vec::new(),
            cc: Vec::new(),
            bcc: Vec::new(),
            subject: None,
            text: None,
            html: None,
            attachments: Vec::new(),
            headers: Vec::new(),
            message_id: None,
            unsubscribe: None,
            boundary_tag: u64::from_ne_bytes(tag),
        }
    }

    /// Who hands the message in, where that is not who it is from (RFC 5322 §3.6.2).
    #[must_use]
    pub fn sender(mut self, sender: impl Into<Mailbox>) -> Self {
        self.sender = Some(sender.into());
        self
    }

    /// Adds somebody whom answers go to.
    #[must_use]
    pub fn reply_to(mut self, mailbox: impl Into<Mailbox>) -> Self {
        self.reply_to.push(mailbox.into());
        self
    }

    /// Adds a recipient.
    #[must_use]
    pub fn to(mut self, mailbox: impl Into<Mailbox>) -> Self {
        self.to.push(mailbox.into());
        self
    }

    /// Adds a recipient of a copy.
    #[must_use]
    pub fn cc(mut self, mailbox: impl Into<Mailbox>) -> Self {
        self.cc.push(mailbox.into());
        self
    }

    /// Adds a recipient whom nobody sees: in the envelope, never in the content.
    #[must_use]
    pub fn bcc(mut self, mailbox: impl Into<Mailbox>) -> Self {
        self.bcc.push(mailbox.into());
        self
    }

    /// The subject, any characters but control ones.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The plain text, any line ends.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The HTML, any line ends. Beside a plain text it is the alternative that readers prefer.
    #[must_use]
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Adds a file, or an image that the HTML shows.
    #[must_use]
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Adds a header of one's own, its value as it is meant: not encoded, not folded. Those with a
    /// method here, and Bcc, are refused.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A Message-ID of one's own, with or without its angle brackets; otherwise each composing
    /// draws a new one of 128 random bits at the From domain.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// How to leave the list.
    #[must_use]
    pub fn list_unsubscribe(mut self, unsubscribe: ListUnsubscribe) -> Self {
        self.unsubscribe = Some(unsubscribe);
        self
    }

    /// The envelope that the headers imply: from Sender or From, to To, Cc and Bcc, each once.
    ///
    /// # Errors
    /// [`EnvelopeError::NoRecipient`].
    pub fn envelope(&self) -> Result<Envelope, EnvelopeError> {
        let reverse_path = self.sender.as_ref().unwrap_or(&self.from).address();
        let named = [&self.to, &self.cc, &self.bcc].into_iter().flatten();
        Envelope::new(
            reverse_path.clone(),
            recipients(named.map(|m| m.address().clone())),
        )
    }

    /// Writes the content: canonical, 7-bit but for a header with an SMTPUTF8 address.
    ///
    /// # Errors
    /// A header with a control character, and what else [`ComposeError`] names.
    pub fn compose(&self, now: Timestamp) -> Result<Content, ComposeError> {
        self.compose_as(&Parts::of(self), now)
    }

    pub(crate) fn compose_as(
        &self,
        parts: &Parts<'_>,
        now: Timestamp,
    ) -> Result<Content, ComposeError> {
        let mut out = Vec::with_capacity(self.size_hint(parts));
        self.write_header(parts, now, &mut out)?;
        self.write_body(parts, &mut out);
        Ok(Content::new(out)?)
    }

    fn size_hint(&self, parts: &Parts<'_>) -> usize {
        let texts = parts.text.map_or(0, str::len) + parts.html.map_or(0, str::len);
        let files: usize = self.attachments.iter().map(|a| a.part().len() + 64).sum();
        2048 + texts + texts / 4 + files
    }

    fn write_header(
        &self,
        parts: &Parts<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), ComposeError> {
        write_mailboxes(out, "From", std::slice::from_ref(&self.from))?;
        write_mailboxes(out, "Sender", self.sender.as_slice())?;
        write_mailboxes(out, "Reply-To", &self.reply_to)?;
        write_mailboxes(out, "To", parts.to)?;
        write_mailboxes(out, "Cc", &self.cc)?;
        if let Some(subject) = parts.subject {
            write_text(out, "Subject", subject)?;
        }
        write_date(out, now)?;
        self.write_message_id(out)?;
        if let Some(unsubscribe) = parts.unsubscribe {
            unsubscribe.write(out);
        }
        for (name, value) in &self.headers {
            check_name(name)?;
            if RESERVED.iter().any(|r| name.eq_ignore_ascii_case(r)) {
                return Err(HeaderError::Reserved { name: name.clone() }.into());
            }
            write_text(out, name, value)?;
        }
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        Ok(())
    }

    fn write_message_id(&self, out: &mut Vec<u8>) -> Result<(), ComposeError> {
        let drawn;
        let id = match &self.message_id {
            Some(id) => checked_message_id(id)?,
            None => {
                let mut random = [0; 16];
                rand::fill(&mut random).map_err(|_| ComposeError::Random)?;
                let domain = self.from.address().domain();
                drawn = format!("{:032x}@{domain}", u128::from_ne_bytes(random));
                &drawn
            }
        };
        let mut field = HeaderWriter::begin(out, "Message-ID");
        field.bracketed(id.as_bytes());
        field.end();
        Ok(())
    }

    /// From the entity's own header fields on.
    fn write_body(&self, parts: &Parts<'_>, out: &mut Vec<u8>) {
        let (inline, files): (Vec<_>, Vec<_>) =
            self.attachments.iter().partition(|a| a.is_inline());
        if files.is_empty() {
            return self.write_alternative(parts, &inline, out);
        }
        let mixed = self.open(out, "mixed", 'm', "");
        mixed.next(out);
        self.write_alternative(parts, &inline, out);
        for file in files {
            mixed.next(out);
            out.extend_from_slice(file.part());
        }
        mixed.close(out);
    }

    fn write_alternative(&self, parts: &Parts<'_>, inline: &[&Attachment], out: &mut Vec<u8>) {
        match (parts.text, parts.html) {
            (Some(text), Some(html)) => {
                let alternative = self.open(out, "alternative", 'a', "");
                alternative.next(out);
                write_entity("plain", text, out);
                alternative.next(out);
                self.write_related(html, inline, out);
                alternative.close(out);
            }
            (None, Some(html)) => self.write_related(html, inline, out),
            (text, None) if inline.is_empty() => write_entity("plain", text.unwrap_or(""), out),
            (text, None) => {
                let related = self.open(out, "related", 'r', "text/plain");
                related.next(out);
                write_entity("plain", text.unwrap_or(""), out);
                related.write_all(inline, out);
            }
        }
    }

    fn write_related(&self, html: &str, inline: &[&Attachment], out: &mut Vec<u8>) {
        if inline.is_empty() {
            return write_entity("html", html, out);
        }
        let related = self.open(out, "related", 'r', "text/html");
        related.next(out);
        write_entity("html", html, out);
        related.write_all(inline, out);
    }

    /// Begins a multipart; `root` is the type parameter that RFC 2387 §3.1 wants of related.
    fn open(&self, out: &mut Vec<u8>, subtype: &str, letter: char, root: &str) -> Multipart {
        let boundary = format!("{BOUNDARY_MARK}{letter}{:016x}", self.boundary_tag);
        out.extend_from_slice(b"Content-Type: multipart/");
        out.extend_from_slice(subtype.as_bytes());
        if !root.is_empty() {
            out.extend_from_slice(format!("; type=\"{root}\"").as_bytes());
        }
        out.extend_from_slice(format!(";\r\n boundary=\"{boundary}\"\r\n\r\n").as_bytes());
        Multipart { boundary }
    }
}

/// What of a message differs from recipient to recipient; the rest is [`Message`]'s.
pub(crate) struct Parts<'a> {
    pub(crate) to: &'a [Mailbox],
    pub(crate) subject: Option<&'a str>,
    pub(crate) text: Option<&'a str>,
    pub(crate) html: Option<&'a str>,
    pub(crate) unsubscribe: Option<&'a ListUnsubscribe>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        Self {
            to: &message.to,
            subject: message.subject.as_deref(),
            text: message.text.as_deref(),
            html: message.html.as_deref(),
            unsubscribe: message.unsubscribe.as_ref(),
        }
    }
}

/// Each address once, in the order given.
pub(crate) fn recipients(addresses: impl Iterator<Item = Address>) -> Vec<Recipient> {
    let mut seen = std::collections::HashSet::new();
    addresses
        .filter(|address| seen.insert(address.clone()))
        .map(Recipient::from)
        .collect()
}

struct Multipart {
    boundary: String,
}

impl Multipart {
    fn next(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"--");
        out.extend_from_slice(self.boundary.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn write_all(&self, parts: &[&Attachment], out: &mut Vec<u8>) {
        for part in parts {
            self.next(out);
            out.extend_from_slice(part.part());
        }
        self.close(out);
    }

    fn close(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"--");
        out.extend_from_slice(self.boundary.as_bytes());
        out.extend_from_slice(b"--\r\n");
    }
}

fn write_entity(subtype: &str, text: &str, out: &mut Vec<u8>) {
    let encoding = Encoding::of(text);
    for piece in [
        "Content-Type: text/",
        subtype,
        "; charset=utf-8\r\nContent-Transfer-Encoding: ",
        encoding.name(),
        "\r\n\r\n",
    ] {
        out.extend_from_slice(piece.as_bytes());
    }
    if text.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    encoding.write(text, out);
}

fn write_mailboxes(out: &mut Vec<u8>, name: &str, list: &[Mailbox]) -> Result<(), HeaderError> {
    if list.is_empty() {
        return Ok(());
    }
    for mailbox in list {
        check_value(name, mailbox.name().unwrap_or(""))?;
    }
    let mut field = HeaderWriter::begin(out, name);
    field.mailboxes(list);
    field.end();
    Ok(())
}

fn write_text(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), HeaderError> {
    check_value(name, value)?;
    let mut field = HeaderWriter::begin(out, name);
    field.unstructured(value);
    field.end();
    Ok(())
}

fn write_date(out: &mut Vec<u8>, now: Timestamp) -> Result<(), ComposeError> {
    out.extend_from_slice(b"Date: ");
    DateTimePrinter::new()
        .print_zoned(&now.to_zoned(TimeZone::UTC), StdIoWrite(&mut *out))
        .map_err(|_| ComposeError::Date)?;
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn checked_message_id(id: &str) -> Result<&str, ComposeError> {
    let inner = id.strip_prefix('<').and_then(|id| id.strip_suffix('>'));
    let inner = inner.unwrap_or(id);
    let is_half = |half: &str| {
        !half.is_empty()
            && half
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"<>@\"(),;\\".contains(&b))
    };
    match inner.split_once('@') {
        Some((left, right)) if inner.len() <= 250 && is_half(left) && is_half(right) => Ok(inner),
        _ => Err(ComposeError::MessageId(id.to_owned())),
    }
}

#[cfg(test)]
mod tests;
