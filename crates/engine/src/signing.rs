//! Which key signs a message: that of its author's domain, or of the nearest domain above it.

use std::sync::Arc;

use message::dkim::Signer;
use rustc_hash::FxHashMap;
use smtp::{Content, Domain};

/// DKIM signers by domain (RFC 6376).
#[derive(Clone, Debug, Default)]
pub struct Signers(FxHashMap<Box<str>, Arc<Signer>>);

impl Signers {
    /// Signs mail from this domain and those below it that have no signer of their own.
    pub fn insert(&mut self, domain: &Domain, signer: Signer) {
        self.0.insert(domain.as_str().into(), Arc::new(signer));
    }

    /// The signer for a message, by the domain of its From field.
    #[must_use]
    pub fn find(&self, content: &Content) -> Option<&Arc<Signer>> {
        if self.0.is_empty() {
            return None;
        }
        let domain: Domain = author_domain(content.as_bytes())?.parse().ok()?;
        let mut name = domain.as_str();
        loop {
            if let Some(signer) = self.0.get(name) {
                return Some(signer);
            }
            name = name.split_once('.')?.1;
        }
    }
}

/// What stands after the last `@` of the From field. Display names may hold an `@`; the address
/// itself comes last.
fn author_domain(content: &[u8]) -> Option<&str> {
    let field = from_field(content)?;
    let at = field.iter().rposition(|b| *b == b'@')?;
    let rest = &field[at + 1..];
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let len = rest.iter().position(|b| !is_name(b)).unwrap_or(rest.len());
    std::str::from_utf8(&rest[..len]).ok()
}

/// The value of the first From field, folded lines and all.
fn from_field(content: &[u8]) -> Option<&[u8]> {
    let mut rest = content;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        let mut end = line_end(rest, 0);
        while matches!(rest.get(end), Some(b' ' | b'\t')) {
            end = line_end(rest, end);
        }
        let (field, after) = rest.split_at(end);
        if field.len() > 5 && field[..5].eq_ignore_ascii_case(b"from:") {
            return Some(&field[5..]);
        }
        rest = after;
    }
    None
}

fn line_end(text: &[u8], from: usize) -> usize {
    let found = text[from..].iter().position(|b| *b == b'\n');
    found.map_or(text.len(), |place| from + place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_domain_is_read_from_the_from_field() {
        for (content, domain) in [
            ("From: a@example.org\r\n\r\n", Some("example.org")),
            (
                "X: 1\r\nfrom: \"a@b\" <c@Example.org>\r\n\r\n",
                Some("Example.org"),
            ),
            (
                "From: A\r\n <a@example.org>\r\nTo: b@example.net\r\n\r\n",
                Some("example.org"),
            ),
            ("To: b@example.net\r\n\r\nFrom: a@example.org\r\n", None),
            ("From: nobody\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(author_domain(content.as_bytes()), domain, "{content:?}");
        }
    }

    #[test]
    fn a_domain_below_uses_the_key_of_the_one_above() {
        let key = message::dkim::SigningKey::generate(message::dkim::Algorithm::Ed25519).unwrap();
        let domain: Domain = "example.org".parse().unwrap();
        let mut signers = Signers::default();
        signers.insert(&domain, Signer::new(domain.clone(), "s", key).unwrap());
        let from = |address: &str| {
            let text = format!("From: {address}\r\n\r\n");
            signers.find(&Content::new(text).unwrap()).is_some()
        };
        assert!(from("a@example.org") && from("a@mail.example.org"));
        assert!(!from("a@example.net") && !from("a@notexample.org"));
    }
}
