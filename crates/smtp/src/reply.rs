//! Replies (RFC 5321 §4.2) and their incremental parser.
//!
//! The parser keeps at most one reply's text, within [`ReplyLimits`]; any split of the bytes gives
//! the same replies. A bare LF is taken as a line end: peers that send it exist, and no decision
//! about where a *message* ends hangs on it.

use std::fmt;

use memchr::memchr;

use crate::status::EnhancedStatus;

/// A three-digit reply code, 200–599 (RFC 5321 §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyCode(u16);

/// What the first digit of a code says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// 2yz: done.
    Completed,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: failed for now.
    Transient,
    /// 5yz: failed for good.
    Permanent,
}

impl ReplyCode {
    /// `None` outside 200–599.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 200 && code <= 599 {
            Some(Self(code))
        } else {
            None
        }
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What its first digit says.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0 {
            200..=299 => Severity::Completed,
            300..=399 => Severity::Intermediate,
            400..=499 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    /// 2yz.
    #[must_use]
    pub const fn is_completed(self) -> bool {
        matches!(self.severity(), Severity::Completed)
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One whole reply: code, enhanced status code if it had one, text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    code: ReplyCode,
    enhanced: Option<EnhancedStatus>,
    /// Lines divided by LF; printable, without the enhanced status code.
    text: Box<str>,
}

impl Reply {
    /// A reply to send. Control characters in `text` become spaces, but LF divides lines.
    #[must_use]
    pub fn new(code: ReplyCode, enhanced: Option<EnhancedStatus>, text: &str) -> Self {
        Self {
            code,
            enhanced,
            text: printable(text).into(),
        }
    }

    /// A reply from parts known at compile time.
    ///
    /// # Panics
    /// If the code or the enhanced status code is out of range.
    #[must_use]
    pub fn fixed(code: u16, enhanced: Option<(u8, u16, u16)>, text: &str) -> Self {
        let code = ReplyCode::new(code).expect("a code of 200 to 599");
        let enhanced = enhanced.map(|(class, subject, detail)| {
            EnhancedStatus::new(class, subject, detail).expect("an enhanced status code in range")
        });
        Self::new(code, enhanced, text)
    }

    /// The reply code.
    #[must_use]
    pub fn code(&self) -> ReplyCode {
        self.code
    }

    /// The enhanced status code that began its first line (RFC 2034).
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        self.enhanced
    }

    /// The text, lines divided by LF, without codes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends the wire form: one line per line of text, all but the last with `-`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let code = self.code.0;
        let digits = [
            b'0' + (code / 100) as u8,
            b'0' + (code / 10 % 10) as u8,
            b'0' + (code % 10) as u8,
        ];
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(&digits);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(enhanced.to_string().as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for people and logs: `550 5.1.1 no such user`, line ends shown as ` / `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for (index, line) in self.text.split('\n').enumerate() {
            f.write_str(if index == 0 { " " } else { " / " })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

/// What one reply may cost us.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// Octets in one line; RFC 5321 §4.5.3.1.5 says 512, the world says more.
    pub line_bytes_max: usize,
    /// Lines in one reply.
    pub lines_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self {
            line_bytes_max: 4096,
            lines_max: 256,
        }
    }
}

/// Why bytes are not a reply. The connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line does not begin with a code of 200–599 and a space, hyphen or line end.
    #[error("the server's reply is not SMTP: {0:?}")]
    NotAReply(String),
    /// Lines of one reply carry different codes.
    #[error("the lines of one reply carry different codes")]
    CodeChanged,
    /// A line over [`ReplyLimits::line_bytes_max`].
    #[error("a line of the server's reply is longer than {0} octets")]
    LineTooLong(usize),
    /// More lines than [`ReplyLimits::lines_max`].
    #[error("the server's reply has more than {0} lines")]
    TooManyLines(usize),
}

/// Turns bytes into replies, however they are split.
#[derive(Debug, Default)]
pub struct ReplyParser {
    limits: ReplyLimits,
    /// A line whose end has not come.
    partial: Vec<u8>,
    /// The lines before the last one of a multi-line reply.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    code: ReplyCode,
    enhanced: Option<EnhancedStatus>,
    text: String,
    lines: usize,
}

impl ReplyParser {
    /// With limits of one's own.
    #[must_use]
    pub fn new(limits: ReplyLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Whether no reply has begun: nothing is buffered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.begun.is_none()
    }

    /// Takes bytes off the front of `input` until one reply is whole or `input` is empty.
    ///
    /// # Errors
    /// The first line that is none; the parser is not to be used afterwards.
    pub fn parse(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = (&input[..end], &input[end + 1..]);
            self.check_line_len(line.len())?;
            *input = rest;
            let reply = if self.partial.is_empty() {
                self.line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                let reply = self.line(&whole)?;
                whole.clear();
                self.partial = whole;
                reply
            };
            if reply.is_some() {
                return Ok(reply);
            }
        }
        self.check_line_len(input.len())?;
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    fn check_line_len(&self, more: usize) -> Result<(), ReplyError> {
        if self.partial.len() + more > self.limits.line_bytes_max {
            return Err(ReplyError::LineTooLong(self.limits.line_bytes_max));
        }
        Ok(())
    }

