//! The JSON that clients read: messages, recipients, events.

use std::collections::BTreeMap;

use engine::views::{MessageView, RecipientView};
use jiff::Timestamp;
use mail_parser::{MessageParser, MessagePart, MimeHeaders, PartType};
use serde::{Serialize, Serializer};
use store::{Event, MessageId, Outcome, StageTimes, Status, Tags, Time};
use utoipa::ToSchema;

/// A moment of ours as one of jiff's.
pub(crate) fn timestamp(at: Time) -> Timestamp {
    let since_epoch = jiff::SignedDuration::try_from(at).unwrap_or(jiff::SignedDuration::MAX);
    Timestamp::from_duration(since_epoch).unwrap_or(Timestamp::MAX)
}

/// RFC 3339 with milliseconds.
pub(crate) fn moment<S: Serializer>(at: &Time, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{:.3}", timestamp(*at)))
}

pub(crate) fn moment_option<S: Serializer>(at: &Option<Time>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => moment(at, to),
        None => to.serialize_none(),
    }
}

fn id<S: Serializer>(id: &MessageId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn tag_map<S: Serializer>(tags: &Tags, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(tags.iter().map(|(name, value)| (name, value)))
}

fn status_name<S: Serializer>(status: &Status, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(status.name())
}

/// A label as Resend shows it.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct TagView {
    name: Box<str>,
    value: Box<str>,
}

/// A message and where its recipients stand.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct EmailView {
    /// Always `email`.
    object: &'static str,
    #[serde(serialize_with = "id")]
    #[schema(value_type = String, format = "uuid")]
    id: MessageId,
    /// Whose it is.
    tenant: String,
    /// From, as in its header; once every recipient is settled, the address of its reverse-path, for
    /// content is not kept. Null for the null path.
    from: Option<String>,
    /// To, as in its header; once every recipient is settled, all recipients.
    to: Vec<String>,
    cc: Vec<String>,
    bcc: Vec<String>,
    reply_to: Vec<String>,
    /// The subject; once every recipient is settled, its first 200 characters.
    subject: Option<String>,
    /// Null once every recipient is settled.
    html: Option<String>,
    /// Null once every recipient is settled.
    text: Option<String>,
    message_id: Option<String>,
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    created_at: Time,
    #[serde(serialize_with = "moment_option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    scheduled_at: Option<Time>,
    /// The latest of `scheduled`, `queued`, `delivery_delayed`, `delivered`, `bounced`, `failed`,
    /// `suppressed`, `canceled` over all recipients.
    last_event: &'static str,
    tags: Vec<TagView>,
    recipients: Vec<RecipientState>,
}

/// Where one recipient stands.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct RecipientState {
    address: String,
    #[serde(serialize_with = "status_name")]
    #[schema(value_type = String, example = "delivered")]
    status: Status,
    /// Since when.
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    at: Time,
    /// The next attempt.
    #[serde(serialize_with = "moment_option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    due_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt: Option<AttemptView>,
}

/// How one attempt went.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct AttemptView {
    /// Attempts made by then, this one included.
    attempt: u16,
    site: String,
    /// `host:port`; empty if none was reached.
    host: String,
    /// The egress source; empty for the default.
    source: String,
    /// The stage it ended at; empty when all went well.
    stage: String,
    /// Reply code; 0 where there was no reply.
    code: u16,
    /// Enhanced status code (RFC 3463).
    enhanced: Option<String>,
    /// What was said, or the failure in words.
    text: String,
    /// Microseconds spent in each stage that took any.
    times_us: BTreeMap<&'static str, u32>,
}

impl From<&Outcome> for AttemptView {
    fn from(outcome: &Outcome) -> Self {
        let times = StageTimes::NAMES.into_iter().zip(outcome.times.0);
        Self {
            attempt: outcome.attempt,
            site: outcome.site.to_string(),
            host: outcome.host.to_string(),
            source: outcome.source.to_string(),
            stage: outcome.stage.to_string(),
            code: outcome.said.code,
            enhanced: outcome.said.enhanced.map(|status| status.to_string()),
            text: outcome.said.text.to_string(),
            times_us: times.filter(|(_, us)| *us > 0).collect(),
        }
    }
}

/// One change of one recipient.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct EventView {
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    at: Time,
    #[serde(serialize_with = "id")]
    #[schema(value_type = String, format = "uuid")]
    email_id: MessageId,
    recipient: String,
    /// Index of the recipient in the envelope.
    recipient_index: u32,
    tenant: String,
    #[serde(serialize_with = "status_name")]
    #[schema(value_type = String, example = "delivered")]
    status: Status,
    /// The next attempt.
    #[serde(
        serialize_with = "moment_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = "date-time")]
    due_at: Option<Time>,
    /// Of `accepted`: the address of the message's reverse-path, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Of `accepted`: the subject, its first 200 characters, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(serialize_with = "tag_map")]
    #[schema(value_type = BTreeMap<String, String>)]
    tags: Tags,
    #[serde(flatten)]
    attempt: Option<AttemptView>,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        Self {
            at: event.at,
            email_id: event.message,
            recipient: event.address.to_string(),
            recipient_index: event.recipient,
            tenant: event.tenant.to_string(),
            status: event.status,
            due_at: event.due_at,
            from: event.heading.as_ref().and_then(|it| some(&it.from)),
            subject: event.heading.as_ref().and_then(|it| some(&it.subject)),
            tags: Tags::clone(&event.tags),
            attempt: event.outcome.as_deref().map(AttemptView::from),
        }
    }
}

