//! From what a client sent to what the engine takes: checked field by field, each mistake named.
//!
//! One [`Composer`] serves one request. What several messages of a batch share (a file, a template
//! given inline) is decoded, encoded and compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use engine::{Options, Submission};
use jiff::Timestamp;
use message::{
    Attachment, ComposeError, HeaderError, ListUnsubscribe, Mailbox, Message, Rendered, Source,
    Template,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use store::{Priority, Tags, Time};

use super::problem::{Kind, Problem};
use super::request::{
    FileBytes, FileRequest, Many, Pairs, SendRequest, TagRequest, TemplateObject, Text,
};
use super::templates::Templates;
use super::when;

/// Characters of a label's name or value.
const TAG_LEN_MAX: usize = 256;
/// Octets of a template's variables.
const VARIABLES_BYTES_MAX: usize = 1 << 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Makes submissions out of the messages of one request.
pub(crate) struct Composer<'r> {
    pub(crate) tenant: Arc<str>,
    pub(crate) templates: &'r Templates,
    pub(crate) now: Timestamp,
    pub(crate) ahead_max: jiff::SignedDuration,
    /// Whether more than one message is to come, so that it pays to remember.
    pub(crate) is_batch: bool,
    files: HashMap<&'r FileRequest<'r>, Attachment>,
    inline: HashMap<[Option<&'r str>; 3], Arc<Template>>,
}

impl<'r> Composer<'r> {
    pub(crate) fn new(
        tenant: Arc<str>,
        templates: &'r Templates,
        now: Timestamp,
        ahead_max: jiff::SignedDuration,
        is_batch: bool,
    ) -> Self {
        Self {
            tenant,
            templates,
            now,
            ahead_max,
            is_batch,
            files: HashMap::new(),
            inline: HashMap::new(),
        }
    }

    /// One message.
    ///
    /// # Errors
    /// The first field that cannot be taken.
    pub(crate) fn submission(
        &mut self,
        request: &'r SendRequest<'r>,
    ) -> Result<Submission, Problem> {
        let (message, subject) = self.message(request)?;
        let envelope = message.envelope().map_err(|_| Problem::missing("to"))?;
        let content = message.compose(self.now).map_err(|e| unfit(&e))?;
        Ok(Submission {
            tenant: Arc::clone(&self.tenant),
            envelope: Arc::new(envelope),
            content,
            options: Options {
                tags: tags(request.tags.as_deref().unwrap_or_default())?,
                subject: subject.into(),
                priority: priority(request.priority.as_ref())?,
                send_at: self.send_at(request.scheduled_at.as_ref())?,
                ..Options::default()
            },
        })
    }

    fn message(&mut self, request: &'r SendRequest<'r>) -> Result<(Message, String), Problem> {
        let from = request.from.as_ref().ok_or(Problem::missing("from"))?;
        let from = mailbox("from", from).map_err(|p| p.of_kind(Kind::InvalidFrom))?;
        let to = mailboxes("to", request.to.as_ref())?;
        if to.is_empty() {
            return Err(Problem::missing("to"));
        }
        let body = self.body(request)?;
        let subject = body.subject.ok_or(Problem::missing("subject"))?;
        if body.html.is_none() && body.text.is_none() {
            return Err(Problem::new(
                Kind::MissingField,
                "Missing `html` or `text` field.",
            ));
        }
        let mut message = Message::new(from).subject(subject.as_str());
        message = to.into_iter().fold(message, Message::to);
        let cc = mailboxes("cc", request.cc.as_ref())?;
        message = cc.into_iter().fold(message, Message::cc);
        let bcc = mailboxes("bcc", request.bcc.as_ref())?;
        message = bcc.into_iter().fold(message, Message::bcc);
        let reply_to = mailboxes("reply_to", request.reply_to.as_ref())?;
        message = reply_to.into_iter().fold(message, Message::reply_to);
        if let Some(html) = body.html {
            message = message.html(html);
        }
        if let Some(text) = body.text {
            message = message.text(text);
        }
        if let Some(headers) = &request.headers {
            message = with_headers(message, headers, request.reply_to.is_some())?;
        }
        let message = self.with_files(message, request.attachments.as_deref())?;
        Ok((message, subject))
    }

    /// Subject and texts: the template's where there is one, each of which the request's own
    /// replaces.
    fn body(&mut self, request: &'r SendRequest<'r>) -> Result<Rendered, Problem> {
        let own = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.to_string());
        let mut body = match &request.template {
            None if request.variables.is_some() => {
                return Err(Problem::invalid("variables", "they need a `template`"));
            }
            None => Rendered {
                subject: None,
                text: None,
                html: None,
            },
            Some(template) => {
                let compiled = self.template(&template.0)?;
                let own = template.0.variables.or(request.variables);
                let variables = own.map(variables).transpose()?.unwrap_or_default();
                compiled
                    .render(&variables, None)
                    .map_err(|error| Problem::invalid("template", error))?
            }
        };
        if request.html.is_some() || request.text.is_some() {
            (body.html, body.text) = (own(&request.html), own(&request.text));
        }
        body.subject = own(&request.subject).or(body.subject);
        Ok(body)
    }

    fn template(&mut self, wanted: &'r TemplateObject<'r>) -> Result<Arc<Template>, Problem> {
        let text = |text: &'r Option<Text<'r>>| text.as_deref();
        let parts = [
            text(&wanted.subject),
            text(&wanted.html),
            text(&wanted.text),
        ];
        let is_inline = parts.iter().any(Option::is_some);
        match &wanted.id {
            Some(_) if is_inline => Err(Problem::invalid(
                "template",
                "give either the `id` of a template or its texts",
            )),
            Some(name) => self
                .templates
                .get(name)
                .ok_or_else(|| Problem::invalid("template", format!("there is no {:?}", &**name))),
            None if !is_inline => Err(Problem::missing("template.id")),
            None => self.inline_template(parts),
        }
    }

    fn inline_template(&mut self, parts: [Option<&'r str>; 3]) -> Result<Arc<Template>, Problem> {
        if let Some(known) = self.inline.get(&parts) {
            return Ok(Arc::clone(known));
        }
        let source = |at: usize, name: &str| parts[at].map(|text| Source::inline(name, text));
        let compiled = Template::load(source(0, "subject"), source(2, "text"), source(1, "html"))
            .map_err(|error| Problem::invalid("template", error))?;
        let compiled = Arc::new(compiled);
        self.inline.insert(parts, Arc::clone(&compiled));
        Ok(compiled)
    }

    fn with_files(
        &mut self,
        mut message: Message,
        files: Option<&'r [FileRequest<'r>]>,
    ) -> Result<Message, Problem> {
        let files = files.unwrap_or_default();
        for (index, file) in files.iter().enumerate() {
            let attachment = match self.files.get(file) {
                Some(known) => known.clone(),
                None => {
                    let made = attachment(index, file)?;
                    if self.is_batch {
                        self.files.insert(file, made.clone());
                    }
                    made
                }
            };
            message = message.attach(attachment);
        }
        Ok(message)
    }

    fn send_at(&self, text: Option<&Text<'_>>) -> Result<Option<Time>, Problem> {
        text.map(|text| scheduled_at(text, self.now, self.ahead_max))
            .transpose()
    }
}

