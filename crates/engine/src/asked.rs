//! What edges ask of the engine beside the mail: history, and small state that is to survive.
//!
//! Bodies are still to come; the signatures are what the edges are written against.

use store::Time;
use store::history::{Cursor, Page, Query, QueryError};

use crate::accept::AcceptError;
use crate::engine::Engine;
use crate::views::Filter;

impl Engine {
    /// A page of history. May wait for the disk: call it where that disturbs nobody.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn events(&self, query: &Query) -> Result<Page, QueryError> {
        let start = || "o0".parse::<Cursor>().expect("a cursor's text");
        Ok(Page {
            events: Vec::new(),
            cursor: query.cursor.unwrap_or_else(start),
            more: false,
        })
    }

    /// Takes up recipients that bounced or expired at `since` or later, each at most `times_max`
    /// times over its life. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    #[allow(clippy::unused_async)]
    pub async fn retry_failed(
        &self,
        _filter: &Filter,
        _since: Time,
        _times_max: u16,
    ) -> Result<u64, AcceptError> {
        Ok(0)
    }

    /// Keeps a small value of an edge's own, such as an API key's hash; one under the same key is
    /// replaced. Durable when it returns.
    ///
    /// # Errors
    /// As for `suspend`.
    #[allow(clippy::unused_async)]
    pub async fn keep(&self, _key: &str, _value: &[u8]) -> Result<(), AcceptError> {
        Ok(())
    }

    /// Forgets what was kept under this key; says whether there was anything.
    ///
    /// # Errors
    /// As for `suspend`.
    #[allow(clippy::unused_async)]
    pub async fn forget(&self, _key: &str) -> Result<bool, AcceptError> {
        Ok(false)
    }

    /// What is kept under keys that begin with `prefix`.
    #[must_use]
    pub fn kept(&self, _prefix: &str) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}
