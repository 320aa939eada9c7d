//! A mailbox with its display name (RFC 5322 §3.4).

use std::fmt;
use std::str::FromStr;

use smtp::{Address, AddressError};

/// Why a text is not a [`Mailbox`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// `<` without `>` at the end, or quotes that are not closed.
    #[error("the mailbox is not of the form name <local@domain>")]
    Form,
    /// What should be an address is none.
    #[error("{0}")]
    Address(#[from] AddressError),
}

/// Somebody: an address and, where known, a name to show.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    name: Option<Box<str>>,
    address: Address,
}

impl Mailbox {
    /// With a name; one that is blank counts as none. Control characters are found when a message
    /// is composed, where the error can name the header.
    #[must_use]
    pub fn named(name: &str, address: Address) -> Self {
        let name = name.trim();
        Self {
            name: (!name.is_empty()).then(|| name.into()),
            address,
        }
    }

    /// The name to show, not encoded.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl From<Address> for Mailbox {
    fn from(address: Address) -> Self {
        Self {
            name: None,
            address,
        }
    }
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    /// Reads `local@domain`, `<local@domain>`, `Name <local@domain>` or `"Name" <local@domain>`.
    fn from_str(text: &str) -> Result<Self, MailboxError> {
        let text = text.trim();
        let Some(inner) = text.strip_suffix('>') else {
            return Ok(Self::from(text.parse::<Address>()?));
        };
        let (name, address) = inner.rsplit_once('<').ok_or(MailboxError::Form)?;
        Ok(Self::named(&unquoted(name.trim())?, address.parse()?))
    }
}

/// What a display name means: without its quotes, if it has any.
fn unquoted(name: &str) -> Result<String, MailboxError> {
    let Some(rest) = name.strip_prefix('"') else {
        return Ok(name.to_owned());
    };
    let mut meant = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if chars.as_str().is_empty() => return Ok(meant),
            '"' => return Err(MailboxError::Form),
            '\\' => meant.push(chars.next().ok_or(MailboxError::Form)?),
            _ => meant.push(c),
        }
    }
    Err(MailboxError::Form)
}

impl fmt::Display for Mailbox {
    /// For people and logs; not encoded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => write!(f, "{}", self.address),
            Some(name) => write!(f, "{name} <{}>", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_read_as_people_write_them() {
        for (text, name, address) in [
            ("a@example.org", None, "a@example.org"),
            (" <a@example.org> ", None, "a@example.org"),
            ("Ann Lee <a@example.org>", Some("Ann Lee"), "a@example.org"),
            (
                "\"Lee, \\\"A\\\"\" <a@example.org>",
                Some("Lee, \"A\""),
                "a@example.org",
            ),
        ] {
            let mailbox: Mailbox = text.parse().unwrap();
            assert_eq!(mailbox.name(), name);
            assert_eq!(mailbox.address().as_str(), address);
        }
        for text in ["", "a", "a@example.org>", "\"a <a@example.org>", "x <a>"] {
            assert!(text.parse::<Mailbox>().is_err(), "{text}");
        }
    }
}
