//! What edges ask of the engine beside the mail: history, and small state that is to survive.

use store::history::{MinuteStats, Page, Query, QueryError};
use store::{Commit, TableError, Time};

use crate::accept::AcceptError;
use crate::engine::Engine;
use crate::intake::{lost, table_refusal};
use crate::statistics::{Fold, Statistics, StatisticsQuery, TooManyLines};
use crate::views::Filter;

/// The table's space for what edges keep.
const SPACE: u8 = b'e';

impl Engine {
    /// A page of history; the first of a question knows all that was recorded before. May wait for
    /// the disk: call it where that disturbs nobody.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn events(&self, query: &Query) -> Result<Page, QueryError> {
        if query.cursor.is_none() {
            self.core.catch_up();
        }
        self.core.history.query(query)
    }

    /// How much happened when, all that was recorded before included. May wait for the disk, longer for
    /// what is over a day old.
    ///
    /// # Errors
    /// [`TooManyLines`].
    pub fn statistics(&self, query: &StatisticsQuery) -> Result<Statistics, TooManyLines> {
        self.core.catch_up();
        let mut fold = Fold::new(query);
        let add = &mut |minute: &MinuteStats| fold.add(minute);
        self.core.history.each_minute(query.from, query.to, add);
        fold.end()
    }

    /// Whether anything is known of a tenant: the configuration names it, mail of it has come, something
    /// was said of it, or history has something of it. May wait for the disk.
    #[must_use]
    pub fn knows_tenant(&self, name: &str) -> bool {
        self.core.knows_tenant(name) || self.has_history(name)
    }

    fn has_history(&self, tenant: &str) -> bool {
        let query = Query {
            tenant: Some(tenant.into()),
            limit: 1,
            ..Query::default()
        };
        // Where it cannot be read, nobody is told that there is no such tenant.
        let page = self.core.history.query(&query);
        page.map_or(true, |page| !page.events.is_empty())
    }

    /// Takes up recipients that bounced or expired at `since` or later, each at most `times_max`
    /// times over its life. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn retry_failed(
        &self,
        filter: &Filter,
        since: Time,
        times_max: u16,
    ) -> Result<u64, AcceptError> {
        self.core.retry_failed(filter, since, times_max).await
    }

    /// Keeps a small value of an edge's own, such as an API key's hash; one under the same key is
    /// replaced. Durable when it returns.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn keep(&self, key: &str, value: &[u8]) -> Result<(), AcceptError> {
        durable(self.core.table.insert(SPACE, key.as_bytes(), value, None)).await
    }

    /// Forgets what was kept under this key; says whether there was anything.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn forget(&self, key: &str) -> Result<bool, AcceptError> {
        let table = &self.core.table;
        if table.get(SPACE, key.as_bytes()).is_none() {
            return Ok(false);
        }
        durable(table.remove(SPACE, key.as_bytes())).await?;
        Ok(true)
    }

    /// What is kept under keys that begin with `prefix`, in no order.
    #[must_use]
    pub fn kept(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let entries = self.core.table.entries(SPACE).into_iter();
        let texts = entries.filter_map(|(key, value, _)| {
            let key = std::str::from_utf8(&key).ok()?.to_owned();
            Some((key, value.to_vec()))
        });
        texts.filter(|(key, _)| key.starts_with(prefix)).collect()
    }
}

/// Waits until a change of the table is durable.
pub(crate) async fn durable(begun: Result<Commit, TableError>) -> Result<(), AcceptError> {
    begun
        .map_err(|error| table_refusal(&error))?
        .await
        .map_err(lost)
}
