//! Enhanced status codes, RFC 3463 §2: `class.subject.detail`.

use std::fmt;

/// `class.subject.detail`, such as 5.1.1; class is 2, 4 or 5, the others at most 999.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedStatus {
    /// `None` where a part is out of its range.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Option<Self> {
        if matches!(class, 2 | 4 | 5) && subject <= 999 && detail <= 999 {
            Some(Self {
                class,
                subject,
                detail,
            })
        } else {
            None
        }
    }

    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.class
    }

    /// What it is about: 1 addressing, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    #[must_use]
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The detail within its subject.
    #[must_use]
    pub const fn detail(self) -> u16 {
        self.detail
    }

    /// Reads a code at the very start of a reply's text; gives it and the octets it took,
    /// the one space after it included.
    #[must_use]
    pub fn parse_prefix(text: &[u8]) -> Option<(Self, usize)> {
        let (class, rest) = (text.first()?.wrapping_sub(b'0'), text.get(1..)?);
        let (subject, rest) = part(rest)?;
        let (detail, rest) = part(rest)?;
        let status = Self::new(class, subject, detail)?;
        match rest.first() {
            None => Some((status, text.len())),
            Some(b' ') => Some((status, text.len() - rest.len() + 1)),
            Some(_) => None,
        }
    }
}

/// Reads `.` and one to three digits.
fn part(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.strip_prefix(b".")?;
    let len = digits
        .iter()
        .take(4)
        .take_while(|b| b.is_ascii_digit())
        .count();
    if !(1..=3).contains(&len) {
        return None;
    }
    let value = digits[..len]
        .iter()
        .fold(0, |sum, b| sum * 10 + u16::from(b - b'0'));
    Some((value, &digits[len..]))
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_only_where_it_is_whole() {
        for (text, code) in [
            ("2.0.0 Ok", Some(("2.0.0", 6))),
            ("5.1.1", Some(("5.1.1", 5))),
            ("4.7.123 x", Some(("4.7.123", 8))),
            ("3.1.1 x", None),
            ("5.1 x", None),
            ("5.1.1234 x", None),
            ("5.1.1x", None),
            ("5..1 x", None),
            ("", None),
        ] {
            let got = EnhancedStatus::parse_prefix(text.as_bytes());
            let want = code.map(|(code, len)| (code.to_owned(), len));
            assert_eq!(
                got.map(|(code, len)| (code.to_string(), len)),
                want,
                "{text}"
            );
        }
    }
}
