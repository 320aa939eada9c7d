//! Bodies made 7-bit safe (RFC 2045 §6): as they are, quoted-printable, or base64, whichever is
//! shortest among those that are safe.
//!
//! Text may have any line ends; what is written has CRLF only and ends with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr2;

use crate::header::push_hex;

/// Boundaries begin so, and no encoded line does: in quoted-printable `=` is followed by hex, in
/// base64 it stands at the end only, and a plain line that begins so is not left plain.
pub(crate) const BOUNDARY_MARK: &str = "=_";

const QP_LINE_MAX: usize = 75;
/// Octets of input that make one base64 line of 76.
const BASE64_LINE_OF: usize = 57;

/// Content-Transfer-Encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }

    /// The best one for a text.
    pub(crate) fn of(text: &str) -> Self {
        let text = text.as_bytes();
        if is_printable_text(text) && lines(text).all(is_safe_line) {
            Self::SevenBit
        } else if escapes(text) * 6 <= text.len() {
            Self::QuotedPrintable
        } else {
            Self::Base64
        }
    }

    /// Appends the text so encoded; whole lines.
    pub(crate) fn write(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Self::SevenBit => lines(text.as_bytes()).for_each(|line| push_line(line, out)),
            Self::QuotedPrintable => {
                lines(text.as_bytes()).for_each(|line| push_quoted_printable(line, out));
            }
            Self::Base64 => {
                let mut canonical = Vec::with_capacity(text.len() + text.len() / 32);
                lines(text.as_bytes()).for_each(|line| push_line(line, &mut canonical));
                push_base64(&canonical, out);
            }
        }
    }
}

/// Appends octets of any charset in lines as quoted-printable (RFC 2045 §6.7): whole lines, 7-bit safe.
///
/// * `text`: with any line ends.
pub fn push_lines_quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    lines(text).for_each(|line| push_quoted_printable(line, out));
}

/// Appends a body part of plain text: its header fields, an empty line and whole lines, 7-bit safe.
/// No line begins with `--=_`, so that a boundary may.
pub fn push_text_part(text: &str, out: &mut Vec<u8>) {
    let encoding = Encoding::of(text);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    out.extend_from_slice(b"Content-Transfer-Encoding: ");
    out.extend_from_slice(encoding.name().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    encoding.write(text, out);
}

fn push_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

/// The lines of a text, whatever ends them: CRLF, LF or CR.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        let eol = match &rest[end..] {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        rest = &rest[end + eol..];
        Some(line)
    })
}

/// Printable ASCII, space and tab.
const fn is_printable(b: u8) -> bool {
    (b.wrapping_sub(b' ') < 0x5f) | (b == b'\t')
}

/// [`is_qp_literal`], looked up.
const QP_LITERAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_qp_literal(b as u8);
        b += 1;
    }
    table
};

/// Line ends besides. One pass without a branch, so that it becomes vector code.
fn is_printable_text(text: &[u8]) -> bool {
    let mut flaw = 0u8;
    for &b in text {
        flaw |= u8::from(!is_printable(b) & (b != b'\r') & (b != b'\n'));
    }
    flaw == 0
}

/// Whether a line of printable text may stand as it is: short enough, no boundary, nothing that a
/// mailbox file would mangle.
fn is_safe_line(line: &[u8]) -> bool {
    line.len() <= smtp::Content::LINE_LEN_MAX
        && !line.starts_with(b"--=_")
        && !line.starts_with(b"From ")
}

/// Octets that quoted-printable escapes, but for those at the ends of lines.
fn escapes(text: &[u8]) -> usize {
    // Counted in octets and blocks of at most 255, so that it becomes vector code.
    let block = |block: &[u8]| -> u8 {
        let escaped = |b: u8| !is_qp_literal(b) & (b != b'\r') & (b != b'\n');
        block.iter().map(|&b| u8::from(escaped(b))).sum()
    };
    text.chunks(255).map(|part| usize::from(block(part))).sum()
}

const fn is_qp_literal(b: u8) -> bool {
    is_printable(b) & (b != b'=')
}

