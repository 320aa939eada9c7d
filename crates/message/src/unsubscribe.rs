//! List-Unsubscribe (RFC 2369 §3.2) with one-click (RFC 8058).

use crate::header::HeaderWriter;

/// Why a URI cannot stand in List-Unsubscribe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsubscribeError {
    /// No URI at all.
    #[error("List-Unsubscribe needs a URI")]
    Empty,
    /// One-click is an HTTPS POST (RFC 8058 §3.1); plain http shows the reader's token to everybody.
    #[error("List-Unsubscribe takes https: and mailto: URIs only, not {0:?}")]
    Scheme(String),
    /// A character that has no place in a URI between angle brackets, or over 900 octets.
    #[error("List-Unsubscribe has a malformed URI: {0:?}")]
    Uri(String),
}

/// How to leave the list: one https URI, one mailto URI, or both and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListUnsubscribe {
    uris: Vec<Box<str>>,
    one_click: bool,
}

impl ListUnsubscribe {
    const URI_LEN_MAX: usize = 900;

    /// With one https URI or more, the message offers one-click (RFC 8058): that URI must accept
    /// `POST` with the body `List-Unsubscribe=One-Click`, without a login and without redirecting.
    ///
    /// # Errors
    /// Nothing given, another scheme, or a character that a URI cannot have.
    pub fn new<U: AsRef<str>>(uris: &[U]) -> Result<Self, UnsubscribeError> {
        let mut checked = Vec::with_capacity(uris.len());
        let mut one_click = false;
        for uri in uris {
            let uri = uri.as_ref().trim();
            one_click |= check(uri)?;
            checked.push(uri.into());
        }
        if checked.is_empty() {
            return Err(UnsubscribeError::Empty);
        }
        Ok(Self {
            uris: checked,
            one_click,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut field = HeaderWriter::begin(out, "List-Unsubscribe");
        for (index, uri) in self.uris.iter().enumerate() {
            if index > 0 {
                field.glue(b",");
            }
            field.bracketed(uri.as_bytes());
        }
        field.end();
        if self.one_click {
            out.extend_from_slice(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }
    }
}

/// Gives whether the URI is an https one.
fn check(uri: &str) -> Result<bool, UnsubscribeError> {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let is_https = scheme.eq_ignore_ascii_case("https");
    if !is_https && !scheme.eq_ignore_ascii_case("mailto") {
        return Err(UnsubscribeError::Scheme(uri.to_owned()));
    }
    let authority = rest.strip_prefix("//").unwrap_or("");
    let is_sound = uri.len() <= ListUnsubscribe::URI_LEN_MAX
        && uri
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>\",".contains(&b))
        && !rest.is_empty()
        && (!is_https || !authority.is_empty() && !authority.starts_with('/'));
    if is_sound {
        Ok(is_https)
    } else {
        Err(UnsubscribeError::Uri(uri.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(uris: &[&str]) -> String {
        let mut out = Vec::new();
        ListUnsubscribe::new(uris).unwrap().write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rfc8058_3_1_one_click_takes_both_headers() {
        assert_eq!(
            written(&["https://example.org/u?t=1", "mailto:u@example.org"]),
            "List-Unsubscribe: <https://example.org/u?t=1>, <mailto:u@example.org>\r\n\
             List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        );
        assert_eq!(
            written(&["mailto:u@example.org"]),
            "List-Unsubscribe: <mailto:u@example.org>\r\n"
        );
    }

    #[test]
    fn only_sound_https_and_mailto_uris_are_taken() {
        for uri in [
            "",
            "http://example.org/u",
            "https:",
            "https://",
            "https:///u",
            "mailto:",
            "https://example.org/a b",
            "https://example.org/>,<http://evil.example",
            "https://example.org/\r\nBcc: x@example.org",
            "https://example.org/é",
        ] {
            assert!(ListUnsubscribe::new(&[uri]).is_err(), "{uri}");
        }
        assert_eq!(
            ListUnsubscribe::new::<&str>(&[]),
            Err(UnsubscribeError::Empty)
        );
    }
}
