//! Records that are written and synced together.

use std::sync::Arc;

use crate::Position;
use crate::commit::{CommitError, Outcome};
use crate::frame::{self, AWAITED, FIRST, RECORD_HEADER_BYTES, RecordHeader, SEAL, Salt, VOID};

/// Bodies from here on are pieces of their own: copied once, and outside the lock.
pub(crate) const LARGE_BYTES: usize = 64 * 1024;

/// A record's body on its way into a group.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) parts: &'a [&'a [u8]],
    pub(crate) length: u32,
    pub(crate) sum: u32,
}

/// A run of records in one segment.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) segment: u32,
    /// Where it begins in the segment.
    pub(crate) start: u32,
    /// Where it ends so far.
    pub(crate) end: u32,
    pub(crate) records: u32,
    /// How many wait for it; with any it must not linger.
    pub(crate) awaited: u32,
    pub(crate) outcome: Arc<Outcome>,
    salt: Salt,
    /// Its bytes. A header never crosses from one into the next.
    pieces: Vec<Vec<u8>>,
    /// The last piece takes more.
    is_open: bool,
    /// It ends the segment.
    is_sealed: bool,
}

impl Group {
    /// * `buffer`: an empty one, to be filled.
    pub(crate) fn new(segment: u32, start: u32, salt: Salt, buffer: Vec<u8>) -> Self {
        Self {
            segment,
            start,
            end: start,
            records: 0,
            awaited: 0,
            outcome: Arc::default(),
            salt,
            pieces: vec![buffer],
            is_open: true,
            is_sealed: false,
        }
    }

    /// Where one goes on behind it: nothing ever stands behind a seal.
    pub(crate) fn behind(&self) -> Position {
        match self.is_sealed {
            true => Position::new(self.segment + 1, FIRST),
            false => Position::new(self.segment, self.end),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn pieces(&self) -> Vec<&[u8]> {
        self.pieces.iter().map(Vec::as_slice).collect()
    }

    /// Its first buffer, to be used again.
    pub(crate) fn into_buffer(mut self) -> Vec<u8> {
        let mut buffer = self.pieces.swap_remove(0);
        buffer.clear();
        buffer
    }

    /// * `copy`: body and padding as one piece, where the body is large.
    pub(crate) fn push(&mut self, kind: u8, flags: u8, body: Body<'_>, copy: Option<Vec<u8>>) {
        let header = RecordHeader {
            length: body.length,
            kind,
            flags,
            body_sum: body.sum,
            group: self.start,
        };
        if !self.is_open {
            self.pieces.push(Vec::new());
            self.is_open = true;
        }
        let buffer = self.pieces.last_mut().expect("there is always one");
        buffer.extend_from_slice(&header.encode(self.salt, self.end));
        if let Some(piece) = copy {
            self.pieces.push(piece);
            self.is_open = false;
        } else {
            put_padded(buffer, body);
        }
        self.records += u32::from(flags & SEAL == 0);
        self.end = header.end(self.end);
    }

    /// Ends the segment.
    pub(crate) fn seal(&mut self) {
        let body = Body {
            parts: &[],
            length: 0,
            sum: 0,
        };
        self.push(0, SEAL, body, None);
        self.is_sealed = true;
    }

    /// Tells those who wait that there is no room, and takes their records back; the lazily
    /// appended ones stay. Says whether there are any.
    pub(crate) fn refuse(&mut self) -> bool {
        std::mem::take(&mut self.outcome).end(Err(CommitError::Full));
        self.awaited = 0;
        let (salt, mut lazy) = (self.salt, false);
        self.each_header(|offset, bytes| {
            let header = RecordHeader::decode(salt, offset, bytes).expect("we wrote it");
            if header.is(AWAITED) {
                let void = RecordHeader {
                    flags: VOID,
                    ..header
                };
                bytes.copy_from_slice(&void.encode(salt, offset));
            }
            lazy |= !header.is(AWAITED | VOID | SEAL);
        });
        lazy
    }

    fn each_header(&mut self, mut each: impl FnMut(u32, &mut [u8])) {
        let (mut piece, mut at, mut offset) = (0, 0, self.start);
        while offset < self.end {
            while at >= self.pieces[piece].len() {
                at -= self.pieces[piece].len();
                piece += 1;
            }
            let header = &mut self.pieces[piece][at..at + RECORD_HEADER_BYTES];
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            each(offset, header);
            let bytes = frame::padded(length);
            (at, offset) = (at + bytes as usize, offset + bytes);
        }
    }
}

/// Appends a body and what fills it up to the next record.
pub(crate) fn put_padded(buffer: &mut Vec<u8>, body: Body<'_>) {
    let filled = frame::padded(body.length) as usize - RECORD_HEADER_BYTES;
    buffer.reserve(filled);
    for part in body.parts {
        buffer.extend_from_slice(part);
    }
    let padding = filled - body.length as usize;
    buffer.extend_from_slice(&[0; frame::ALIGNMENT as usize][..padding]);
}
