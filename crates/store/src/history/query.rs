//! Questions to history, and pages of answers.
//!
//! Events have an order of their own: that in which the journal took them. A cursor is a place in
//! that order, so it stays true whatever is added, sealed or retained between two pages.

use std::fmt;
use std::str::FromStr;

use crate::{Event, MessageId, Status, Time};

/// Events on one page at most.
pub const LIMIT_MAX: usize = 1000;

/// Which events come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Those recorded last.
    #[default]
    Newest,
    /// Those recorded first.
    Oldest,
}

/// Which events are asked for: those that everything given here applies to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Of this message.
    pub message: Option<MessageId>,
    /// To this address; ASCII letters match whatever their case.
    pub recipient: Option<Box<str>>,
    /// Of this tenant.
    pub tenant: Option<Box<str>>,
    /// With this label, `(name, value)`.
    pub tag: Option<(Box<str>, Box<str>)>,
    /// Of attempts at this site.
    pub site: Option<Box<str>>,
    /// That led to this status.
    pub status: Option<Status>,
    /// That happened then or later.
    pub from: Option<Time>,
    /// That happened before.
    pub to: Option<Time>,
    /// Which come first.
    pub order: Order,
    /// Where the page before this one ended.
    pub cursor: Option<Cursor>,
    /// Events on a page; more than [`LIMIT_MAX`] is taken as that many.
    pub limit: usize,
}

impl Default for Query {
    /// Everything, newest first, 100 a page.
    fn default() -> Self {
        Self {
            message: None,
            recipient: None,
            tenant: None,
            tag: None,
            site: None,
            status: None,
            from: None,
            to: None,
            order: Order::Newest,
            cursor: None,
            limit: 100,
        }
    }
}

impl Query {
    /// Whether an event is among those asked for.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let site = |site: &str| {
            let outcome = event.outcome.as_ref();
            outcome.is_some_and(|outcome| *outcome.site == *site)
        };
        self.status.is_none_or(|status| status == event.status)
            && self.message.is_none_or(|id| id == event.message)
            && self.from.is_none_or(|from| from <= event.at)
            && self.to.is_none_or(|to| event.at < to)
            && self.tenant.as_deref().is_none_or(|it| *it == *event.tenant)
            && (self.recipient.as_deref()).is_none_or(|it| it.eq_ignore_ascii_case(&event.address))
            && self.site.as_deref().is_none_or(site)
            && self.tag.as_ref().is_none_or(|tag| event.tags.contains(tag))
    }
}

/// A place in the order of events, as a text that says nothing to anybody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub(super) order: Order,
    /// The number of the next event to look at: from here on, or (newest first) below.
    pub(super) seq: u64,
}

/// A text is not a [`Cursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor that was given out here")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::Newest => 'n',
            Order::Oldest => 'o',
        };
        write!(f, "{order}{:x}", self.seq)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (order, digits) = match text.as_bytes().first() {
            Some(b'n') => (Order::Newest, &text[1..]),
            Some(b'o') => (Order::Oldest, &text[1..]),
            _ => return Err(CursorError),
        };
        let is_hex = (1..=16).contains(&digits.len())
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let seq = u64::from_str_radix(digits, 16).map_err(|_| CursorError)?;
        is_hex.then_some(Self { order, seq }).ok_or(CursorError)
    }
}

/// Some of the events asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In the order asked for; at most `limit`. May be empty though there is [`more`](Self::more):
    /// a question that little matches is answered in steps of bounded work.
    pub events: Vec<Event>,
    /// Where the next page begins. Oldest first, it may also be asked at the end, for what came since.
    pub cursor: Cursor,
    /// Whether there was more when this page was made.
    pub more: bool,
}

/// What history knows of one message.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Latest {
    /// Its first recipient's acceptance, unless that is no longer kept.
    pub accepted: Option<Event>,
    /// The last event of each recipient, in the order of the envelope; empty if it is not known.
    pub events: Vec<Event>,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The cursor was given out for the other order.
    #[error("this cursor belongs to a query in the other order")]
    CursorOrder,
    /// History's files could not be read.
    #[error("history could not be read")]
    Read(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        for (order, seq) in [(Order::Newest, 0), (Order::Oldest, u64::MAX)] {
            let cursor = Cursor { order, seq };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in [
            "",
            "n",
            "x1",
            "n+1",
            "n12345678901234567",
            "o 1",
            "nF",
            "n\u{e9}",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
    }
}
