//! One data folder: spool, table and history, opened together.
//!
//! ```text
//! failed/    mail that failed, kept to be tried again
//! journal/   accepted mail and what became of it     digests/   of the journal, to start fast
//! history/   what became of mail                     state/     the table
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::{DirFiles, Files, Journal, Mode};

use crate::spool::Follower;
use crate::{
    EventSink, History, HistoryOptions, Recovery, Spool, SpoolOptions, Table, Time, history,
};

/// A segment of the table's journal: state is small, and two of them are reserved.
const STATE_SEGMENT_BYTES: u64 = 4 << 20;
/// Mail that failed is little of all.
const FAILED_SEGMENT_BYTES: u64 = 4 << 20;
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
    /// Gives up what is damaged, and keeps a copy of it; see [`journal::Options::salvage`].
    pub salvage: bool,
    /// Size of a segment of the mail's journal.
    pub segment_bytes_max: u64,
    /// What that journal may take beyond twice what still waits, in octets.
    pub slack_bytes: u64,
    /// Who writes and follows.
    pub workers: Workers,
}

/// Who does the work behind a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workers {
    /// Threads of its own.
    Threads,
    /// The caller, by [`Spool::step`] and [`History::flush`]: the same every time, for simulations.
    Caller,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes_max: 32 << 20,
            history: HistoryOptions::default(),
            seed: 0,
            salvage: false,
            segment_bytes_max: journal::Options::default().segment_bytes_max,
            slack_bytes: SpoolOptions::default().slack_bytes,
            workers: Workers::Threads,
        }
    }
}

/// Gives the files of one of a store's folders, by its name.
pub type Folders = dyn Fn(&'static str) -> std::io::Result<Arc<dyn Files>> + Send + Sync;

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
    /// A journal is damaged; nothing was changed. [`StoreOptions::salvage`] gives up what is damaged.
    #[error("{0}: {1}")]
    Damaged(&'static str, #[source] journal::OpenError),
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
    /// Mail that failed, kept for a while.
    pub failed: Spool,
    /// What of it was kept before this start.
    pub failed_recovery: Recovery,
    /// Small state.
    pub table: Table,
    /// What became of all mail.
    pub history: History,
    /// Feeds history until it is dropped; none where the caller does.
    pub follower: Option<Follower>,
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
        let data_dir = data_dir.to_owned();
        let folders = move |name: &str| -> std::io::Result<Arc<dyn Files>> {
            Ok(Arc::new(DirFiles::open(&data_dir.join(name))?))
        };
        Self::open_on(&folders, options, now)
    }

    /// The same on any files.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(
        folders: &Folders,
        options: &StoreOptions,
        now: Time,
    ) -> Result<Self, OpenError> {
        let folder = |name| folders(name).map_err(|error| OpenError::Folder(name, error));
        let has_threads = options.workers == Workers::Threads;
        // What only the mail's journal can do later is done at once by the others.
        let (mode, mode_of_mail) = match options.workers {
            Workers::Threads => (Mode::Thread, Mode::Thread),
            Workers::Caller => (Mode::Inline, Mode::Stepped),
        };
        let history_options = HistoryOptions {
            thread: options.history.thread && has_threads,
            ..options.history.clone()
        };
        let history = History::open_on(folder("history")?, &history_options)?;
        let others = journal::Options {
            mode,
            salvage: options.salvage,
            ..journal::Options::default()
        };
        let table = open_table(folder("state")?, &others, now)?;
        // Recovery reads the rest, or its digests.
        let mail = journal::Options {
            check: journal::Check::Tail,
            segment_bytes_max: options.segment_bytes_max,
            mode: mode_of_mail,
            salvage: options.salvage,
            ..journal::Options::default()
        };
        let journal = open_journal("journal", folder("journal")?, mail)?;
        history.expect_journal_end(journal.end());
        let digests = folder("digests")?;
        if options.salvage {
            // They may speak of records that are given up.
            for name in digests.list().unwrap_or_default() {
                let removed = digests.remove(&name);
                removed.map_err(|error| OpenError::Folder("digests", error))?;
            }
        }
        let spool_options = SpoolOptions {
            cache_bytes_max: options.cache_bytes_max,
            seed: options.seed,
            slack_bytes: options.slack_bytes,
            digests: Some(digests),
            history_from: history.durable(),
            history: Some(Arc::new(history.clone()) as Arc<dyn EventSink>),
            ..SpoolOptions::default()
        };
        let (spool, recovery) = Spool::open(journal, spool_options);
        history.catch_up_from(spool.source());
        let (failed, failed_recovery) = open_failed(folder("failed")?, &others, options.seed)?;
        let follower = has_threads.then(|| spool.spawn_follower(FOLLOW_EVERY));
        let follower = follower.transpose();
        Ok(Self {
            follower: follower.map_err(|error| OpenError::Folder("history", error))?,
            spool,
            recovery,
            failed,
            failed_recovery,
            table,
            history,
        })
    }
}

fn open_table(
    files: Arc<dyn Files>,
    options: &journal::Options,
    now: Time,
) -> Result<Table, OpenError> {
    let options = journal::Options {
        segment_bytes_max: STATE_SEGMENT_BYTES,
        ..options.clone()
    };
    let journal = open_journal("state", files, options)?;
    let (table, damage) = Table::open(journal, now).map_err(OpenError::Table)?;
    for damage in damage {
        tracing::error!(at = ?damage.at, why = %damage.why, "a record of the state is damaged");
    }
    Ok(table)
}

fn open_failed(
    files: Arc<dyn Files>,
    options: &journal::Options,
    seed: u64,
) -> Result<(Spool, Recovery), OpenError> {
    let small = journal::Options {
        segment_bytes_max: FAILED_SEGMENT_BYTES,
        ..options.clone()
    };
    let options = SpoolOptions {
        cache_bytes_max: 0,
        seed,
        slack_bytes: FAILED_SEGMENT_BYTES,
        ..SpoolOptions::default()
    };
    Ok(Spool::open(open_journal("failed", files, small)?, options))
}

fn open_journal(
    name: &'static str,
    files: Arc<dyn Files>,
    options: journal::Options,
) -> Result<Journal, OpenError> {
    let opened = Journal::open(files, options);
    let (journal, opened) = opened.map_err(|error| match error {
        journal::OpenError::Damaged(_) => OpenError::Damaged(name, error),
        error => OpenError::Journal(name, error),
    })?;
    if opened != journal::Opened::default() {
        tracing::warn!(
            folder = name,
            ?opened,
            "the journal was mended when it was opened"
        );
    }
    Ok(journal)
}

#[cfg(test)]
mod tests;
