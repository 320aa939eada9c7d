//! The files a journal stands on, behind two small traits.
//!
//! Everything that touches a disk goes through [`Files`] and [`File`], so that tests can fail any
//! call and cut the power at any byte ([`MemoryFiles`]); [`DirFiles`] is a folder.
//!
//! What a crash may leave is what POSIX leaves open: nothing of a file is certain before
//! [`File::sync`], and no name before [`Files::sync_dir`]. Names are plain, without separators.

mod dir;
mod memory;

use std::io::{self, IoSlice};
use std::sync::Arc;

pub use dir::DirFiles;
pub use memory::{Cut, Fault, MemoryFiles};

/// One flat folder of files.
pub trait Files: Send + Sync + 'static {
    /// Takes the folder for oneself until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another holds it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// All names, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Makes an empty file; it must not exist.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file, replacing what `to` named.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name; who has the file open keeps it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all changes of names so far durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Room left for us.
    fn free_bytes(&self) -> io::Result<u64>;
    /// What to call this folder in errors.
    fn name(&self) -> String;
}

/// An open file.
pub trait File: Send + Sync {
    /// Fills the start of `buffer` from `offset` on; fewer bytes than asked only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The same, as far as that goes without waiting for a disk: `None` where it might.
    fn read_at_once(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }
    /// Writes the pieces one behind the other; may write less.
    fn write_at(&self, offset: u64, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Makes what was written durable, and the length. After an error nothing may be assumed of
    /// the file any more, a second try included.
    fn sync(&self) -> io::Result<()>;
    /// Takes room for this many bytes from the start, and grows the length to it with zeros. What
    /// cannot reserve room does nothing.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// The length.
    fn bytes(&self) -> io::Result<u64>;
}

/// Writes all of the pieces.
///
/// # Errors
/// Those of [`File::write_at`]; some of the bytes may be written then.
pub fn write_all_at(file: &dyn File, mut offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
    // What one call takes on Linux (IOV_MAX).
    const PIECES_MAX: usize = 1024;
    for pieces in pieces.chunks(PIECES_MAX) {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match file.write_at(offset, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    offset += bytes as u64;
                    IoSlice::advance_slices(&mut rest, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Puts a whole file in its place, durably: readers find the old one or the new one, never a part,
/// also after a power cut.
///
/// # Errors
/// Those of the files; the old one is still there then, or the new one.
pub fn replace(files: &dyn Files, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match files.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = files.create(&temporary)?;
    write_all_at(&*file, 0, &[content])?;
    file.sync()?;
    files.rename(&temporary, name)?;
    files.sync_dir()
}

/// The disk, or what we may have of it, is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
