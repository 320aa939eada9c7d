//! Events as JSON, one object a line.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use store::{Event, Outcome, StageTimes, Time};

use super::{Sink, class_name, some};

/// One line. What an event does not have is left out.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    email_id: String,
    recipient: &'a str,
    recipient_index: u32,
    tenant: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    tags: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    attempt: Option<Attempt<'a>>,
}

#[derive(Serialize)]
struct Attempt<'a> {
    attempt: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enhanced: Option<String>,
    text: &'a str,
    times_us: BTreeMap<&'static str, u32>,
}

impl<'a> Line<'a> {
    fn new(event: &'a Event) -> Self {
        Self {
            at: timestamp(event.at),
            email_id: event.message.to_string(),
            recipient: &event.address,
            recipient_index: event.recipient,
            tenant: &event.tenant,
            status: event.status.name(),
            due_at: event.due_at.map(timestamp),
            from: event.heading.as_ref().and_then(|it| some(&it.from)),
            subject: event.heading.as_ref().and_then(|it| some(&it.subject)),
            tags: event
                .tags
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect(),
            attempt: event.outcome.as_deref().map(Attempt::new),
        }
    }
}

impl<'a> Attempt<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let times = StageTimes::NAMES.into_iter().zip(outcome.times.0);
        Self {
            attempt: outcome.attempt,
            site: some(&outcome.site),
            host: some(&outcome.host),
            source: some(&outcome.source),
            stage: some(&outcome.stage),
            class: class_name(outcome.class),
            code: Some(outcome.said.code).filter(|code| *code > 0),
            enhanced: outcome.said.enhanced.map(|status| status.to_string()),
            text: &outcome.said.text,
            times_us: times.filter(|(_, us)| *us > 0).collect(),
        }
    }
}

/// To the microsecond; what is beyond the year 9999 becomes its end.
fn timestamp(time: Time) -> String {
    let us = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX);
    time.to_string()
}

/// Writes events as lines.
pub(super) struct Lines<W>(W);

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write> Sink for Lines<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, &Line::new(event))?;
        self.0.write_all(b"\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
