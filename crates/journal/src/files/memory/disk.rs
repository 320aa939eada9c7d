//! A disk's model: what was written since the last sync of a file is kept as a list of writes, and
//! a power cut applies any part of it, in sectors; so with changes of names since the last sync of
//! the folder. All from a seed, so that a run can be repeated.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{Cut, Fault};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: BTreeMap<String, usize>,
    pub(super) durable_names: BTreeMap<String, usize>,
    pub(super) changes: Vec<Change>,
    /// Grows at each restart: what was opened before is closed.
    pub(super) generation: u64,
    pub(super) is_locked: bool,
    pub(super) is_off: bool,
    pub(super) calls: u64,
    /// `(number of the call, how)`.
    pub(super) faults: Vec<(u64, Fault)>,
    /// Bytes that may still be written before the power fails.
    pub(super) bytes_to_cut: Option<u64>,
    pub(super) capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) now: Sparse,
    pub(super) durable: Sparse,
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    Bytes { offset: u64, bytes: Bytes },
    Length(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Link(String, usize),
    /// From, to, and what goes there: no file system mistakes one file for another.
    Rename(String, String, usize),
    Unlink(String),
}

/// Bytes of which most are zero. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    pub(super) length: u64,
    pub(super) pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Disk {
    /// Counts a call, and fails it if that was asked for.
    pub(super) fn call(&mut self) -> io::Result<Option<Fault>> {
        let number = self.calls;
        self.calls += 1;
        let fault = self.faults.iter().find(|(call, _)| *call == number);
        let fault = fault.map(|(_, fault)| *fault);
        self.is_off |= fault == Some(Fault::PowerCut);
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        match fault {
            Some(Fault::Error(kind)) => Err(kind.into()),
            fault => Ok(fault),
        }
    }

    /// As [`Self::call`], for what is not a write.
    pub(super) fn plain_call(&mut self) -> io::Result<()> {
        match self.call()? {
            Some(Fault::Half(kind)) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn inode(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn used(&self) -> u64 {
        let used = |inode: &usize| self.inodes[*inode].now.length;
        self.names.values().map(used).sum()
    }

    pub(super) fn free(&self) -> u64 {
        let capacity = self.capacity.unwrap_or(1 << 50);
        capacity.saturating_sub(self.used())
    }

    /// What a cut decides about piece by piece.
    pub(super) fn pieces(&self) -> usize {
        let of_write = |write: &Write| match write {
            Write::Length(_) => 1,
            Write::Bytes { offset, bytes } => sectors(*offset, bytes, SECTOR).len(),
        };
        let writes = self.inodes.iter().flat_map(|inode| &inode.writes);
        self.changes.len() + writes.map(of_write).sum::<usize>()
    }

    pub(super) fn restart(&mut self, cut: Cut) {
        let mut fate = match cut {
            Cut::Everything | Cut::Nothing => Fate::Lost,
            Cut::Any(seed) => Fate::Dice(Dice::new(seed)),
            Cut::Pieces(kept) => Fate::Pieces(kept),
        };
        if cut != Cut::Everything {
            for change in std::mem::take(&mut self.changes) {
                if fate.keeps_name() {
                    apply(&mut self.durable_names, change);
                }
            }
            for inode in &mut self.inodes {
                inode.cut(&mut fate);
            }
            self.names = self.durable_names.clone();
        }
        self.faults.clear();
        self.bytes_to_cut = None;
        self.generation += 1;
        (self.is_off, self.is_locked) = (false, false);
    }
}

pub(super) fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name, inode);
        }
        Change::Rename(from, to, inode) => {
            if names.get(&from) == Some(&inode) {
                names.remove(&from);
            }
            names.insert(to, inode);
        }
        Change::Unlink(name) => {
            names.remove(&name);
        }
    }
}

impl Inode {
    pub(super) fn write(&mut self, write: Write) {
        self.now.apply(&write);
        self.writes.push(write);
    }

    pub(super) fn sync(&mut self) {
        for write in self.writes.drain(..) {
            self.durable.apply(&write);
        }
    }

    fn cut(&mut self, fate: &mut Fate) {
        match fate {
            Fate::Lost => self.writes.clear(),
            Fate::Dice(dice) => self.cut_by(dice),
            Fate::Pieces(kept) => self.cut_to(kept),
        }
        self.now = self.durable.clone();
    }

