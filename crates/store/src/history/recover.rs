//! What a folder holds: found at the start, or read beside the process that writes it.

use std::io;
use std::sync::Arc;

use journal::files::{File, Files, write_all_at};

use super::data::{self, Gap, Placed, Scan, Start, read_up_to};
use super::index::Index;
use super::minutes::{self, Minutes};
use super::sealed::{Sealed, keys_of};
use super::tail::Mark;
use super::view::{Active, ActiveBlock, Place};
use super::{Position, writer};

/// Whether the folder may be put in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// It is ours: tears are cut, leftovers removed, indexes made again.
    Write,
    /// Another process may be writing it.
    Read,
}

/// What a folder holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sealed: Vec<Sealed>,
    pub(super) active: Option<(Active, Minutes)>,
    /// The number of the next event.
    pub(super) end_seq: u64,
    /// The era and mark of the last event.
    pub(super) era: u32,
    pub(super) last: Option<Mark>,
    pub(super) damage: Vec<Place>,
}

/// Why a folder cannot be read.
pub(super) enum Refusal {
    Io(io::Error),
    /// A file and its version, which a later release wrote.
    Version(String, u32),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Looks through a folder.
pub(super) fn read(files: &dyn Files, access: Access) -> Result<Found, Refusal> {
    let names = files.list()?;
    if access == Access::Write {
        for name in names.iter().filter(|name| is_unfinished(name)) {
            files.remove(name)?;
        }
    }
    let mut seqs: Vec<u64> = names
        .iter()
        .filter_map(|name| data::first_seq(name))
        .collect();
    seqs.sort_unstable();
    let mut found = Found::default();
    let newest = seqs.last().copied();
    for first_seq in seqs {
        let is_newest = Some(first_seq) == newest;
        found.take(files, first_seq, is_newest, access)?;
    }
    Ok(found)
}

/// What a crash left of a file that was to take its place at once.
fn is_unfinished(name: &str) -> bool {
    name == writer::NEW
        || name
            .strip_suffix(".new")
            .is_some_and(|it| it.ends_with(".index"))
}

impl Found {
    fn take(
        &mut self,
        files: &dyn Files,
        first_seq: u64,
        is_newest: bool,
        access: Access,
    ) -> Result<(), Refusal> {
        let name = data::name(first_seq);
        if first_seq < self.end_seq {
            // Its events are in the file before, which took its place.
            return remove(files, first_seq, access).map_err(Refusal::from);
        }
        let file = files.open(&name)?;
        let start = data::read_start(&*file)?;
        if let Start::Version(version) = start {
            return Err(Refusal::Version(name, version));
        }
        let data_bytes = file.bytes()?;
        if let Ok(index) = Index::open(files, &data::index_name(first_seq), data_bytes)? {
            self.push(Sealed::indexed(file, first_seq, data_bytes, index));
            return Ok(());
        }
        let mut scan = data::scan(&*file, first_seq)?;
        if scan.end_seq.is_none() && is_newest {
            return Ok(self.take_active(files, file, first_seq, scan, access)?);
        }
        if start == Start::Damaged {
            scan.gaps.push(Gap {
                offset: 0,
                blocks_before: 0,
            });
        }
        self.note(first_seq, &std::mem::take(&mut scan.gaps));
        let mut sealed = Sealed::plain(file, first_seq, scan)?;
        if access == Access::Write {
            tracing::info!(file = name, "history index is made again");
            if let Err(error) = sealed.reindex(files, &mut |place| self.damage.push(place)) {
                tracing::warn!(%error, file = name, "history file has no index");
            }
        }
        self.push(sealed);
        Ok(())
    }

    fn take_active(
        &mut self,
        files: &dyn Files,
        file: Arc<dyn File>,
        first_seq: u64,
        mut scan: Scan,
        access: Access,
    ) -> io::Result<()> {
        scan.cut_tear(first_seq);
        self.note(first_seq, &scan.gaps);
        if access == Access::Write {
            settle(files, &*file, &scan)?;
        }
        self.end_seq = self.end_seq.max(first_seq);
        let (mut blocks, mut sum) = (Vec::new(), Minutes::new());
        for placed in scan.blocks {
            let keys = match access {
                Access::Write => keys_of(&*file, &placed)?.unwrap_or_default(),
                Access::Read => Default::default(),
            };
            minutes::merge(&mut sum, &keys.minutes);
            let keys = keys.keys;
            blocks.push(Arc::new(ActiveBlock { placed, keys }));
        }
        if let Some(last) = blocks.last() {
            let header = &last.placed.header;
            self.end_seq = header.end_seq();
            (self.era, self.last) = (header.era, Some(mark(header)));
        }
        let active = Active {
            file,
            first_seq,
            blocks: Arc::new(blocks),
        };
        self.active = Some((active, sum));
        Ok(())
    }

    fn push(&mut self, sealed: Sealed) {
        if let Some(last) = sealed.blocks.last() {
            let header = &last.header;
            (self.era, self.last) = (header.era, Some(mark(header)));
        }
        self.end_seq = sealed.end_seq.max(self.end_seq);
        self.sealed.push(sealed);
    }

    fn note(&mut self, first_seq: u64, gaps: &[Gap]) {
        self.damage.extend(gaps.iter().map(|gap| Place {
            first_seq,
            offset: gap.offset,
        }));
    }
}

/// Makes what is there durable, and the tear behind it go.
///
/// What may not have been durable before is written again: where an earlier run's sync failed, what
/// is read is in memory only, and a sync of it would do nothing. The start may have been torn, too.
fn settle(files: &dyn Files, file: &dyn File, scan: &Scan) -> io::Result<()> {
    file.truncate(scan.end)?;
    write_all_at(file, 0, &[&data::start()])?;
    let durable_seq = scan.blocks.iter().map(|it| it.header.durable_seq).max();
    let is_durable = |it: &&Placed| Some(it.header.end_seq()) <= durable_seq;
    for block in scan.blocks.iter().skip_while(is_durable) {
        let mut bytes = vec![0; (block.end() - block.offset) as usize];
        read_up_to(file, block.offset, &mut bytes)?;
        write_all_at(file, block.offset, &[&bytes])?;
    }
    file.sync()?;
    files.sync_dir()
}

fn mark(header: &super::block::Header) -> Mark {
    Mark {
        position: Position::from_u64(header.last_position),
        recipient: header.last_recipient,
    }
}

/// Removes a file that holds nothing of its own, and its index.
fn remove(files: &dyn Files, first_seq: u64, access: Access) -> io::Result<()> {
    if access == Access::Read {
        return Ok(());
    }
    remove_both(files, first_seq)
}

/// Removes a data file and its index, whatever of them is there.
pub(super) fn remove_both(files: &dyn Files, first_seq: u64) -> io::Result<()> {
    for name in [data::index_name(first_seq), data::name(first_seq)] {
        match files.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
