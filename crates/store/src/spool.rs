//! Accepted mail until each of its recipients is settled.
//!
//! The spool writes records to a journal ([`crate::codec`]) and keeps a fixed-size entry in memory for
//! each unsettled message; content stays on disk, but for what was accepted a moment ago. A message
//! is named by its [`Slot`] while it lives.
//!
//! What holds:
//! - A recipient gets one terminal event; a second one is refused and not written. That event *is* the
//!   settle mark: after a restart the recipient is settled if it is there, and waits if it is not.
//! - Attempts, class of the last failure, due time and last reply of each unsettled recipient are as
//!   exact after a restart as the newest durable record of it.
//! - A record that changes a message comes after the message's own in the journal, and only whole
//!   prefixes of the journal go. So what is left never shows a settled recipient as unsettled. That
//!   is why a message is copied forward under the same lock as its events are appended.
//! - Records of a message that was never committed ([`Spool::forget`]) mean nothing.
//!
//! Over 500 lines: the errors and views of one public type stand beside it.
//!
//! One lock guards what is in memory. It is held while an event is handed to the journal, which
//! copies it, and never while anything waits for the disk.

mod cache;
mod compact;
mod digest;
mod follow;
mod recover;
mod slots;

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use journal::{AppendError, Commit, Files, Journal, Position};

use crate::codec::{self, DecodeError, Kind, Packer, Rescheduled, Told};
use crate::{Event, EventSink, Message, MessageId, Outcome, Status, Time};

pub use compact::{CompactError, Compacted};
pub use follow::Follower;
pub use recover::{Damage, Recovered, RecoveredRecipient, Recovery};

use cache::Cache;
use compact::Compaction;
use follow::{Following, Source};
use slots::Slots;

/// Names an unsettled message in memory. It is used again once the message is settled, so whoever
/// keeps one must be who settles it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u32);

impl Slot {
    /// To be packed into a job's key.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From a job's key.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// How the spool uses memory and disk.
pub struct SpoolOptions {
    /// Content of messages kept in memory after they were accepted, in octets.
    pub cache_bytes_max: usize,
    /// Shorter content is stored as it is, longer as zstd. Packing 16 KiB of text costs more than all
    /// else that happens to a message, and writing it does not.
    pub pack_bytes_min: usize,
    /// Level of zstd.
    pub pack_level: i32,
    /// What the journal may take beyond twice what still waits, in octets.
    pub slack_bytes: u64,
    /// Octets that one call of [`Spool::compact`] copies, roughly.
    pub compact_bytes_max: u64,
    /// Anything; different for each start, so that ids are.
    pub seed: u64,
    /// Where digests of sealed segments are kept, which make recovery fast: a folder for them alone.
    pub digests: Option<Arc<dyn Files>>,
    /// Who is told of committed events; the journal keeps what it has not made durable.
    pub history: Option<Arc<dyn EventSink>>,
    /// Where history's durable part ended at the last start: it is told of what follows.
    pub history_from: Option<Position>,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            cache_bytes_max: 32 << 20,
            pack_bytes_min: 64 << 10,
            pack_level: 1,
            slack_bytes: 256 << 20,
            compact_bytes_max: 16 << 20,
            seed: 0,
            digests: None,
            history: None,
            history_from: None,
        }
    }
}

impl std::fmt::Debug for SpoolOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolOptions")
            .field("cache_bytes_max", &self.cache_bytes_max)
            .field("pack_bytes_min", &self.pack_bytes_min)
            .field("slack_bytes", &self.slack_bytes)
            .finish_non_exhaustive()
    }
}

/// Why an event was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No unsettled message with the event's id has this slot.
    #[error("the slot holds no such message")]
    Unknown,
    /// It had its terminal event, or there is no such recipient.
    #[error("recipient {0} is settled or does not exist")]
    Settled(u32),
    /// Acceptance is implied by the message itself.
    #[error("acceptance is not recorded again")]
    Implied,
    /// The journal did not take it.
    #[error("the journal did not take the event")]
    Journal(#[source] AppendError),
}

