//! Replies on their way out, in the order of their commands, some of them not known yet.
//!
//! ```text
//! ready              held
//! [250 250 354]      [        250 250 354          250 221 ]
//!                     ▲ place 7            ▲ place 8
//! ```
//! What is ready may be written. The first reply that is owed holds up all that follows; once it is
//! given, it and what stands before the next place become ready.

use std::collections::VecDeque;

use crate::reply::Reply;

/// Octets passed over in front of `held` before it is worth to move the rest.
const PASSED_BYTES_MAX: usize = 4096;

/// Where a reply stands that is yet to be given.
#[derive(Debug)]
#[must_use = "the client waits for this reply"]
pub struct Place(u64);

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// To be written.
    pub(super) ready: Vec<u8>,
    /// Replies behind the first place.
    held: Vec<u8>,
    /// Octets of `held` that have become ready.
    passed: usize,
    places: VecDeque<Kept>,
    /// Number of the first of `places`.
    first: u64,
}

#[derive(Debug)]
struct Kept {
    /// Index in `held` of what follows.
    at: usize,
    /// The reply as it stands on the wire, if it is given but something before it is not.
    reply: Option<Box<[u8]>>,
}

impl Outbox {
    /// Where the next reply is to be written.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        match self.places.is_empty() {
            true => &mut self.ready,
            false => &mut self.held,
        }
    }

    pub(super) fn reserve(&mut self) -> Place {
        self.places.push_back(Kept {
            at: self.held.len(),
            reply: None,
        });
        Place(self.first + self.places.len() as u64 - 1)
    }

    /// Places that hold something up or wait for others that do.
    pub(super) fn owed(&self) -> usize {
        self.places.len()
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// # Panics
    /// If the place is not one of this outbox.
    pub(super) fn fill(&mut self, Place(number): Place, reply: &Reply) {
        let index = number.checked_sub(self.first);
        if index == Some(0) && !self.places.is_empty() {
            reply.write_to(&mut self.ready);
            self.advance();
            return;
        }
        let kept = index.and_then(|index| self.places.get_mut(usize::try_from(index).ok()?));
        let kept = kept.expect("a place of this connection");
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        kept.reply = Some(wire.into());
    }

    /// Drops the first place, whose reply has been put out, and passes on what it held up.
    fn advance(&mut self) {
        loop {
            self.places.pop_front();
            self.first += 1;
            let next = self.places.front();
            let until = next.map_or(self.held.len(), |next| next.at);
            self.ready.extend_from_slice(&self.held[self.passed..until]);
            self.passed = until;
            match next {
                Some(Kept {
                    reply: Some(reply), ..
                }) => self.ready.extend_from_slice(reply),
                _ => break,
            }
        }
        if self.places.is_empty() {
            self.held = Vec::new();
            self.passed = 0;
        } else if self.passed > PASSED_BYTES_MAX {
            self.held.drain(..self.passed);
            for kept in &mut self.places {
                kept.at -= self.passed;
            }
            self.passed = 0;
        }
    }
}
