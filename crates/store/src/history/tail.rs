//! The newest events: taken, numbered, each once, and not yet written.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Position;
use super::block::{Record, micros};
use super::view::Chunk;
use crate::{Event, Tags, Time};

/// How far the journal has been taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// The record of the last event,
    pub(super) position: Position,
    /// and how many of its events are taken.
    pub(super) count: u32,
}

/// Octets of text that a chunk, and a block, has about at most.
const CHUNK_BYTES: usize = 4 << 20;
/// Longest text of a reply.
const TEXT_BYTES_MAX: usize = 1 << 16;
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
    /// How many events of the last record have come by since the events began to come, or came
    /// again from an earlier place.
    seen: u32,
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

    /// From here on events come again that may have come before.
    pub(super) fn begin_again(&mut self) {
        self.seen = 0;
    }

    /// From here on positions are of another journal.
    pub(super) fn begin_era(&mut self) {
        self.era = self.era.wrapping_add(1);
        self.last = None;
        self.seen = 0;
    }

    /// Takes events in the journal's order; passes over those it has.
    pub(super) fn take(&mut self, events: impl IntoIterator<Item = (Position, Event)>) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (position, mut event) in events {
            let Some(count) = self.count(position) else {
                continue;
            };
            bytes += tidy(&mut event);
            records.push(Record {
                position,
                count,
                event,
            });
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

    /// Which of its record's events this one is, from one on, if it is new.
    fn count(&mut self, position: Position) -> Option<u32> {
        let last = self.last.unwrap_or(Mark { position, count: 0 });
        let count = if position > last.position {
            self.seen = 1;
            1
        } else if position == last.position {
            self.seen += 1;
            self.seen
        } else {
            return None;
        };
        if position == last.position && count <= last.count {
            return None;
        }
        self.last = Some(Mark { position, count });
        Some(count)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sample::Sample;

    fn numbers(tail: &Tail) -> Vec<(u64, u32)> {
        let records = tail.chunks.iter().flat_map(|chunk| &chunk.records);
        records.map(|it| (it.position.to_u64(), it.count)).collect()
    }

    fn events(positions: &[u64]) -> Vec<(Position, Event)> {
        let event = Sample::new(1).next().event;
        let one = |it: &u64| (Position::from_u64(*it), event.clone());
        positions.iter().map(one).collect()
    }

    #[test]
    fn what_comes_again_is_taken_once() {
        let mut tail = Tail::new(4, 0, 0, None);
        tail.take(events(&[5, 5, 7]));
        tail.begin_again();
        tail.take(events(&[5, 5, 7, 7, 9]));
        assert_eq!(numbers(&tail), [(5, 1), (5, 2), (7, 1), (7, 2), (9, 1)]);
        assert_eq!(tail.next_seq, 5);
    }

    #[test]
    fn a_record_taken_in_part_is_taken_on() {
        let last = Some(Mark {
            position: Position::from_u64(5),
            count: 2,
        });
        let mut tail = Tail::new(4, 10, 0, last);
        tail.take(events(&[3, 5, 5, 5, 5, 6]));
        assert_eq!(numbers(&tail), [(5, 3), (5, 4), (6, 1)]);
    }

    #[test]
    fn another_journal_begins_anew() {
        let mut tail = Tail::new(4, 0, 0, None);
        tail.take(events(&[9]));
        tail.begin_era();
        tail.take(events(&[1]));
        assert_eq!(numbers(&tail), [(9, 1), (1, 1)]);
    }

    #[test]
    fn a_block_is_of_whole_chunks() {
        let mut tail = Tail::new(4, 0, 0, None);
        for positions in [&[1, 2][..], &[3], &[4, 5]] {
            tail.take(events(positions));
        }
        assert_eq!(tail.next_block(3, false).len(), 2);
        assert_eq!(tail.next_block(6, false).len(), 0);
        assert_eq!(tail.next_block(6, true).len(), 3);
        tail.drop_first(2);
        assert_eq!((tail.rows(), tail.chunks.len()), (2, 1));
    }
}
