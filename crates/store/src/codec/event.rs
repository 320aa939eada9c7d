//! Events as bytes.

use std::sync::Arc;

use smtp::EnhancedStatus;

use super::fields::{Reader, put_text, put_time, put_varint};
use super::{DecodeError, VERSION};
use crate::{Event, MessageId, Outcome, Said, StageTimes, Status, Tags};

pub(super) const HAS_DUE: u8 = 1;
pub(super) const HAS_OUTCOME: u8 = 2;

/// Appends one event to `out`.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) {
    let due = if event.due_at.is_some() { HAS_DUE } else { 0 };
    let outcome = if event.outcome.is_some() {
        HAS_OUTCOME
    } else {
        0
    };
    out.extend_from_slice(&[VERSION, due | outcome, event.status as u8]);
    out.extend_from_slice(&event.message.bits().to_be_bytes());
    put_time(out, event.at);
    if let Some(due_at) = event.due_at {
        put_time(out, due_at);
    }
    put_varint(out, event.recipient.into());
    put_text(out, &event.address);
    put_text(out, &event.tenant);
    put_tags(out, &event.tags);
    if let Some(outcome) = &event.outcome {
        put_outcome(out, outcome);
    }
}

/// Reads one event, which is all of `record`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_event(record: &[u8]) -> Result<Event, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let flags = reader.flags(HAS_DUE | HAS_OUTCOME)?;
    let status = read_status(&mut reader)?;
    let message = read_id(&mut reader)?;
    let at = reader.time()?;
    let due_at = (flags & HAS_DUE != 0).then(|| reader.time()).transpose()?;
    let event = Event {
        at,
        message,
        recipient: reader.number("a recipient")?,
        address: reader.text()?.into(),
        tenant: reader.text()?.into(),
        tags: read_tags(&mut reader)?,
        status,
        due_at,
        outcome: (flags & HAS_OUTCOME != 0)
            .then(|| read_outcome(&mut reader).map(Box::new))
            .transpose()?,
        heading: None,
    };
    reader.end()?;
    Ok(event)
}

pub(super) fn read_status(reader: &mut Reader<'_>) -> Result<Status, DecodeError> {
    Status::from_number(reader.u8()?).ok_or(DecodeError::Range("a status"))
}

pub(super) fn read_id(reader: &mut Reader<'_>) -> Result<MessageId, DecodeError> {
    let bits = u128::from_be_bytes(reader.array()?);
    Ok(MessageId::from_bits(bits))
}

pub(super) fn put_tags(out: &mut Vec<u8>, tags: &Tags) {
    put_varint(out, tags.len() as u64);
    for (name, value) in tags.iter() {
        put_text(out, name);
        put_text(out, value);
    }
}

pub(super) fn read_tags(reader: &mut Reader<'_>) -> Result<Tags, DecodeError> {
    let count = reader.count(2)?;
    let mut tags = Vec::with_capacity(count);
    for _ in 0..count {
        tags.push((reader.text()?.into(), reader.text()?.into()));
    }
    Ok(tags.into())
}

pub(super) fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    put_varint(out, outcome.attempt.into());
    out.push(outcome.class);
    for text in [&outcome.site, &outcome.host, &outcome.source] {
        put_text(out, text);
    }
    put_text(out, &outcome.stage);
    put_varint(out, outcome.said.code.into());
    if let Some(status) = outcome.said.enhanced {
        out.push(status.class());
        put_varint(out, status.subject().into());
        put_varint(out, status.detail().into());
    } else {
        out.push(0);
    }
    put_text(out, &outcome.said.text);
    for us in outcome.times.0 {
        put_varint(out, us.into());
    }
}

pub(super) fn read_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let attempt = reader.number("an attempt")?;
    let class = reader.u8()?;
    let [site, host, source]: [Arc<str>; 3] = [
        reader.text()?.into(),
        reader.text()?.into(),
        reader.text()?.into(),
    ];
    let stage = reader.text()?.into();
    let code = reader.number("a reply code")?;
    let enhanced = read_enhanced(reader)?;
    let text = reader.text()?.into();
    let mut times = StageTimes::default();
    for us in &mut times.0 {
        *us = reader.number("a time")?;
    }
    Ok(Outcome {
        attempt,
        site,
        host,
        source,
        stage,
        class,
        said: Said {
            code,
            enhanced,
            text,
        },
        times,
    })
}

pub(super) fn read_enhanced(
    reader: &mut Reader<'_>,
) -> Result<Option<EnhancedStatus>, DecodeError> {
    const WHAT: &str = "an enhanced status code";
    let class = reader.u8()?;
    if class == 0 {
        return Ok(None);
    }
    let (subject, detail) = (reader.number(WHAT)?, reader.number(WHAT)?);
    let status = EnhancedStatus::new(class, subject, detail);
    status.map(Some).ok_or(DecodeError::Range(WHAT))
}
