//! The work of history, on a thread of its own: from the feed to the tail, to blocks, to files.
//!
//! Who follows the journal only puts events into the feed, and waits where it is full; mail waits for
//! neither. While nothing can be written, events go by: the journal keeps them, and the worker reads
//! them again. A question takes the feed to the tail itself, so that it sees what was committed
//! before it, and wakes nobody.

use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use journal::Position;

use super::minutes::{self, MinuteStats, Minutes};
use super::recover::remove_both;
use super::sealed::Sealed;
use super::view::{Active, Chunk, Place, View};
use super::writer::{Writer, Written};
use super::{Damage, EventSource, MINUTES_KEPT, Shared, State, Stopper, lock};
use crate::{Event, Time};

/// Blocks' worth of events that may wait to be written.
const TAIL_BLOCKS_MAX: usize = 8;
/// A file that is not full is sealed when it has begun so long ago, that its age can end.
const FILE_AGE_MAX: Time = Time::from_hours(24);

/// Events nobody has looked at.
#[derive(Default)]
pub(super) struct Feed {
    events: Vec<(Position, Event)>,
    /// It was full and nothing could be written, and events went by: the journal has them.
    pub(super) is_behind: bool,
    is_failing: bool,
    /// The worker waits for the first event.
    is_idle: bool,
    /// Events that ever came, so that the worker knows whether more did.
    count: u64,
    pub(super) is_stopped: bool,
}

impl Shared {
    pub(super) fn committed(&self, at: Position, event: Event) {
        let mut feed = lock(&self.feed);
        feed.count += 1;
        while feed.events.len() >= self.options.feed_events_max && !feed.is_behind {
            if feed.is_failing || feed.is_stopped {
                feed.is_behind = true;
            } else if self.options.thread {
                self.work.notify_one();
                feed = self.room.wait(feed).unwrap_or_else(PoisonError::into_inner);
            } else {
                drop(feed);
                if let Err(error) = self.work(false) {
                    self.fail(&error);
                }
                feed = lock(&self.feed);
            }
        }
        if feed.is_behind {
            return;
        }
        feed.events.push((at, event));
        if feed.is_idle || feed.events.len() == self.options.block_events {
            feed.is_idle = false;
            self.work.notify_one();
        }
    }

    /// All events at this moment.
    pub(super) fn view(&self) -> View {
        let mut state = lock(&self.state);
        self.drain(&mut state);
        View {
            sealed: Arc::clone(&state.sealed),
            active: state.active.clone(),
            chunks: state.tail.chunks.iter().cloned().collect(),
            end_seq: state.tail.next_seq,
        }
    }

    /// Takes the feed to the tail, if the tail has room.
    fn drain(&self, state: &mut State) {
        let rows_max = TAIL_BLOCKS_MAX * self.options.block_events.max(1);
        if state.is_catching_up || state.tail.rows() >= rows_max {
            return;
        }
        let mut feed = lock(&self.feed);
        let events = std::mem::take(&mut feed.events);
        drop(feed);
        if !events.is_empty() {
            state.tail.take(events);
            self.room.notify_all();
        }
    }

