//! Reading records back, and finding them again after damage.

use std::io;
use std::ops::Range;

use crate::files::File;
use crate::frame::{ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader, Salt};

/// The smallest record there is.
pub(crate) const RECORD_BYTES_MIN: u32 = crate::frame::padded(0);
const CHUNK_BYTES: usize = 1 << 20;
static ZEROS: [u8; 4096] = [0; 4096];

/// Reads one segment in order.
pub(crate) struct Reader<'a> {
    file: &'a dyn File,
    salt: Salt,
    /// Nothing from here on is looked at.
    until: u64,
    /// Of the next record.
    offset: u32,
    buffer: Vec<u8>,
    /// What of the file is in the buffer.
    buffered: Range<u64>,
}

/// A whole record, as it stands in the file.
pub(crate) struct Frame<'a> {
    pub(crate) offset: u32,
    pub(crate) header: RecordHeader,
    pub(crate) body: &'a [u8],
}

/// What comes next.
pub(crate) enum Next<'a> {
    Frame(Frame<'a>),
    /// No whole record stands at this offset.
    Bad(u32),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn File, salt: Salt, offset: u32, until: u64) -> Self {
        Self {
            file,
            salt,
            until,
            offset,
            buffer: Vec::new(),
            buffered: 0..0,
        }
    }

    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    /// The next record.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn next(&mut self) -> io::Result<Next<'_>> {
        let offset = self.offset;
        let header = self.bytes_at(offset, RECORD_HEADER_BYTES)?;
        let Some(header) = header.and_then(|at| {
            let bytes = &self.buffer[at..];
            RecordHeader::decode(self.salt, offset, bytes)
        }) else {
            return Ok(Next::Bad(offset));
        };
        let end = header.end(offset);
        let length = header.length as usize;
        let Some(at) = self.bytes_at(offset, RECORD_HEADER_BYTES + length)? else {
            return Ok(Next::Bad(offset));
        };
        let body = &self.buffer[at + RECORD_HEADER_BYTES..][..length];
        if !header.fits_body(body) {
            return Ok(Next::Bad(offset));
        }
        self.offset = end;
        Ok(Next::Frame(Frame {
            offset,
            header,
            body,
        }))
    }

    /// Has these bytes in the buffer, and says where; none if the file ends before.
    fn bytes_at(&mut self, offset: u32, bytes: usize) -> io::Result<Option<usize>> {
        let from = u64::from(offset);
        let end = from + bytes as u64;
        if end > self.until {
            return Ok(None);
        }
        if !self.buffered.contains(&from) || end > self.buffered.end {
            // No more than there is: a length may promise much.
            let left = self.file.bytes()?.min(self.until).saturating_sub(from);
            if left < bytes as u64 {
                return Ok(None);
            }
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let wanted = bytes.max(CHUNK_BYTES).min(left);
            if self.buffer.len() < wanted {
                self.buffer = vec![0; wanted];
            }
            self.buffered = 0..0;
            let read = self.file.read_at(from, &mut self.buffer[..wanted])?;
            self.buffered = from..from + read as u64;
            if read < bytes {
                return Ok(None);
            }
        }
        let at = from - self.buffered.start;
        Ok(Some(usize::try_from(at).expect("it is in the buffer")))
    }
}

/// Looks for all headers from `from` on that hold in their place.
///
/// # Errors
/// Those of reading the file.
pub(crate) fn find_headers(
    file: &dyn File,
    salt: Salt,
    from: u32,
    mut each: impl FnMut(u32, RecordHeader),
) -> io::Result<()> {
    let mut start = u64::from(from.next_multiple_of(ALIGNMENT));
    let left = file.bytes()?.saturating_sub(start);
    let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
    loop {
        let read = file.read_at(start, &mut buffer)?;
        let bytes = &buffer[..read];
        let mut at = 0;
        while at + RECORD_HEADER_BYTES <= read {
            // Most of what is reserved was never written. A header has bytes in its last four.
            if bytes[at..].starts_with(&ZEROS) {
                at += ZEROS.len() - RECORD_HEADER_BYTES;
                at -= at % ALIGNMENT as usize;
                continue;
            }
            let Ok(offset) = u32::try_from(start + at as u64) else {
                return Ok(());
            };
            if let Some(header) = RecordHeader::decode(salt, offset, &bytes[at..]) {
                each(offset, header);
            }
            at += ALIGNMENT as usize;
        }
        if read < CHUNK_BYTES {
            return Ok(());
        }
        start += at as u64;
    }
}
