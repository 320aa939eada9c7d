//! Which domains a route is for.

use std::fmt;
use std::str::FromStr;

use smtp::{Domain, DomainError};

/// `*`, `example.org` or `*.example.org`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Pattern {
    /// `*`: every domain.
    All,
    /// This one.
    Exactly(Domain),
    /// Those below it, and not itself.
    Below(Domain),
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// The part that is a domain is none.
    #[error("{0}")]
    Domain(#[from] DomainError),
    /// A star that is not the whole first label.
    #[error("a star stands alone, or for what is below a domain: *.example.org")]
    Star,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (rest, is_below) = match text.strip_prefix("*.") {
            _ if text == "*" => return Ok(Self::All),
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if rest.contains('*') {
            return Err(PatternError::Star);
        }
        let domain: Domain = rest.parse()?;
        Ok(if is_below {
            Self::Below(domain)
        } else {
            Self::Exactly(domain)
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Exactly(domain) => domain.fmt(f),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_prints_as_it_is_written() {
        for text in ["*", "example.org", "*.example.org", "[192.0.2.1]"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!(
            "Bücher.Example".parse::<Pattern>().unwrap().to_string(),
            "xn--bcher-kva.example"
        );
        for text in ["", "**", "*.", "a*.example", "*.*.example", "*example.org"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