    /// Catches up where it is behind, then writes what makes full blocks, or `all` there is.
    pub(super) fn work(&self, all: bool) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        let is_behind = lock(&self.feed).is_behind || lock(&self.state).is_catching_up;
        match self.source() {
            Some(source) if is_behind => self.catch_up(&*source, &mut writer)?,
            _ => {}
        }
        self.write(&mut writer, all)?;
        lock(&self.feed).is_failing = false;
        lock(&self.state).failure = None;
        Ok(())
    }

    fn source(&self) -> Option<Arc<dyn EventSource>> {
        self.source.get().and_then(Weak::upgrade)
    }

    fn write(&self, writer: &mut Writer, all: bool) -> io::Result<()> {
        loop {
            let mut state = lock(&self.state);
            self.drain(&mut state);
            let chunks = state.tail.next_block(self.options.block_events.max(1), all);
            drop(state);
            if chunks.is_empty() {
                return Ok(());
            }
            let written = writer.write(&chunks)?;
            self.wrote(&chunks, written);
            if writer.is_full() {
                self.seal(writer)?;
            }
        }
    }

    fn wrote(&self, chunks: &[Arc<Chunk>], written: Written) {
        let mut state = lock(&self.state);
        state.tail.drop_first(chunks.len());
        state.active = Some(written.active);
        minutes::merge(&mut state.minutes, &written.minutes);
        let newest = state.minutes.last_key_value().map(|(minute, _)| *minute);
        let from = newest.and_then(|newest| newest.checked_sub(MINUTES_KEPT));
        if let Some(from) = from {
            state.minutes = state.minutes.split_off(&from);
        }
    }

    /// Makes what is written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        writer.sync()?;
        lock(&self.state).durable = writer.durable;
        Ok(())
    }

    fn seal(&self, writer: &mut Writer) -> io::Result<()> {
        let Some(sealed) = writer.seal()? else {
            return Ok(());
        };
        let mut state = lock(&self.state);
        state.active = None;
        state.durable = writer.durable;
        Arc::make_mut(&mut state.sealed).push(Arc::new(sealed));
        let sealed = Arc::clone(&state.sealed);
        drop(state);
        let Some((count, merged)) = writer.merge(&sealed)? else {
            return Ok(());
        };
        let first = sealed.len() - count;
        let mut files = sealed[..first].to_vec();
        files.push(Arc::new(merged));
        lock(&self.state).sealed = Arc::new(files);
        for file in &sealed[first + 1..] {
            remove_both(&*self.files, file.first_seq)?;
        }
        Ok(())
    }

    /// Removes what is too old or too much.
    pub(super) fn retain(&self, now: Time) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        let begun = writer.active_since_us().map(Time::from_micros);
        if begun.is_some_and(|begun| begun + FILE_AGE_MAX <= now) {
            self.seal(&mut writer)?;
        }
        let mut state = lock(&self.state);
        let count = self.to_remove(&state, now);
        let files = state.sealed[count..].to_vec();
        let removed = std::mem::replace(&mut state.sealed, Arc::new(files));
        drop(state);
        for file in &removed[..count] {
            remove_both(&*self.files, file.first_seq)?;
        }
        Ok(())
    }

    /// How many of the oldest files go.
    fn to_remove(&self, state: &State, now: Time) -> usize {
        let bytes = |files: &[Arc<Sealed>]| files.iter().map(|it| it.bytes).sum::<u64>();
        let active = |active: &Active| active.blocks.last().map_or(0, |it| it.placed.end());
        let mut sum = bytes(&state.sealed) + state.active.as_ref().map_or(0, active);
        let oldest = self.options.age_max.and_then(|age| now.checked_sub(age));
        let goes = |file: &&Arc<Sealed>| {
            let is_old = oldest.is_some_and(|it| Time::from_micros(file.latest_us()) < it);
            let is_over = self.options.bytes_max.is_some_and(|it| it < sum);
            sum -= file.bytes;
            is_old || is_over
        };
        // The last file says what the next event's number is, and where the journal goes on.
        let last = usize::from(state.active.is_none());
        let spared = state.sealed.len().saturating_sub(last);
        state.sealed[..spared].iter().take_while(goes).count()
    }

    /// Tells of the minutes that begin in `from..to`, in parts that add up.
    pub(super) fn each_minute(&self, from: Time, to: Time, each: &mut dyn FnMut(&MinuteStats)) {
        let mut state = lock(&self.state);
        self.drain(&mut state);
        let kept_from = match state.minutes.first_key_value() {
            Some((first, _)) => *first,
            None => Time::MAX,
        };
        let to = to.max(from);
        state.minutes.range(from..to).for_each(|(_, it)| each(it));
        let mut unwritten = Minutes::new();
        for record in state.tail.chunks.iter().flat_map(|chunk| &chunk.records) {
            let minute = minutes::start_of(record.event.at);
            if (from..to).contains(&minute) {
                minutes::at(&mut unwritten, minute).add(&record.event);
            }
        }
        let sealed = Arc::clone(&state.sealed);
        drop(state);
        unwritten.values().for_each(&mut *each);
        if from < kept_from {
            self.each_older(&sealed, [from, to.min(kept_from)], each);
        }
    }

    /// Minutes that are no longer in memory.
    fn each_older(
        &self,
        sealed: &[Arc<Sealed>],
        [from, to]: [Time; 2],
        each: &mut dyn FnMut(&MinuteStats),
    ) {
        for file in sealed {
            let is_within = |it: &super::data::Placed| {
                let [first, last] = it.header.at_us.map(Time::from_micros);
                from <= last && first < to
            };
            if !file.blocks.iter().any(is_within) {
                continue;
            }
            match file.minutes(&mut |place| self.note(place)) {
                Ok(all) => all
                    .range(from..to.max(from))
                    .for_each(|(_, stats)| each(stats)),
                Err(error) => tracing::warn!(%error, "minutes of history cannot be read"),
            }
        }
    }

    /// Names a damaged place, once.
    pub(super) fn note(&self, place: Place) {
        let damage = Damage::from(&place);
        let mut state = lock(&self.state);
        if state.damage.insert(damage.clone()) {
            tracing::error!(
                file = damage.file,
                offset = damage.offset,
                "history is damaged"
            );
        }
    }

    fn fail(&self, error: &io::Error) {
        lock(&self.feed).is_failing = true;
        self.room.notify_all();
        let text = error.to_string();
        let mut state = lock(&self.state);
        if state.failure.as_ref() != Some(&text) {
            tracing::error!(%error, "history cannot be written: the journal keeps it");
            state.failure = Some(text);
        }
    }

    /// Reads from the journal what the feed had no room for.
    fn catch_up(&self, source: &dyn EventSource, writer: &mut Writer) -> io::Result<()> {
        lock(&self.state).is_catching_up = true;
        // From here on the feed takes events again; all that went by are in the journal by now.
        lock(&self.feed).is_behind = false;
        let rows_max = TAIL_BLOCKS_MAX * self.options.block_events.max(1);
        loop {
            let from = lock(&self.state).tail.last.map(|last| last.position);
            let (mut events, mut is_whole) = (Vec::new(), true);
            source.replay(from, &mut |position, event| {
                events.push((position, event));
                // A record is taken whole: its first events are those history has.
                is_whole = events.len() < rows_max || Some(position) == from;
                if is_whole { Continue(()) } else { Break(()) }
            })?;
            lock(&self.state).tail.take(events);
            self.write(writer, false)?;
            if is_whole {
                lock(&self.state).is_catching_up = false;
                return Ok(());
            }
        }
    }
}