    fn cut_to(&mut self, kept: &mut u64) {
        for write in self.writes.drain(..) {
            match write {
                Write::Length(bytes) if take(kept) => self.durable.set_length(bytes),
                Write::Length(_) => {}
                Write::Bytes { offset, bytes } => {
                    for (offset, bytes) in sectors(offset, &bytes, SECTOR) {
                        if take(kept) {
                            self.durable.write(offset, bytes);
                        }
                    }
                }
            }
        }
    }

    /// Sectors go to the disk in any order, so any of them may be missing; one that was written
    /// twice may be there as the first write left it. The length may be that after any write.
    fn cut_by(&mut self, dice: &mut Dice) {
        let unit = if dice.one_in(2) { SECTOR } else { PAGE };
        // Mostly there, mostly not, or half and half.
        let (of, limit) = (8, [1, 4, 7][dice.below(3)]);
        let mut length = self.durable.length;
        for write in self.writes.drain(..) {
            match write {
                Write::Length(bytes) if dice.one_in(2) => {
                    length = bytes;
                    self.durable.set_length(bytes);
                }
                Write::Length(_) => {}
                Write::Bytes { offset, bytes } => {
                    let grown = length.max(offset + bytes.len() as u64);
                    if dice.one_in(2) {
                        length = grown;
                    }
                    for (offset, bytes) in sectors(offset, &bytes, unit) {
                        if dice.below(of) < limit {
                            self.durable.write(offset, bytes);
                            length = length.max(offset + bytes.len() as u64);
                        }
                    }
                }
            }
        }
        self.durable.set_length(length);
    }
}

/// Decides what a cut keeps.
enum Fate {
    Lost,
    Dice(Dice),
    /// A bit for each piece to come.
    Pieces(u64),
}

impl Fate {
    fn keeps_name(&mut self) -> bool {
        match self {
            Self::Lost => false,
            Self::Dice(dice) => dice.one_in(2),
            Self::Pieces(kept) => take(kept),
        }
    }
}

/// The next bit.
fn take(bits: &mut u64) -> bool {
    let bit = *bits & 1 != 0;
    *bits >>= 1;
    bit
}

/// A write in the pieces that reach the disk whole or not.
fn sectors(offset: u64, bytes: &[u8], unit: usize) -> Vec<(u64, &[u8])> {
    let first = unit - usize::try_from(offset % unit as u64).expect("it is small");
    let (head, tail) = bytes.split_at(first.min(bytes.len()));
    let (mut at, mut sectors) = (offset, Vec::new());
    for piece in std::iter::once(head).chain(tail.chunks(unit)) {
        sectors.push((at, piece));
        at += piece.len() as u64;
    }
    sectors
}

impl Sparse {
    pub(super) fn apply(&mut self, write: &Write) {
        match write {
            Write::Bytes { offset, bytes } => self.write(*offset, bytes),
            Write::Length(length) => self.set_length(*length),
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.length = self.length.max(offset + bytes.len() as u64);
        for (offset, piece) in sectors(offset, bytes, PAGE) {
            let page = self.pages.entry(offset / PAGE as u64);
            let page = Arc::make_mut(page.or_insert_with(|| Arc::new([0; PAGE])));
            let at = usize::try_from(offset % PAGE as u64).expect("it is small");
            page[at..at + piece.len()].copy_from_slice(piece);
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let left = self.length.saturating_sub(offset);
        let bytes = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..bytes];
        buffer.fill(0);
        let mut at = 0;
        while at < bytes {
            let offset = offset + at as u64;
            let in_page = usize::try_from(offset % PAGE as u64).expect("it is small");
            let piece = (PAGE - in_page).min(bytes - at);
            if let Some(page) = self.pages.get(&(offset / PAGE as u64)) {
                buffer[at..at + piece].copy_from_slice(&page[in_page..in_page + piece]);
            }
            at += piece;
        }
        bytes
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            let page = length / PAGE as u64;
            self.pages.retain(|number, _| *number <= page);
            if let Some(last) = self.pages.get_mut(&page) {
                let from = usize::try_from(length % PAGE as u64).expect("it is small");
                Arc::make_mut(last)[from..].fill(0);
            }
        }
        self.length = length;
    }
}

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    pub(super) fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}
