//! A message that somebody else composed: made canonical, stripped of Bcc, and asked for the
//! envelope that its headers imply.

use mail_parser::{Address as Parsed, HeaderName, HeaderValue, MessageParser};
use smtp::{Address, Content, ContentError, Envelope, EnvelopeError};

use crate::compose::recipients;

/// Why a file is not a message that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmlError {
    /// Lone CR, NUL, a line over 998 octets, nothing at all.
    #[error("the message cannot be sent as it is: {0}")]
    Content(#[from] ContentError),
    /// A line of the header section that is no header field and continues none.
    #[error("line {line} of the message is not a header field")]
    HeaderSection {
        /// From 1.
        line: usize,
    },
    /// A header whose addresses cannot be read, or nobody to send from.
    #[error("the header {header} has no valid address: {text:?}")]
    Address {
        /// The header's name.
        header: &'static str,
        /// What stands there.
        text: String,
    },
    /// No recipient in To, Cc or Bcc.
    #[error("the headers name no recipient")]
    Recipients,
}

impl From<EnvelopeError> for EmlError {
    fn from(_: EnvelopeError) -> Self {
        Self::Recipients
    }
}

/// A message as read from a file.
#[derive(Debug, Clone)]
pub struct Eml {
    /// As it was written, Bcc included: what the envelope is read from.
    header: Vec<u8>,
    content: Content,
}

impl Eml {
    /// Reads a message with any line ends. Bcc and Resent-Bcc are not in what will be sent.
    ///
    /// # Errors
    /// What cannot be made canonical, and a header section that is none.
    pub fn parse(text: &[u8]) -> Result<Self, EmlError> {
        let whole = Content::from_text(text)?;
        let fields = header_fields(whole.as_bytes())?;
        let header_len: usize = fields.iter().map(|field| field.len()).sum();
        let header = whole.as_bytes()[..header_len].to_vec();
        let is_hidden = |field: &[u8]| is_named(field, "bcc") || is_named(field, "resent-bcc");
        if !fields.iter().any(|field| is_hidden(field)) {
            return Ok(Self {
                header,
                content: whole,
            });
        }
        let mut sent = Vec::with_capacity(whole.len());
        for field in fields.iter().filter(|field| !is_hidden(field)) {
            sent.extend_from_slice(field);
        }
        sent.extend_from_slice(&whole.as_bytes()[header_len..]);
        Ok(Self {
            header,
            content: Content::new(sent)?,
        })
    }

    /// What is sent.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The envelope of `-t`: from Sender or else From, to all of To, Cc and Bcc, each once. Where
    /// the message was resent (RFC 5322 §3.6.6), the Resent- headers alone count.
    ///
    /// # Errors
    /// [`EmlError::Address`], [`EmlError::Recipients`].
    pub fn envelope(&self) -> Result<Envelope, EmlError> {
        let parsed = MessageParser::new().parse_headers(&self.header[..]);
        let parsed = parsed.ok_or(EmlError::Recipients)?;
        let read = |name: HeaderName<'static>| addresses(&parsed, name);
        let resent = [
            HeaderName::ResentTo,
            HeaderName::ResentCc,
            HeaderName::ResentBcc,
        ];
        let is_resent = resent
            .iter()
            .any(|name| parsed.header_values(name.clone()).next().is_some());
        let (to, from) = if is_resent {
            (resent, [HeaderName::ResentSender, HeaderName::ResentFrom])
        } else {
            (
                [HeaderName::To, HeaderName::Cc, HeaderName::Bcc],
                [HeaderName::Sender, HeaderName::From],
            )
        };
        let mut all = Vec::new();
        for name in to {
            all.extend(read(name)?);
        }
        let mut senders = Vec::new();
        for name in from {
            senders.extend(read(name)?);
        }
        let sender = senders.into_iter().next().ok_or(EmlError::Address {
            header: "From",
            text: String::new(),
        })?;
        Ok(Envelope::new(sender, recipients(all.into_iter()))?)
    }
}

/// All addresses of all headers of one name, groups opened; one that is none is an error.
fn addresses(
    message: &mail_parser::Message<'_>,
    name: HeaderName<'static>,
) -> Result<Vec<Address>, EmlError> {
    let header = name.as_static_str();
    let mut found = Vec::new();
    for value in message.header_values(name) {
        let list: Vec<_> = match value {
            HeaderValue::Address(Parsed::List(list)) => list.iter().collect(),
            HeaderValue::Address(Parsed::Group(groups)) => {
                groups.iter().flat_map(|group| &group.addresses).collect()
            }
            _ => continue,
        };
        for mailbox in list {
            let text = mailbox.address().or(mailbox.name()).unwrap_or("");
            let address = text.parse().map_err(|_| EmlError::Address {
                header,
                text: text.to_owned(),
            })?;
            found.push(address);
        }
    }
    Ok(found)
}