    /// One line without its LF.
    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, last, text) =
            split_line(line).ok_or_else(|| ReplyError::NotAReply(excerpt(line)))?;
        let (enhanced, text) = match EnhancedStatus::parse_prefix(text) {
            Some((status, len)) => (Some(status), &text[len..]),
            None => (None, text),
        };
        let text = String::from_utf8_lossy(text);
        let begun = match &mut self.begun {
            None if last => {
                return Ok(Some(Reply {
                    code,
                    enhanced,
                    text: tidy(&text),
                }));
            }
            None => self.begun.insert(Begun {
                code,
                enhanced,
                text: String::new(),
                lines: 0,
            }),
            Some(begun) => begun,
        };
        if begun.code != code {
            return Err(ReplyError::CodeChanged);
        }
        if begun.lines > 0 {
            begun.text.push('\n');
        }
        begun.text.push_str(&tidy(&text));
        begun.lines += 1;
        if begun.lines > self.limits.lines_max {
            return Err(ReplyError::TooManyLines(self.limits.lines_max));
        }
        if !last {
            return Ok(None);
        }
        Ok(self.begun.take().map(|begun| Reply {
            code: begun.code,
            enhanced: begun.enhanced,
            text: begun.text.into(),
        }))
    }
}

/// Most texts are printable as they are: then it is one copy.
fn tidy(text: &str) -> Box<str> {
    if text.bytes().all(|b| (b' '..0x7f).contains(&b)) {
        text.into()
    } else {
        printable(text).into()
    }
}

/// Code, whether it is the reply's last line, and the text.
fn split_line(line: &[u8]) -> Option<(ReplyCode, bool, &[u8])> {
    let digits = line.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |sum, b| sum * 10 + u16::from(b - b'0'));
    let code = ReplyCode::new(code)?;
    match line.get(3) {
        None => Some((code, true, &[])),
        Some(b' ') => Some((code, true, &line[4..])),
        Some(b'-') => Some((code, false, &line[4..])),
        Some(_) => None,
    }
}

fn excerpt(line: &[u8]) -> String {
    let shown = &line[..line.len().min(60)];
    printable(&String::from_utf8_lossy(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_all(parser: &mut ReplyParser, mut input: &[u8]) -> Result<Vec<Reply>, ReplyError> {
        let mut replies = Vec::new();
        while !input.is_empty() {
            replies.extend(parser.parse(&mut input)?);
        }
        Ok(replies)
    }

    fn shown(bytes: &[u8]) -> Result<Vec<String>, ReplyError> {
        let replies = parse_all(&mut ReplyParser::default(), bytes)?;
        Ok(replies.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn replies_are_read_whole() {
        for (bytes, want) in [
            ("250 2.1.0 Ok\r\n", vec!["250 2.1.0 Ok"]),
            ("250\r\n", vec!["250 "]),
            ("250-a\r\n250-b\r\n250 c\r\n", vec!["250 a / b / c"]),
            (
                "550-5.1.1 no\r\n550 5.1.1 such user\r\n",
                vec!["550 5.1.1 no / such user"],
            ),
            ("250 a\n354 go\r\n", vec!["250 a", "354 go"]),
            ("250 \u{e9}\u{7}\r\n", vec!["250 \u{e9} "]),
        ] {
            assert_eq!(shown(bytes.as_bytes()).unwrap(), want, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            "hello\r\n",
            "25\r\n",
            "2500 x\r\n",
            "199 x\r\n",
            "600 x\r\n",
            "\r\n",
            "25a x\r\n",
        ] {
            assert!(
                matches!(shown(bytes.as_bytes()), Err(ReplyError::NotAReply(_))),
                "{bytes:?}"
            );
        }
        assert_eq!(shown(b"250-a\r\n251 b\r\n"), Err(ReplyError::CodeChanged));
    }

    #[test]
    fn a_reply_costs_no_more_than_its_limits() {
        let mut parser = ReplyParser::default();
        assert_eq!(
            parse_all(&mut parser, &[b'2'; 5000]),
            Err(ReplyError::LineTooLong(4096))
        );
        let many = "250-x\r\n".repeat(10_000);
        assert_eq!(shown(many.as_bytes()), Err(ReplyError::TooManyLines(256)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_replies(
            texts in prop::collection::vec(("[2-5][0-9]{2}", prop::collection::vec("[ -~]{0,30}", 1..4)), 1..5),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let mut bytes = Vec::new();
            for (code, lines) in &texts {
                let code = ReplyCode::new(code.parse().unwrap()).unwrap();
                Reply::new(code, None, &lines.join("\n")).write_to(&mut bytes);
            }
            let whole = parse_all(&mut ReplyParser::default(), &bytes).unwrap();
            prop_assert_eq!(whole.len(), texts.len());
            let mut parser = ReplyParser::default();
            let mut split = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                split.extend(parse_all(&mut parser, &bytes[from..cut]).unwrap());
                from = cut;
            }
            prop_assert_eq!(split, whole);
        }
    }
}
