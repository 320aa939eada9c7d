//! Reading from an open journal.

use std::io;
use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};

use crate::files::File;
use crate::frame::{FIRST, RECORD_HEADER_BYTES, RecordHeader, SEAL, VOID};
use crate::journal::{Journal, Shared};
use crate::read::{Next, RECORD_BYTES_MIN, Reader, find_headers};
use crate::{Damage, Position, ReadError, Record, What};

/// What one read asks for at first: most records are shorter.
const READ_BYTES: usize = 8 * 1024;

/// Takes a record of a scan: its place, kind and bytes; says whether to go on.
pub type Each<'a> = dyn FnMut(Position, u8, &[u8]) -> ControlFlow<()> + 'a;

impl Journal {
    /// Reads a record back.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, at: Position) -> Result<Record, ReadError> {
        if at >= self.durable() {
            return Err(ReadError::NotCommitted(at));
        }
        let read = self.read_by(at, |file, offset, buffer| {
            file.read_at(offset, buffer).map(Some)
        });
        read?.ok_or_else(|| unreadable(self.shared(), at))
    }

    /// The same, without waiting for a disk: `None` where it would, or where the record is not
    /// durable yet.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_at_once(&self, at: Position) -> Result<Option<Record>, ReadError> {
        if at >= self.durable() {
            return Ok(None);
        }
        self.read_by(at, |file, offset, buffer| file.read_at_once(offset, buffer))
    }

    fn read_by(
        &self,
        at: Position,
        read: impl Fn(&dyn File, u64, &mut [u8]) -> io::Result<Option<usize>>,
    ) -> Result<Option<Record>, ReadError> {
        let shared = self.shared();
        if at.offset() < FIRST {
            return Err(ReadError::NotCommitted(at));
        }
        let removed = || ReadError::Removed(at.segment());
        let file = shared.segments.get(at.segment()).ok_or_else(removed)?;
        let offset = u64::from(at.offset());
        let mut bytes = BytesMut::zeroed(READ_BYTES);
        let Some(first) = read(&*file, offset, &mut bytes)? else {
            return Ok(None);
        };
        bytes.truncate(first);
        if first < RECORD_HEADER_BYTES {
            // The page behind may not be at hand.
            return Ok(None);
        }
        let salt = shared.segments.salt(at.segment());
        let header = RecordHeader::decode(salt, at.offset(), &bytes)
            .filter(|header| !header.is(SEAL | VOID))
            .ok_or_else(|| unreadable(shared, at))?;
        let whole = RECORD_HEADER_BYTES + header.length as usize;
        if whole > first {
            if offset + whole as u64 > file.bytes()? {
                return Err(unreadable(shared, at));
            }
            bytes.resize(whole, 0);
            let rest = read(&*file, offset + first as u64, &mut bytes[first..])?;
            if rest.is_none_or(|rest| first + rest < whole) {
                return Ok(None);
            }
        }
        let bytes: Bytes = bytes.freeze().slice(RECORD_HEADER_BYTES..whole);
        if !header.fits_body(&bytes) {
            return Err(unreadable(shared, at));
        }
        let kind = header.kind;
        Ok(Some(Record { kind, bytes }))
    }

    /// Reads all durable records from a place on, in order.
    ///
    /// * `from`: of a record, the end of one, or [`Position::START`] for the oldest.
    /// * returns: where to go on from: the end, or behind the record at which `each` broke off.
    ///
    /// # Errors
    /// See [`ReadError`]. Damage ends the scan.
    pub fn scan(&self, from: Position, each: &mut Each<'_>) -> Result<Position, ReadError> {
        let end = self.durable();
        let oldest = self.shared().segments.numbers().first().copied();
        let mut at = if from == Position::START {
            Position::new(oldest.unwrap_or_default(), FIRST)
        } else {
            from
        };
        while at < end {
            match scan_segment(self.shared(), at, end, each)? {
                ControlFlow::Continue(next) => at = next.min(end),
                ControlFlow::Break(behind) => return Ok(behind),
            }
        }
        Ok(at)
    }

    /// As [`Journal::scan`], but damage is told and passed over, up to the next record that stands
    /// where one can.
    ///
    /// # Errors
    /// See [`ReadError`], but for damage.
    pub fn scan_over_damage(
        &self,
        from: Position,
        each: &mut Each<'_>,
        damaged: &mut dyn FnMut(&Damage),
    ) -> Result<Position, ReadError> {
        let mut from = from;
        loop {
            match self.scan(from, each) {
                Err(ReadError::Damaged(damage)) => {
                    damaged(&damage);
                    from = self.behind(&damage)?;
                }
                scanned => return scanned,
            }
        }
    }

    /// Where the next header holds behind a damaged record, or the segment ends.
    fn behind(&self, damage: &Damage) -> Result<Position, ReadError> {
        let (shared, end, number) = (self.shared(), self.durable(), damage.segment);
        let file = shared.segments.get(number);
        let file = file.ok_or(ReadError::Removed(number))?;
        let (salt, from) = (
            shared.segments.salt(number),
            damage.offset + RECORD_BYTES_MIN,
        );
        let mut next = None;
        find_headers(&*file, salt, from, |offset, _| {
            next = next.or(Some(offset));
        })?;
        let next = next.map_or(Position::new(number + 1, FIRST), |offset| {
            Position::new(number, offset)
        });
        Ok(next.min(end))
    }
}

/// Scans to the end of the segment, or to `end`; says where to go on, or where `each` broke off.
fn scan_segment(
    shared: &Shared,
    from: Position,
    end: Position,
    each: &mut Each<'_>,
) -> Result<ControlFlow<Position, Position>, ReadError> {
    let number = from.segment();
    let removed = || ReadError::Removed(number);
    let file = shared.segments.get(number).ok_or_else(removed)?;
    let until = if number == end.segment() {
        u64::from(end.offset())
    } else {
        u64::MAX
    };
    let salt = shared.segments.salt(number);
    let mut reader = Reader::new(&*file, salt, from.offset().max(FIRST), until);
    while u64::from(reader.offset()) < until {
        let frame = match reader.next()? {
            Next::Frame(frame) => frame,
            Next::Bad(offset) => return Err(unreadable(shared, Position::new(number, offset))),
        };
        if frame.header.is(SEAL) {
            return Ok(ControlFlow::Continue(Position::new(number + 1, FIRST)));
        }
        let place = Position::new(number, frame.offset);
        let behind = Position::new(number, frame.header.end(frame.offset));
        if !frame.header.is(VOID) && each(place, frame.header.kind, frame.body).is_break() {
            return Ok(ControlFlow::Break(behind));
        }
    }
    Ok(ControlFlow::Continue(end))
}

/// Why no record is read where one must be.
fn unreadable(shared: &Shared, at: Position) -> ReadError {
    let segment = at.segment();
    // It may have been removed, and be used again, since the caller looked.
    if shared.segments.get(segment).is_none() {
        return ReadError::Removed(segment);
    }
    ReadError::Damaged(Damage {
        segment,
        offset: at.offset(),
        what: What::Record,
    })
}