/// Reads `scheduled_at`.
///
/// # Errors
/// What is no moment, or too far ahead.
pub(crate) fn scheduled_at(
    text: &str,
    now: Timestamp,
    ahead_max: jiff::SignedDuration,
) -> Result<Time, Problem> {
    let at = when::parse(text, now, ahead_max)
        .map_err(|error| Problem::invalid("scheduled_at", error))?;
    Ok(Time::try_from(at.as_duration()).unwrap_or_default())
}

fn variables(json: &RawValue) -> Result<Map<String, Value>, Problem> {
    let json = json.get();
    if json.len() > VARIABLES_BYTES_MAX {
        let most = format!("at most {VARIABLES_BYTES_MAX} octets are taken");
        return Err(Problem::invalid("variables", most));
    }
    serde_json::from_str(json).map_err(|_| Problem::invalid("variables", "an object is expected"))
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, Problem> {
    text.parse()
        .map_err(|error| Problem::invalid(field, format!("{error}: {text:?}")))
}

fn mailboxes(field: &str, texts: Option<&Many<'_>>) -> Result<Vec<Mailbox>, Problem> {
    let texts = texts.map_or(&[][..], |many| &many.0);
    let read = |(index, text): (usize, &Text<'_>)| match texts.len() {
        1 => mailbox(field, text),
        _ => mailbox(&format!("{field}[{index}]"), text),
    };
    texts.iter().enumerate().map(read).collect()
}

/// Header fields of one's own; those that the composer has a method for go there.
fn with_headers(
    mut message: Message,
    headers: &Pairs<'_>,
    has_reply_to: bool,
) -> Result<Message, Problem> {
    for (name, value) in &headers.0 {
        let field = || format!("headers.{}", &**name);
        message = match &*name.to_ascii_lowercase() {
            "message-id" => message.message_id(&**value),
            "reply-to" if !has_reply_to => message.reply_to(mailbox(&field(), value)?),
            "sender" => message.sender(mailbox(&field(), value)?),
            "list-unsubscribe" => {
                let uris: Vec<_> = value.split(',').map(bare_uri).collect();
                let unsubscribe = ListUnsubscribe::new(&uris);
                message.list_unsubscribe(
                    unsubscribe.map_err(|error| Problem::invalid(field(), error))?,
                )
            }
            // Written wherever List-Unsubscribe has an https URI (RFC 8058 §3.1).
            "list-unsubscribe-post" => message,
            _ => message.header(&**name, &**value),
        };
    }
    Ok(message)
}

fn bare_uri(text: &str) -> &str {
    let text = text.trim();
    let inner = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    inner.unwrap_or(text)
}

fn attachment(index: usize, file: &FileRequest<'_>) -> Result<Attachment, Problem> {
    let invalid = |part: &str, problem: &dyn std::fmt::Display| {
        let field = format!("attachments[{index}]{part}");
        Problem::invalid(field, problem).of_kind(Kind::InvalidAttachment)
    };
    if file.path.is_some() {
        return Err(invalid(
            ".path",
            &"this server fetches no files; send the `content`",
        ));
    }
    let decoded;
    let octets = match &file.content {
        None => return Err(invalid("", &"`content` is missing")),
        Some(FileBytes::Octets(octets)) => octets,
        Some(FileBytes::Base64(text)) => {
            decoded = decoded_base64(text).map_err(|error| invalid(".content", &error))?;
            &decoded
        }
    };
    let name = file.filename.as_deref();
    let made = match (&file.content_id, &file.content_type) {
        (Some(id), _) => Attachment::inline(bare_uri(id), name.unwrap_or(id), octets),
        (None, Some(media)) => {
            let media = media.split(';').next().unwrap_or_default().trim();
            Attachment::typed(name.unwrap_or_default(), media, octets)
        }
        (None, None) if name.is_none() => return Err(invalid("", &"`filename` is missing")),
        (None, None) => Attachment::new(name.unwrap_or_default(), octets),
    };
    made.map_err(|error| invalid("", &error))
}

/// Base64 with or without line ends and padding.
fn decoded_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        let text: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        return BASE64.decode(text);
    }
    BASE64.decode(text)
}

