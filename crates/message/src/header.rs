//! Header fields as written: folding (RFC 5322 §2.2.3), encoded words (RFC 2047), parameters
//! (RFC 2231).
//!
//! Lines aim at 78 octets; an encoded word never makes a line longer than 76. Every value passes
//! [`check_value`] before it gets here, so nothing written can hold a line end but our own folds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::mailbox::Mailbox;

/// A header field that cannot be written as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// CR, LF, NUL or another control character in the value: header injection, or a mistake.
    #[error("the header {header} has a control character (U+{:04X})", *character as u32)]
    Control {
        /// The header's name.
        header: String,
        /// The first such character.
        character: char,
    },
    /// A name that is not 1 to 76 printable ASCII characters without a colon (RFC 5322 §3.6.8).
    #[error("{name:?} is not a header name")]
    Name {
        /// The name as given.
        name: String,
    },
    /// A header that is ours to write, or that must never be sent (Bcc).
    #[error("the header {name} cannot be set by hand")]
    Reserved {
        /// The name as given.
        name: String,
    },
}

/// Refuses what would end the header or corrupt it.
pub(crate) fn check_value(header: &str, value: &str) -> Result<(), HeaderError> {
    match value.chars().find(|c| c.is_control() && *c != '\t') {
        None => Ok(()),
        Some(character) => Err(HeaderError::Control {
            header: header.to_owned(),
            character,
        }),
    }
}

/// RFC 5322 §3.6.8 `field-name`, at a length that leaves room on its line.
pub(crate) fn check_name(name: &str) -> Result<(), HeaderError> {
    let valid =
        (1..=76).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    valid.then_some(()).ok_or_else(|| HeaderError::Name {
        name: name.to_owned(),
    })
}

const LINE_AIM: usize = 78;
/// RFC 2047 §2: a line with an encoded word.
const ENCODED_LINE_MAX: usize = 76;
/// What cannot be folded and is longer than this is encoded instead (the hard limit is 998).
const UNFOLDABLE_MAX: usize = 900;
const ENCODED_WORD_FRAME: usize = "=?utf-8?Q??=".len();
/// Below this room a word is not begun on the current line; four octets in Q need 12.
const ENCODED_TEXT_MIN: usize = 16;

/// Writes one field; it ends with [`HeaderWriter::end`].
pub(crate) struct HeaderWriter<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
    /// Nothing stands after the colon yet: a fold here would leave a line of the name alone.
    fresh: bool,
}

