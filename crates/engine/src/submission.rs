//! What an edge hands over: one message, valid by construction.

use std::sync::Arc;
use std::time::Duration;

use smtp::{Content, Envelope};
use store::{MessageId, Priority, Tags, Time};

/// One message to be accepted.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// From whom to whom.
    pub envelope: Arc<Envelope>,
    /// Header section and body as they shall go out, but for the signature.
    pub content: Content,
    /// What may be left at its default.
    pub options: Options,
}

/// What an application may say about a message beyond the mail itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The id it shall have, from [`crate::Engine::next_id`] or a [`crate::Claim`] under which it was
    /// not accepted yet; `None` makes one.
    pub id: Option<MessageId>,
    /// Labels to find it by.
    pub tags: Tags,
    /// The decoded subject, for lists; cut at 200 characters.
    pub subject: Box<str>,
    /// Which of the tenant's messages go first.
    pub priority: Priority,
    /// Not before this moment.
    pub send_at: Option<Time>,
    /// Given up after this long; the route's or the engine's limit if `None` or longer.
    pub max_age: Option<Duration>,
}
