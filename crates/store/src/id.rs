//! Message ids: unique across restarts and machines, in the order of acceptance.
//!
//! A UUID of version 7 (RFC 9562 §5.7): 48 bits of milliseconds, then a counter that never repeats
//! within one millisecond, then bits drawn at start.

use std::fmt;
use std::str::FromStr;

/// One accepted message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

/// Octets of an id's text, and where in it the dashes stand.
const TEXT_LEN: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A text is not a [`MessageId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id looks like 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")]
pub struct IdError;

impl MessageId {
    /// From its bits, as they were read.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// When it was made, to the millisecond.
    #[must_use]
    pub const fn time(self) -> crate::Time {
        crate::Time::from_millis((self.0 >> 80) as u64)
    }

    /// Milliseconds, 12 bits that count within one, and 62 bits of anything.
    #[must_use]
    pub const fn assemble(ms: u64, count: u16, rest: u64) -> Self {
        let ms = (ms as u128 & 0xffff_ffff_ffff) << 80;
        let count = (0x7000 | (count as u128 & 0xfff)) << 64;
        let rest = 0x8000_0000_0000_0000 | (rest as u128 & 0x3fff_ffff_ffff_ffff);
        Self(ms | count | rest)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: it is printed several times for each message, and number formatting is slow.
        let mut text = [b'-'; TEXT_LEN];
        let places = (0..TEXT_LEN).filter(|place| !DASHES.contains(place));
        for (digit, place) in places.enumerate() {
            let nibble = (self.0 >> (124 - 4 * digit)) as usize & 0xf;
            text[place] = b"0123456789abcdef"[nibble];
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text.as_bytes();
        let is_placed = |(index, b): (usize, &u8)| match DASHES.contains(&index) {
            true => *b == b'-',
            false => b.is_ascii_hexdigit(),
        };
        if bytes.len() != TEXT_LEN || !bytes.iter().enumerate().all(is_placed) {
            return Err(IdError);
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|_| IdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_as_a_uuid_of_version_7_and_reads_back() {
        let id = MessageId::assemble(0x0190_a1b2_c3d4, 0xe5f, u64::MAX);
        assert_eq!(id.to_string(), "0190a1b2-c3d4-7e5f-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.time().as_millis(), 0x0190_a1b2_c3d4);
        for wrong in [
            "",
            "0190a1b2c3d47e5fbfffffffffffffff",
            "0190a1b2-c3d4-7e5f-bfff-fffffffffffg",
        ] {
            assert_eq!(wrong.parse::<MessageId>(), Err(IdError), "{wrong}");
        }
    }

    #[test]
    fn ids_sort_by_time_then_count() {
        let ids = [(1, 0, 9), (1, 1, 0), (2, 0, 0)].map(|(ms, n, r)| MessageId::assemble(ms, n, r));
        assert!(ids.is_sorted());
    }
}
