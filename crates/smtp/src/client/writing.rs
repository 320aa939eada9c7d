//! What is to be written, in order: commands gathered in one buffer, content as it is.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::content::{Content, Stuffing};

/// The output queue of a session.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pieces: VecDeque<Piece>,
    /// The commands of `pieces`, after some that are written.
    buffer: Vec<u8>,
    /// How much of `buffer` is written.
    buffer_written: usize,
    /// Octets written in the whole session.
    written: u64,
    /// Octets queued in the whole session.
    end: u64,
}

#[derive(Debug)]
enum Piece {
    /// `buffer` up to this index.
    Commands { until: usize },
    /// `left` octets of wire, the final dot line of [`Form::Stuffed`] included.
    Content {
        id: u64,
        content: Content,
        form: Form,
        place: Stuffing,
        left: usize,
    },
}

/// How content stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is, for BDAT.
    Plain,
    /// Dots doubled, and the final dot line after it, for DATA.
    Stuffed,
}

const END_OF_DATA: &[u8] = b".\r\n";

/// Room for commands at first: those of a transaction or two.
const BUFFER_BYTES: usize = 256;
/// Written commands are dropped from the buffer's front past this size.
const BUFFER_WRITTEN_MAX: usize = 64 * 1024;

impl Writing {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Where in the stream the last octet queued ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// How much of the stream is written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Queues what `write` appends.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        let before = self.buffer.len();
        write(&mut self.buffer);
        let after = self.buffer.len();
        self.end += (after - before) as u64;
        match self.pieces.back_mut() {
            Some(Piece::Commands { until }) => *until = after,
            _ => self.pieces.push_back(Piece::Commands { until: after }),
        }
    }

    /// Queues content; `id` is told back when all of it is written.
    pub(super) fn push_content(&mut self, id: u64, content: Content, form: Form) {
        let left = match form {
            Form::Plain => content.len(),
            Form::Stuffed => content.stuffed_len() + END_OF_DATA.len(),
        };
        self.end += left as u64;
        let place = content.stuffing();
        self.pieces.push_back(Piece::Content {
            id,
            content,
            form,
            place,
            left,
        });
    }

    /// Forgets what is not written; `content_left` gets each content that is not whole.
    pub(super) fn clear(&mut self, mut content_left: impl FnMut(u64, Content)) {
        for piece in self.pieces.drain(..) {
            if let Piece::Content { id, content, .. } = piece {
                content_left(id, content);
            }
        }
        self.buffer.clear();
        self.buffer_written = 0;
    }

    /// Fills `slices` from the front; gives how many.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut room = slices.iter_mut();
        let (mut from, mut filled) = (self.buffer_written, 0);
        let mut fill = |slice: &'a [u8]| match room.next() {
            Some(place) => {
                *place = IoSlice::new(slice);
                filled += 1;
                true
            }
            None => false,
        };
        for piece in &self.pieces {
            let fits = match piece {
                Piece::Commands { until } => {
                    let slice = &self.buffer[from..*until];
                    from = *until;
                    fill(slice)
                }
                Piece::Content {
                    content,
                    form: Form::Plain,
                    left,
                    ..
                } => fill(&content.as_bytes()[content.len() - left..]),
                Piece::Content {
                    content,
                    form: Form::Stuffed,
                    place,
                    left,
                    ..
                } => {
                    content.stuffed_from(*place).all(&mut fill)
                        && fill(&END_OF_DATA[END_OF_DATA.len().saturating_sub(*left)..])
                }
            };
            if !fits {
                break;
            }
        }
        filled
    }

    /// Takes `octets` off the front; `content_written` gets the id of each content that is whole.
    pub(super) fn advance(&mut self, mut octets: usize, mut content_written: impl FnMut(u64)) {
        self.written += octets as u64;
        while octets > 0 {
            let Some(front) = self.pieces.front_mut() else {
                break;
            };
            let is_done = match front {
                Piece::Commands { until } => {
                    let taken = octets.min(*until - self.buffer_written);
                    self.buffer_written += taken;
                    octets -= taken;
                    self.buffer_written == *until
                }
                Piece::Content {
                    id,
                    content,
                    form,
                    place,
                    left,
                } => {
                    let taken = octets.min(*left);
                    *left -= taken;
                    octets -= taken;
                    if *left == 0 {
                        content_written(*id);
                    } else if *form == Form::Stuffed {
                        *place = place.advanced(content, taken);
                    }
                    *left == 0
                }
            };
            if is_done {
                self.pieces.pop_front();
            }
        }
        self.reclaim();
    }

    fn reclaim(&mut self) {
        if self.pieces.is_empty() {
            // What was written waits for its replies, and takes no room for more.
            (self.pieces, self.buffer) = (VecDeque::new(), Vec::new());
            self.buffer_written = 0;
        } else if self.buffer_written > BUFFER_WRITTEN_MAX {
            self.buffer.drain(..self.buffer_written);
            for piece in &mut self.pieces {
                if let Piece::Commands { until } = piece {
                    *until -= self.buffer_written;
                }
            }
            self.buffer_written = 0;
        }
    }
}
