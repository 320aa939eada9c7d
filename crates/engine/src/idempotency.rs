//! The same request twice makes one message: keys that applications choose, kept for 24 hours.
//!
//! A key is claimed, durably and with the ids its messages will have, before the first of them is
//! accepted. Whoever comes with the key again, after a crash too, gets the same ids, and is told
//! which of them have their message. So whatever moment a crash chooses, a request that is repeated
//! yields each message once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use store::MessageId;

use crate::Accepted;

/// How long a key is remembered.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest key, in characters.
pub const KEY_LEN_MAX: usize = 256;

/// A digest of the request's body, by which a repetition is told from another request.
pub type Fingerprint = [u8; 32];

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Empty, or over [`KEY_LEN_MAX`] characters.
    #[error("an idempotency key has 1 to 256 characters")]
    Key,
    /// The key was used with another body.
    #[error("this idempotency key was used for another request")]
    OtherRequest,
    /// The same request is being worked on at this moment.
    #[error("a request with this idempotency key is still being worked on")]
    InFlight,
    /// The key was used, and history no longer says for what: whether anything was sent, nobody knows.
    #[error("this idempotency key was used before, and what for is no longer known")]
    Forgotten,
    /// It could not be made durable.
    #[error(transparent)]
    Accept(#[from] crate::AcceptError),
}

/// A key that this request holds until the claim is dropped.
#[derive(Debug)]
pub struct Claim {
    /// The ids its messages have or are to have, in the request's order.
    pub ids: Vec<MessageId>,
    /// What was accepted under each id before. A message that was is not accepted again; for one that
    /// was not, its id is [`crate::Options::id`].
    pub accepted: Vec<Option<Accepted>>,
    /// The key had been claimed before: some or all of the messages may have been accepted.
    pub is_repeated: bool,
    pub(crate) held: Held,
}

/// Keys that requests in flight hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Arc<Mutex<FxHashSet<Box<str>>>>);

/// One such key; freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: InFlight,
    key: Box<str>,
}

impl Held {
    /// As in the table.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

impl InFlight {
    /// Holds the key, unless a twin does.
    pub(crate) fn hold(&self, key: &str) -> Option<Held> {
        let is_free = self.lock().insert(key.into());
        is_free.then(|| Held {
            all: self.clone(),
            key: key.into(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, FxHashSet<Box<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

/// The key in the table: tenants do not see each other's.
pub(crate) fn table_key(tenant: &str, key: &str) -> Result<String, ClaimError> {
    if key.is_empty() || key.chars().count() > KEY_LEN_MAX {
        return Err(ClaimError::Key);
    }
    Ok(format!("{tenant}\0{key}"))
}

/// The value in the table: fingerprint, then ids of 16 octets each, big-endian.
pub(crate) fn encode(fingerprint: &Fingerprint, ids: &[MessageId]) -> Vec<u8> {
    let mut value = Vec::with_capacity(fingerprint.len() + ids.len() * 16);
    value.extend_from_slice(fingerprint);
    for id in ids {
        value.extend_from_slice(&id.bits().to_be_bytes());
    }
    value
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub(crate) fn decode(value: &[u8]) -> Option<(Fingerprint, Vec<MessageId>)> {
    let (fingerprint, ids) = value.split_first_chunk::<32>()?;
    let (ids, rest) = ids.as_chunks::<16>();
    let ids = ids
        .iter()
        .map(|id| MessageId::from_bits(u128::from_be_bytes(*id)));
    rest.is_empty().then(|| (*fingerprint, ids.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_in_flight_is_seen_until_the_first_has_ended() {
        let all = InFlight::default();
        let first = all.hold("a\0k").unwrap();
        assert!(all.hold("a\0k").is_none());
        assert!(all.hold("b\0k").is_some());
        drop(first);
        assert!(all.hold("a\0k").is_some());
    }

    #[test]
    fn a_value_reads_back_and_nothing_else_does() {
        let ids = [1, 2].map(MessageId::from_bits);
        let value = encode(&[7; 32], &ids);
        assert_eq!(decode(&value), Some(([7; 32], ids.to_vec())));
        assert_eq!(decode(&value[..40]), None);
        assert_eq!(decode(b"short"), None);
    }

    #[test]
    fn keys_are_of_a_tenant_and_bounded() {
        assert_ne!(table_key("a", "k"), table_key("b", "k"));
        assert_eq!(table_key("a", ""), Err(ClaimError::Key));
        assert!(table_key("a", &"ü".repeat(256)).is_ok());
        assert_eq!(table_key("a", &"ü".repeat(257)), Err(ClaimError::Key));
    }
}