/// One line, soft breaks included. A dot never begins a line (nothing for SMTP to double), nor
/// does `From ` (nothing for a mailbox file to mangle); white space never ends one.
fn push_quoted_printable(line: &[u8], out: &mut Vec<u8>) {
    let (mut rest, mut column) = (line, 0);
    loop {
        let literal = qp_literal_len(rest, column);
        out.extend_from_slice(&rest[..literal]);
        column += literal;
        rest = &rest[literal..];
        let Some((&b, tail)) = rest.split_first() else {
            return out.extend_from_slice(b"\r\n");
        };
        // Here the line is full, or the next octet takes three.
        if column + 3 > QP_LINE_MAX {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        } else {
            push_hex(b'=', b, out);
            column += 3;
            rest = tail;
        }
    }
}

/// Octets at the front that stand for themselves and fit on the line.
fn qp_literal_len(rest: &[u8], column: usize) -> usize {
    if column == 0 && (rest.starts_with(b".") || rest.starts_with(b"From ")) {
        return 0;
    }
    let line = &rest[..rest.len().min(QP_LINE_MAX - column)];
    let escaped = line.iter().position(|&b| !QP_LITERAL[usize::from(b)]);
    let len = escaped.unwrap_or(line.len());
    let ends_in_space = len == rest.len() && matches!(rest.last(), Some(b' ' | b'\t'));
    len - usize::from(ends_in_space)
}

/// Lines of 76 characters, each ended.
pub(crate) fn push_base64(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len().div_ceil(BASE64_LINE_OF) * 78);
    for piece in data.chunks(BASE64_LINE_OF) {
        let mut line = [0; 76];
        let len = STANDARD
            .encode_slice(piece, &mut line)
            .expect("57 octets take 76");
        push_line(&line[..len], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(encoding: Encoding, text: &str) -> String {
        let mut out = Vec::new();
        encoding.write(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_encoding_is_the_plainest_that_is_safe() {
        let long = "x".repeat(999);
        for (text, want) in [
            ("plain\n", Encoding::SevenBit),
            ("", Encoding::SevenBit),
            (&long[1..], Encoding::SevenBit),
            (&long, Encoding::QuotedPrintable),
            ("--=_1\nhello", Encoding::QuotedPrintable),
            ("From me to you", Encoding::QuotedPrintable),
            ("caf\u{e9} for everyone here", Encoding::QuotedPrintable),
            ("a quite ordinary line\0\n", Encoding::QuotedPrintable),
            ("日本語", Encoding::Base64),
        ] {
            assert_eq!(Encoding::of(text), want, "{text}");
        }
    }

    #[test]
    fn rfc2045_6_7_quoted_printable() {
        for (text, want) in [
            ("a=b", "a=3Db\r\n"),
            ("a \r\nb\t", "a=20\r\nb=09\r\n"),
            (".a\r.", "=2Ea\r\n=2E\r\n"),
            ("From x", "=46rom x\r\n"),
            ("\u{e9}", "=C3=A9\r\n"),
        ] {
            assert_eq!(encoded(Encoding::QuotedPrintable, text), want);
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back_and_is_safe(text in "([ -~é\t.=]{0,90}(\n|\r\n|\r|\0|From |--=_)){0,8}") {
            let meant = lines(text.as_bytes()).fold(Vec::new(), |mut all, line| {
                push_line(line, &mut all);
                all
            });
            for encoding in [Encoding::of(&text), Encoding::QuotedPrintable, Encoding::Base64] {
                let body = encoded(encoding, &text);
                for line in body.split_inclusive("\r\n") {
                    prop_assert!(line.ends_with("\r\n") && line.len() <= 1000 && line.is_ascii());
                    prop_assert!(encoding == Encoding::SevenBit || line.len() <= 78);
                    prop_assert!(!line.starts_with("--=_"));
                }
                let part = format!("Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: {}\r\n\r\n{body}", encoding.name());
                let parsed = mail_parser::MessageParser::new().parse(part.as_bytes()).unwrap();
                prop_assert_eq!(parsed.part(0).unwrap().contents(), &meant[..]);
            }
        }
    }
}
