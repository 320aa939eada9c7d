//! A message's content on its way in: gathered into one buffer that becomes the content.
//!
//! The header section is kept apart until its end has come, then rewritten once into the buffer
//! ([`super::header`]); the body follows as it comes. The usual message arrives in one read, so its
//! header section is never copied before it is rewritten, and the buffer is as long as it must be.
//!
//! All buffers together are bounded by a [`Budget`]: beyond it messages are refused for now, and a
//! client that announces much and sends little holds little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memchr::memmem;
use sha2::{Digest, Sha256};
use smtp::{Content, Reply};

use super::header::{self, Trace, Wishes};

/// What a message is believed about its size before it is there, in octets.
const TRUST_BYTES_MAX: usize = 64 * 1024;
/// Octets that a header section grows by, about.
const ADDED_BYTES: usize = 512;

/// Octets that all content under way may take.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            bytes_max: AtomicUsize::new(bytes_max),
        }
    }

    pub(crate) fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// Octets in use.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether there is no room for another message.
    pub(crate) fn is_used_up(&self) -> bool {
        self.used_bytes() >= self.bytes_max.load(Relaxed)
    }
}

/// A share of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Makes it `bytes`; `false` where that is more than there is.
    fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let used = self.budget.used.fetch_add(more, Relaxed) + more;
            self.bytes = bytes;
            return used <= self.budget.bytes_max.load(Relaxed);
        }
        self.budget.used.fetch_sub(self.bytes - bytes, Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// Bounds of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// `Received` fields; more are a loop.
    pub(crate) received_max: usize,
    /// Octets of the header section.
    pub(crate) header_bytes_max: usize,
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) content: Content,
    pub(crate) wishes: Wishes,
    /// Where an idempotency key is given: what makes it the same message.
    pub(crate) fingerprint: Option<[u8; 32]>,
}

/// Content under way.
#[derive(Debug)]
pub(crate) struct Gatherer {
    bounds: Bounds,
    share: Share,
    /// The header section as it came, then everything as it goes out.
    bytes: Vec<u8>,
    wishes: Wishes,
    digest: Option<Box<Sha256>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    Body,
    Refused(Box<Reply>),
}

/// What the header section is rewritten by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) trace: Trace<'a>,
    /// Reverse-path and recipients, for a fingerprint.
    pub(crate) reverse_path: &'a str,
    pub(crate) recipients: &'a [smtp::Recipient],
}

impl Gatherer {
    /// * `size_bytes`: what the client announced, 0 if it did not.
    pub(crate) fn new(budget: &Arc<Budget>, bounds: Bounds, size_bytes: u64) -> Self {
        let announced = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        let mut gatherer = Self {
            bounds,
            share: Share {
                budget: Arc::clone(budget),
                bytes: 0,
            },
            bytes: Vec::new(),
            wishes: Wishes::default(),
            digest: None,
            state: State::Header,
        };
        gatherer.room_for(announced.min(TRUST_BYTES_MAX));
        gatherer
    }

    /// Takes the next octets.
    pub(crate) fn take(&mut self, text: &[u8], about: &About<'_>) {
        match self.state {
            State::Refused(_) => {}
            State::Body => self.push(text),
            State::Header => self.take_header(text, about),
        }
    }

    fn take_header(&mut self, text: &[u8], about: &About<'_>) {
        // The end of the section may have been cut in pieces.
        let seen = self.bytes.len();
        if seen == 0
            && let Some(len) = header_len(text)
        {
            let size_bytes = text.len().max(self.bytes.capacity());
            self.rewrite(&text[..len], size_bytes, about);
            return self.take(&text[len..], about);
        }
        self.push(text);
        if matches!(self.state, State::Refused(_)) {
            return;
        }
        let from = seen.saturating_sub(3);
        let found = match from {
            0 => header_len(&self.bytes),
            _ => memmem::find(&self.bytes[from..], b"\r\n\r\n").map(|at| from + at + 2),
        };
        let section_len = found.unwrap_or(self.bytes.len());
        if section_len > self.bounds.header_bytes_max {
            return self.refuse(Reply::fixed(552, Some((5, 3, 4)), "Header section too big"));
        }
        if let Some(len) = found {
            let raw = std::mem::take(&mut self.bytes);
            self.rewrite(&raw[..len], raw.capacity(), about);
            self.take(&raw[len..], about);
        }
    }

