//! All events at one moment, to be asked: sealed files, the active one, and what is not written yet.

use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;

use journal::File;

use super::block::{Filter, Record, decode, is_within};
use super::column::Unpacker;
use super::data::Placed;
use super::keys;
use super::query::{Cursor, LIMIT_MAX, Order, Page, Query, QueryError};
use super::sealed::Sealed;
use crate::Event;

/// Blocks that one page looks into at most.
const BLOCKS_PER_PAGE: usize = 1024;

/// A block of the file that is being written.
pub(super) struct ActiveBlock {
    pub(super) placed: Placed,
    /// Sorted.
    pub(super) keys: Vec<u32>,
}

/// The file that is being written.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) file: Arc<dyn File>,
    pub(super) first_seq: u64,
    pub(super) blocks: Arc<Vec<Arc<ActiveBlock>>>,
}

/// Events that are to be a block.
pub(super) struct Chunk {
    pub(super) first_seq: u64,
    pub(super) era: u32,
    /// Octets of text, about.
    pub(super) bytes: usize,
    pub(super) records: Vec<Record>,
}

impl Chunk {
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64
    }
}

/// Where a block lies: the number that names its file, and the offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) first_seq: u64,
    pub(super) offset: u64,
}

/// What a question is asked of. Parts are in the order of their events.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) sealed: Arc<Vec<Arc<Sealed>>>,
    pub(super) active: Option<Active>,
    pub(super) chunks: Vec<Arc<Chunk>>,
    /// The number of the first event after all of them.
    pub(super) end_seq: u64,
}

/// What a walk comes by.
pub(super) enum Step {
    Event(u64, Event),
    /// A block was looked into; what comes next has this number or lies beyond it.
    Block(u64),
}

/// A part of a walk whose events lie together.
enum Piece<'a> {
    Chunk(&'a Chunk),
    Block {
        file: &'a dyn File,
        first_seq: u64,
        block: &'a Placed,
    },
}

impl Piece<'_> {
    fn seqs(&self) -> [u64; 2] {
        match self {
            Self::Chunk(chunk) => [chunk.first_seq, chunk.end_seq()],
            Self::Block { block, .. } => [block.header.first_seq, block.header.end_seq()],
        }
    }
}

impl View {
    /// One page; damaged blocks are told of and passed over.
    pub(super) fn page(
        &self,
        query: &Query,
        damaged: &mut dyn FnMut(Place),
    ) -> Result<Page, QueryError> {
        let order = query.order;
        if query.cursor.is_some_and(|cursor| cursor.order != order) {
            return Err(QueryError::CursorOrder);
        }
        let seqs = match (query.cursor, order) {
            (None, _) => [0, self.end_seq],
            (Some(cursor), Order::Newest) => [0, cursor.seq.min(self.end_seq)],
            (Some(cursor), Order::Oldest) => [cursor.seq, self.end_seq.max(cursor.seq)],
        };
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let mut page = Page {
            events: Vec::new(),
            cursor: Cursor {
                order,
                seq: if order == Order::Newest { 0 } else { seqs[1] },
            },
            more: false,
        };
        // Where the next page would begin.
        let mut next = seqs[usize::from(order == Order::Newest)];
        let mut blocks = 0;
        let walked = self.walk(query, seqs, damaged, &mut |step| {
            match step {
                Step::Event(seq, event) if page.events.len() < limit => {
                    page.events.push(event);
                    next = seq + u64::from(order == Order::Oldest);
                    return Continue(());
                }
                Step::Event(..) => {}
                Step::Block(seq) => {
                    blocks += 1;
                    if page.events.len() < limit {
                        next = seq;
                    }
                    if blocks < BLOCKS_PER_PAGE {
                        return Continue(());
                    }
                }
            }
            page.more = true;
            page.cursor.seq = next;
            Break(())
        });
        walked.map_err(QueryError::Read)?;
        Ok(page)
    }

    /// Calls `each` for every event that matches with a number in `seqs`, in the query's order.
    pub(super) fn walk(
        &self,
        query: &Query,
        seqs: [u64; 2],
        damaged: &mut dyn FnMut(Place),
        each: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut walk = Walk {
            filter: Filter { query, seqs },
            keys: &keys::of(query),
            zstd: Unpacker::new(),
            damaged,
            each,
        };
        let _ = match query.order {
            Order::Oldest => walk.forward(self)?,
            Order::Newest => walk.backward(self)?,
        };
        Ok(())
    }
}

struct Walk<'a> {
    filter: Filter<'a>,
    keys: &'a [u32],
    zstd: Unpacker,
    damaged: &'a mut dyn FnMut(Place),
    each: &'a mut dyn FnMut(Step) -> ControlFlow<()>,
}

