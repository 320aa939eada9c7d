//! What is still to be delivered, and what became of what was.
//!
//! The spool holds accepted, unsettled messages; history holds every change of every recipient.
//! Both stand on the journal.

pub mod codec;
pub mod event;
pub mod history;
pub mod id;
pub mod message;

pub use event::{Event, Outcome, Said, StageTimes, Status};
pub use history::{
    Cursor, EventSink, EventSource, History, HistoryOptions, MinuteStats, Page, Query,
};
pub use id::MessageId;
pub use message::{Message, Priority, Tags};

/// A moment: time since the Unix epoch.
pub type Time = std::time::Duration;