/// Starts the worker.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Stopper> {
    let worker = Arc::clone(shared);
    let name = "history".to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || {
        crate::stand_behind();
        run(&worker);
    })?;
    Ok(Stopper {
        shared: Arc::clone(shared),
        thread: Mutex::new(Some(thread)),
    })
}

fn run(shared: &Shared) {
    let mut pace = Pace::new();
    while let Some(all) = pace.wait(shared) {
        if let Err(error) = shared.work(all).and_then(|()| pace.sync(shared)) {
            shared.fail(&error);
            pause(shared);
        }
    }
    // What is not written is in the journal; to write it now saves reading it again.
    if let Err(error) = shared.work(true).and_then(|()| shared.sync()) {
        shared.fail(&error);
    }
}

/// When to do what.
struct Pace {
    /// Of the events that ever came, so many are written.
    written: u64,
    /// Since when some are not.
    dirty_since: Option<Instant>,
    synced_at: Instant,
    is_synced: bool,
}

impl Pace {
    fn new() -> Self {
        Self {
            written: 0,
            dirty_since: None,
            synced_at: Instant::now(),
            is_synced: true,
        }
    }

    /// Waits for work: `true` if all there is is to be written. `None` at the end.
    fn wait(&mut self, shared: &Shared) -> Option<bool> {
        let options = &shared.options;
        let mut feed = lock(&shared.feed);
        loop {
            if feed.is_stopped {
                return None;
            }
            let is_behind = feed.is_behind && shared.source().is_some();
            let is_dirty = feed.count != self.written;
            if is_dirty {
                self.dirty_since.get_or_insert_with(Instant::now);
            }
            if is_behind || feed.events.len() >= options.block_events {
                self.is_synced = false;
                return Some(false);
            }
            let left = if let Some(since) = self.dirty_since {
                options.linger.saturating_sub(since.elapsed())
            } else if self.is_synced {
                feed.is_idle = true;
                feed = shared
                    .work
                    .wait(feed)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            } else {
                options.sync_every.saturating_sub(self.synced_at.elapsed())
            };
            if left.is_zero() {
                self.is_synced &= self.dirty_since.take().is_none();
                self.written = feed.count;
                return Some(true);
            }
            let waited = shared.work.wait_timeout(feed, left);
            feed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn sync(&mut self, shared: &Shared) -> io::Result<()> {
        if !self.is_synced && self.synced_at.elapsed() >= shared.options.sync_every {
            self.synced_at = Instant::now();
            shared.sync()?;
            self.is_synced = true;
        }
        Ok(())
    }
}

/// Before what failed is tried again.
fn pause(shared: &Shared) {
    const PAUSE: Duration = Duration::from_secs(1);
    let feed = lock(&shared.feed);
    if !feed.is_stopped {
        let _ = shared.work.wait_timeout(feed, PAUSE);
    }
}
