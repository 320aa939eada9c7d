//! Addresses that get no mail: in memory for the question, in the table for good.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use store::{Table, Time};

use crate::views::Suppression;

/// The table's space for suppressions.
const SPACE: u8 = b's';

/// The suppression lists of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Suppressions {
    /// By `tenant NUL address`, the address in lower case: servers that tell local parts apart by
    /// case are rarer than people who write theirs now so, now so.
    all: RwLock<BTreeMap<String, Suppression>>,
}

impl Suppressions {
    /// Reads what the table has.
    pub(crate) fn load(table: &Table) -> Self {
        let mut all = BTreeMap::new();
        for (key, value, _) in table.entries(SPACE) {
            all.extend(read(&key, &value));
        }
        Self {
            all: RwLock::new(all),
        }
    }

    /// Why this address gets no mail of this tenant.
    pub(crate) fn find(&self, tenant: &str, address: &str) -> Option<Suppression> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        all.get(&key(tenant, address)).cloned()
    }

    /// The list of one tenant, in the order of addresses.
    pub(crate) fn list(&self, tenant: &str) -> Vec<Suppression> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = key(tenant, "");
        let mine = all.range(of_tenant.clone()..);
        mine.take_while(|(key, _)| key.starts_with(&of_tenant))
            .map(|(_, suppression)| suppression.clone())
            .collect()
    }

    /// Adds an address; the commit says when it is durable.
    pub(crate) fn add(
        &self,
        table: &Table,
        tenant: &str,
        address: &str,
        reason: &str,
        now: Time,
    ) -> Result<store::Commit, store::TableError> {
        let key = key(tenant, address);
        let suppression = Suppression {
            address: address.into(),
            since: now,
            reason: reason.into(),
        };
        let commit = table.insert(SPACE, key.as_bytes(), &write(&suppression), None)?;
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(key, suppression);
        Ok(commit)
    }

    /// Takes an address off; `None` if it was not there.
    pub(crate) fn remove(
        &self,
        table: &Table,
        tenant: &str,
        address: &str,
    ) -> Result<Option<store::Commit>, store::TableError> {
        let key = key(tenant, address);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if all.remove(&key).is_none() {
            return Ok(None);
        }
        table.remove(SPACE, key.as_bytes()).map(Some)
    }
}

fn key(tenant: &str, address: &str) -> String {
    format!("{tenant}\0{}", address.to_lowercase())
}

/// Time in microseconds (8 octets, big-endian), the address, NUL, the reason.
fn write(suppression: &Suppression) -> Vec<u8> {
    let since_us = u64::try_from(suppression.since.as_micros()).unwrap_or(u64::MAX);
    let mut value = since_us.to_be_bytes().to_vec();
    value.extend_from_slice(suppression.address.as_bytes());
    value.push(0);
    value.extend_from_slice(suppression.reason.as_bytes());
    value
}

fn read(key: &[u8], value: &[u8]) -> Option<(String, Suppression)> {
    let (since_us, rest) = value.split_first_chunk::<8>()?;
    let (address, reason) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
    let suppression = Suppression {
        address: address.into(),
        since: Time::from_micros(u64::from_be_bytes(*since_us)),
        reason: reason.into(),
    };
    Some((std::str::from_utf8(key).ok()?.to_owned(), suppression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suppression_reads_back() {
        let suppression = Suppression {
            address: "Ann@example.org".into(),
            since: Time::from_micros(1_700_000_000_000_001),
            reason: "550 5.1.1 no such user".into(),
        };
        let key = key("shop", "Ann@example.org");
        let found = read(key.as_bytes(), &write(&suppression));
        assert_eq!(
            found,
            Some(("shop\0ann@example.org".to_owned(), suppression))
        );
        assert_eq!(read(key.as_bytes(), b"short"), None);
    }
}
