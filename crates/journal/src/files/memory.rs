//! Files in memory that fail and forget as a disk may.

mod disk;

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use disk::{Change, Disk, Inode, Write, apply};

use super::{File, Files};

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
    /// Those of its [`pieces`](MemoryFiles::pieces) whose bit is set, in the order in which they were
    /// written; names come before contents, and there are bits for 64.
    Pieces(u64),
}

impl MemoryFiles {
    /// An empty folder on a disk without limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another folder on another disk, as this one is now, what it has not synced included. Nobody
    /// has it, or a file in it, open.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.is_locked = false;
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much the disk holds, from now on.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// Octets that its files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk().used()
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

    /// How many pieces a power cut would decide about now: sectors, lengths and changes of names
    /// that are not synced.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.disk().pieces()
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
        let inode = disk.inode(from)?;
        let change = Change::Rename(from.to_owned(), to.to_owned(), inode);
        apply(&mut disk.names, change.clone());
        disk.changes.push(change);
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
            let bytes = bytes.into();
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
