//! History read beside the process that writes it.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use journal::{DirFiles, Files};

use super::query::{Query, QueryError};
use super::recover::{self, Access, Refusal};
use super::view::{Step, View};
use super::{Damage, OpenError};
use crate::Event;

/// What had been written to a folder's history when it was opened. Changes nothing there.
///
/// What the writing process has not written yet (`HistoryOptions::linger`) is not seen.
pub struct HistoryReader {
    view: View,
    damage: Vec<Damage>,
}

impl HistoryReader {
    /// Opens the history in a folder, whether it is in use or not.
    ///
    /// # Errors
    /// [`OpenError`]; also where there is no such folder.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let refused = |source| OpenError::Io {
            folder: folder.display().to_string(),
            source,
        };
        if !folder.is_dir() {
            return Err(refused(io::ErrorKind::NotFound.into()));
        }
        let files = DirFiles::open(folder).map_err(refused)?;
        Self::open_on(&files)
    }

    /// The same on any files.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on(files: &dyn Files) -> Result<Self, OpenError> {
        /// Files may go, or become one, between looking for them and opening them.
        const TRIES: usize = 10;
        let mut tries = 0;
        let found = loop {
            tries += 1;
            match recover::read(files, Access::Read) {
                Err(Refusal::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                Err(Refusal::Io(source)) => {
                    return Err(OpenError::Io {
                        folder: files.name(),
                        source,
                    });
                }
                Err(Refusal::Version(file, version)) => {
                    return Err(OpenError::Version { file, version });
                }
                Ok(found) => break found,
            }
        };
        Ok(Self {
            damage: found.damage.iter().map(Damage::from).collect(),
            view: View {
                sealed: Arc::new(found.sealed.into_iter().map(Arc::new).collect()),
                active: found.active.map(|(active, _)| active),
                chunks: Vec::new(),
                end_seq: found.end_seq,
            },
        })
    }

    /// Calls `each` for every event that matches, in the query's order, until it breaks; cursor and
    /// limit are not looked at. Returns the places that could not be read.
    ///
    /// # Errors
    /// The files could not be read.
    pub fn for_each(
        &self,
        query: &Query,
        mut each: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Vec<Damage>, QueryError> {
        let mut damage = self.damage.clone();
        let mut step = |step| match step {
            Step::Event(_, event) => each(event),
            Step::Block(_) => ControlFlow::Continue(()),
        };
        let mut damaged = |place| damage.push(Damage::from(&place));
        let seqs = [0, self.view.end_seq];
        self.view
            .walk(query, seqs, &mut damaged, &mut step)
            .map_err(QueryError::Read)?;
        damage.sort_unstable();
        damage.dedup();
        Ok(damage)
    }
}