/// Some events of several were not recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{recorded} events were recorded, the next was not")]
pub struct RecordAllError {
    /// How many were, from the first on.
    pub recorded: usize,
    /// Why the next was not.
    pub source: RecordError,
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is settled.
    #[error("the slot holds no message")]
    Gone,
    /// The journal cannot give its record.
    #[error("the record at {at:?} cannot be read")]
    Journal {
        /// Where it stands.
        at: Position,
        /// Why.
        source: journal::ReadError,
    },
    /// The record is not what was written.
    #[error("the record at {at:?} is damaged")]
    Record {
        /// Where it stands.
        at: Position,
        /// Why.
        source: DecodeError,
    },
    /// The record is of another message or kind: our mistake, or damage that checksums did not find.
    #[error("the record at {at:?} is not the one that was looked for")]
    Mismatch {
        /// Where it stands.
        at: Position,
    },
}

/// Where an unsettled recipient stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Index in the envelope.
    pub recipient: u32,
    /// Accepted, deferred or held.
    pub status: Status,
    /// Attempts made.
    pub attempts: u16,
    /// Class of the last failure; 0xff for none.
    pub class: u8,
    /// When it is due.
    pub due_at: Time,
    /// Whether it was decided who is told that it waits ([`Spool::tell`]).
    pub is_told: bool,
}

/// What the spool holds and does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpoolStats {
    /// Unsettled messages.
    pub messages: usize,
    /// Unsettled recipients.
    pub recipients: usize,
    /// Octets of records of unsettled messages.
    pub live_bytes: u64,
    /// Octets of the journal's files.
    pub used_bytes: u64,
    /// Segments of the journal.
    pub segments: usize,
    /// Octets of content in memory.
    pub cache_bytes: usize,
    /// Messages that were read without reading the disk.
    pub cache_hits: u64,
    /// Messages that were read from the journal.
    pub cache_misses: u64,
    /// Messages copied forward since the start.
    pub moved_messages: u64,
    /// Octets copied forward since the start.
    pub moved_bytes: u64,
    /// Segments removed since the start.
    pub removed_segments: u64,
    /// What was accepted before the start is still being read.
    pub is_recovering: bool,
}

/// Accepted, unsettled mail. A handle: clones share it.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    packer: Packer,
    state: Mutex<State>,
    /// Shared while a message's record is in the journal and its entry not yet in memory. Who has it
    /// alone knows that every record before the journal's end has its entry.
    appending: RwLock<()>,
    /// Milliseconds and a count, as in the last id given.
    last_id: AtomicU64,
    id_bits: u64,
    /// Where this start began to append.
    start: Position,
    digests: Option<Arc<dyn Files>>,
    /// What was accepted before the start is in memory.
    is_replayed: AtomicBool,
    /// And has been handed out.
    is_recovered: AtomicBool,
    slack_bytes: u64,
    compact_bytes_max: u64,
    compaction: Mutex<Compaction>,
    following: Following,
    source: Arc<Source>,
    counts: Counts,
}

struct State {
    slots: Slots,
    /// Where the last copy forward ends, or something behind it.
    copies_end: Position,
    cache: Cache,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    moved_messages: AtomicU64,
    moved_bytes: AtomicU64,
    removed_segments: AtomicU64,
}

impl Spool {
    /// Takes a journal's messages. New ones can be appended at once; those of before come from
    /// [`Recovery`], which reads the journal as it is iterated, on any thread.
    #[must_use]
    pub fn open(journal: Journal, options: SpoolOptions) -> (Self, Recovery) {
        let start = journal.end();
        let inner = Inner {
            packer: Packer::new(options.pack_bytes_min, options.pack_level),
            state: Mutex::new(State {
                slots: Slots::default(),
                copies_end: start,
                cache: Cache::new(options.cache_bytes_max),
            }),
            appending: RwLock::new(()),
            last_id: AtomicU64::new(0),
            id_bits: id_bits(options.seed, start),
            start,
            digests: options.digests,
            is_replayed: AtomicBool::new(false),
            is_recovered: AtomicBool::new(false),
            slack_bytes: options.slack_bytes,
            compact_bytes_max: options.compact_bytes_max,
            compaction: Mutex::default(),
            following: Following::new(options.history, options.history_from),
            source: Arc::new(Source(journal.clone())),
            counts: Counts::default(),
            journal,
        };
        let spool = Self {
            inner: Arc::new(inner),
        };
        let recovery = Recovery::new(spool.clone());
        (spool, recovery)
    }

