//! The part of an address after the `@`: a DNS name or an address literal.
//!
//! A name is kept as lower-case A-labels (RFC 5890), whatever way it was written, so that two
//! spellings of one domain are equal and the wire never needs SMTPUTF8 for a domain's sake.
//! Limits: 255 octets, labels of 63 (RFC 5321 §4.5.3.1.2, RFC 1035 §2.3.4).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why a text is not a [`Domain`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// Nothing there.
    #[error("the domain is empty")]
    Empty,
    /// Over 255 octets, or a label over 63.
    #[error("the domain or one of its labels is too long")]
    TooLong,
    /// Not a host name, by IDNA (UTS 46) or by the letters-digits-hyphen rule.
    #[error("the domain is not a valid host name")]
    Name,
    /// `[…]` around something that is no IPv4 address, `IPv6:` address or tagged literal.
    #[error("the address literal is malformed")]
    Literal,
}

/// A DNS name or address literal, RFC 5321 §4.1.2 `Domain / address-literal`, in canonical form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

impl Domain {
    /// Longest text accepted and produced, in octets.
    pub const LEN_MAX: usize = 255;

    /// The wire form: lower-case A-labels, or a literal with its brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a `[…]` literal and not a name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.0.starts_with('[')
    }

    /// The address in an IPv4 or IPv6 literal; `None` for names and other literals.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        let inner = self.0.strip_prefix('[')?.strip_suffix(']')?;
        match inner.strip_prefix("IPv6:") {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }

    /// The literal of an address, as in `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    #[must_use]
    pub fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(format!("[{v4}]").into()),
            IpAddr::V6(v6) => Self(format!("[IPv6:{v6}]").into()),
        }
    }

    fn parse_name(text: &str) -> Result<Self, DomainError> {
        if is_canonical_name(text.as_bytes()) {
            return Ok(Self(text.into()));
        }
        if text.len() > 4 * Self::LEN_MAX {
            return Err(DomainError::TooLong);
        }
        let name = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::STD3)
            .map_err(|_| DomainError::Name)?;
        if name.len() > Self::LEN_MAX || name.split('.').any(|label| label.len() > 63) {
            return Err(DomainError::TooLong);
        }
        // UTS 46 lets empty labels and edge hyphens through in places; the wire does not.
        let sound =
            |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
        if !name.split('.').all(sound) {
            return Err(DomainError::Name);
        }
        Ok(Self(name.into()))
    }

    fn parse_literal(text: &str) -> Result<Self, DomainError> {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or(DomainError::Literal)?;
        if let Ok(v4) = inner.parse::<Ipv4Addr>() {
            return Ok(Self::from_ip(v4.into()));
        }
        let (tag, value) = inner.split_once(':').ok_or(DomainError::Literal)?;
        if tag.eq_ignore_ascii_case("IPv6") {
            let v6 = value
                .parse::<Ipv6Addr>()
                .map_err(|_| DomainError::Literal)?;
            return Ok(Self::from_ip(v6.into()));
        }
        let tag_ok = !tag.is_empty()
            && !tag.ends_with('-')
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        // dcontent, RFC 5321 §4.1.3, less what ends or hides the end of a path for many who read
        // one. No literal in use has these: IPv6 is the one tag that is registered.
        let dcontent = |b| matches!(b, 33..=90 | 94..=126) && !matches!(b, b'<' | b'>' | b'"');
        let value_ok = !value.is_empty() && value.bytes().all(dcontent);
        if tag_ok && value_ok && text.len() <= Self::LEN_MAX {
            Ok(Self(text.into()))
        } else {
            Err(DomainError::Literal)
        }
    }
}

/// The common case, seen in one pass and without IDNA's tables: lower-case LDH labels, none of
/// them an `xn--` label whose punycode would need checking.
pub(crate) fn is_canonical_name(name: &[u8]) -> bool {
    name.len() <= Domain::LEN_MAX
        && name.split(|&b| b == b'.').all(|label| {
            matches!(label, [first, .., last] | [first @ last]
                if *first != b'-' && *last != b'-')
                && label.len() <= 63
                && !matches!(label, [b'x', b'n', b'-', b'-', ..])
                && label
                    .iter()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        match text.as_bytes().first() {
            None => Err(DomainError::Empty),
            Some(b'[') => Self::parse_literal(text),
            Some(_) => Self::parse_name(text),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_lower_case_a_labels() {
        for (text, wire) in [
            ("example.org", "example.org"),
            ("EXAMPLE.Org", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("a-b.c", "a-b.c"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), wire, "{text}");
        }
    }

    #[test]
    fn literals_are_checked_and_canonical() {
        for (text, wire) in [
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
            ("[tag:anything]", "[tag:anything]"),
        ] {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), wire, "{text}");
        }
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "a b",
            "a_b.example",
            "[",
            "[]",
            "[1.2.3]",
            "[IPv6:zz]",
            "[300.1.1.1]",
            "a\r\nb",
            "a\0b",
            "example.org.",
            "[a:b c]",
            "[x:\r\n]",
            "[x:>]",
            "[x:<]",
            "[x:\"]",
            &long,
            "a@b",
            "<a>",
        ] {
            assert!(text.parse::<Domain>().is_err(), "{text:?}");
        }
    }
}