impl<'a> HeaderWriter<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>, name: &str) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self {
            out,
            column: name.len() + 1,
            fresh: true,
        }
    }

    pub(crate) fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// What cannot be broken; a space or a fold goes before it.
    pub(crate) fn token(&mut self, token: &[u8]) {
        self.gap_and(b" ", &[token]);
    }

    /// The same between angle brackets.
    pub(crate) fn bracketed(&mut self, token: &[u8]) {
        self.gap_and(b" ", &[b"<", token, b">"]);
    }

    /// Appends without a break before it.
    pub(crate) fn glue(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.column += bytes.len();
    }

    fn gap_and(&mut self, gap: &[u8], token: &[&[u8]]) {
        let len = token.iter().map(|piece| piece.len()).sum::<usize>();
        if !self.fresh && self.column + gap.len() + len > LINE_AIM {
            self.out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        self.fresh = false;
        self.glue(gap);
        for piece in token {
            self.glue(piece);
        }
    }

    /// Free text: as it is where that is safe, in encoded words otherwise.
    pub(crate) fn unstructured(&mut self, text: &str) {
        let text = text.trim_matches([' ', '\t']);
        if !text.is_ascii() || text.contains("=?") || unfoldable_max(text) > UNFOLDABLE_MAX {
            return self.encoded_words(text);
        }
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let gap = rest.iter().take_while(|b| is_wsp(**b)).count();
            let word = rest[gap..].iter().take_while(|b| !is_wsp(**b)).count();
            let lead = if self.fresh { b" " } else { &rest[..gap] };
            self.gap_and(lead, &[&rest[gap..gap + word]]);
            rest = &rest[gap + word..];
        }
    }

    /// Mailboxes divided by commas.
    pub(crate) fn mailboxes(&mut self, mailboxes: &[Mailbox]) {
        for (index, mailbox) in mailboxes.iter().enumerate() {
            if index > 0 {
                self.glue(b",");
            }
            self.mailbox(mailbox);
        }
    }

    fn mailbox(&mut self, mailbox: &Mailbox) {
        let address = mailbox.address().as_str();
        match mailbox.name() {
            None => self.token(address.as_bytes()),
            Some(name) => {
                self.phrase(name);
                self.bracketed(address.as_bytes());
            }
        }
    }

    /// A display name: atoms, a quoted string, or encoded words (RFC 5322 §3.2.5).
    fn phrase(&mut self, name: &str) {
        if !name.is_ascii() || name.contains("=?") || name.len() > LINE_AIM - 10 {
            self.encoded_words(name);
        } else if name.split(' ').all(is_atom) {
            for atom in name.split(' ') {
                self.token(atom.as_bytes());
            }
        } else {
            self.token(quoted(name).as_bytes());
        }
    }

    /// RFC 2047: words of at most 75 octets, cut between characters; Q, which people can read,
    /// while it at most doubles the text, B otherwise.
    fn encoded_words(&mut self, text: &str) {
        let q_len: usize = text.bytes().map(q_width).sum();
        let in_base64 = q_len > 2 * text.len();
        let mut rest = text;
        while !rest.is_empty() {
            let mut room = ENCODED_LINE_MAX.saturating_sub(self.column + 1);
            if room < ENCODED_WORD_FRAME + ENCODED_TEXT_MIN {
                self.out.extend_from_slice(b"\r\n");
                self.column = 0;
                room = ENCODED_LINE_MAX - 1;
            }
            let cut = encodable(rest, room - ENCODED_WORD_FRAME, in_base64);
            let start = self.out.len();
            self.out.extend_from_slice(if in_base64 {
                b" =?utf-8?B?"
            } else {
                b" =?utf-8?Q?"
            });
            if in_base64 {
                let text = STANDARD.encode(&rest[..cut]);
                self.out.extend_from_slice(text.as_bytes());
            } else {
                rest[..cut].bytes().for_each(|b| push_q(b, self.out));
            }
            self.out.extend_from_slice(b"?=");
            self.column += self.out.len() - start;
            self.fresh = false;
            rest = &rest[cut..];
        }
    }

    /// `; name=value`: a token, a quoted string, or RFC 2231's `name*0*=utf-8''…` in pieces.
    pub(crate) fn parameter(&mut self, name: &str, value: &str) {
        self.glue(b";");
        if value.is_ascii() && value.len() + name.len() < LINE_AIM - 8 {
            return self.token(format!("{name}={}", quoted(value)).as_bytes());
        }
        let encoded = percent_encoded(value);
        let piece_len = LINE_AIM - name.len() - 20;
        if encoded.len() <= piece_len {
            return self.token(format!("{name}*=utf-8''{encoded}").as_bytes());
        }
        for (index, piece) in percent_pieces(&encoded, piece_len).enumerate() {
            let charset = if index == 0 { "utf-8''" } else { "" };
            if index > 0 {
                self.glue(b";");
            }
            self.token(format!("{name}*{index}*={charset}{piece}").as_bytes());
        }
    }
}

