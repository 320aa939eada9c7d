//! `xtext`, RFC 3461 §4: how DSN parameters carry arbitrary printable text.

/// Appends `text` as xtext: octets outside `!`..`~`, and `+` and `=`, as `+XX`.
pub(crate) fn encode(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &b in text.as_bytes() {
        if matches!(b, b'!'..=b'~') && b != b'+' && b != b'=' {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'+', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
}

/// Reads xtext back; `None` where it is malformed or not UTF-8.
pub(crate) fn decode(xtext: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(xtext.len());
    let mut rest = xtext;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        match b {
            b'+' => {
                let (pair, tail) = rest.split_at_checked(2)?;
                out.push(hex(pair[0])? << 4 | hex(pair[1])?);
                rest = tail;
            }
            b'!'..=b'~' if b != b'=' => out.push(b),
            _ => return None,
        }
    }
    String::from_utf8(out).ok()
}

/// Upper-case only, as the RFC's grammar has it.
fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_xtext_is_refused() {
        for text in ["+", "+4", "+4g", "+4a", "a b", "a=b", "+FF"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in "\\PC{0,30}") {
            let mut out = Vec::new();
            encode(&text, &mut out);
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(decode(&out), Some(text));
        }
    }
}
