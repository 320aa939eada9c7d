//! Writing: blocks to the active file, the index when it is sealed, small files made one.
//!
//! A file is sealed when it has its end mark and is durable; only then a new one is begun. What a
//! failed write left is written over by the next try. After a failed sync nothing more is written:
//! the journal keeps what history does not get.

use std::io;
use std::sync::Arc;

use journal::files::{File, Files, write_all_at};

use super::Position;
use super::block::{Encoded, Encoder, Filter, Record, decode};
use super::column::Unpacker;
use super::data::{self, Placed, START};
use super::index::{BLOCKS_MAX, Parts};
use super::minutes::{self, Minutes};
use super::query::{Order, Query};
use super::sealed::{Sealed, write_index};
use super::tail::Mark;
use super::view::{Active, ActiveBlock, Chunk};

/// Blocks of the active file at most: then, small as they are, they are made fewer.
const ACTIVE_BLOCKS_MAX: usize = 1024;
/// Two neighbouring files are made one where the older is at most so many times the newer.
const MERGE_FACTOR: u64 = 4;

/// A file that takes the place of others once it is whole.
pub(super) const NEW: &str = "merged.new";

/// How files are filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub(super) block_rows: usize,
    pub(super) file_rows: u64,
    pub(super) level: i32,
}

/// The one that writes.
pub(super) struct Writer {
    files: Arc<dyn Files>,
    sizes: Sizes,
    encoder: Encoder,
    active: Option<Writing>,
    /// All below this number is durable.
    durable_seq: u64,
    /// The last event that is durable.
    pub(super) durable: Option<Mark>,
    is_failed: bool,
}

/// The active file as its writer knows it.
struct Writing {
    view: Active,
    /// Where the next block goes.
    offset: u64,
    rows: u64,
    end_seq: u64,
    last: Option<Mark>,
    minutes: Minutes,
    is_synced: bool,
}

/// What became of a block.
pub(super) struct Written {
    pub(super) active: Active,
    pub(super) minutes: Minutes,
}

impl Writer {
    pub(super) fn new(files: Arc<dyn Files>, sizes: Sizes) -> Self {
        Self {
            files,
            sizes,
            encoder: Encoder::new(sizes.level),
            active: None,
            durable_seq: 0,
            durable: None,
            is_failed: false,
        }
    }

    /// Goes on where an earlier run ended; all of it is durable.
    pub(super) fn resume(
        &mut self,
        active: Option<(Active, Minutes)>,
        end_seq: u64,
        last: Option<Mark>,
    ) {
        self.durable_seq = end_seq;
        self.durable = last;
        self.active = active.map(|(view, minutes)| {
            let placed = view.blocks.last().map(|block| block.placed);
            Writing {
                offset: placed.map_or(START, |it| it.end()),
                rows: view
                    .blocks
                    .iter()
                    .map(|it| u64::from(it.placed.header.rows))
                    .sum(),
                end_seq,
                last,
                minutes,
                is_synced: true,
                view,
            }
        });
    }

    /// Appends a block of these chunks to the active file.
    pub(super) fn write(&mut self, chunks: &[Arc<Chunk>]) -> io::Result<Written> {
        self.check()?;
        let (first, last) = match chunks {
            [first, .., last] => (first, last),
            [only] => (only, only),
            [] => unreachable!("a block of no chunks"),
        };
        let records: Vec<&Record> = chunks.iter().flat_map(|it| &it.records).collect();
        if self.active.is_none() {
            self.active = Some(begin(&*self.files, first.first_seq)?);
        }
        let encoded = self
            .encoder
            .encode(&records, first.first_seq, first.era, self.durable_seq);
        let last = last.records.last().map(|it| Mark {
            position: it.position,
            recipient: it.event.recipient,
        });
        let writing = self.active.as_mut().expect("just begun");
        writing.append(encoded, last)
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        let Some(writing) = &mut self.active else {
            return Ok(());
        };
        if !writing.is_synced {
            let synced = writing
                .view
                .file
                .sync()
                .and_then(|()| self.files.sync_dir());
            self.is_failed |= synced.is_err();
            synced?;
            writing.is_synced = true;
        }
        self.durable_seq = writing.end_seq;
        self.durable = writing.last;
        Ok(())
    }