    /// The header section is whole.
    fn rewrite(&mut self, raw: &[u8], size_bytes: usize, about: &About<'_>) {
        if raw.len() > self.bounds.header_bytes_max {
            return self.refuse(Reply::fixed(552, Some((5, 3, 4)), "Header section too big"));
        }
        self.state = State::Body;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.reserve_exact(size_bytes + ADDED_BYTES);
        let (trace, received_max) = (&about.trace, self.bounds.received_max);
        match header::rewrite(raw, trace, received_max, &mut bytes) {
            Err(refusal) => self.refuse(refusal.reply()),
            Ok(wishes) => {
                if wishes.idempotency_key.is_some() {
                    let digest = header::digest(raw, (about.reverse_path, about.recipients));
                    self.digest = Some(Box::new(digest));
                }
                self.wishes = wishes;
                self.bytes = bytes;
                self.account();
            }
        }
    }

    fn push(&mut self, text: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(text);
        }
        if self.bytes.capacity() - self.bytes.len() < text.len() {
            self.room_for(text.len());
        }
        if !matches!(self.state, State::Refused(_)) {
            self.bytes.extend_from_slice(text);
        }
    }

    fn room_for(&mut self, octets: usize) {
        self.bytes.reserve(octets);
        self.account();
    }

    fn account(&mut self) {
        if !self.share.resize(self.bytes.capacity()) {
            self.refuse(Reply::fixed(
                452,
                Some((4, 3, 1)),
                "Too much mail is coming in, try again later",
            ));
        }
    }

    fn refuse(&mut self, reply: Reply) {
        self.state = State::Refused(Box::new(reply));
        self.bytes = Vec::new();
        self.digest = None;
        self.share.resize(0);
    }

    /// All of it has come.
    ///
    /// # Errors
    /// What the client is to be told.
    pub(crate) fn finish(mut self, about: &About<'_>) -> Result<Gathered, Reply> {
        if matches!(self.state, State::Header) {
            let raw = std::mem::take(&mut self.bytes);
            self.rewrite(&raw, raw.len(), about);
        }
        if let State::Refused(reply) = self.state {
            return Err(*reply);
        }
        // The last line of a last chunk may lack its end.
        if !self.bytes.ends_with(b"\r\n") {
            self.bytes.extend_from_slice(b"\r\n");
        }
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 4 {
            self.bytes.shrink_to_fit();
        }
        let content = Content::new(self.bytes)
            .map_err(|error| Reply::fixed(554, Some((5, 6, 0)), &error.to_string()))?;
        Ok(Gathered {
            content,
            wishes: self.wishes,
            fingerprint: self.digest.map(|digest| digest.finalize().into()),
        })
    }
}

/// Octets of the header section in front of its empty line; `None` if that has not come.
fn header_len(text: &[u8]) -> Option<usize> {
    match text.starts_with(b"\r\n") {
        true => Some(0),
        false => memmem::find(text, b"\r\n\r\n").map(|at| at + 2),
    }
}

#[cfg(test)]
mod tests {
    use store::Time;

    use super::*;

    #[test]
    fn no_room_in_the_middle_of_a_header_section_is_a_refusal_and_gives_the_room_back() {
        let budget = Arc::new(Budget::new(1024));
        let bounds = Bounds {
            received_max: 100,
            header_bytes_max: 64 << 10,
        };
        let about = About {
            trace: Trace {
                host: "mail.example",
                client: None,
                with: "ESMTP",
                id: store::MessageId::from_bits(1),
                at: Time::ZERO,
            },
            reverse_path: "",
            recipients: &[],
        };
        let mut gatherer = Gatherer::new(&budget, bounds, 0);
        for text in [
            "Subject: long\r\n",
            &" folded\r\n".repeat(500),
            "\r\nbody\r\n",
        ] {
            gatherer.take(text.as_bytes(), &about);
        }
        let refusal = gatherer.finish(&about).unwrap_err();
        assert_eq!(refusal.code().get(), 452);
        assert_eq!(budget.used_bytes(), 0);
    }
}
