//! Mailboxes and paths (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! An [`Address`] is kept in one canonical text, `local-part@domain`: quotes only where they are
//! needed, the domain as [`Domain`] keeps it, the local part's case untouched. That text is valid
//! on the wire as it stands. Limits: local part 64 octets, path 256 (§4.5.3.1).

use std::fmt;
use std::str::FromStr;

use crate::domain::{Domain, DomainError, is_canonical_name};

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No `@` outside quotes.
    #[error("there is no @ in the address")]
    NoAt,
    /// Nothing before the `@`.
    #[error("nothing stands before the @")]
    EmptyLocal,
    /// Over 64 octets before the `@`.
    #[error("the part before the @ is longer than 64 octets")]
    LocalTooLong,
    /// A control character, or one that needs quotes and has none.
    #[error("the part before the @ has a character that is not allowed there")]
    LocalCharacter,
    /// A dot at an edge, or two in a row, without quotes.
    #[error("a dot stands at the edge of the part before the @, or two in a row")]
    LocalDots,
    /// A quoted string that does not end, or goes on after its end.
    #[error("the quotes in the part before the @ are not closed")]
    LocalQuotes,
    /// What stands after the `@`.
    #[error("{0}")]
    Domain(#[from] DomainError),
    /// Longer than a path may be.
    #[error("the address is longer than 254 octets")]
    TooLong,
}

/// A mailbox: local part and domain, both valid.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Canonical `local@domain`; what is written between `<` and `>`.
    text: Box<str>,
    /// Index of the `@` that divides `text`.
    at: u8,
}

impl Address {
    /// Longest canonical text in octets: a path of 256 less its brackets (RFC 5321 §4.5.3.1.3).
    pub const LEN_MAX: usize = 254;
    /// Longest local part in octets (RFC 5321 §4.5.3.1.1).
    pub const LOCAL_LEN_MAX: usize = 64;

    /// The canonical text, fit for the wire between angle brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes included where needed.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// What stands after the `@`, canonical (see [`Domain`]).
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// Whether the local part needs SMTPUTF8 (RFC 6531); a domain never does.
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.local_part().is_ascii()
    }

    /// Joins a local part as it is *meant* (unquoted) and a domain.
    ///
    /// # Errors
    /// Control characters and lengths over the limits.
    pub fn new(local: &str, domain: &Domain) -> Result<Self, AddressError> {
        let mut text = String::with_capacity(local.len() + domain.as_str().len() + 3);
        push_local(&mut text, local)?;
        Self::assemble(text, domain)
    }

    fn assemble(mut text: String, domain: &Domain) -> Result<Self, AddressError> {
        if text.len() > Self::LOCAL_LEN_MAX {
            return Err(AddressError::LocalTooLong);
        }
        let at = u8::try_from(text.len()).map_err(|_| AddressError::LocalTooLong)?;
        text.push('@');
        text.push_str(domain.as_str());
        if text.len() > Self::LEN_MAX {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            text: text.into(),
            at,
        })
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `local@domain`, quoted or not, without angle brackets or display name.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(at) = canonical_at(text.as_bytes()) {
            return Ok(Self {
                text: text.into(),
                at,
            });
        }
        let (local, domain) = if let Some(rest) = text.strip_prefix('"') {
            let (meant, rest) = unquote(rest)?;
            let mut local = String::with_capacity(meant.len() + 2);
            push_local(&mut local, &meant)?;
            (local, rest.strip_prefix('@').ok_or(AddressError::NoAt)?)
        } else {
            let (local, domain) = text.split_once('@').ok_or(AddressError::NoAt)?;
            check_dot_string(local)?;
            (local.to_owned(), domain)
        };
        Self::assemble(local, &domain.parse()?)
    }
}

/// The common case, seen in one pass and copied once: an ASCII dot-string at a canonical name.
fn canonical_at(text: &[u8]) -> Option<u8> {
    let at = memchr::memchr(b'@', text)?;
    let (local, domain) = (&text[..at], &text[at + 1..]);
    // No dot at an edge, none after another: as if there were one before the first octet.
    let (mut is_dot_string, mut previous) = (true, b'.');
    for &b in local {
        is_dot_string &= ATEXT_OR_DOT[usize::from(b)] && (b != b'.' || previous != b'.');
        previous = b;
    }
    is_dot_string &= previous != b'.';
    let fits = (1..=Address::LOCAL_LEN_MAX).contains(&at) && text.len() <= Address::LEN_MAX;
    (fits && is_dot_string && !domain.is_empty() && is_canonical_name(domain))
        .then_some(u8::try_from(at).ok()?)
}

