//! The newest events: taken, numbered, each once, and not yet written.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Position;
use super::block::{Record, micros};
use super::view::Chunk;
use crate::{Event, Heading, Tags, Time};

/// How far the journal has been taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Mark {
    /// The record of the last event,
    pub(super) position: Position,
    /// and the recipient that the event is about: those of one record come in ascending order.
    pub(super) recipient: u32,
}

/// Octets of text that a chunk, and a block, has about at most.
const CHUNK_BYTES: usize = 4 << 20;
/// Longest text of a reply.
const TEXT_BYTES_MAX: usize = 1 << 16;
/// Longest address and subject of a heading.
const HEADING_BYTES_MAX: usize = 1024;
/// Labels of one event are left out above this many octets.
const TAGS_BYTES_MAX: usize = 1 << 20;

/// Events that were taken and are not written.
#[derive(Default)]
pub(super) struct Tail {
    /// Events of a chunk at most.
    chunk_rows: usize,
    /// The number of the next event.
    pub(super) next_seq: u64,
    /// Another journal begins another era, in which positions begin again.
    pub(super) era: u32,
    pub(super) last: Option<Mark>,
    pub(super) chunks: VecDeque<Arc<Chunk>>,
    rows: usize,
}

impl Tail {
    pub(super) fn new(chunk_rows: usize, next_seq: u64, era: u32, last: Option<Mark>) -> Self {
        Self {
            chunk_rows,
            next_seq,
            era,
            last,
            ..Self::default()
        }
    }

    /// Events in it.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// From here on positions are of another journal.
    pub(super) fn begin_era(&mut self) {
        self.era = self.era.wrapping_add(1);
        self.last = None;
    }

    /// Takes events in the journal's order; passes over those it has.
    pub(super) fn take(&mut self, events: impl IntoIterator<Item = (Position, Event)>) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (position, mut event) in events {
            let mark = Mark {
                position,
                recipient: event.recipient,
            };
            if self.last.is_some_and(|last| mark <= last) {
                continue;
            }
            self.last = Some(mark);
            bytes += tidy(&mut event);
            records.push(Record { position, event });
            if records.len() >= self.chunk_rows || bytes >= CHUNK_BYTES {
                self.push(std::mem::take(&mut records), std::mem::take(&mut bytes));
            }
        }
        if !records.is_empty() {
            self.push(records, bytes);
        }
    }

    fn push(&mut self, records: Vec<Record>, bytes: usize) {
        let first_seq = self.next_seq;
        self.rows += records.len();
        self.next_seq += records.len() as u64;
        self.chunks.push_back(Arc::new(Chunk {
            first_seq,
            era: self.era,
            bytes,
            records,
        }));
    }

    /// The events of the next block: whole chunks, as many as make `rows`, or all there are, if
    /// `all` is asked for; otherwise none where there are fewer.
    pub(super) fn next_block(&self, rows: usize, all: bool) -> Vec<Arc<Chunk>> {
        let mut taken = Vec::new();
        let (mut sum, mut bytes) = (0, 0);
        let era = self.chunks.front().map(|chunk| chunk.era);
        for chunk in &self.chunks {
            if sum >= rows || bytes >= CHUNK_BYTES || Some(chunk.era) != era {
                return taken;
            }
            sum += chunk.records.len();
            bytes += chunk.bytes;
            taken.push(Arc::clone(chunk));
        }
        let is_full = sum >= rows || bytes >= CHUNK_BYTES;
        if all || is_full { taken } else { Vec::new() }
    }

    /// They are written.
    pub(super) fn drop_first(&mut self, chunks: usize) {
        for chunk in self.chunks.drain(..chunks) {
            self.rows -= chunk.records.len();
        }
    }
}