    /// A new id: later than those before it, whatever the clock does.
    #[must_use]
    pub fn next_id(&self, now: Time) -> MessageId {
        let now = (now.as_millis() as u64) << 12;
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.inner.last_id.fetch_update(Relaxed, Relaxed, next);
        let id = now.max(last.unwrap_or_else(|last| last) + 1);
        MessageId::assemble(id >> 12, id as u16 & 0xfff, self.inner.id_bits)
    }

    /// Appends a message. It is ours once the commit says so; if that fails, [`forget`](Self::forget)
    /// it: nothing happened.
    ///
    /// The content should own its memory: it is kept for a while.
    ///
    /// # Errors
    /// Those of [`Journal::append`]: nothing happened. [`AppendError::Busy`] also if the id is in use,
    /// or was given by an earlier start and it is not yet known whether it is.
    ///
    /// # Panics
    /// If two threads append the same id at once.
    pub fn append(&self, message: Message) -> Result<(Slot, Commit), AppendError> {
        let content = message.content.as_bytes();
        if content.len() > codec::CONTENT_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        if !self.is_free(message.id) {
            return Err(AppendError::Busy);
        }
        let packed = self.inner.packer.pack(content);
        let mut head = Vec::with_capacity(256);
        codec::encode_head(&message, packed.is_some(), &mut head);
        let stored = packed.as_deref().unwrap_or(content);
        let bytes = head.len() + stored.len();
        let recipients = message.envelope.recipients().len();

        let appending = &self.inner.appending;
        let _appending = appending.read().unwrap_or_else(PoisonError::into_inner);
        let journal = &self.inner.journal;
        let (at, commit) = journal.append(Kind::Accepted as u8, &[&head, stored])?;
        let mut state = self.lock();
        let (bytes, recipients) = (bytes as u32, recipients as u32);
        let slot = state
            .slots
            .insert(message.id, at, bytes, recipients, message.due_at);
        let slot = slot.expect("an id is given once");
        state.cache.insert(slot, message);
        drop(state);
        self.inner.following.appended(at);
        Ok((slot, commit))
    }

    /// Whether no unsettled message can have this id.
    fn is_free(&self, id: MessageId) -> bool {
        let ours = MessageId::assemble(0, 0, self.inner.id_bits);
        let is_ours = id.bits() as u64 == ours.bits() as u64;
        (is_ours || self.inner.is_replayed.load(Acquire)) && self.lock().slots.find(id).is_none()
    }

    /// Drops a message whose commit failed.
    pub fn forget(&self, slot: Slot) {
        let mut state = self.lock();
        state.slots.remove(slot);
        state.cache.remove(slot);
    }

