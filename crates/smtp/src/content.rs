//! Message content, canonical from the moment it exists (RFC 5322 §2.1, RFC 5321 §2.3.8).
//!
//! Canonical: every line ends with CRLF, no other CR or LF, no NUL, no line over 998 octets. One
//! scan at construction establishes that and remembers what the wire needs to know (does a line
//! begin with a dot? is it 7-bit?), so nothing is scanned twice. Cloning shares the bytes.
//!
//! For DATA the leading dots are doubled (§4.5.2) without copying: [`Content::stuffed`] gives
//! slices that overlap by the dot.

use bytes::Bytes;
use memchr::{memchr, memmem, memrchr};

/// Where and how bytes fail to be canonical content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {flaw}")]
pub struct ContentError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// What can be wrong with a line of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// There is no content at all.
    #[error("the content is empty")]
    Empty,
    /// LF without CR before it.
    #[error("a line ends with LF alone")]
    BareLf,
    /// CR without LF after it.
    #[error("a carriage return stands alone")]
    BareCr,
    /// A NUL octet.
    #[error("there is a NUL octet")]
    Nul,
    /// Over 998 octets before CRLF (RFC 5322 §2.1.1).
    #[error("the line is longer than 998 octets")]
    LineTooLong,
    /// The last line has no end.
    #[error("the last line does not end with CRLF")]
    Unterminated,
}

/// Header section and body, canonical.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Bytes,
    facts: Facts,
}

/// What the one scan found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Facts {
    /// Lines that begin with a dot.
    dots: usize,
    is_7bit: bool,
    header_is_ascii: bool,
}

impl Content {
    /// Longest line in octets, CRLF not counted.
    pub const LINE_LEN_MAX: usize = 998;

    /// Checks bytes that should already be canonical.
    ///
    /// # Errors
    /// The first line that is not, and why.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, ContentError> {
        let bytes = bytes.into();
        let facts = scan(&bytes)?;
        Ok(Self { bytes, facts })
    }

    /// Takes text as files have it: a lone LF becomes CRLF, and a last line gets its end.
    ///
    /// # Errors
    /// What cannot be mended without guessing: lone CR, NUL, lines over 998 octets, nothing at all.
    pub fn from_text(text: &[u8]) -> Result<Self, ContentError> {
        let mut bytes = Vec::with_capacity(text.len() + text.len() / 32 + 2);
        for line in text.split_inclusive(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            bytes.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
            bytes.extend_from_slice(b"\r\n");
        }
        Self::new(bytes)
    }

    /// The same content with header fields in front, which alone are scanned.
    ///
    /// * `fields`: whole lines, each ended with CRLF; an empty line among them would end the
    ///   header section, so that is refused as [`Flaw::Empty`].
    ///
    /// # Errors
    /// The first line of `fields` that is not canonical, and why.
    pub fn prefixed(&self, fields: &[u8]) -> Result<Self, ContentError> {
        let new = scan(fields)?;
        if fields.starts_with(b"\r\n") || memmem::find(fields, b"\r\n\r\n").is_some() {
            return Err(ContentError {
                line: 1,
                flaw: Flaw::Empty,
            });
        }
        Ok(Self {
            bytes: [fields, &self.bytes].concat().into(),
            facts: Facts {
                dots: new.dots + self.facts.dots,
                is_7bit: new.is_7bit && self.facts.is_7bit,
                header_is_ascii: new.header_is_ascii && self.facts.header_is_ascii,
            },
        })
    }

    /// The canonical octets, not dot-stuffed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The canonical octets, shared.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Octets; what SIZE= and BDAT count. Never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "content is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether every octet is below 128, so that 8BITMIME is not needed.
    #[must_use]
    pub fn is_7bit(&self) -> bool {
        self.facts.is_7bit
    }

    /// Whether the header section has UTF-8, so that SMTPUTF8 is needed (RFC 6532).
    #[must_use]
    pub fn header_needs_smtputf8(&self) -> bool {
        !self.facts.header_is_ascii
    }

    /// Octets that DATA takes, without the final dot line.
    #[must_use]
    pub fn stuffed_len(&self) -> usize {
        self.bytes.len() + self.facts.dots
    }

    /// The slices that make up the dot-stuffed form, in order (RFC 5321 §4.5.2). One slice in the
    /// common case; where a line begins with a dot, one slice ends with that dot and the next
    /// begins with it again.
    #[must_use]
    pub fn stuffed(&self) -> Stuffed<'_> {
        self.stuffed_from(self.stuffing())
    }

    /// Where writing the dot-stuffed form begins.
    #[must_use]
    pub fn stuffing(&self) -> Stuffing {
        let dot = if self.facts.dots == 0 {
            self.bytes.len()
        } else if self.bytes.first() == Some(&b'.') {
            0
        } else {
            self.next_dot(0)
        };
        Stuffing { at: 0, dot }
    }

    /// The slices that are left to write from `place` on.
    #[must_use]
    pub fn stuffed_from(&self, place: Stuffing) -> Stuffed<'_> {
        Stuffed {
            content: self,
            place,
        }
    }

    /// The index of the next dot to double after `from`, or the length.
    fn next_dot(&self, from: usize) -> usize {
        memmem::find(&self.bytes[from..], b"\r\n.").map_or(self.bytes.len(), |at| from + at + 2)
    }
}

