//! From an intention to say something to [`smtp::Content`] that any relay takes: MIME, templates,
//! list headers, DKIM.
//!
//! - [`Message`] composes text, HTML, attachments and inline images; 7-bit safe, so 8BITMIME is
//!   never needed.
//! - [`Template`] holds subject, text and HTML, compiled once; [`Mailing`] renders, composes and
//!   signs one message for each recipient of a list, from as many threads as there are.
//! - [`Eml`] reads a message that somebody else composed.
//! - [`dkim`] makes keys and signs.
//!
//! Nothing here reads a clock: `now` comes in. No value can smuggle a line into a header section:
//! control characters are refused, and the error names the header.

mod attachment;
mod compose;
pub mod dkim;
mod eml;
mod encode;
mod header;
mod mailbox;
mod mailing;
mod template;
mod unsubscribe;

pub use attachment::{Attachment, AttachmentError};
pub use compose::{ComposeError, Message};
pub use eml::{Eml, EmlError};
pub use encode::{push_lines_quoted_printable, push_text_part};
pub use header::HeaderError;
pub use mailbox::{Mailbox, MailboxError};
pub use mailing::{Mailing, MailingError};
pub use template::{Rendered, STACK_BYTES, Source, Template, TemplateError, UriTemplate};
pub use unsubscribe::{ListUnsubscribe, UnsubscribeError};
