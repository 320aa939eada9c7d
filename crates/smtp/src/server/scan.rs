//! Content as it arrives: where it ends, and whether it is canonical.
//!
//! Only CRLF.CRLF ends content after DATA (RFC 5321 §4.1.1.4); whatever else looks like an end
//! (`\n.\n`, `\r.\r`, `\n.\r\n` …) is text, and such text is refused once it has ended. The scan
//! keeps four facts between slices, so that any split of the octets gives the same result. It
//! goes over each octet twice, in wide steps: once to find `\r\n.`, once to compare neighbours.

use memchr::{memmem, memrchr};

use super::replies;
use crate::content::is_torn;

/// Why content was refused, whatever the caller thinks of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentRefusal {
    /// CR without LF after it.
    #[error("a carriage return stands alone")]
    BareCr,
    /// LF without CR before it.
    #[error("a line feed stands alone")]
    BareLf,
    /// A NUL octet.
    #[error("there is a NUL octet")]
    Nul,
    /// A line over [`super::ServerLimits::text_line_bytes_max`].
    #[error("a line is too long")]
    LineTooLong,
    /// More octets than SIZE allows.
    #[error("the content is too big")]
    TooBig,
}

impl ContentRefusal {
    pub(super) fn reply(self) -> &'static [u8] {
        match self {
            Self::BareCr => replies::BARE_CR,
            Self::BareLf => replies::BARE_LF_IN_CONTENT,
            Self::Nul => replies::NUL,
            Self::LineTooLong => replies::TEXT_LINE_TOO_LONG,
            Self::TooBig => replies::TOO_BIG,
        }
    }
}

/// What the limits are for one content.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) size_bytes_max: u64,
    pub(super) text_line_bytes_max: usize,
}

/// One content under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    octets: u64,
    /// Octets since the last LF.
    line_bytes: usize,
    /// The last octet was CR.
    after_cr: bool,
    /// The last two octets were CRLF, or there were none.
    at_line_start: bool,
    flaws: Flaws,
}

/// What was found wrong so far. All of it is kept, so that the refusal named does not hang on how
/// the octets were split.
#[derive(Debug, PartialEq, Eq, Default)]
struct Flaws {
    too_big: bool,
    nul: bool,
    bare_lf: bool,
    bare_cr: bool,
    line_too_long: bool,
}

/// What the front of the octets after DATA is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front<'a> {
    /// Too few octets to tell.
    Unclear,
    /// The line with the dot alone: 3 octets.
    End,
    /// Text, once this many octets in front of it (the dot that stuffing added) are dropped.
    Text(usize, &'a [u8]),
}

impl Scan {
    pub(super) const fn new() -> Self {
        Self {
            octets: 0,
            line_bytes: 0,
            after_cr: false,
            at_line_start: true,
            flaws: Flaws {
                too_big: false,
                nul: false,
                bare_lf: false,
                bare_cr: false,
                line_too_long: false,
            },
        }
    }

    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// What was found wrong, the gravest first; once `ended`, also a CR that nothing followed.
    pub(super) fn refusal(&self, ended: bool) -> Option<ContentRefusal> {
        let flaws = &self.flaws;
        [
            (flaws.too_big, ContentRefusal::TooBig),
            (flaws.nul, ContentRefusal::Nul),
            (flaws.bare_lf, ContentRefusal::BareLf),
            (
                flaws.bare_cr || (ended && self.after_cr),
                ContentRefusal::BareCr,
            ),
            (flaws.line_too_long, ContentRefusal::LineTooLong),
        ]
        .into_iter()
        .find_map(|(found, refusal)| found.then_some(refusal))
    }

    /// Tells what stands at the front of octets that follow DATA; `input` is not empty.
    pub(super) fn front<'a>(
        &self,
        input: &'a [u8],
        line_end_dot: &memmem::Finder<'_>,
    ) -> Front<'a> {
        let stuffing = match input {
            [b'.', b'\r', b'\n', ..] if self.at_line_start => return Front::End,
            [b'.'] | [b'.', b'\r'] if self.at_line_start => return Front::Unclear,
            [b'.', ..] if self.at_line_start => 1,
            // A CRLF that was cut in two: what follows it stands at the start of a line.
            [b'\n', ..] if self.after_cr => return Front::Text(0, &input[..1]),
            _ => 0,
        };
        let text = &input[stuffing..];
        let end = line_end_dot.find(text).map_or(text.len(), |at| at + 2);
        Front::Text(stuffing, &text[..end])
    }

    /// Takes account of the next octets of content.
    pub(super) fn take(&mut self, text: &[u8], bounds: Bounds) {
        let Some(&last) = text.last() else {
            return;
        };
        self.octets = self.octets.saturating_add(text.len() as u64);
        self.flaws.too_big |= self.octets > bounds.size_bytes_max;
        if is_torn(text, self.after_cr) {
            self.name_flaws(text);
        }
        if !self.flaws.line_too_long {
            self.measure_lines(text, bounds.text_line_bytes_max);
        }
        self.at_line_start = text.ends_with(b"\r\n") || (self.after_cr && text == b"\n");
        self.after_cr = last == b'\r';
    }

    /// Finds out which flaws they were that [`is_torn`] saw.
    fn name_flaws(&mut self, text: &[u8]) {
        let mut after_cr = self.after_cr;
        for &b in text {
            self.flaws.nul |= b == 0;
            self.flaws.bare_lf |= b == b'\n' && !after_cr;
            self.flaws.bare_cr |= b != b'\n' && after_cr;
            after_cr = b == b'\r';
        }
    }

    /// Line lengths, from LF to LF: a window as long as the longest line must hold an LF, and the
    /// last one in it is where the next window starts.
    fn measure_lines(&mut self, text: &[u8], line_bytes_max: usize) {
        let with_end = line_bytes_max + 2;
        let mut rest = text;
        loop {
            let room = with_end.saturating_sub(self.line_bytes);
            let window = &rest[..rest.len().min(room)];
            match memrchr(b'\n', window) {
                Some(at) => {
                    rest = &rest[at + 1..];
                    self.line_bytes = 0;
                }
                None if rest.len() > room => {
                    self.flaws.line_too_long = true;
                    return;
                }
                None => {
                    self.line_bytes += rest.len();
                    return;
                }
            }
        }
    }
}