    /// Whether the active file is full.
    pub(super) fn is_full(&self) -> bool {
        self.active.as_ref().is_some_and(|it| {
            it.rows >= self.sizes.file_rows || it.view.blocks.len() >= ACTIVE_BLOCKS_MAX
        })
    }

    /// When the oldest event of the active file happened, in microseconds.
    pub(super) fn active_since_us(&self) -> Option<u64> {
        let blocks = &self.active.as_ref()?.view.blocks;
        Some(blocks.first()?.placed.header.at_us[0])
    }

    /// Ends the active file, makes it durable and writes its index.
    pub(super) fn seal(&mut self) -> io::Result<Option<Sealed>> {
        // First what it ends: where the mark is, all before it is durable.
        self.sync()?;
        let Some(writing) = &mut self.active else {
            return Ok(None);
        };
        let blocks = writing.view.blocks.len();
        let mark = data::end_mark(writing.end_seq, blocks, writing.offset);
        write_all_at(&*writing.view.file, writing.offset, &[&mark])?;
        writing.is_synced = false;
        self.sync()?;
        let writing = self.active.take().expect("it was there");
        let sealed = writing.into_sealed(&*self.files)?;
        Ok(Some(sealed))
    }

    /// Makes neighbours one file of full blocks, if that is worth it. The first takes all; the
    /// others are to be removed.
    pub(super) fn merge(&mut self, sealed: &[Arc<Sealed>]) -> io::Result<Option<(usize, Sealed)>> {
        self.check()?;
        let Some(count) = mergeable(sealed, self.sizes) else {
            return Ok(None);
        };
        let inputs = &sealed[sealed.len() - count..];
        let merged = self.rewrite(inputs);
        if merged.is_err() {
            // What is there is still whole.
            let _ = self.files.remove(NEW);
        }
        Ok(merged?.map(|merged| (count, merged)))
    }

    fn rewrite(&mut self, inputs: &[Arc<Sealed>]) -> io::Result<Option<Sealed>> {
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
            return Ok(None);
        };
        match self.files.remove(NEW) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.files.create(NEW)?;
        write_all_at(&*file, 0, &[&data::start()])?;
        let mut writing = Writing::new(file, first.first_seq);
        for group in groups(inputs, self.sizes.block_rows) {
            let Some(records) = read_group(&group)? else {
                // Damaged: better kept apart, as it is.
                self.files.remove(NEW)?;
                return Ok(None);
            };
            let records: Vec<&Record> = records.iter().collect();
            let header = group[0].1.header;
            let encoded = self
                .encoder
                .encode(&records, header.first_seq, header.era, last.end_seq);
            writing.append(encoded, None)?;
        }
        writing.end_seq = last.end_seq;
        let mark = data::end_mark(last.end_seq, writing.view.blocks.len(), writing.offset);
        write_all_at(&*writing.view.file, writing.offset, &[&mark])?;
        writing.view.file.sync()?;
        // The old index would not fit, and is of no use.
        let _ = self.files.remove(&data::index_name(first.first_seq));
        self.files.rename(NEW, &data::name(first.first_seq))?;
        self.files.sync_dir()?;
        writing.into_sealed(&*self.files).map(Some)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_failed {
            return Err(io::Error::other(
                "a sync failed: history is written again after a restart",
            ));
        }
        Ok(())
    }
}

/// Begins a data file.
fn begin(files: &dyn Files, first_seq: u64) -> io::Result<Writing> {
    let name = data::name(first_seq);
    let file = match files.create(&name) {
        // Left by a try that failed before its first block.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => files.open(&name)?,
        file => file?,
    };
    write_all_at(&*file, 0, &[&data::start()])?;
    Ok(Writing::new(file, first_seq))
}

impl Writing {
    fn new(file: Arc<dyn File>, first_seq: u64) -> Self {
        Self {
            view: Active {
                file,
                first_seq,
                blocks: Arc::default(),
            },
            offset: START,
            rows: 0,
            end_seq: first_seq,
            last: None,
            minutes: Minutes::new(),
            is_synced: false,
        }
    }

