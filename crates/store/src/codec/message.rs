//! Messages as bytes: a head, then content to the record's end.
//!
//! Content comes last so that the journal can take it from where it lies, and so that a reader of
//! heads need not touch it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use smtp::{Content, Envelope, EnvelopeId, Notify, Recipient, Ret, ReversePath};

use super::event::{put_outcome, put_tags, read_id, read_outcome, read_status, read_tags};
use super::fields::{Reader, put_text, put_time, put_varint};
use super::{CONTENT_BYTES_MAX, DecodeError, VERSION};
use crate::{Head, Message, MessageId, Outcome, Priority, Status, Time};

pub(super) const PACKED: u8 = 1;

pub(super) const RET_FULL: u8 = 1;
pub(super) const RET_HEADERS: u8 = 2;
pub(super) const HAS_ENVID: u8 = 4;

pub(super) const HAS_NOTIFY: u8 = 1;
pub(super) const HAS_ORIGINAL: u8 = 2;

/// Behind version, flags, id and time of acceptance.
const DUE_AT: usize = 2 + 16 + 8;

const HAS_LAST: u8 = 1;
const IS_TOLD: u8 = 2;

/// The head of an accepted message's record, and where its content is.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The message, but for its content.
    pub head: Head,
    /// Octets of content as it goes out.
    pub content_bytes: usize,
    /// Whether it is stored packed.
    is_packed: bool,
    /// Where in the record stored content begins.
    content_at: usize,
}

/// Appends the head of an accepted message's record to `out`.
///
/// * `is_packed`: whether what follows it is zstd ([`Packer::pack`]) or the content itself.
pub fn encode_head(message: &Message, is_packed: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, if is_packed { PACKED } else { 0 }]);
    out.extend_from_slice(&message.id.bits().to_be_bytes());
    for time in [message.accepted_at, message.due_at, message.expires_at] {
        put_time(out, time);
    }
    out.push(message.priority as u8);
    put_text(out, &message.tenant);
    put_text(out, &message.subject);
    put_tags(out, &message.tags);
    put_envelope(out, &message.envelope);
    put_varint(out, message.content.len() as u64);
}

/// Reads the head of an accepted message's record.
///
/// # Errors
/// What is wrong with it.
pub fn decode_head(record: &[u8]) -> Result<Accepted, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let is_packed = reader.flags(PACKED)? == PACKED;
    let id = read_id(&mut reader)?;
    let [accepted_at, due_at, expires_at] = [reader.time()?, reader.time()?, reader.time()?];
    let priority = match reader.u8()? {
        0 => Priority::High,
        1 => Priority::Normal,
        2 => Priority::Bulk,
        _ => return Err(DecodeError::Range("a priority")),
    };
    let tenant = reader.text()?.into();
    let subject = reader.text()?.into();
    let tags = read_tags(&mut reader)?;
    let envelope = Arc::new(read_envelope(&mut reader)?);
    let content_bytes = reader.number("a content's length")?;
    if content_bytes > CONTENT_BYTES_MAX {
        return Err(DecodeError::Range("a content's length"));
    }
    Ok(Accepted {
        head: Head {
            id,
            accepted_at,
            tenant,
            envelope,
            tags,
            subject,
            priority,
            due_at,
            expires_at,
        },
        content_bytes,
        is_packed,
        content_at: record.len() - reader.rest().len(),
    })
}

/// Reads an accepted message. Content that is not packed shares the record's memory.
///
/// # Errors
/// What is wrong with it.
pub fn decode_message(record: &Bytes) -> Result<Message, DecodeError> {
    let accepted = decode_head(record)?;
    let stored = record.slice(accepted.content_at..);
    let bytes = if accepted.is_packed {
        Bytes::from(unpack(&stored, accepted.content_bytes)?)
    } else {
        stored
    };
    if bytes.len() != accepted.content_bytes {
        return Err(DecodeError::Unpack);
    }
    Ok(Message::new(accepted.head, Content::new(bytes)?))
}

/// An accepted message's record that says other times: when it is due, and when it expires.
///
/// * `record`: one that [`decode_head`] reads.
#[must_use]
pub fn with_times(record: &[u8], due_at: Time, expires_at: Time) -> Vec<u8> {
    let mut times = Vec::with_capacity(16);
    put_time(&mut times, due_at);
    put_time(&mut times, expires_at);
    let mut copy = record.to_vec();
    copy[DUE_AT..DUE_AT + times.len()].copy_from_slice(&times);
    copy
}

/// Where one recipient that still waits stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Index in the envelope.
    pub recipient: u32,
    /// Accepted, deferred or held.
    pub status: Status,
    /// Attempts made.
    pub attempts: u16,
    /// Class of the last failure; 0xff for none.
    pub class: u8,
    /// The next attempt.
    pub due_at: Time,
    /// When the last attempt ended, and how, if there was one.
    pub last: Option<(Time, Box<Outcome>)>,
    /// Whether it was decided who is told that it waits.
    pub is_told: bool,
}

