//! Keys: hashes of what events are found by. A hit is checked against the event, so that two that
//! share a hash cost time and nothing else.
//!
//! CRC32C over a letter for the kind of key and its text; addresses in lower case.

use crate::MessageId;

use super::query::Query;

pub(super) fn message(id: u128) -> u32 {
    hash(b'm', &id.to_be_bytes())
}

/// `scratch` is overwritten.
pub(super) fn recipient(address: &str, scratch: &mut Vec<u8>) -> u32 {
    scratch.clear();
    scratch.extend_from_slice(address.as_bytes());
    scratch.make_ascii_lowercase();
    hash(b'r', scratch)
}

pub(super) fn tenant(name: &str) -> u32 {
    hash(b't', name.as_bytes())
}

pub(super) fn site(name: &str) -> u32 {
    hash(b's', name.as_bytes())
}

pub(super) fn tag(name: &str, value: &str) -> u32 {
    let of_name = hash(b'g', name.as_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(of_name, &[0]), value.as_bytes())
}

/// The keys that every event asked for has, the rarest kind first.
pub(super) fn of(query: &Query) -> Vec<u32> {
    let mut scratch = Vec::new();
    let keys = [
        query.message.map(MessageId::bits).map(message),
        query
            .recipient
            .as_deref()
            .map(|it| recipient(it, &mut scratch)),
        query.tag.as_ref().map(|(name, value)| tag(name, value)),
        query.site.as_deref().map(site),
        query.tenant.as_deref().map(tenant),
    ];
    keys.into_iter().flatten().collect()
}

fn hash(kind: u8, text: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), text)
}