/// Brings an event within limits; returns its octets, about.
fn tidy(event: &mut Event) -> usize {
    event.at = Time::from_micros(micros(event.at));
    event.due_at = event.due_at.map(|at| Time::from_micros(micros(at)));
    let mut bytes = event.address.len() + event.tenant.len();
    if let Some(outcome) = &mut event.outcome {
        let text = &mut outcome.said.text;
        if text.len() > TEXT_BYTES_MAX {
            *text = text[..text.floor_char_boundary(TEXT_BYTES_MAX)].into();
        }
        bytes += text.len() + outcome.site.len() + outcome.host.len();
    }
    if let Some(heading) = &mut event.heading {
        bytes += shorten(heading);
    }
    let tags = event
        .tags
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let tags: usize = tags.sum();
    if tags > TAGS_BYTES_MAX {
        event.tags = Tags::from([]);
    }
    bytes + tags.min(TAGS_BYTES_MAX)
}

/// Cuts what is too long of a heading; returns its octets.
fn shorten(heading: &mut Arc<Heading>) -> usize {
    let cut = |text: &str| text.floor_char_boundary(HEADING_BYTES_MAX);
    let ends = [cut(&heading.from), cut(&heading.subject)];
    if ends != [heading.from.len(), heading.subject.len()] {
        *heading = Arc::new(Heading {
            from: heading.from[..ends[0]].into(),
            subject: heading.subject[..ends[1]].into(),
        });
    }
    ends.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sample::Sample;

    fn taken(tail: &Tail) -> Vec<(u64, u32)> {
        let records = tail.chunks.iter().flat_map(|chunk| &chunk.records);
        let mark = |it: &Record| (it.position.to_u64(), it.event.recipient);
        records.map(mark).collect()
    }

    /// Of records at these positions, about these recipients.
    fn events(marks: &[(u64, u32)]) -> Vec<(Position, Event)> {
        let event = Sample::new(1).next().event;
        let one = |(position, recipient): &(u64, u32)| {
            let mut event = event.clone();
            event.recipient = *recipient;
            (Position::from_u64(*position), event)
        };
        marks.iter().map(one).collect()
    }

    #[test]
    fn what_comes_again_is_taken_once() {
        let mut tail = Tail::new(4, 0, 0, None);
        tail.take(events(&[(5, 0), (5, 1), (7, 0)]));
        tail.take(events(&[(7, 0)]));
        tail.take(events(&[(5, 0), (5, 1), (7, 0), (7, 1), (9, 4)]));
        assert_eq!(taken(&tail), [(5, 0), (5, 1), (7, 0), (7, 1), (9, 4)]);
        assert_eq!(tail.next_seq, 5);
    }

    #[test]
    fn a_record_taken_in_part_is_taken_on() {
        let last = Some(Mark {
            position: Position::from_u64(5),
            recipient: 1,
        });
        let mut tail = Tail::new(4, 10, 0, last);
        tail.take(events(&[(3, 9), (5, 0), (5, 1), (5, 2), (5, 3), (6, 0)]));
        assert_eq!(taken(&tail), [(5, 2), (5, 3), (6, 0)]);
    }

    #[test]
    fn another_journal_begins_anew() {
        let mut tail = Tail::new(4, 0, 0, None);
        tail.take(events(&[(9, 0)]));
        tail.begin_era();
        tail.take(events(&[(1, 0)]));
        assert_eq!(taken(&tail), [(9, 0), (1, 0)]);
    }

    #[test]
    fn a_block_is_of_whole_chunks() {
        let mut tail = Tail::new(4, 0, 0, None);
        for marks in [&[(1, 0), (2, 0)][..], &[(3, 0)], &[(4, 0), (5, 0)]] {
            tail.take(events(marks));
        }
        assert_eq!(tail.next_block(3, false).len(), 2);
        assert_eq!(tail.next_block(6, false).len(), 0);
        assert_eq!(tail.next_block(6, true).len(), 3);
        tail.drop_first(2);
        assert_eq!((tail.rows(), tail.chunks.len()), (2, 1));
    }
}
