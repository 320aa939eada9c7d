//! Files in memory that forget what a disk may forget.
//!
//! A disk of its own model: what a file was written since its last sync is kept as a list of writes,
//! and a power cut applies any part of it, in sectors; so with changes of names since the last sync
//! of the folder. All from a seed, so that a run can be repeated.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Files};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A folder in memory; clones are the same folder.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles(Arc<Mutex<Disk>>);

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With this error, having done nothing.
    Error(io::ErrorKind),
    /// A write writes half, and succeeds; other calls succeed.
    Short,
    /// A write writes half, then fails with this error; other calls just fail.
    Half(io::ErrorKind),
    /// The power fails before the call: it and all later ones fail, until [`MemoryFiles::restart`].
    PowerCut,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// All of it, not yet durable: only the process has died.
    Everything,
    /// None of it.
    Nothing,
    /// Any part of it, by this seed.
    Any(u64),
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// Grows at each restart: what was opened before is closed.
    generation: u64,
    is_locked: bool,
    is_off: bool,
    calls: u64,
    /// `(number of the call, how)`.
    faults: Vec<(u64, Fault)>,
    /// Bytes that may still be written before the power fails.
    bytes_to_cut: Option<u64>,
    capacity: Option<u64>,
}

#[derive(Debug, Default)]
struct Inode {
    now: Sparse,
    durable: Sparse,
    writes: Vec<Write>,
}

#[derive(Debug)]
enum Write {
    Bytes { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Debug)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

/// Bytes of which most are zero.
#[derive(Clone, Debug, Default)]
struct Sparse {
    length: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl MemoryFiles {
    /// An empty folder on a disk without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much the disk holds, from now on.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// The power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.disk().is_off
    }

    /// Makes a coming call fail.
    ///
    /// * `call`: counted as by [`calls`](Self::calls), from 0.
    pub fn fail(&self, call: u64, fault: Fault) {
        self.disk().faults.push((call, fault));
    }

    /// Takes all coming faults back.
    pub fn mend(&self) {
        let mut disk = self.disk();
        disk.faults.clear();
        disk.bytes_to_cut = None;
    }

    /// Lets the power fail in the middle of the write that goes beyond so many bytes from now.
    pub fn cut_after(&self, bytes: u64) {
        self.disk().bytes_to_cut = Some(bytes);
    }

    /// Lets the power fail now, if it has not, and comes back with what such a cut may leave. What
    /// was opened before fails from now on; locks are gone, coming faults too.
    pub fn restart(&self, cut: Cut) {
        self.disk().restart(cut);
    }

    /// The bytes of a file, as they read now.
    ///
    /// # Panics
    /// There is no such file.
    #[must_use]
    pub fn bytes_of(&self, name: &str) -> Vec<u8> {
        let disk = self.disk();
        let content = &disk.inodes[disk.names[name]].now;
        let mut bytes = vec![0; usize::try_from(content.length).expect("it is in memory")];
        content.read(0, &mut bytes);
        bytes
    }

    /// Overwrites a part of a file behind everybody's back, durably: a decaying disk.
    ///
    /// # Panics
    /// There is no such file.
    pub fn damage(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        let inode = &mut disk.inodes[inode];
        inode.now.write(offset, bytes);
        inode.durable.write(offset, bytes);
    }
}

impl Disk {
    /// Counts a call, and fails it if that was asked for.
    fn call(&mut self) -> io::Result<Option<Fault>> {
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
    fn plain_call(&mut self) -> io::Result<()> {
        match self.call()? {
            Some(Fault::Half(kind)) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let used = |inode: &usize| self.inodes[*inode].now.length;
        self.names.values().map(used).sum()
    }

    fn free(&self) -> u64 {
        let capacity = self.capacity.unwrap_or(1 << 50);
        capacity.saturating_sub(self.used())
    }

    fn restart(&mut self, cut: Cut) {
        let mut dice = match cut {
            Cut::Any(seed) => Some(Dice::new(seed)),
            Cut::Everything | Cut::Nothing => None,
        };
        if cut != Cut::Everything {
            for change in std::mem::take(&mut self.changes) {
                if dice.as_mut().is_some_and(|dice| dice.one_in(2)) {
                    apply(&mut self.durable_names, change);
                }
            }
            for inode in &mut self.inodes {
                inode.cut(dice.as_mut());
            }
            self.names = self.durable_names.clone();
        }
        self.faults.clear();
        self.bytes_to_cut = None;
        self.generation += 1;
        (self.is_off, self.is_locked) = (false, false);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name, inode);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        Change::Unlink(name) => {
            names.remove(&name);
        }
    }
}

impl Inode {
    fn write(&mut self, write: Write) {
        self.now.apply(&write);
        self.writes.push(write);
    }