/// A place in the dot-stuffed form of one [`Content`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuffing {
    /// Index of the next octet to write.
    at: usize,
    /// Index of the next dot to double, or the length.
    dot: usize,
}

impl Stuffing {
    /// The place `octets` of wire further on. Costs no more than a scan of those octets.
    #[must_use]
    pub fn advanced(self, content: &Content, mut octets: usize) -> Self {
        let mut slices = content.stuffed_from(self);
        loop {
            let before = slices.place;
            match slices.next() {
                Some(slice) if slice.len() <= octets => octets -= slice.len(),
                Some(_) => {
                    return Self {
                        at: before.at + octets,
                        ..before
                    };
                }
                None => return before,
            }
        }
    }
}

impl std::fmt::Debug for Content {
    /// Facts only: content does not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Iterator of [`Content::stuffed`].
#[derive(Debug, Clone)]
pub struct Stuffed<'a> {
    content: &'a Content,
    place: Stuffing,
}

impl<'a> Iterator for Stuffed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let bytes = &self.content.bytes;
        let Stuffing { at, dot } = self.place;
        if at >= bytes.len() {
            return None;
        }
        if dot >= bytes.len() {
            self.place.at = bytes.len();
            return Some(&bytes[at..]);
        }
        self.place = Stuffing {
            at: dot,
            dot: self.content.next_dot(dot),
        };
        Some(&bytes[at..=dot])
    }
}

fn scan(bytes: &[u8]) -> Result<Facts, ContentError> {
    match scan_wide(bytes) {
        Some(facts) => Ok(facts),
        None => scan_lines(bytes),
    }
}

/// What is to be known of canonical bytes, in a few passes of vector code; `None` if they are not.
fn scan_wide(bytes: &[u8]) -> Option<Facts> {
    if !bytes.ends_with(b"\r\n") || is_torn(bytes, false) || has_long_line(bytes) {
        return None;
    }
    let is_7bit = bytes.is_ascii();
    let starts_with_dot = usize::from(bytes.first() == Some(&b'.'));
    Some(Facts {
        dots: starts_with_dot + memmem::find_iter(bytes, b"\r\n.").count(),
        is_7bit,
        header_is_ascii: is_7bit || bytes[..header_len(bytes)].is_ascii(),
    })
}

/// Whether some CR and LF are not a pair, or an octet is NUL, in bytes that stand behind a CR or
/// not. A CR at the very end is left to what follows. No branch in the loop, so that it becomes
/// vector code.
pub(crate) fn is_torn(bytes: &[u8], after_cr: bool) -> bool {
    let Some(&first) = bytes.first() else {
        return false;
    };
    let mut torn = u8::from(after_cr != (first == b'\n')) | u8::from(first == 0);
    for (&a, &b) in bytes.iter().zip(&bytes[1..]) {
        torn |= (u8::from(a == b'\r') ^ u8::from(b == b'\n')) | u8::from(b == 0);
    }
    torn != 0
}

/// Whether a line of bytes that end with CRLF is too long: a window as long as the longest line
/// must hold an LF, and the last one in it is where the next window starts.
fn has_long_line(mut bytes: &[u8]) -> bool {
    let with_end = Content::LINE_LEN_MAX + 2;
    while !bytes.is_empty() {
        match memrchr(b'\n', &bytes[..bytes.len().min(with_end)]) {
            Some(at) => bytes = &bytes[at + 1..],
            None => return true,
        }
    }
    false
}

/// Octets of the header section.
fn header_len(bytes: &[u8]) -> usize {
    match bytes.starts_with(b"\r\n") {
        true => 0,
        false => memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len()),
    }
}