/// The fields of the header section, each with its folded lines and its CRLF.
fn header_fields(content: &[u8]) -> Result<Vec<&[u8]>, EmlError> {
    let mut fields: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    for (index, line) in content.split_inclusive(|&b| b == b'\n').enumerate() {
        if line == b"\r\n" {
            break;
        }
        let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if is_folded && let Some(field) = fields.last_mut() {
            let from = start - field.len();
            *field = &content[from..start + line.len()];
        } else if !is_folded && is_field(line) {
            fields.push(line);
        } else {
            return Err(EmlError::HeaderSection { line: index + 1 });
        }
        start += line.len();
    }
    Ok(fields)
}

fn is_field(line: &[u8]) -> bool {
    let name_len = line.iter().position(|&b| b == b':').unwrap_or(0);
    name_len > 0 && field_name(line).iter().all(u8::is_ascii_graphic)
}

/// What stands before the colon, without the white space that RFC 5322 §4.5.8 let stand there.
fn field_name(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == b':').unwrap_or(0);
    field[..end].trim_ascii_end()
}

fn is_named(field: &[u8], name: &str) -> bool {
    field_name(field).eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(text: &str) -> Result<(String, Vec<String>), EmlError> {
        let envelope = Eml::parse(text.as_bytes())?.envelope()?;
        let to = envelope.recipients().iter().map(|r| r.address.to_string());
        Ok((envelope.reverse_path().to_string(), to.collect()))
    }

    #[test]
    fn the_envelope_comes_from_the_headers() {
        for (text, from, to) in [
            (
                "From: A <a@example.org>\nTo: b@example.org, \"C, D\" <c@example.org>\nCc: b@example.org\n\nx",
                "<a@example.org>",
                &["b@example.org", "c@example.org"][..],
            ),
            (
                "From: a@example.org\nSender: s@example.org\nBcc:\n b@example.org,\n c@example.org\n",
                "<s@example.org>",
                &["b@example.org", "c@example.org"],
            ),
            (
                "From: a@example.org\nTo: undisclosed:;\nBcc : b@example.org\n",
                "<a@example.org>",
                &["b@example.org"],
            ),
            (
                "Resent-From: r@example.org\nResent-To: x@example.org\nFrom: a@example.org\nTo: b@example.org\n",
                "<r@example.org>",
                &["x@example.org"],
            ),
        ] {
            assert_eq!(
                envelope(text),
                Ok((
                    from.to_owned(),
                    to.iter().map(ToString::to_string).collect()
                )),
                "{text}"
            );
        }
    }

    #[test]
    fn bcc_is_not_sent_however_it_is_written() {
        let eml = Eml::parse(
            b"From: a@example.org\nBCC: s1@example.org,\n\ts2@example.org\nbcc : s3@example.org\nResent-Bcc: s4@example.org\nTo: b@example.org\n\nBcc: body\n",
        )
        .unwrap();
        let sent = String::from_utf8(eml.content().as_bytes().to_vec()).unwrap();
        assert_eq!(
            sent,
            "From: a@example.org\r\nTo: b@example.org\r\n\r\nBcc: body\r\n"
        );
    }

    #[test]
    fn what_is_no_message_or_has_no_address_is_refused() {
        for (text, error) in [
            ("hello\n", EmlError::HeaderSection { line: 1 }),
            (" a: b\n", EmlError::HeaderSection { line: 1 }),
            ("A: b\nhello there\n", EmlError::HeaderSection { line: 2 }),
            ("From: a@example.org\n\n", EmlError::Recipients),
            (
                "From: a@example.org\nTo: nobody\n",
                EmlError::Address {
                    header: "To",
                    text: "nobody".into(),
                },
            ),
            (
                "To: b@example.org\n",
                EmlError::Address {
                    header: "From",
                    text: String::new(),
                },
            ),
        ] {
            assert_eq!(envelope(text), Err(error), "{text}");
        }
        assert!(matches!(envelope("A: b\rc\n"), Err(EmlError::Content(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_sent_without_bcc(text in "((bcc|To|From|Resent-Bcc| |\t|x) ?:?[ -~\u{e9}\0]{0,20}(\n|\r\n|\r)){0,6}") {
            let Ok(eml) = Eml::parse(text.as_bytes()) else {
                return Ok(());
            };
            let fields = header_fields(eml.content().as_bytes()).unwrap();
            prop_assert!(!fields.iter().any(|f| is_named(f, "bcc") || is_named(f, "resent-bcc")));
            let _ = eml.envelope();
        }
    }
}