/// A message copied forward.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// Its unsettled recipients, in order; all others are settled.
    pub standings: Vec<Standing>,
    /// Where in the record the accepted message's record begins.
    pub message_at: usize,
}

/// Appends to `out` what comes before the accepted message's record in that of a moved one.
pub fn encode_standings(standings: &[Standing], out: &mut Vec<u8>) {
    out.push(VERSION);
    put_varint(out, standings.len() as u64);
    for standing in standings {
        put_varint(out, standing.recipient.into());
        let has_last = standing.last.as_ref().map_or(0, |_| HAS_LAST);
        let told = if standing.is_told { IS_TOLD } else { 0 };
        out.extend_from_slice(&[standing.status as u8, standing.class, has_last | told]);
        put_varint(out, standing.attempts.into());
        put_time(out, standing.due_at);
        if let Some((at, outcome)) = &standing.last {
            put_time(out, *at);
            put_outcome(out, outcome);
        }
    }
}

/// Reads a moved message's standings; its message is read from `record[message_at..]`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_moved(record: &[u8]) -> Result<Moved, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let count = reader.count(13)?;
    let mut standings: Vec<Standing> = Vec::with_capacity(count);
    for _ in 0..count {
        let standing = read_standing(&mut reader)?;
        let is_next = standings
            .last()
            .is_none_or(|last| last.recipient < standing.recipient);
        if !is_next {
            return Err(DecodeError::Range("a recipient"));
        }
        standings.push(standing);
    }
    Ok(Moved {
        standings,
        message_at: record.len() - reader.rest().len(),
    })
}

fn read_standing(reader: &mut Reader<'_>) -> Result<Standing, DecodeError> {
    let recipient = reader.number("a recipient")?;
    let status = read_status(reader)?;
    if status.is_terminal() {
        return Err(DecodeError::Range("a status"));
    }
    let class = reader.u8()?;
    let flags = reader.flags(HAS_LAST | IS_TOLD)?;
    Ok(Standing {
        recipient,
        status,
        attempts: reader.number("an attempt")?,
        class,
        due_at: reader.time()?,
        is_told: flags & IS_TOLD != 0,
        last: if flags & HAS_LAST != 0 {
            Some((reader.time()?, Box::new(read_outcome(reader)?)))
        } else {
            None
        },
    })
}

/// A change of due time that no attempt caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescheduled {
    /// Which message.
    pub message: MessageId,
    /// When its recipients are due from now on.
    pub due_at: Time,
    /// Which of them; empty for all that are unsettled.
    pub recipients: Vec<u32>,
}

/// Appends one such change to `out`.
pub fn encode_rescheduled(change: &Rescheduled, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&change.message.bits().to_be_bytes());
    put_time(out, change.due_at);
    put_recipients(out, &change.recipients);
}

/// Reads one such change, which is all of `record`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_rescheduled(record: &[u8]) -> Result<Rescheduled, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let (message, due_at) = (read_id(&mut reader)?, reader.time()?);
    let recipients = read_recipients(&mut reader)?;
    reader.end()?;
    Ok(Rescheduled {
        message,
        due_at,
        recipients,
    })
}

/// It was decided who is told that recipients wait: nobody is, a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which message.
    pub message: MessageId,
    /// Which of its recipients.
    pub recipients: Vec<u32>,
}

/// Appends one such decision to `out`.
pub fn encode_told(told: &Told, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&told.message.bits().to_be_bytes());
    put_recipients(out, &told.recipients);
}

/// Reads one such decision, which is all of `record`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_told(record: &[u8]) -> Result<Told, DecodeError> {
    let mut reader = Reader::versioned(record)?;
    let message = read_id(&mut reader)?;
    let recipients = read_recipients(&mut reader)?;
    reader.end()?;
    Ok(Told {
        message,
        recipients,
    })
}

fn put_recipients(out: &mut Vec<u8>, recipients: &[u32]) {
    put_varint(out, recipients.len() as u64);
    for recipient in recipients {
        put_varint(out, (*recipient).into());
    }
}

fn read_recipients(reader: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let count = reader.count(1)?;
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        recipients.push(reader.number("a recipient")?);
    }
    Ok(recipients)
}

fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    let ret = match envelope.ret() {
        None => 0,
        Some(Ret::Full) => RET_FULL,
        Some(Ret::Headers) => RET_HEADERS,
    };
    let envid = envelope.id().map_or(0, |_| HAS_ENVID);
    out.push(ret | envid);
    let reverse_path = envelope.reverse_path().address();
    put_text(out, reverse_path.map_or("", smtp::Address::as_str));
    if let Some(id) = envelope.id() {
        put_text(out, id.as_str());
    }
    put_varint(out, envelope.recipients().len() as u64);
    for recipient in envelope.recipients() {
        put_recipient(out, recipient);
    }
}