    /// The message, from memory if it was accepted a moment ago.
    ///
    /// Blocks on the disk otherwise.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, slot: Slot) -> Result<Message, ReadError> {
        let (id, mut at) = {
            let state = self.lock();
            let entry = state.slots.get(slot).ok_or(ReadError::Gone)?;
            if let Some(message) = state.cache.get(slot) {
                self.inner.counts.hits.fetch_add(1, Relaxed);
                return Ok(message);
            }
            (entry.id(), entry.at)
        };
        self.inner.counts.misses.fetch_add(1, Relaxed);
        loop {
            let result = self.read_at(id, at);
            let moved_to = {
                let state = self.lock();
                let entry = state.slots.get(slot).filter(|entry| entry.id() == id);
                entry.map(|entry| entry.at).filter(|now| *now != at)
            };
            match (result, moved_to) {
                (Err(_), Some(now)) => at = now,
                (result, _) => return result.map(|message| self.as_moved(slot, message)),
            }
        }
    }

    /// The same without waiting for the disk, for whoever sends it: `None` where
    /// [`read`](Self::read) would have to wait. Where one recipient is left, memory keeps nothing of it.
    #[must_use]
    pub fn read_at_once(&self, slot: Slot) -> Option<Message> {
        let (id, at) = {
            let mut state = self.lock();
            let entry = state.slots.get(slot)?;
            let (id, at, is_last) = (entry.id(), entry.at, entry.count() == 1);
            let found = match is_last {
                true => state.cache.take(slot),
                false => state.cache.get(slot),
            };
            if let Some(message) = found {
                self.inner.counts.hits.fetch_add(1, Relaxed);
                return Some(message);
            }
            (id, at)
        };
        // What is wrong with it, reading with patience will say.
        let record = self.inner.journal.read_at_once(at).ok()??;
        let message = decode(id, at, &record).ok()?;
        self.inner.counts.misses.fetch_add(1, Relaxed);
        Some(self.as_moved(slot, message))
    }

    /// With the times to which its sender has moved it.
    fn as_moved(&self, slot: Slot, mut message: Message) -> Message {
        let state = self.lock();
        if let Some(entry) = state.slots.get(slot).filter(|e| e.id() == message.id) {
            let times = entry.times(message.due_at, message.expires_at);
            if times != (message.due_at, message.expires_at) {
                let head = Arc::make_mut(&mut message.head);
                (head.due_at, head.expires_at) = times;
            }
        }
        message
    }

    fn read_at(&self, id: MessageId, at: Position) -> Result<Message, ReadError> {
        decode(id, at, &self.record_at(at)?)
    }

    fn record_at(&self, at: Position) -> Result<journal::Record, ReadError> {
        if at >= self.inner.journal.durable() {
            // Appended lazily a moment ago. Whether that succeeds, reading will tell.
            let _ = self.inner.journal.sync();
        }
        let record = self.inner.journal.read(at);
        record.map_err(|source| ReadError::Journal { at, source })
    }

    /// The slot of an unsettled message. While what was accepted before the start is being read, none
    /// of that is found.
    #[must_use]
    pub fn find(&self, id: MessageId) -> Option<Slot> {
        let state = self.lock();
        let slot = state.slots.find(id)?;
        let entry = state.slots.get(slot)?;
        let is_known = self.inner.is_replayed.load(Acquire) || entry.at >= self.inner.start;
        is_known.then_some(slot)
    }

    /// The id of the message in a slot.
    #[must_use]
    pub fn id(&self, slot: Slot) -> Option<MessageId> {
        self.lock().slots.get(slot).map(slots::Entry::id)
    }

    /// Where the unsettled recipients of a message stand, in order; none if it is settled.
    #[must_use]
    pub fn pending(&self, slot: Slot) -> Vec<Pending> {
        let state = self.lock();
        let entry = state.slots.get(slot);
        let marks = entry.iter().flat_map(|entry| entry.marks());
        let pending = marks.map(|(recipient, mark)| Pending {
            recipient,
            status: mark.status,
            attempts: mark.attempts,
            class: mark.class,
            due_at: mark.due_at(),
            is_told: mark.is_told,
        });
        pending.collect()
    }

    /// Slots of all unsettled messages, in no order.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        self.lock().slots.slots().collect()
    }

    /// How the last attempt for an unsettled recipient went, and when, if there was one. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Gone`] if it is settled.
    pub fn last_outcome(
        &self,
        slot: Slot,
        recipient: u32,
    ) -> Result<Option<(Time, Box<Outcome>)>, ReadError> {
        let mut last = self.last_record(slot, recipient).ok_or(ReadError::Gone)?;
        loop {
            let result = self.outcome_at(last, recipient);
            match (result, self.last_record(slot, recipient)) {
                (Err(_), Some(now)) if now != last => last = now,
                (result, _) => return result,
            }
        }
    }

    fn last_record(&self, slot: Slot, recipient: u32) -> Option<Position> {
        let state = self.lock();
        Some(state.slots.get(slot)?.mark(recipient)?.last)
    }

    fn outcome_at(
        &self,
        at: Position,
        recipient: u32,
    ) -> Result<Option<(Time, Box<Outcome>)>, ReadError> {
        let record = self.record_at(at)?;
        let damaged = |source| ReadError::Record { at, source };
        match Kind::from_number(record.kind) {
            Some(Kind::Accepted) => Ok(None),
            Some(Kind::Event) => {
                let event = codec::decode_event(&record.bytes).map_err(damaged)?;
                Ok(event.outcome.map(|outcome| (event.at, outcome)))
            }
            Some(Kind::Moved) => {
                let moved = codec::decode_moved(&record.bytes).map_err(damaged)?;
                let mut standings = moved.standings.into_iter();
                let standing = standings.find(|standing| standing.recipient == recipient);
                standing
                    .map(|standing| standing.last)
                    .ok_or(ReadError::Mismatch { at })
            }
            _ => Err(ReadError::Mismatch { at }),
        }
    }

    /// Records what became of one recipient. A terminal event settles it; the last one frees the slot.
    ///
    /// It is durable within the journal's linger time; nobody waits for it.
    ///
    /// * returns: the recipient's status until now.
    ///
    /// # Errors
    /// [`RecordError`]: nothing was written.
    pub fn record(&self, slot: Slot, event: &Event) -> Result<Status, RecordError> {
        let mut bytes = Vec::with_capacity(256);
        codec::encode_event(event, &mut bytes);
        self.record_encoded(&mut self.lock(), slot, event, &bytes)
    }

    /// As [`Spool::record`], if its recipient is held still: it is not where somebody has released it or
    /// taken it back meanwhile. Says whether it was.
    ///
    /// # Errors
    /// [`RecordError`]: nothing was written.
    pub fn record_if_held(&self, slot: Slot, event: &Event) -> Result<bool, RecordError> {
        let mut bytes = Vec::with_capacity(256);
        codec::encode_event(event, &mut bytes);
        let mut state = self.lock();
        let entry = state.slots.get(slot);
        let entry = entry.filter(|entry| entry.id() == event.message);
        let mark = entry.and_then(|entry| entry.mark(event.recipient));
        if mark.is_none_or(|mark| mark.status != Status::Held) {
            return Ok(false);
        }
        self.record_encoded(&mut state, slot, event, &bytes)?;
        Ok(true)
    }

    /// Records several of one message, in order, up to the first that is refused.
    ///
    /// # Errors
    /// [`RecordAllError`]: how many were recorded, and why the next was not.
    pub fn record_all(&self, slot: Slot, events: &[Event]) -> Result<(), RecordAllError> {
        let (mut bytes, mut ends) = (Vec::with_capacity(256 * events.len()), Vec::new());
        for event in events {
            codec::encode_event(event, &mut bytes);
            ends.push(bytes.len());
        }
        let mut state = self.lock();
        let mut from = 0;
        for (recorded, (event, end)) in events.iter().zip(ends).enumerate() {
            self.record_encoded(&mut state, slot, event, &bytes[from..end])
                .map_err(|source| RecordAllError { recorded, source })?;
            from = end;
        }
        Ok(())
    }

    fn record_encoded(
        &self,
        state: &mut State,
        slot: Slot,
        event: &Event,
        bytes: &[u8],
    ) -> Result<Status, RecordError> {
        let entry = state.slots.get(slot);
        let entry = entry.filter(|entry| entry.id() == event.message);
        let entry = entry.ok_or(RecordError::Unknown)?;
        if event.status == Status::Accepted {
            return Err(RecordError::Implied);
        }
        let mark = entry.mark(event.recipient);
        let mark = mark.ok_or(RecordError::Settled(event.recipient))?;
        let journal = &self.inner.journal;
        let at = journal.append_lazily(Kind::Event as u8, &[bytes]);
        let at = at.map_err(RecordError::Journal)?;
        let is_freed = state.slots.apply(slot, &event.into(), at);
        self.inner.following.appended(at);
        // What was deferred is not read again soon; others of its message may be.
        let is_put_off = state.slots.get(slot).is_some_and(|e| e.count() == 1);
        if is_freed || is_put_off {
            state.cache.remove(slot);
        }
        Ok(mark.status)
    }

    /// Makes these unsettled recipients (all, if none are named) due at another time; held ones are
    /// held no longer. Attempts stay as they are. It holds at once; if the disk is full, it becomes
    /// durable when there is room, whatever the commit says.
    ///
    /// # Errors
    /// [`RecordError`]: nothing was written.
    pub fn reschedule(
        &self,
        slot: Slot,
        id: MessageId,
        recipients: &[u32],
        due_at: Time,
    ) -> Result<Commit, RecordError> {
        let mut state = self.lock();
        let entry = state.slots.get(slot).filter(|entry| entry.id() == id);
        let entry = entry.ok_or(RecordError::Unknown)?;
        if let Some(settled) = recipients.iter().find(|r| entry.mark(**r).is_none()) {
            return Err(RecordError::Settled(*settled));
        }
        self.put_off(&mut state, slot, id, recipients, due_at)
    }

    /// Makes those of these recipients that are held due at a time, and says which they are: none, if
    /// somebody was faster. Otherwise as [`reschedule`](Self::reschedule).
    ///
    /// # Errors
    /// [`RecordError`]: nothing was written.
    pub fn release(
        &self,
        slot: Slot,
        id: MessageId,
        recipients: &[u32],
        due_at: Time,
    ) -> Result<(Vec<u32>, Commit), RecordError> {
        let mut state = self.lock();
        let entry = state.slots.get(slot).filter(|entry| entry.id() == id);
        let entry = entry.ok_or(RecordError::Unknown)?;
        let is_held = |recipient: &u32| {
            let mark = entry.mark(*recipient);
            mark.is_some_and(|mark| mark.status == Status::Held)
        };
        let held: Vec<u32> = recipients.iter().copied().filter(is_held).collect();
        if held.is_empty() {
            return Ok((held, self.inner.journal.flush()));
        }
        let commit = self.put_off(&mut state, slot, id, &held, due_at)?;
        Ok((held, commit))
    }

    fn put_off(
        &self,
        state: &mut State,
        slot: Slot,
        id: MessageId,
        recipients: &[u32],
        due_at: Time,
    ) -> Result<Commit, RecordError> {
        let mut bytes = Vec::new();
        let change = Rescheduled {
            message: id,
            due_at,
            recipients: recipients.to_vec(),
        };
        codec::encode_rescheduled(&change, &mut bytes);
        let journal = &self.inner.journal;
        let appended = journal.append_lazily(Kind::Rescheduled as u8, &[&bytes]);
        appended.map_err(RecordError::Journal)?;
        state.slots.reschedule(slot, recipients, due_at);
        if recipients.is_empty() {
            // As it is there, it says other times.
            state.cache.remove(slot);
        }
        Ok(journal.flush())
    }

    /// Remembers that it was decided who is told that these recipients wait; those that are settled
    /// are passed over. Durable within the journal's linger time.
    ///
    /// # Errors
    /// [`RecordError`]: nothing was written.
    pub fn tell(&self, slot: Slot, id: MessageId, recipients: &[u32]) -> Result<(), RecordError> {
        let mut bytes = Vec::new();
        let told = Told {
            message: id,
            recipients: recipients.to_vec(),
        };
        codec::encode_told(&told, &mut bytes);
        let mut state = self.lock();
        let entry = state.slots.get(slot).filter(|entry| entry.id() == id);
        entry.ok_or(RecordError::Unknown)?;
        let appended = (self.inner.journal).append_lazily(Kind::Told as u8, &[&bytes]);
        appended.map_err(RecordError::Journal)?;
        state.slots.tell(slot, recipients);
        Ok(())
    }

    /// Messages that could have gone by `due_by` and have a recipient that waits, is not held, and
    /// nobody was told of. Looks at `count` slots from `from` on.
    ///
    /// * returns: those found, and where to go on; `None` after the last slot.
    #[must_use]
    pub fn untold(&self, from: Slot, count: u32, due_by: Time) -> (Vec<Slot>, Option<Slot>) {
        self.lock().slots.untold(from, count, due_by)
    }

    /// What it holds and does.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        let segments = self.inner.journal.segments();
        let counts = &self.inner.counts;
        let state = self.lock();
        SpoolStats {
            messages: state.slots.messages,
            recipients: state.slots.recipients,
            live_bytes: state.slots.live_bytes,
            used_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments: segments.len(),
            cache_bytes: state.cache.bytes(),
            cache_hits: counts.hits.load(Relaxed),
            cache_misses: counts.misses.load(Relaxed),
            moved_messages: counts.moved_messages.load(Relaxed),
            moved_bytes: counts.moved_bytes.load(Relaxed),
            removed_segments: counts.removed_segments.load(Relaxed),
            is_recovering: !self.inner.is_recovered.load(Acquire),
        }
    }

    /// The journal below: its state, and its end.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spool").field(&self.stats()).finish()
    }
}

/// The message in a record.
fn decode(id: MessageId, at: Position, record: &journal::Record) -> Result<Message, ReadError> {
    let damaged = |source| ReadError::Record { at, source };
    let bytes = match Kind::from_number(record.kind) {
        Some(Kind::Accepted) => record.bytes.clone(),
        Some(Kind::Moved) => {
            let moved = codec::decode_moved(&record.bytes).map_err(damaged)?;
            record.bytes.slice(moved.message_at..)
        }
        _ => return Err(ReadError::Mismatch { at }),
    };
    let message = codec::decode_message(&bytes).map_err(damaged)?;
    if message.id == id {
        Ok(message)
    } else {
        Err(ReadError::Mismatch { at })
    }
}

/// The part of ids that is the same for one start: two starts that are given one seed differ by where
/// they begin. SplitMix64.
fn id_bits(seed: u64, start: Position) -> u64 {
    let mut bits = seed ^ start.to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