/// ASCII `atext` and the dot.
const ATEXT_OR_DOT: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let others = b".!#$%&'*+-/=?^_`{|}~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// Dot-string: atoms of `atext` (UTF-8 included, RFC 6531 §3.3) divided by single dots.
fn check_dot_string(local: &str) -> Result<(), AddressError> {
    if local.is_empty() {
        return Err(AddressError::EmptyLocal);
    }
    if local.chars().any(|c| c != '.' && !is_atext(c)) {
        return Err(AddressError::LocalCharacter);
    }
    if local.split('.').any(str::is_empty) {
        return Err(AddressError::LocalDots);
    }
    Ok(())
}

/// RFC 5322 §3.2.3 `atext`, with RFC 6531's UTF8-non-ascii but no C1 controls.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_control())
}

/// Appends the shortest valid spelling of a local part: a dot-string if it can be one.
fn push_local(text: &mut String, meant: &str) -> Result<(), AddressError> {
    if check_dot_string(meant).is_ok() {
        text.push_str(meant);
        return Ok(());
    }
    if meant.chars().any(char::is_control) {
        return Err(AddressError::LocalCharacter);
    }
    text.push('"');
    for c in meant.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    Ok(())
}

/// Reads a quoted string after its opening quote; gives what it means and what follows it.
fn unquote(text: &str) -> Result<(String, &str), AddressError> {
    let mut meant = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Ok((meant, &text[index + 1..])),
            '\\' => meant.push(chars.next().ok_or(AddressError::LocalQuotes)?.1),
            _ => meant.push(c),
        }
    }
    Err(AddressError::LocalQuotes)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// Where failure notices go: an address, or nowhere (RFC 5321 §4.5.5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReversePath {
    /// `<>`: a notice about this mail must never cause another.
    Null,
    /// A mailbox.
    Address(Address),
}

impl ReversePath {
    /// The mailbox, unless null.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }
}

impl From<Address> for ReversePath {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    /// Reads `local@domain`, or `<>` or nothing for the null reverse-path.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text {
            "" | "<>" => Ok(Self::Null),
            _ => text.parse().map(Self::Address),
        }
    }
}

impl fmt::Display for ReversePath {
    /// With its angle brackets, as after `MAIL FROM:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Address(address) => write!(f, "<{address}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_canonical() {
        for (text, canonical) in [
            ("a@example.org", "a@example.org"),
            ("A.b+c@EXAMPLE.org", "A.b+c@example.org"),
            ("\"a\"@example.org", "a@example.org"),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("\"a\\\"b\"@example.org", "\"a\\\"b\"@example.org"),
            ("\"a@b\"@example.org", "\"a@b\"@example.org"),
            ("\"\"@example.org", "\"\"@example.org"),
            ("post@[192.0.2.7]", "post@[192.0.2.7]"),
            ("jörg@bücher.example", "jörg@xn--bcher-kva.example"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(address.as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let long = format!("{}@example.org", "a".repeat(65));
        for (text, error) in [
            ("", AddressError::NoAt),
            ("a", AddressError::NoAt),
            ("@example.org", AddressError::EmptyLocal),
            ("a@", AddressError::Domain(DomainError::Empty)),
            ("a b@example.org", AddressError::LocalCharacter),
            ("a\r\nRCPT@example.org", AddressError::LocalCharacter),
            ("\"a\r\nb\"@example.org", AddressError::LocalCharacter),
            ("\"a\0\"@example.org", AddressError::LocalCharacter),
            ("a..b@example.org", AddressError::LocalDots),
            (".a@example.org", AddressError::LocalDots),
            ("\"a@example.org", AddressError::LocalQuotes),
            ("\"a\"b@example.org", AddressError::NoAt),
            ("a@b@example.org", AddressError::Domain(DomainError::Name)),
            ("a@example.org\r\n", AddressError::Domain(DomainError::Name)),
            (
                "a@example.org> SIZE=1",
                AddressError::Domain(DomainError::Name),
            ),
            (&long, AddressError::LocalTooLong),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_gives_what_the_long_way_gives(
            local in "[a-zA-Z0-9.!+@é\"-]{0,6}",
            domain in "[a-zA-Z.-]{0,6}",
        ) {
            let text = format!("{local}@{domain}");
            if let Some(at) = canonical_at(text.as_bytes()) {
                prop_assert_eq!(usize::from(at), local.len());
                prop_assert_eq!(check_dot_string(&local), Ok(()));
                prop_assert_eq!(domain.parse::<Domain>().unwrap().to_string(), domain);
            }
        }

        #[test]
        fn what_is_written_parses_back(local in "\\PC{1,20}", domain in "[a-z]{1,9}(\\.[a-z]{2,5})?") {
            if let Ok(address) = Address::new(&local, &domain.parse().unwrap()) {
                prop_assert_eq!(address.as_str().parse::<Address>().unwrap(), address);
            }
        }

        #[test]
        fn no_text_yields_an_address_with_a_line_break(text in "(?s).{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(!address.as_str().bytes().any(|b| b.is_ascii_control()));
                prop_assert_eq!(address.as_str().parse::<Address>().unwrap(), address);
            }
        }
    }
}