    fn sync(&mut self) {
        for write in self.writes.drain(..) {
            self.durable.apply(&write);
        }
    }

    fn cut(&mut self, dice: Option<&mut Dice>) {
        match dice {
            None => self.writes.clear(),
            Some(dice) => self.cut_by(dice),
        }
        self.now = self.durable.clone();
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
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Bytes { offset, bytes } => self.write(*offset, bytes),
            Write::Length(length) => self.set_length(*length),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.length = self.length.max(offset + bytes.len() as u64);
        for (offset, piece) in sectors(offset, bytes, PAGE) {
            let page = self.pages.entry(offset / PAGE as u64);
            let page = page.or_insert_with(|| Box::new([0; PAGE]));
            let at = usize::try_from(offset % PAGE as u64).expect("it is small");
            page[at..at + piece.len()].copy_from_slice(piece);
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
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

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            let page = length / PAGE as u64;
            self.pages.retain(|number, _| *number <= page);
            if let Some(last) = self.pages.get_mut(&page) {
                last[usize::try_from(length % PAGE as u64).expect("it is small")..].fill(0);
            }
        }
        self.length = length;
    }
}

impl Files for MemoryFiles {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut disk = self.disk();
        disk.plain_call()?;
        if std::mem::replace(&mut disk.is_locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = disk.generation;
        Ok(Box::new(Lock(self.clone(), generation)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.plain_call()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.plain_call()?;
        let inode = disk.inode(name)?;
        Ok(Arc::new(Handle(self.clone(), inode, disk.generation)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.plain_call()?;
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(name.to_owned(), inode);
        disk.changes.push(Change::Link(name.to_owned(), inode));
        Ok(Arc::new(Handle(self.clone(), inode, disk.generation)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.plain_call()?;
        disk.inode(from)?;
        apply(
            &mut disk.names,
            Change::Rename(from.to_owned(), to.to_owned()),
        );
        disk.changes
            .push(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.plain_call()?;
        disk.inode(name)?;
        disk.names.remove(name);
        disk.changes.push(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.plain_call()?;
        disk.changes.clear();
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut disk = self.disk();
        disk.plain_call()?;
        Ok(disk.free())
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

/// Unlocks when dropped, unless a restart did.
struct Lock(MemoryFiles, u64);

impl Drop for Lock {
    fn drop(&mut self) {
        let mut disk = self.0.disk();
        if disk.generation == self.1 {
            disk.is_locked = false;
        }
    }
}

struct Handle(MemoryFiles, usize, u64);

impl Handle {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.0.disk();
        if disk.generation != self.2 {
            return Err(io::Error::other("opened before the power was cut"));
        }
        Ok(disk)
    }
}

impl File for Handle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk()?;
        disk.plain_call()?;
        Ok(disk.inodes[self.1].now.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut disk = self.disk()?;
        let fault = disk.call()?;
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        let asked = bytes.len();
        if matches!(fault, Some(Fault::Short | Fault::Half(_))) {
            bytes.truncate(asked.div_ceil(2));
        }
        let room = disk.inodes[self.1].now.length.saturating_sub(offset) + disk.free();
        let mut cut = false;
        if let Some(left) = disk.bytes_to_cut {
            cut = left < bytes.len() as u64;
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            disk.bytes_to_cut = Some(left - bytes.len() as u64);
        }
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let written = bytes.len();
        if written > 0 {
            disk.inodes[self.1].write(Write::Bytes { offset, bytes });
        }
        if cut {
            disk.is_off = true;
            return Err(io::Error::other("the power is off"));
        }
        match fault {
            Some(Fault::Half(kind)) => Err(kind.into()),
            _ if written == 0 && asked > 0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(written),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        let called = disk.plain_call();
        let is_off = disk.is_off;
        let inode = &mut disk.inodes[self.1];
        if called.is_ok() {
            inode.sync();
        } else if !is_off {
            // What Linux does: it reads as written, counts as clean, and never reaches the disk.
            inode.writes.clear();
        }
        called
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.plain_call()?;
        let length = disk.inodes[self.1].now.length;
        if bytes > length {
            if disk.free() < bytes - length {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.inodes[self.1].write(Write::Length(bytes));
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.plain_call()?;
        disk.inodes[self.1].write(Write::Length(bytes));
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut disk = self.disk()?;
        disk.plain_call()?;
        Ok(disk.inodes[self.1].now.length)
    }
}

/// SplitMix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}
