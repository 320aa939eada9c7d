//! What each address and each tenant takes up, so that none takes it all.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One more failed AUTH is forgiven after this.
pub(crate) const FAILURE_FORGIVEN: Duration = Duration::from_secs(10);

/// Where a client comes from. Whoever has one IPv6 address has all of its /64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin(u64, bool);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits()), false),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64, true),
        }
    }
}

/// What one origin or tenant has.
#[derive(Debug, Default)]
pub(crate) struct Account {
    connections: AtomicU32,
    failures: Bucket,
    messages: Bucket,
}

impl Account {
    /// Notes a failed AUTH; `false` where there were too many.
    pub(crate) fn note_failure(&self, now_ns: u64, failures_max: u32) -> bool {
        self.failures
            .take(now_ns, FAILURE_FORGIVEN.as_nanos() as u64, failures_max)
    }

    /// Whether too many AUTH commands have failed lately.
    pub(crate) fn has_failed_too_often(&self, now_ns: u64, failures_max: u32) -> bool {
        let interval_ns = FAILURE_FORGIVEN.as_nanos() as u64;
        !self.failures.has_room(now_ns, interval_ns, failures_max)
    }

    /// Notes a message; `false` where there were too many within a second.
    pub(crate) fn note_message(&self, now_ns: u64, per_s_max: u32) -> bool {
        let per_s_max = per_s_max.max(1);
        self.messages
            .take(now_ns, 1_000_000_000 / u64::from(per_s_max), per_s_max)
    }

    fn is_forgettable(&self, now_ns: u64) -> bool {
        self.connections.load(Relaxed) == 0
            && self.failures.is_full(now_ns)
            && self.messages.is_full(now_ns)
    }
}

/// A rate with a burst (the generic cell rate algorithm): the time at which all would be free.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, now_ns: u64, interval_ns: u64, burst: u32) -> bool {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |free_at| {
            let free_at = free_at.max(now_ns) + interval_ns;
            (free_at - now_ns <= interval_ns * u64::from(burst)).then_some(free_at)
        });
        taken.is_ok()
    }

    fn has_room(&self, now_ns: u64, interval_ns: u64, burst: u32) -> bool {
        let ahead_ns = self.0.load(Relaxed).saturating_sub(now_ns);
        ahead_ns + interval_ns <= interval_ns * u64::from(burst)
    }

    fn is_full(&self, now_ns: u64) -> bool {
        self.0.load(Relaxed) <= now_ns
    }
}

/// Accounts by origin, or by tenant.
#[derive(Debug)]
pub(crate) struct Accounts<K>(Mutex<HashMap<K, Arc<Account>>>);

impl<K> Default for Accounts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Accounts<K> {
    /// One connection more.
    pub(crate) fn enter(&self, key: K) -> Entered {
        let account = Arc::clone(self.lock().entry(key).or_default());
        let connections = account.connections.fetch_add(1, Relaxed) + 1;
        Entered {
            account,
            connections,
        }
    }

    /// Forgets who has no connection and has done nothing lately.
    pub(crate) fn forget_idle(&self, now_ns: u64) {
        self.lock()
            .retain(|_, account| Arc::strong_count(account) > 1 || !account.is_forgettable(now_ns));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Account>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in an account, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    account: Arc<Account>,
    /// Connections of the account when this one came, itself included.
    pub(crate) connections: u32,
}

impl std::ops::Deref for Entered {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.account.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_account_counts_until_its_last_connection_ends_and_is_then_forgotten() {
        let accounts = Accounts::default();
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        let first = accounts.enter(origin("2001:db8::1"));
        let second = accounts.enter(origin("2001:db8::ffff:0:0:1"));
        assert_eq!((first.connections, second.connections), (1, 2));
        assert_eq!(accounts.enter(origin("2001:db8:0:1::1")).connections, 1);
        assert_eq!(accounts.enter(origin("192.0.2.1")).connections, 1);
        drop(first);
        accounts.forget_idle(0);
        assert_eq!(accounts.enter(origin("2001:db8::2")).connections, 2);
        assert_eq!(accounts.lock().len(), 1);
    }

    #[test]
    fn failures_are_forgiven_one_after_the_other() {
        let account = Account::default();
        for _ in 0..3 {
            assert!(account.note_failure(0, 3));
        }
        assert!(account.has_failed_too_often(0, 3) && !account.note_failure(0, 3));
        assert!(!account.is_forgettable(29 * SECOND) && account.is_forgettable(30 * SECOND));
        assert!(!account.has_failed_too_often(10 * SECOND, 3));
        assert!(account.note_failure(10 * SECOND, 3));
        assert!(account.has_failed_too_often(10 * SECOND, 3));
    }

    #[test]
    fn messages_are_as_many_as_the_rate_says() {
        let account = Account::default();
        let taken = (0..100)
            .filter(|i| account.note_message(i * SECOND / 10, 4))
            .count();
        assert!((40..=44).contains(&taken), "{taken} in 10 seconds");
    }
}
