//! What is still to be delivered, and what became of what was.
//!
//! The spool holds accepted, unsettled messages; history holds every change of every recipient.
//! Both stand on the journal.

pub mod codec;
pub mod event;
pub mod history;
pub mod id;
pub mod message;
pub mod spool;
pub mod store;
pub mod table;

pub use event::{Event, Heading, Outcome, Said, StageTimes, Status};
pub use history::{
    Cursor, EventSink, EventSource, History, HistoryOptions, MinuteStats, Page, Query,
};
pub use id::MessageId;
pub use journal::{AppendError, Commit, CommitError, Files, Position};
pub use message::{Head, Message, Priority, Tags};
pub use spool::{
    Pending, ReadError, RecordError, Recovered, RecoveredRecipient, Recovery, Slot, Spool,
    SpoolOptions, SpoolStats,
};
pub use store::{Folders, Store, StoreOptions, Workers};
pub use table::{Table, TableError};

/// A moment: time since the Unix epoch.
pub type Time = std::time::Duration;

/// Where a journal's oldest segment begins.
fn first_of(journal: &journal::Journal) -> Position {
    let segments = journal.segments();
    let number = segments.first().map_or(0, |oldest| oldest.number);
    Position::from_u64(u64::from(number) << 32)
}

/// Lets threads that somebody waits for go before this one.
fn stand_behind() {
    const NICER_BY: i32 = 5;
    // Where it is not allowed, all threads are equals.
    let _ = rustix::process::nice(NICER_BY);
}
