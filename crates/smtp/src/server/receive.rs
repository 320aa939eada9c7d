//! Octets to commands and content: what belongs to what.

use memchr::memchr;

use super::phase::{Chunks, Found, Phase};
use super::scan::{Bounds, ContentRefusal, Front};
use super::{Server, replies};

impl Server {
    /// Goes over the input until something concerns the caller.
    pub(super) fn advance<'a>(&mut self, input: &'a [u8]) -> (usize, Found<'a>) {
        let mut used = 0;
        loop {
            let (octets, found) = match self.phase {
                Phase::Connected => (0, Some(Found::Connect)),
                Phase::Closed => (input.len() - used, Some(Found::Closed)),
                Phase::Handshake => (0, Some(Found::More)),
                Phase::Data(_) => self.data(&input[used..]),
                Phase::Chunk { .. } => self.chunk(&input[used..]),
                Phase::Swallow { .. } => self.swallow(&input[used..]),
                _ => self.line(&input[used..]),
            };
            used += octets;
            if let Some(found) = found {
                return (used, found);
            }
        }
    }

    fn data<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let bounds = self.bounds();
        let Phase::Data(scan) = &mut self.phase else {
            unreachable!("only called in this phase");
        };
        if input.is_empty() {
            return (0, Some(Found::More));
        }
        match scan.front(input, &self.profile.line_end_dot) {
            Front::Unclear => (0, Some(Found::More)),
            Front::End => {
                let (octets, refusal) = (scan.octets(), scan.refusal(true));
                (3, Some(self.end(octets, refusal)))
            }
            Front::Text(stuffing, text) => {
                scan.take(text, bounds);
                let wanted = scan.refusal(false).is_none();
                (
                    stuffing + text.len(),
                    wanted.then_some(Found::Content(text)),
                )
            }
        }
    }

    fn chunk<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let bounds = self.bounds();
        let Phase::Chunk {
            scan, left, last, ..
        } = &mut self.phase
        else {
            unreachable!("only called in this phase");
        };
        if *left > 0 {
            let text = prefix(input, *left);
            if text.is_empty() {
                return (0, Some(Found::More));
            }
            *left -= text.len() as u64;
            scan.take(text, bounds);
            let wanted = scan.refusal(false).is_none();
            return (text.len(), wanted.then_some(Found::Content(text)));
        }
        if *last {
            let (octets, refusal) = (scan.octets(), scan.refusal(true));
            return (0, Some(self.end(octets, refusal)));
        }
        if let Phase::Chunk {
            mut transaction,
            scan,
            ..
        } = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            transaction.chunks = Chunks::Begun(scan);
            self.phase = Phase::Open(transaction);
            self.say(replies::CHUNK_OK);
        }
        (0, None)
    }

    fn swallow<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let Phase::Swallow { left, .. } = &mut self.phase else {
            unreachable!("only called in this phase");
        };
        let unwanted = prefix(input, *left).len();
        *left -= unwanted as u64;
        if *left > 0 {
            return (unwanted, Some(Found::More));
        }
        if let Phase::Swallow { reply, then, .. } = std::mem::replace(&mut self.phase, Phase::Idle)
        {
            self.outbox.end().extend_from_slice(&reply);
            self.phase = *then;
        }
        (unwanted, None)
    }

    /// The content is complete.
    fn end<'a>(&mut self, octets: u64, refusal: Option<ContentRefusal>) -> Found<'a> {
        self.phase = Phase::Idle;
        match refusal {
            None => Found::End(octets),
            Some(refusal) => {
                self.say(refusal.reply());
                Found::Refused(refusal)
            }
        }
    }

    fn line<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Found<'a>>) {
        let limits = self.profile.limits;
        let line_bytes_max = match self.phase {
            Phase::Auth(_) => limits.auth_line_bytes_max,
            _ => limits.command_line_bytes_max,
        };
        let window = match self.skips_line {
            true => input,
            false => prefix(input, line_bytes_max as u64),
        };
        let Some(end) = memchr(b'\n', window) else {
            if self.skips_line {
                return (input.len(), Some(Found::More));
            }
            if window.len() < line_bytes_max {
                return (0, Some(Found::More));
            }
            self.skips_line = true;
            return (window.len(), None);
        };
        if std::mem::take(&mut self.skips_line) {
            self.abandon_auth();
            self.fault(replies::LINE_TOO_LONG);
            return (end + 1, None);
        }
        let Some(line) = window[..end].strip_suffix(b"\r") else {
            self.abandon_auth();
            self.fault(replies::BARE_LF);
            return (end + 1, None);
        };
        let alone = end + 1 == input.len();
        let found = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Auth(exchange) => self.auth(exchange.answer(line)),
            phase => {
                self.phase = phase;
                self.command(line, alone)
            }
        };
        (end + 1, found)
    }

    fn abandon_auth(&mut self) {
        if matches!(self.phase, Phase::Auth(_)) {
            self.phase = Phase::Idle;
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            size_bytes_max: self.profile.size_bytes_max,
            text_line_bytes_max: self.profile.limits.text_line_bytes_max,
        }
    }
}

/// The first `octets` of `input`, or all of it.
fn prefix(input: &[u8], octets: u64) -> &[u8] {
    let len = usize::try_from(octets).map_or(input.len(), |octets| octets.min(input.len()));
    &input[..len]
}