/// The same line by line, to name the first flaw and its line.
fn scan_lines(bytes: &[u8]) -> Result<Facts, ContentError> {
    let fault = |line, flaw| Err(ContentError { line, flaw });
    if bytes.is_empty() {
        return fault(1, Flaw::Empty);
    }
    let mut facts = Facts {
        dots: 0,
        is_7bit: true,
        header_is_ascii: true,
    };
    let (mut rest, mut number, mut in_header) = (bytes, 0, true);
    while !rest.is_empty() {
        number += 1;
        let Some(end) = memchr(b'\n', rest) else {
            return fault(number, flaw_of_last(rest));
        };
        let Some(line) = rest[..end].strip_suffix(b"\r") else {
            return fault(
                number,
                if rest[..end].contains(&0) {
                    Flaw::Nul
                } else {
                    Flaw::BareLf
                },
            );
        };
        let seen = Line::of(line);
        if let Some(flaw) = seen.flaw(line.len()) {
            return fault(number, flaw);
        }
        facts.dots += usize::from(line.first() == Some(&b'.'));
        facts.is_7bit &= seen.is_ascii;
        in_header &= !line.is_empty();
        facts.header_is_ascii &= seen.is_ascii || !in_header;
        rest = &rest[end + 1..];
    }
    Ok(facts)
}

fn flaw_of_last(rest: &[u8]) -> Flaw {
    if rest.contains(&0) {
        Flaw::Nul
    } else if rest.contains(&b'\r') {
        Flaw::BareCr
    } else {
        Flaw::Unterminated
    }
}

/// What one pass over a line sees; the loop has no branch, so that it becomes vector code.
struct Line {
    is_ascii: bool,
    has_nul: bool,
    has_cr: bool,
}

impl Line {
    fn of(line: &[u8]) -> Self {
        let (mut high, mut nul, mut cr) = (0u8, 0u8, 0u8);
        for &b in line {
            high |= b;
            nul |= u8::from(b == 0);
            cr |= u8::from(b == b'\r');
        }
        Self {
            is_ascii: high < 128,
            has_nul: nul != 0,
            has_cr: cr != 0,
        }
    }