fn put_recipient(out: &mut Vec<u8>, recipient: &Recipient) {
    let notify = recipient.notify.map_or(0, |_| HAS_NOTIFY);
    let original = recipient.original.as_ref().map_or(0, |_| HAS_ORIGINAL);
    out.push(notify | original);
    put_text(out, recipient.address.as_str());
    if let Some(notify) = recipient.notify {
        out.push(bits_of(notify));
    }
    if let Some(original) = &recipient.original {
        put_text(out, original.as_str());
    }
}

fn read_envelope(reader: &mut Reader<'_>) -> Result<Envelope, DecodeError> {
    let flags = reader.flags(RET_FULL | RET_HEADERS | HAS_ENVID)?;
    let reverse_path: ReversePath = reader.text()?.parse()?;
    let id = if flags & HAS_ENVID == 0 {
        None
    } else {
        Some(EnvelopeId::new(reader.text()?)?)
    };
    let count = reader.count(2)?;
    // Held back: a short record must not make a long list.
    let mut recipients = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        recipients.push(read_recipient(reader)?);
    }
    let mut envelope = Envelope::new(reverse_path, recipients)?;
    if let Some(id) = id {
        envelope = envelope.with_id(id);
    }
    match flags & (RET_FULL | RET_HEADERS) {
        0 => Ok(envelope),
        RET_FULL => Ok(envelope.with_ret(Ret::Full)),
        RET_HEADERS => Ok(envelope.with_ret(Ret::Headers)),
        _ => Err(DecodeError::Range("a flag")),
    }
}

fn read_recipient(reader: &mut Reader<'_>) -> Result<Recipient, DecodeError> {
    let flags = reader.flags(HAS_NOTIFY | HAS_ORIGINAL)?;
    let address = reader.text()?.parse()?;
    let notify = (flags & HAS_NOTIFY != 0)
        .then(|| notify_of(reader.u8()?))
        .transpose()?;
    let original = (flags & HAS_ORIGINAL != 0)
        .then(|| Ok::<_, DecodeError>(reader.text()?.parse()?))
        .transpose()?;
    Ok(Recipient {
        address,
        notify,
        original,
    })
}

const NOTIFY: [(Notify, u8); 3] = [
    (Notify::SUCCESS, 1),
    (Notify::FAILURE, 2),
    (Notify::DELAY, 4),
];

fn bits_of(notify: Notify) -> u8 {
    let wanted = NOTIFY.iter().filter(|(event, _)| notify.wants(*event));
    wanted.fold(0, |sum, (_, bit)| sum | bit)
}

fn notify_of(bits: u8) -> Result<Notify, DecodeError> {
    if bits > 7 {
        return Err(DecodeError::Range("a flag"));
    }
    let mut wanted = NOTIFY.iter().filter(|(_, bit)| bits & bit != 0);
    let Some((first, _)) = wanted.next() else {
        return Ok(Notify::NEVER);
    };
    Ok(wanted.try_fold(*first, |sum, (event, _)| sum.and(*event))?)
}

/// Packs content; keeps one compressor, for making one costs more than a small content's packing.
pub struct Packer {
    content_bytes_min: usize,
    level: i32,
    spare: Mutex<Option<zstd::bulk::Compressor<'static>>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("content_bytes_min", &self.content_bytes_min)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Packer {
    /// * `content_bytes_min`: shorter content is stored as it is; `usize::MAX` never packs.
    /// * `level`: zstd's.
    #[must_use]
    pub fn new(content_bytes_min: usize, level: i32) -> Self {
        Self {
            content_bytes_min,
            level,
            spare: Mutex::new(None),
        }
    }

    /// The packed form, if content is long enough and gets at least an eighth shorter.
    #[must_use]
    pub fn pack(&self, content: &[u8]) -> Option<Vec<u8>> {
        if content.len() < self.content_bytes_min {
            return None;
        }
        let spare = self.lock().take();
        let mut compressor = match spare {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(self.level).ok()?,
        };
        let mut packed = vec![0; content.len() - content.len() / 8];
        let len = compressor.compress_to_buffer(content, &mut packed[..]);
        *self.lock() = Some(compressor);
        packed.truncate(len.ok()?);
        Some(packed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<zstd::bulk::Compressor<'static>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unpack(stored: &[u8], len: usize) -> Result<Vec<u8>, DecodeError> {
    // What zstd itself says comes first, so that a few octets cannot claim a long buffer.
    let declared = zstd::zstd_safe::get_frame_content_size(stored);
    if declared.ok().flatten() != Some(len as u64) {
        return Err(DecodeError::Unpack);
    }
    zstd::bulk::decompress(stored, len).map_err(|_| DecodeError::Unpack)
}
