//! A sealed file: data that no longer changes, and its index.

use std::io;
use std::sync::Arc;

use journal::{File, Files};

use super::block::{Keys, read_keys};
use super::column::Unpacker;
use super::data::{self, Placed, Scan};
use super::index::{self, Index, Parts};
use super::minutes::{self, Minutes};
use super::view::Place;

/// One sealed file, open for reading.
pub(super) struct Sealed {
    pub(super) file: Arc<dyn File>,
    /// Its events are `first_seq..end_seq`.
    pub(super) first_seq: u64,
    pub(super) end_seq: u64,
    /// Octets of data and index.
    pub(super) bytes: u64,
    pub(super) blocks: Vec<Placed>,
    /// `None`: it could not be written or read; every block may hold anything.
    pub(super) index: Option<Index>,
}

impl Sealed {
    /// From what its writer knows of it.
    pub(super) fn new(
        file: Arc<dyn File>,
        data_bytes: u64,
        seqs: [u64; 2],
        blocks: Vec<Placed>,
        index: Option<Index>,
    ) -> Self {
        Self {
            file,
            first_seq: seqs[0],
            end_seq: seqs[1],
            bytes: data_bytes + index.as_ref().map_or(0, |index| index.bytes),
            blocks,
            index,
        }
    }

    /// From an index that fits.
    pub(super) fn indexed(
        file: Arc<dyn File>,
        first_seq: u64,
        data_bytes: u64,
        mut index: Index,
    ) -> Self {
        Self {
            file,
            first_seq,
            end_seq: index.end_seq,
            bytes: data_bytes + index.bytes,
            blocks: std::mem::take(&mut index.blocks),
            index: Some(index),
        }
    }

    /// From the blocks alone.
    pub(super) fn plain(file: Arc<dyn File>, first_seq: u64, scan: Scan) -> io::Result<Self> {
        let last = scan.blocks.last();
        let end_seq = last.map_or(first_seq, |it| it.header.end_seq());
        Ok(Self {
            bytes: file.bytes()?,
            file,
            first_seq,
            end_seq: scan.end_seq.unwrap_or(end_seq),
            blocks: scan.blocks,
            index: None,
        })
    }

    /// Events that can be read.
    pub(super) fn rows(&self) -> u64 {
        self.blocks.iter().map(|it| u64::from(it.header.rows)).sum()
    }

    /// The blocks that may hold events with all of these keys, in order.
    pub(super) fn candidates(&self, keys: &[u32]) -> io::Result<Vec<usize>> {
        let mut found: Option<Vec<usize>> = None;
        let table = self.index.as_ref().map(|index| &index.table);
        for key in keys {
            let Some(Ok(blocks)) = table.map(|table| table.blocks(*key)).transpose()? else {
                continue;
            };
            let has = |index: &usize| u16::try_from(*index).is_ok_and(|it| blocks.contains(&it));
            match &mut found {
                Some(found) => found.retain(has),
                None => found = Some(blocks.iter().map(|it| usize::from(*it)).collect()),
            }
            if found.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        let mut found = found.unwrap_or_else(|| (0..self.blocks.len()).collect());
        found.retain(|index| *index < self.blocks.len());
        Ok(found)
    }

    /// The latest moment of its events, in microseconds.
    pub(super) fn latest_us(&self) -> u64 {
        let latest = self.blocks.iter().map(|it| it.header.at_us[1]);
        latest.max().unwrap_or_default()
    }

    /// Its minutes, from the index or else from the blocks.
    pub(super) fn minutes(&self, damaged: &mut dyn FnMut(Place)) -> io::Result<Minutes> {
        if let Some(Ok(minutes)) = self.index.as_ref().map(Index::minutes).transpose()? {
            return Ok(minutes);
        }
        Ok(self.read_keys(damaged)?.1)
    }

    /// Makes the index again and writes it.
    pub(super) fn reindex(
        &mut self,
        files: &dyn Files,
        damaged: &mut dyn FnMut(Place),
    ) -> io::Result<()> {
        let (keys, minutes) = self.read_keys(damaged)?;
        let data_bytes = self.file.bytes()?;
        let parts = Parts {
            data_bytes,
            end_seq: self.end_seq,
            blocks: &self.blocks,
            keys: keys.iter().map(Vec::as_slice).collect(),
            minutes: &minutes,
        };
        self.index = Some(write_index(files, self.first_seq, &parts)?);
        Ok(())
    }

    /// The keys of each block, and the minutes of all.
    fn read_keys(&self, damaged: &mut dyn FnMut(Place)) -> io::Result<(Vec<Vec<u32>>, Minutes)> {
        let (mut all, mut sum) = (Vec::new(), Minutes::new());
        for block in &self.blocks {
            let read = keys_of(&*self.file, block)?.unwrap_or_else(|| {
                damaged(Place {
                    first_seq: self.first_seq,
                    offset: block.offset,
                });
                Keys::default()
            });
            minutes::merge(&mut sum, &read.minutes);
            all.push(read.keys);
        }
        Ok((all, sum))
    }
}

/// The keys and minutes of a block; `None` if it is damaged.
pub(super) fn keys_of(file: &dyn File, block: &Placed) -> io::Result<Option<Keys>> {
    let body = block.body(file)?;
    Ok(body.and_then(|body| read_keys(block.header.version, &body, &mut Unpacker::new()).ok()))
}

/// Writes an index durably and opens it.
pub(super) fn write_index(
    files: &dyn Files,
    first_seq: u64,
    parts: &Parts<'_>,
) -> io::Result<Index> {
    let name = data::index_name(first_seq);
    journal::files::replace(files, &name, &index::encode(parts))?;
    let index = Index::open(files, &name, parts.data_bytes)?;
    index.map_err(io::Error::other)
}