    fn append(&mut self, encoded: Encoded, last: Option<Mark>) -> io::Result<Written> {
        write_all_at(&*self.view.file, self.offset, &[&encoded.bytes])?;
        let placed = Placed {
            offset: self.offset,
            header: encoded.header,
        };
        self.offset = placed.end();
        self.rows += u64::from(placed.header.rows);
        self.end_seq = placed.header.end_seq();
        self.last = last;
        self.is_synced = false;
        minutes::merge(&mut self.minutes, &encoded.minutes);
        Arc::make_mut(&mut self.view.blocks).push(Arc::new(ActiveBlock {
            placed,
            keys: encoded.keys,
        }));
        Ok(Written {
            active: self.view.clone(),
            minutes: encoded.minutes,
        })
    }

    /// It has its end mark and is durable. Without an index it is only slower to ask.
    fn into_sealed(self, files: &dyn Files) -> io::Result<Sealed> {
        let Self { view, .. } = self;
        let blocks: Vec<Placed> = view.blocks.iter().map(|it| it.placed).collect();
        let data_bytes = view.file.bytes()?;
        let parts = Parts {
            data_bytes,
            end_seq: self.end_seq,
            blocks: &blocks,
            keys: view.blocks.iter().map(|it| &it.keys[..]).collect(),
            minutes: &self.minutes,
        };
        let index = write_index(files, view.first_seq, &parts);
        let index = index.inspect_err(|error| {
            tracing::warn!(%error, file = data::name(view.first_seq), "history file has no index");
        });
        let seqs = [view.first_seq, self.end_seq];
        Ok(Sealed::new(view.file, data_bytes, seqs, blocks, index.ok()))
    }
}

/// How many of the newest files to make one.
fn mergeable(sealed: &[Arc<Sealed>], sizes: Sizes) -> Option<usize> {
    let (mut rows, mut blocks, mut count) = (0, 0, 0);
    for file in sealed.iter().rev() {
        let more = file.rows();
        let is_small = count == 0 || more <= rows * MERGE_FACTOR;
        if !is_small || rows + more > sizes.file_rows {
            break;
        }
        rows += more;
        blocks += file.blocks.len();
        count += 1;
    }
    let blocks_after = rows.div_ceil(sizes.block_rows as u64) as usize;
    (blocks > 2 * blocks_after && blocks_after < BLOCKS_MAX / 2).then_some(count)
}

type Group<'a> = Vec<(&'a Sealed, &'a Placed)>;

/// Neighbouring blocks that together make one.
fn groups(inputs: &[Arc<Sealed>], rows: usize) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut sum = 0;
    for file in inputs {
        for block in &file.blocks {
            let fits = groups
                .last()
                .and_then(|group| group.last())
                .is_some_and(|(_, last)| {
                    let is_next = last.header.end_seq() == block.header.first_seq;
                    is_next && last.header.era == block.header.era && sum < rows
                });
            if !fits {
                groups.push(Vec::new());
                sum = 0;
            }
            sum += block.header.rows as usize;
            groups.last_mut().expect("just made").push((file, block));
        }
    }
    groups
}

/// The events of a group; `None` if one of its blocks is damaged.
fn read_group(group: &Group<'_>) -> io::Result<Option<Vec<Record>>> {
    let query = Query {
        order: Order::Oldest,
        ..Query::default()
    };
    let filter = Filter {
        query: &query,
        seqs: [0, u64::MAX],
    };
    let mut records = Vec::new();
    for (file, block) in group {
        let body = block.body(&*file.file)?;
        let events =
            body.and_then(|it| decode(&block.header, &it, &filter, &mut Unpacker::new()).ok());
        let Some(events) = events else {
            return Ok(None);
        };
        // Where they lie in the journal is said of a block's last event alone.
        records.extend(events.into_iter().map(|(_, event)| Record {
            position: Position::from_u64(block.header.last_position),
            event,
        }));
    }
    Ok(Some(records))
}