impl Walk<'_> {
    fn forward(&mut self, view: &View) -> io::Result<ControlFlow<()>> {
        for sealed in view.sealed.iter() {
            for index in self.candidates(sealed)? {
                if self.look(&sealed.piece(index))?.is_break() {
                    return Ok(Break(()));
                }
            }
        }
        for piece in view.active_pieces(self.keys) {
            if self.look(&piece)?.is_break() {
                return Ok(Break(()));
            }
        }
        for chunk in &view.chunks {
            if self.look(&Piece::Chunk(chunk))?.is_break() {
                return Ok(Break(()));
            }
        }
        Ok(Continue(()))
    }

    fn backward(&mut self, view: &View) -> io::Result<ControlFlow<()>> {
        for chunk in view.chunks.iter().rev() {
            if self.look(&Piece::Chunk(chunk))?.is_break() {
                return Ok(Break(()));
            }
        }
        for piece in view.active_pieces(self.keys).rev() {
            if self.look(&piece)?.is_break() {
                return Ok(Break(()));
            }
        }
        for sealed in view.sealed.iter().rev() {
            for index in self.candidates(sealed)?.into_iter().rev() {
                if self.look(&sealed.piece(index))?.is_break() {
                    return Ok(Break(()));
                }
            }
        }
        Ok(Continue(()))
    }

    fn candidates(&self, sealed: &Sealed) -> io::Result<Vec<usize>> {
        if !overlap(self.filter.seqs, [sealed.first_seq, sealed.end_seq]) {
            return Ok(Vec::new());
        }
        let in_time = |it: &Placed| is_within(self.filter.query, it.header.at_us);
        if !sealed.blocks.iter().any(in_time) {
            return Ok(Vec::new());
        }
        sealed.candidates(self.keys)
    }

    fn look(&mut self, piece: &Piece<'_>) -> io::Result<ControlFlow<()>> {
        if !overlap(self.filter.seqs, piece.seqs()) {
            return Ok(Continue(()));
        }
        match piece {
            Piece::Chunk(chunk) => Ok(self.look_in_chunk(chunk)),
            Piece::Block { block, .. } if !is_within(self.filter.query, block.header.at_us) => {
                Ok(Continue(()))
            }
            Piece::Block {
                file,
                first_seq,
                block,
            } => self.look_in_block(*file, *first_seq, block),
        }
    }

    fn look_in_chunk(&mut self, chunk: &Chunk) -> ControlFlow<()> {
        let Filter { query, seqs } = self.filter;
        let mut offer = |(seq, record): (u64, &Record)| {
            let is_wanted = (seqs[0]..seqs[1]).contains(&seq) && query.matches(&record.event);
            if is_wanted {
                (self.each)(Step::Event(seq, record.event.clone()))
            } else {
                Continue(())
            }
        };
        let numbered = |index: usize| (chunk.first_seq + index as u64, &chunk.records[index]);
        let mut rows = (0..chunk.records.len()).map(numbered);
        match query.order {
            Order::Oldest => rows.try_for_each(&mut offer),
            Order::Newest => rows.rev().try_for_each(&mut offer),
        }
    }

    fn look_in_block(
        &mut self,
        file: &dyn File,
        first_seq: u64,
        block: &Placed,
    ) -> io::Result<ControlFlow<()>> {
        let body = block.body(file)?;
        let events =
            body.and_then(|body| decode(&block.header, &body, &self.filter, &mut self.zstd).ok());
        let Some(mut events) = events else {
            (self.damaged)(Place {
                first_seq,
                offset: block.offset,
            });
            return Ok(Continue(()));
        };
        let order = self.filter.query.order;
        if order == Order::Newest {
            events.reverse();
        }
        for (seq, event) in events {
            if (self.each)(Step::Event(seq, event)).is_break() {
                return Ok(Break(()));
            }
        }
        Ok((self.each)(Step::Block(match order {
            Order::Oldest => block.header.end_seq(),
            Order::Newest => block.header.first_seq,
        })))
    }
}

impl View {
    /// Blocks of the active file that may hold events with all of these keys.
    fn active_pieces<'a>(&'a self, keys: &'a [u32]) -> impl DoubleEndedIterator<Item = Piece<'a>> {
        let has = move |block: &&Arc<ActiveBlock>| {
            // Without keys, nothing is known of the block.
            block.keys.is_empty() || keys.iter().all(|key| block.keys.binary_search(key).is_ok())
        };
        let active = self.active.iter();
        active.flat_map(move |active| {
            active.blocks.iter().filter(has).map(|block| Piece::Block {
                file: &*active.file,
                first_seq: active.first_seq,
                block: &block.placed,
            })
        })
    }
}

impl Sealed {
    fn piece(&self, index: usize) -> Piece<'_> {
        Piece::Block {
            file: &*self.file,
            first_seq: self.first_seq,
            block: &self.blocks[index],
        }
    }
}

fn overlap(one: [u64; 2], other: [u64; 2]) -> bool {
    one[0] < other[1] && other[0] < one[1]
}
