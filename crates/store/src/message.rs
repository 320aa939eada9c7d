//! An accepted message as the spool keeps it.

use std::ops::Deref;
use std::sync::Arc;

use smtp::{Content, Envelope};

use crate::{MessageId, Time};

/// Which of a tenant's messages go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Priority {
    /// Somebody waits for it: a password reset.
    High = 0,
    /// Receipts, notices.
    #[default]
    Normal = 1,
    /// Newsletters.
    Bulk = 2,
}

/// Labels `name: value` that an application gives a message, to find it by later.
pub type Tags = Arc<[(Box<str>, Box<str>)]>;

/// One accepted message: content once, whoever and how many its recipients are. Clones share both.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What is known of it without reading its content; whoever waits for a reply keeps no more.
    pub head: Arc<Head>,
    /// Header section and body, as they go out.
    pub content: Content,
}

impl Message {
    /// One message.
    #[must_use]
    pub fn new(head: Head, content: Content) -> Self {
        let head = Arc::new(head);
        Self { head, content }
    }
}

impl Deref for Message {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

/// An accepted message without its content.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its id.
    pub id: MessageId,
    /// When we took responsibility for it (RFC 5321 §6.1).
    pub accepted_at: Time,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// From whom to whom. Recipients keep their index for life.
    pub envelope: Arc<Envelope>,
    /// Labels.
    pub tags: Tags,
    /// The subject, decoded, cut at 200 characters; empty if it has none.
    pub subject: Box<str>,
    /// Which goes first.
    pub priority: Priority,
    /// Not before this; `accepted_at` unless the application asked for later.
    pub due_at: Time,
    /// What is not delivered by then expires (RFC 5321 §4.5.4.1).
    pub expires_at: Time,
}