    fn flaw(&self, len: usize) -> Option<Flaw> {
        if self.has_nul {
            Some(Flaw::Nul)
        } else if self.has_cr {
            Some(Flaw::BareCr)
        } else if len > Content::LINE_LEN_MAX {
            Some(Flaw::LineTooLong)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flaw(bytes: &[u8]) -> (usize, Flaw) {
        let error = Content::new(bytes.to_vec()).unwrap_err();
        (error.line, error.flaw)
    }

    #[test]
    fn what_is_not_canonical_is_refused_with_its_line() {
        for (bytes, line, want) in [
            (&b""[..], 1, Flaw::Empty),
            (b"a\n", 1, Flaw::BareLf),
            (b"a\r\nb\nc\r\n", 2, Flaw::BareLf),
            (b"a\r\nb\rc\r\n", 2, Flaw::BareCr),
            (b"a\r\r\n", 1, Flaw::BareCr),
            (b"a\r", 1, Flaw::BareCr),
            (b"a\r\nb", 2, Flaw::Unterminated),
            (b"a\0b\r\n", 1, Flaw::Nul),
            (b"\n.\n", 1, Flaw::BareLf),
            (b"\r\n.\r", 2, Flaw::BareCr),
            (b"\r.\r\n", 1, Flaw::BareCr),
            (b"\r\n\0.\r\n", 2, Flaw::Nul),
        ] {
            assert_eq!(flaw(bytes), (line, want), "{bytes:?}");
        }
        let long = [&[b'a'; 999][..], b"\r\n"].concat();
        assert_eq!(flaw(&long), (1, Flaw::LineTooLong));
        assert!(Content::new(long[1..].to_vec()).is_ok());
    }

    #[test]
    fn text_with_any_line_ends_becomes_canonical() {
        for (text, want) in [
            (&b"a\nb"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\nb\r\n", b"a\r\nb\r\n"),
            (b"\n\n", b"\r\n\r\n"),
        ] {
            assert_eq!(Content::from_text(text).unwrap().as_bytes(), want);
        }
        assert!(Content::from_text(b"a\rb\n").is_err());
    }

    #[test]
    fn the_scan_tells_what_the_wire_needs() {
        let plain = Content::new("A: b\r\n\r\nc\r\n").unwrap();
        assert!(plain.is_7bit() && !plain.header_needs_smtputf8());
        let body = Content::new("A: b\r\n\r\n\u{e9}\r\n").unwrap();
        assert!(!body.is_7bit() && !body.header_needs_smtputf8());
        let header = Content::new("A: \u{e9}\r\n\r\nc\r\n").unwrap();
        assert!(!header.is_7bit() && header.header_needs_smtputf8());
    }

    #[test]
    fn fields_in_front_give_what_a_whole_scan_would() {
        let content = Content::new("A: b\r\n\r\n.\u{e9}\r\n").unwrap();
        for fields in ["X: y\r\n", "X: \u{e9}\r\n .z\r\n", ".X: y\r\n"] {
            let whole = [fields.as_bytes(), content.as_bytes()].concat();
            let want = Content::new(whole).unwrap();
            assert!(content.prefixed(fields.as_bytes()).unwrap() == want);
        }
        for fields in ["", "X: y", "X: y\n", "\r\n", "X: y\r\n\r\n", "X:\0\r\n"] {
            assert!(content.prefixed(fields.as_bytes()).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn rfc5321_4_5_2_leading_dot_is_doubled() {
        for (text, want) in [
            ("a\r\n", "a\r\n"),
            (".\r\n", "..\r\n"),
            ("..\r\n.\r\n", "...\r\n..\r\n"),
            ("a\r\n.b\r\n..c\r\nd.\r\n", "a\r\n..b\r\n...c\r\nd.\r\n"),
        ] {
            let content = Content::new(text).unwrap();
            let wire = content.stuffed().collect::<Vec<_>>().concat();
            assert_eq!(String::from_utf8(wire).unwrap(), want);
            assert_eq!(content.stuffed_len(), want.len());
        }
    }

    proptest! {
        #[test]
        fn the_wide_scan_sees_what_the_careful_one_does(
            words in prop::collection::vec(prop::sample::select(&[
                "\r\n", "\r\n.", "\r\n\r\n", "x", "\u{e9}", ".", "\r", "\n", "\0", "Subject: y\r\n",
            ][..]), 0..20),
            long in prop::option::of((0usize..20, 990usize..1005)),
            end in prop::sample::select(&["\r\n", ""][..]),
        ) {
            let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            if let Some((at, len)) = long {
                words.insert(at.min(words.len()), "x".repeat(len));
            }
            let bytes = words.concat() + end;
            prop_assert_eq!(scan_wide(bytes.as_bytes()), scan_lines(bytes.as_bytes()).ok());
        }

        #[test]
        fn stuffed_content_never_holds_an_end_of_data_and_unstuffs_to_itself(text in "[a.\n]{1,60}") {
            let content = Content::from_text(text.as_bytes()).unwrap();
            let wire = content.stuffed().collect::<Vec<_>>().concat();
            prop_assert_eq!(wire.len(), content.stuffed_len());
            let mut meant = Vec::new();
            for line in wire.split_inclusive(|&b| b == b'\n') {
                prop_assert_ne!(line, b".\r\n");
                meant.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            prop_assert_eq!(&meant[..], content.as_bytes());
        }

        #[test]
        fn stuffing_goes_on_from_any_place(text in "[a.\n]{1,40}", steps in prop::collection::vec(1usize..9, 0..20)) {
            let content = Content::from_text(text.as_bytes()).unwrap();
            let wire = content.stuffed().collect::<Vec<_>>().concat();
            let (mut place, mut written) = (content.stuffing(), 0);
            for step in steps {
                place = place.advanced(&content, step);
                written = (written + step).min(wire.len());
                let rest = content.stuffed_from(place).collect::<Vec<_>>().concat();
                prop_assert_eq!(&rest[..], &wire[written..]);
            }
        }

        #[test]
        fn any_bytes_are_canonical_or_refused(bytes in prop::collection::vec(prop::sample::select(&b"a.\r\n\0\x80"[..]), 0..40)) {
            let clean = !bytes.is_empty()
                && !bytes.contains(&0)
                && bytes.ends_with(b"\r\n")
                && bytes.iter().enumerate().all(|(i, &b)| match b {
                    b'\r' => bytes.get(i + 1) == Some(&b'\n'),
                    b'\n' => i > 0 && bytes[i - 1] == b'\r',
                    _ => true,
                });
            prop_assert_eq!(Content::new(bytes).is_ok(), clean);
        }
    }
}
