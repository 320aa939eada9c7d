//! Text that cannot stand in a message as it is: a line of a log over 998 octets, a NUL.
//!
//! Whoever calls us, as cron does, would throw it away if we refused it. So where the header section
//! says no more than that it is text of some kind, the body is encoded as quoted-printable, octet by
//! octet, whatever its charset.

use smtp::Content;

/// As it is where that may be sent or must not be touched, else with its body encoded.
pub(super) fn speakable(text: Vec<u8>) -> Vec<u8> {
    if Content::from_text(&text).is_ok() {
        return text;
    }
    let encoded = parts(&text).and_then(|(header, body)| encoded(header, body));
    encoded.unwrap_or(text)
}

/// `None` where the body has a structure or an encoding of its own.
fn encoded(header: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let (mut message, mut has_type) = (Vec::new(), false);
    for field in fields(header) {
        let (name, value) = split(field);
        match &*name {
            b"content-transfer-encoding" if !is_identity(value) => return None,
            b"content-transfer-encoding" | b"mime-version" => continue,
            b"content-type" if has_structure(value) => return None,
            b"content-type" => has_type = true,
            _ => {}
        }
        message.extend_from_slice(field);
    }
    message.extend_from_slice(b"MIME-Version: 1.0\n");
    if !has_type {
        message.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\n");
    }
    message.extend_from_slice(b"Content-Transfer-Encoding: quoted-printable\n\n");
    message::push_lines_quoted_printable(body, &mut message);
    Some(message)
}

/// Header section and body, without the empty line between.
fn parts(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        let end = at + line.len();
        if line == b"\n" || line == b"\r\n" {
            return Some((&text[..at], &text[end..]));
        }
        at = end;
    }
    None
}

/// The fields of a header section, each with the lines that continue it.
fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let mut end = 0;
        for line in rest.split_inclusive(|&octet| octet == b'\n') {
            if end > 0 && !matches!(line.first(), Some(b' ' | b'\t')) {
                break;
            }
            end += line.len();
        }
        let (field, others) = rest.split_at(end);
        rest = others;
        (!field.is_empty()).then_some(field)
    })
}

/// The name of a field in lower case, and its value.
fn split(field: &[u8]) -> (Vec<u8>, &[u8]) {
    let colon = field.iter().position(|&octet| octet == b':');
    let colon = colon.unwrap_or(field.len());
    let name = field[..colon].trim_ascii().to_ascii_lowercase();
    (name, field.get(colon + 1..).unwrap_or_default())
}

fn is_identity(encoding: &[u8]) -> bool {
    let encoding = encoding.trim_ascii().to_ascii_lowercase();
    matches!(&*encoding, b"7bit" | b"8bit" | b"binary")
}

fn has_structure(content_type: &[u8]) -> bool {
    let kind = content_type.trim_ascii().to_ascii_lowercase();
    !kind.starts_with(b"text/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_line() -> String {
        "x=1 ".repeat(400)
    }

    #[test]
    fn what_may_be_sent_stays_as_it_is() {
        let text = b"Subject: hi\n\nhello\n".to_vec();
        assert_eq!(speakable(text.clone()), text);
    }

    #[test]
    fn a_line_that_is_too_long_and_a_nul_are_encoded_whatever_the_charset() {
        let header = "Subject: cron\nContent-Type: text/plain; charset=iso-8859-1\n\n";
        let mut text = format!("{header}{}\n", long_line()).into_bytes();
        text.extend_from_slice(b"caf\xe9 \0\n");
        let sent = speakable(text);
        assert!(Content::from_text(&sent).is_ok());
        let parsed = mail_parser::MessageParser::default().parse(&sent).unwrap();
        let body = parsed.body_text(0).unwrap().into_owned();
        assert_eq!(body.trim_end(), format!("{}\r\ncaf\u{e9} \0", long_line()));
        assert_eq!(parsed.subject(), Some("cron"));
    }

    #[test]
    fn what_has_a_structure_or_an_encoding_of_its_own_is_left_alone() {
        for field in [
            "Content-Type: multipart/mixed; boundary=b",
            "Content-Transfer-Encoding: base64",
        ] {
            let text = format!("Subject: hi\n{field}\n\n{}\n", long_line()).into_bytes();
            assert_eq!(speakable(text.clone()), text, "{field}");
        }
    }
}