fn tags(requests: &[TagRequest<'_>]) -> Result<Tags, Problem> {
    let is_word = |text: &str| {
        text.len() <= TAG_LEN_MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let read = |(index, tag): (usize, &TagRequest<'_>)| {
        let value = tag.value.as_deref().unwrap_or_default();
        if tag.name.is_empty() || !is_word(&tag.name) || !is_word(value) {
            return Err(Problem::invalid(
                format!("tags[{index}]"),
                format!("name and value are at most {TAG_LEN_MAX} ASCII letters, digits, _ and -"),
            ));
        }
        Ok((Box::from(&*tag.name), Box::from(value)))
    };
    requests.iter().enumerate().map(read).collect()
}

fn priority(text: Option<&Text<'_>>) -> Result<Priority, Problem> {
    match text.map(|text| &**text) {
        None | Some("normal") => Ok(Priority::Normal),
        Some("high") => Ok(Priority::High),
        Some("bulk") => Ok(Priority::Bulk),
        Some(_) => Err(Problem::invalid("priority", "one of high, normal, bulk")),
    }
}

/// What the composer objects to, with the field that it came from.
fn unfit(error: &ComposeError) -> Problem {
    let header = match error {
        ComposeError::Header(
            HeaderError::Control { header: name, .. }
            | HeaderError::Name { name }
            | HeaderError::Reserved { name },
        ) => name.as_str(),
        ComposeError::MessageId(_) => "Message-ID",
        ComposeError::Random => return Problem::new(Kind::Internal, error.to_string()),
        _ => return Problem::new(Kind::Validation, format!("{error}.")),
    };
    let known = ["from", "to", "cc", "subject", "reply_to"];
    let lower = header.to_ascii_lowercase().replace('-', "_");
    match known.iter().find(|field| **field == lower) {
        Some(field) if !matches!(error, ComposeError::Header(HeaderError::Reserved { .. })) => {
            Problem::invalid(*field, error)
        }
        _ => Problem::invalid(format!("headers.{header}"), error),
    }
}

#[cfg(test)]
mod tests;