fn is_wsp(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// Longest run of white space and the word after it.
fn unfoldable_max(text: &str) -> usize {
    let (mut longest, mut from, mut in_word) = (0, 0, true);
    for (at, b) in text.bytes().enumerate() {
        if is_wsp(b) && in_word {
            longest = longest.max(at - from);
            from = at;
        }
        in_word = !is_wsp(b);
    }
    longest.max(text.len() - from)
}

fn is_atom(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// Octets that stand for themselves in Q, also within a phrase (RFC 2047 §5 (3)).
fn is_q_literal(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!*+-/".contains(&b)
}

fn q_width(b: u8) -> usize {
    if b == b' ' || is_q_literal(b) { 1 } else { 3 }
}

fn push_q(b: u8, out: &mut Vec<u8>) {
    if b == b' ' {
        out.push(b'_');
    } else if is_q_literal(b) {
        out.push(b);
    } else {
        push_hex(b'=', b, out);
    }
}

pub(crate) fn push_hex(mark: u8, b: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[mark, HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
}

/// Octets of the longest front of `text` whose encoding takes at most `room`; at least one character.
fn encodable(text: &str, room: usize, in_base64: bool) -> usize {
    let (mut cut, mut width) = (0, 0);
    for c in text.chars() {
        let next = cut + c.len_utf8();
        let fits = if in_base64 {
            next.div_ceil(3) * 4 <= room
        } else {
            width += text[cut..next].bytes().map(q_width).sum::<usize>();
            width <= room
        };
        if !fits && cut > 0 {
            break;
        }
        cut = next;
    }
    cut
}

/// RFC 2231 §7 `ext-octet` for all but RFC 5987's attr-char.
fn percent_encoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() * 3);
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&b) {
            out.push(b);
        } else {
            push_hex(b'%', b, &mut out);
        }
    }
    out.into_iter().map(char::from).collect()
}

/// Cuts percent-encoded text into pieces without dividing a `%XX`.
fn percent_pieces(encoded: &str, len_max: usize) -> impl Iterator<Item = &str> {
    let mut rest = encoded;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut cut = rest.len().min(len_max);
        if cut < rest.len() {
            let tail = &rest[cut.saturating_sub(2)..cut];
            cut -= tail.find('%').map_or(0, |at| tail.len() - at);
        }
        let (piece, after) = rest.split_at(cut);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unstructured(text: &str) -> String {
        let mut out = Vec::new();
        let mut writer = HeaderWriter::begin(&mut out, "Subject");
        writer.unstructured(text);
        writer.end();
        String::from_utf8(out).unwrap()
    }

    fn to(name: &str) -> String {
        let mut out = Vec::new();
        let mut writer = HeaderWriter::begin(&mut out, "To");
        writer.mailboxes(&[Mailbox::named(name, "a@example.org".parse().unwrap())]);
        writer.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_name_is_atoms_a_quoted_string_or_encoded_words() {
        for (name, want) in [
            ("Ann Lee", "To: Ann Lee <a@example.org>\r\n"),
            ("Lee, Ann", "To: \"Lee, Ann\" <a@example.org>\r\n"),
            ("A \"B\" \\", "To: \"A \\\"B\\\" \\\\\" <a@example.org>\r\n"),
            ("Jörg", "To: =?utf-8?Q?J=C3=B6rg?= <a@example.org>\r\n"),
            (
                "=?not encoded",
                "To: =?utf-8?Q?=3D=3Fnot_encoded?= <a@example.org>\r\n",
            ),
            ("日本", "To: =?utf-8?B?5pel5pys?= <a@example.org>\r\n"),
        ] {
            assert_eq!(to(name), want);
        }
    }

    #[test]
    fn a_long_word_that_cannot_be_folded_is_encoded() {
        let subject = unstructured(&"x".repeat(5000));
        assert!(subject.lines().all(|line| line.len() <= 76));
    }

    #[test]
    fn percent_escapes_are_not_divided() {
        let encoded = percent_encoded(&"é".repeat(40));
        let pieces: Vec<_> = percent_pieces(&encoded, 50).collect();
        assert_eq!(pieces.concat(), encoded);
        assert!(pieces.iter().all(|p| p.len() % 3 == 0 && p.len() <= 50));
    }

    proptest! {
        #[test]
        fn any_subject_reads_back(text in "[ a-zA-Z?=_é日🦀\\\\\"]{0,200}") {
            let written = unstructured(&text);
            for line in written.lines() {
                prop_assert!(line.len() <= 210);
                prop_assert!(!line.contains("=?utf-8?") || line.len() <= 76);
            }
            let parsed = mail_parser::MessageParser::new().parse(written.as_bytes()).unwrap();
            prop_assert_eq!(parsed.subject().unwrap_or(""), text.trim_matches(' '));
        }
    }
}
