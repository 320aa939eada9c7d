//! Content: accepted exactly if canonical, and its dot-stuffed form never ends early.

use smtp::Content;

use crate::Target;
use crate::bytes::{find, is_canonical, unstuffed};

pub(crate) const TARGET: Target = Target {
    name: "content",
    check,
    examples: &[
        b"\x05A: b\r\n\r\n.c\r\n..d\r\n.\r\n",
        b"\x00.\r\n",
        b"\x09Subject: \xc3\xa9\r\n\r\nx\r\n",
        b"\x03a\nb\n.\n",
    ],
    words: &[
        "\r\n",
        "\r\n.\r\n",
        "\n.\n",
        "\r.\r",
        "..",
        "\r\n\0.\r\n",
        "A: b\r\n",
    ],
    rounds: 60_000,
};

/// The first octet is a place to cut or to go on from.
fn check(input: &[u8]) {
    let Some((&place, bytes)) = input.split_first() else {
        return;
    };
    let content = Content::new(bytes.to_vec());
    let canonical = !bytes.is_empty() && is_canonical(bytes, true);
    assert_eq!(content.is_ok(), canonical);
    match &content {
        Ok(content) => check_content(content, bytes, usize::from(place)),
        Err(error) => {
            let lines = bytes.split(|&b| b == b'\n').count();
            assert!((1..=lines).contains(&error.line), "line {}", error.line);
        }
    }
    check_from_text(bytes);
    let (fields, rest) = bytes.split_at(usize::from(place).min(bytes.len()));
    check_prefixed(fields, rest);
}

fn check_content(content: &Content, bytes: &[u8], place: usize) {
    assert_eq!(content.as_bytes(), bytes);
    assert_eq!(content.len(), bytes.len());
    assert_eq!(content.is_7bit(), bytes.is_ascii());
    let header_len = match bytes.starts_with(b"\r\n") {
        true => 0,
        false => find(bytes, b"\r\n\r\n").unwrap_or(bytes.len()),
    };
    assert_eq!(
        content.header_needs_smtputf8(),
        !bytes[..header_len].is_ascii()
    );

    let wire = content.stuffed().collect::<Vec<_>>().concat();
    assert_eq!(wire.len(), content.stuffed_len());
    assert!(!wire.starts_with(b".\r\n") && find(&wire, b"\r\n.\r\n").is_none());
    assert_eq!(unstuffed(&wire), bytes);
    let rest = content.stuffed_from(content.stuffing().advanced(content, place));
    assert_eq!(
        rest.collect::<Vec<_>>().concat(),
        wire[place.min(wire.len())..]
    );
}

fn check_from_text(bytes: &[u8]) {
    if let Ok(content) = Content::from_text(bytes) {
        assert!(is_canonical(content.as_bytes(), true));
        assert_eq!(
            Content::from_text(content.as_bytes()).as_ref(),
            Ok(&content)
        );
    }
}

fn check_prefixed(fields: &[u8], rest: &[u8]) {
    let Ok(content) = Content::new(rest.to_vec()) else {
        return;
    };
    if let Ok(longer) = content.prefixed(fields) {
        assert_eq!(Content::new([fields, rest].concat()).as_ref(), Ok(&longer));
    } else {
        let ends_header = fields.starts_with(b"\r\n") || find(fields, b"\r\n\r\n").is_some();
        assert!(fields.is_empty() || ends_header || !is_canonical(fields, true));
    }
}
