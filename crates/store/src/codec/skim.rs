//! What recovery needs of a record, without making anything of the rest.

use std::borrow::Cow;

use super::event::{HAS_DUE, HAS_OUTCOME, read_enhanced, read_id, read_status};
use super::fields::{Reader, put_time, put_varint};
use super::message::{HAS_ENVID, HAS_NOTIFY, HAS_ORIGINAL, PACKED, RET_FULL, RET_HEADERS};
use super::{DecodeError, Kind, VERSION, decode_moved};
use crate::{Event, MessageId, StageTimes, Status, Time};

/// What there is to know of an accepted message before anybody asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Its id.
    pub id: MessageId,
    /// Not before this.
    pub due_at: Time,
    /// What is not delivered by then expires.
    pub expires_at: Time,
    /// How many recipients it has.
    pub recipients: u32,
    /// Octets of its record before content.
    pub stem_bytes: usize,
}

/// Reads an accepted message's record up to its content. Texts and addresses are passed over unseen.
///
/// # Errors
/// What is wrong with it so far.
pub fn skim_message(record: &[u8]) -> Result<Outline, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    reader.flags(PACKED)?;
    let id = read_id(&mut reader)?;
    let [_, due_at, expires_at] = [reader.time()?, reader.time()?, reader.time()?];
    reader.u8()?;
    reader.skip_text()?;
    reader.skip_text()?;
    for _ in 0..2 * reader.count(2)? {
        reader.skip_text()?;
    }
    let recipients = skim_envelope(&mut reader)?;
    reader.varint()?;
    Ok(Outline {
        id,
        due_at,
        expires_at,
        recipients,
        stem_bytes: record.len() - reader.rest().len(),
    })
}

fn skim_envelope(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let flags = reader.flags(RET_FULL | RET_HEADERS | HAS_ENVID)?;
    reader.skip_text()?;
    if flags & HAS_ENVID != 0 {
        reader.skip_text()?;
    }
    let count = reader.count(2)?;
    for _ in 0..count {
        let flags = reader.flags(HAS_NOTIFY | HAS_ORIGINAL)?;
        reader.skip_text()?;
        if flags & HAS_NOTIFY != 0 {
            reader.u8()?;
        }
        if flags & HAS_ORIGINAL != 0 {
            reader.skip_text()?;
        }
    }
    match u32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(DecodeError::Range("a count")),
    }
}

/// What an event changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which message.
    pub message: MessageId,
    /// Which recipient.
    pub recipient: u32,
    /// The state from now on.
    pub status: Status,
    /// The next attempt, if it is another one than before.
    pub due_at: Option<Time>,
    /// Attempts made and class of the failure, if there was an attempt.
    pub attempt: Option<(u16, u8)>,
}

impl From<&Event> for Change {
    fn from(event: &Event) -> Self {
        let outcome = event.outcome.as_ref();
        Self {
            message: event.message,
            recipient: event.recipient,
            status: event.status,
            due_at: event.due_at,
            attempt: outcome.map(|outcome| (outcome.attempt, outcome.class)),
        }
    }
}

/// Reads what an event changes. Texts are passed over unseen.
///
/// # Errors
/// What is wrong with it.
pub fn skim_event(record: &[u8]) -> Result<Change, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let flags = reader.flags(HAS_DUE | HAS_OUTCOME)?;
    let status = read_status(&mut reader)?;
    let message = read_id(&mut reader)?;
    reader.time()?;
    let due_at = (flags & HAS_DUE != 0).then(|| reader.time()).transpose()?;
    let recipient = reader.number("a recipient")?;
    reader.skip_text()?;
    reader.skip_text()?;
    for _ in 0..2 * reader.count(2)? {
        reader.skip_text()?;
    }
    let attempt = if flags & HAS_OUTCOME == 0 {
        None
    } else {
        Some(skim_outcome(&mut reader)?)
    };
    reader.end()?;
    Ok(Change {
        message,
        recipient,
        status,
        due_at,
        attempt,
    })
}

fn skim_outcome(reader: &mut Reader<'_>) -> Result<(u16, u8), DecodeError> {
    let attempts = reader.number("an attempt")?;
    let class = reader.u8()?;
    for _ in 0..4 {
        reader.skip_text()?;
    }
    reader.varint()?;
    read_enhanced(reader)?;
    reader.skip_text()?;
    for _ in 0..StageTimes::NAMES.len() {
        reader.varint()?;
    }
    Ok((attempts, class))
}

/// What recovery needs of a record: a message without its content, an event without its texts;
/// anything else, and what cannot be understood, whole. Reads as the record does, by skimming.
#[must_use]
pub fn stem(kind: u8, record: &[u8]) -> Cow<'_, [u8]> {
    let stem = match Kind::from_number(kind) {
        Some(Kind::Accepted) => skim_message(record).map(|outline| outline.stem_bytes),
        Some(Kind::Moved) => decode_moved(record).and_then(|moved| {
            let outline = skim_message(&record[moved.message_at..])?;
            Ok(moved.message_at + outline.stem_bytes)
        }),
        Some(Kind::Event) => {
            return skim_event(record).map_or(Cow::Borrowed(record), |change| {
                Cow::Owned(encode_change(&change))
            });
        }
        _ => Ok(record.len()),
    };
    Cow::Borrowed(&record[..stem.unwrap_or(record.len())])
}

/// An event that says this and no more.
fn encode_change(change: &Change) -> Vec<u8> {
    let due = if change.due_at.is_some() { HAS_DUE } else { 0 };
    let outcome = if change.attempt.is_some() {
        HAS_OUTCOME
    } else {
        0
    };
    let mut out = vec![VERSION, due | outcome, change.status as u8];
    out.extend_from_slice(&change.message.bits().to_be_bytes());
    put_time(&mut out, Time::ZERO);
    if let Some(due_at) = change.due_at {
        put_time(&mut out, due_at);
    }
    put_varint(&mut out, change.recipient.into());
    // Address, tenant, tags.
    out.extend_from_slice(&[0; 3]);
    if let Some((attempts, class)) = change.attempt {
        put_varint(&mut out, attempts.into());
        out.push(class);
        // Site, host, source, stage, reply code, enhanced status code, text, times.
        out.extend_from_slice(&[0; 7 + StageTimes::NAMES.len()]);
    }
    out
}
