//! One data folder: spool, table and history, opened together.
//!
//! ```text
//! journal/   accepted mail and what became of it     state/   the table     history/   what became of mail
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::{DirFiles, Files, Journal};

use crate::spool::Follower;
use crate::{
    EventSink, History, HistoryOptions, Recovery, Spool, SpoolOptions, Table, Time, history,
};

/// How often history is told of what the journal has made durable.
const FOLLOW_EVERY: Duration = Duration::from_millis(20);

/// Settings of a [`Store`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Memory for content that was just accepted, in octets.
    pub cache_bytes_max: usize,
    /// How much history is kept.
    pub history: HistoryOptions,
    /// Anything; ids of two starts differ even if it does not.
    pub seed: u64,
}

/// Why a data folder cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A folder cannot be read or written, or another process has it.
    #[error("{0}: {1}")]
    Folder(&'static str, #[source] std::io::Error),
    /// A journal cannot be opened.
    #[error("{0}: {1}")]
    Journal(&'static str, #[source] journal::OpenError),
    /// The table cannot be read.
    #[error("state: {0}")]
    Table(#[source] journal::ReadError),
    /// History cannot be opened.
    #[error(transparent)]
    History(#[from] history::OpenError),
}

/// What lies in a data folder.
pub struct Store {
    /// Accepted, unsettled mail.
    pub spool: Spool,
    /// What of it was accepted before this start.
    pub recovery: Recovery,
    /// Small state.
    pub table: Table,
    /// What became of all mail.
    pub history: History,
    /// Feeds history until it is dropped.
    pub follower: Follower,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a data folder, which is made if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data_dir: &Path, options: &StoreOptions, now: Time) -> Result<Self, OpenError> {
        let history = History::open(&data_dir.join("history"), &options.history)?;
        let (table, damage) =
            Table::open(open_journal(data_dir, "state")?, now).map_err(OpenError::Table)?;
        for damage in damage {
            tracing::error!(at = ?damage.at, why = %damage.why, "a record of the state is damaged");
        }
        let spool_options = SpoolOptions {
            cache_bytes_max: options.cache_bytes_max,
            seed: options.seed,
            history_from: history.durable(),
            history: Some(Arc::new(history.clone()) as Arc<dyn EventSink>),
            ..SpoolOptions::default()
        };
        let (spool, recovery) = Spool::open(open_journal(data_dir, "journal")?, spool_options);
        let follower = spool.spawn_follower(FOLLOW_EVERY);
        Ok(Self {
            follower: follower.map_err(|error| OpenError::Folder("history", error))?,
            spool,
            recovery,
            table,
            history,
        })
    }
}

fn open_journal(data_dir: &Path, name: &'static str) -> Result<Journal, OpenError> {
    let files = DirFiles::open(&data_dir.join(name));
    let files = files.map_err(|error| OpenError::Folder(name, error))?;
    let files: Arc<dyn Files> = Arc::new(files);
    let opened = Journal::open(files, journal::Options::default());
    let (journal, opened) = opened.map_err(|error| OpenError::Journal(name, error))?;
    if opened != journal::Opened::default() {
        tracing::warn!(
            folder = name,
            ?opened,
            "the journal was mended when it was opened"
        );
    }
    Ok(journal)
}