impl From<&RecipientView> for RecipientState {
    fn from(view: &RecipientView) -> Self {
        Self {
            address: view.address.to_string(),
            status: view.status,
            at: view.at,
            due_at: view.due_at,
            last_attempt: view.outcome.as_deref().map(AttemptView::from),
        }
    }
}

/// The words of Resend's `last_event`.
fn last_event(view: &MessageView, now: Time) -> &'static str {
    let is_scheduled = scheduled_at(view).is_some_and(|at| at > now);
    let Some(latest) = view.recipients.iter().max_by_key(|recipient| recipient.at) else {
        return "queued";
    };
    match latest.status {
        Status::Accepted if is_scheduled => "scheduled",
        Status::Accepted => "queued",
        Status::Deferred | Status::Held => "delivery_delayed",
        Status::Delivered => "delivered",
        Status::Bounced => "bounced",
        Status::Expired => "failed",
        Status::Suppressed => "suppressed",
        Status::Canceled => "canceled",
    }
}

/// When it goes, or went, if the application asked for later; it may have been moved since.
fn scheduled_at(view: &MessageView) -> Option<Time> {
    let is_new = |one: &&RecipientView| one.status == Status::Accepted;
    let waiting = view.recipients.iter().filter(is_new);
    let due_at = waiting.filter_map(|one| one.due_at).min();
    (view.due_at > view.accepted_at).then_some(due_at.unwrap_or(view.due_at))
}

impl EmailView {
    pub(crate) fn new(view: &MessageView, now: Time) -> Self {
        let tags = view.tags.iter().map(|(name, value)| TagView {
            name: name.clone(),
            value: value.clone(),
        });
        let mut email = Self {
            object: "email",
            id: view.id,
            tenant: view.tenant.to_string(),
            from: None,
            to: view
                .recipients
                .iter()
                .map(|r| r.address.to_string())
                .collect(),
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: Vec::new(),
            subject: None,
            html: None,
            text: None,
            message_id: None,
            created_at: view.accepted_at,
            scheduled_at: scheduled_at(view),
            last_event: last_event(view, now),
            tags: tags.collect(),
            recipients: view.recipients.iter().map(RecipientState::from).collect(),
        };
        if let Some(heading) = &view.heading {
            email.from = some(&heading.from);
            email.subject = some(&heading.subject);
        }
        if let Some(message) = &view.message {
            email.read_content(message);
        }
        email
    }

    /// What its header and texts say.
    fn read_content(&mut self, message: &store::Message) {
        let Some(parsed) = MessageParser::new().parse(message.content.as_bytes()) else {
            return;
        };
        let list = |address: Option<&mail_parser::Address<'_>>| -> Vec<String> {
            let all = address.into_iter().flat_map(mail_parser::Address::iter);
            all.filter_map(mailbox).collect()
        };
        self.from = list(parsed.from()).into_iter().next();
        (self.cc, self.reply_to) = (list(parsed.cc()), list(parsed.reply_to()));
        let shown = |address: &String| {
            let headers = [parsed.to(), parsed.cc()];
            let mut shown = headers
                .into_iter()
                .flatten()
                .flat_map(mail_parser::Address::iter);
            shown.any(|it| {
                it.address()
                    .is_some_and(|it| it.eq_ignore_ascii_case(address))
            })
        };
        self.bcc = self.to.iter().filter(|it| !shown(it)).cloned().collect();
        self.to = list(parsed.to());
        self.subject = parsed.subject().map(str::to_owned);
        self.message_id = parsed.message_id().map(|id| format!("<{id}>"));
        let is_file = |part: &MessagePart<'_>| {
            let disposition = part.content_disposition();
            disposition.is_some_and(mail_parser::ContentType::is_attachment)
        };
        let parts = || parsed.parts.iter().filter(|part| !is_file(part));
        self.html = parts().find_map(|part| match &part.body {
            PartType::Html(html) => Some(html.to_string()),
            _ => None,
        });
        self.text = parts().find_map(|part| match &part.body {
            PartType::Text(text) => Some(text.to_string()),
            _ => None,
        });
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn mailbox(address: &mail_parser::Addr<'_>) -> Option<String> {
    let text = address.address()?;
    Some(match address.name() {
        Some(name) => format!("{name} <{text}>"),
        None => text.to_owned(),
    })
}
