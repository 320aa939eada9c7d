//! What a journal finds when it is opened.
//!
//! Whether the last segment ends in a torn group or in damage is told by the headers behind the
//! first bad record: each says where its group begins, and a group is written only after the one
//! before was synced. A header whose group begins *behind* the bad record proves that the bad one
//! had been durable: damage. Else nothing that was ever acknowledged is missing: the tail is cut,
//! by overwriting the headers in it, so that they can never be taken for records later.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;

use crate::files::{self, File, Files};
use crate::frame::{FIRST, NoHeader, RECORD_HEADER_BYTES, SEAL, SegmentHeader, VERSION, VOID};
use crate::frame::{RecordHeader, Salt};
use crate::read::{Next, RECORD_BYTES_MIN, Reader, find_headers};
use crate::segment::{self, Failure, Segments};
use crate::{Check, Damage, OpenError, Opened, Options, Position, Torn, What};

const DAMAGED: &str = "damaged-";
/// With more files missing, something is wrong that cannot be mended here.
const MISSING_MAX: usize = 1000;
const CHUNK_BYTES: usize = 1 << 20;

/// Reads what is there and makes it fit to be gone on with.
pub(crate) fn recover(
    files: Arc<dyn Files>,
    options: &Options,
) -> Result<(Segments, Position, Opened), OpenError> {
    let (numbers, spares) = Segments::list(&*files)?;
    let mut found = open_all(&*files, &numbers)?;
    let secret = found.secret.unwrap_or_else(random);
    let segments = Segments::new(files, options.segment_bytes_max, secret);
    if numbers.is_empty() {
        segments.adopt_spares(spares)?;
        match segments.ready(1) {
            Ok(_) => {}
            Err(Failure::ForNow(error) | Failure::ForGood(error)) => return Err(error.into()),
        }
        return Ok((segments, Position::new(1, FIRST), Opened::default()));
    }
    let is_hopeless = found.secret.is_none() || found.damages.len() >= MISSING_MAX;
    if !found.damages.is_empty() && (!options.salvage || is_hopeless) {
        return Err(OpenError::Damaged(found.damages));
    }
    if options.salvage {
        mend_files(&*segments.files, secret, &mut found)?;
    }
    let mut doctor = Doctor {
        files: &*segments.files,
        secret,
        salvages: options.salvage,
        damages: found.damages,
    };
    let tail = doctor.examine(&found.open, options.check)?;
    if !doctor.damages.is_empty() && !options.salvage {
        return Err(OpenError::Damaged(doctor.damages));
    }
    let opened = Opened {
        torn: tail.torn,
        salvaged: doctor.damages,
    };
    for (number, file) in found.open {
        segments.insert(number, file);
    }
    segments.files.sync_dir()?;
    segments.adopt_spares(spares)?;
    Ok((segments, tail.end, opened))
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

type Open = Vec<(u32, Arc<dyn File>)>;

struct Found {
    open: Open,
    secret: Option<u64>,
    damages: Vec<Damage>,
}

/// Opens the segments and reads their headers.
fn open_all(files: &dyn Files, numbers: &[u32]) -> Result<Found, OpenError> {
    let mut found = Found {
        open: Vec::new(),
        secret: None,
        damages: Vec::new(),
    };
    let mut expected = numbers.first().copied();
    for &number in numbers {
        for missing in (expected.unwrap_or(number)..number).take(MISSING_MAX) {
            found.note(missing, 0, What::Missing);
        }
        expected = number.checked_add(1);
        let file = files.open(&segment::name(number))?;
        let mut page = vec![0; FIRST as usize];
        let read = file.read_at(0, &mut page)?;
        match SegmentHeader::from_page(&page[..read]) {
            Ok(header)
                if header.number == number
                    && header.secret == found.secret.unwrap_or(header.secret) =>
            {
                found.secret = Some(header.secret);
            }
            Ok(_) | Err(NoHeader::Damaged) => found.note(number, 0, What::Header),
            Err(NoHeader::Version(version)) => {
                return Err(OpenError::Version {
                    segment: number,
                    version,
                    newest: VERSION,
                });
            }
        }
        found.open.push((number, file));
    }
    Ok(found)
}

impl Found {
    fn note(&mut self, segment: u32, offset: u32, what: What) {
        self.damages.push(Damage {
            segment,
            offset,
            what,
        });
    }
}

/// Gives files that miss, or miss their header, one.
fn mend_files(files: &dyn Files, secret: u64, found: &mut Found) -> io::Result<()> {
    for damage in &found.damages {
        let number = damage.segment;
        let header = SegmentHeader { number, secret };
        if damage.what == What::Header {
            keep_aside(files, number)?;
            let (_, file) = found
                .open
                .iter()
                .find(|(open, _)| *open == number)
                .expect("it was opened");
            files::write_all_at(&**file, 0, &[&header.page()])?;
            file.sync()?;
        } else {
            let mut content = header.page();
            let seal = seal().encode(Salt::new(secret, number), FIRST);
            content.extend_from_slice(&seal);
            content.resize((FIRST + RECORD_BYTES_MIN) as usize, 0);
            files::replace(files, &segment::name(number), &content)?;
            found
                .open
                .push((number, files.open(&segment::name(number))?));
        }
    }
    found.open.sort_unstable_by_key(|(number, _)| *number);
    Ok(())
}

fn seal() -> RecordHeader {
    RecordHeader {
        length: 0,
        kind: 0,
        flags: SEAL,
        body_sum: 0,
        group: FIRST,
    }
}

/// Copies a damaged segment, durably, before anything in it is changed.
fn keep_aside(files: &dyn Files, number: u32) -> io::Result<()> {
    let names = files.list()?;
    let name = |copy: u32| format!("{DAMAGED}{}.{copy}", segment::name(number));
    let copy = (1..).find(|copy| !names.contains(&name(*copy)));
    let from = files.open(&segment::name(number))?;
    let to = files.create(&name(copy.expect("names do not run out")))?;
    let (mut offset, mut buffer) = (0, vec![0; CHUNK_BYTES]);
    loop {
        let read = from.read_at(offset, &mut buffer)?;
        if read == 0 {
            break;
        }
        files::write_all_at(&*to, offset, &[&buffer[..read]])?;
        offset += read as u64;
    }
    to.sync()?;
    files.sync_dir()
}

/// Where a journal goes on.
struct Tail {
    end: Position,
    torn: Option<Torn>,
}

/// What is behind the last whole record of a segment.
struct Rest {
    end: u32,
    is_sealed: bool,
    has_records: bool,
    /// Where the last group begins: whether it was ever synced cannot be known.
    group: u32,
    /// Headers of the group that was being written, the last one's end.
    torn_until: Option<u32>,
}

struct Doctor<'a> {
    files: &'a dyn Files,
    secret: u64,
    salvages: bool,
    damages: Vec<Damage>,
}

impl Doctor<'_> {
    /// Looks at the last segments, or at all, mends them if that is wanted, and cuts the torn tail.
    fn examine(&mut self, open: &Open, check: Check) -> Result<Tail, OpenError> {
        let (last, earlier) = open.split_last().expect("there is a segment");
        let mut rest = self.examine_segment(last.0, &*last.1, true)?;
        let (mut tail, mut sealed) = (last, earlier);
        // Made ready, but not begun: then the one before may be where the journal ends.
        let is_unused = !rest.has_records && rest.torn_until.is_none();
        if let (true, Some((before, earlier))) = (is_unused, earlier.split_last()) {
            let of_before = self.examine_segment(before.0, &*before.1, true)?;
            sealed = earlier;
            if !of_before.is_sealed {
                (rest, tail) = (of_before, before);
            } else if self.may_go_on() {
                make_firm(&*before.1, &of_before)?;
            }
        }
        if check == Check::All || self.salvages {
            for (number, file) in sealed {
                self.examine_segment(*number, &**file, false)?;
            }
        }
        self.damages
            .sort_by_key(|damage| (damage.segment, damage.offset));
        // Nothing is changed in a journal that is not opened.
        let torn = if self.may_go_on() {
            cut(tail.0, &*tail.1, &rest)?
        } else {
            None
        };
        let end = if rest.is_sealed {
            Position::new(tail.0 + 1, FIRST)
        } else {
            Position::new(tail.0, rest.end)
        };
        Ok(Tail { end, torn })
    }

    fn may_go_on(&self) -> bool {
        self.damages.is_empty() || self.salvages
    }

    /// Walks through a segment.
    ///
    /// * `is_tail`: it may end without a seal, torn or not.
    fn examine_segment(&mut self, number: u32, file: &dyn File, is_tail: bool) -> io::Result<Rest> {
        let salt = Salt::new(self.secret, number);
        let mut reader = Reader::new(file, salt, FIRST, file.bytes()?);
        let (mut has_records, mut is_copied, mut group) = (false, false, FIRST);
        loop {
            let bad = match reader.next()? {
                Next::Frame(frame) if frame.header.is(SEAL) => {
                    let group = frame.header.group;
                    return Ok(Rest {
                        end: reader.offset(),
                        is_sealed: true,
                        has_records: true,
                        group,
                        torn_until: None,
                    });
                }
                Next::Frame(frame) => {
                    (has_records, group) = (true, frame.header.group);
                    continue;
                }
                Next::Bad(offset) => offset,
            };
            let (mut torn_until, mut next) = (None, None);
            let mut is_damage = !is_tail;
            find_headers(file, salt, bad, |offset, header| {
                torn_until = Some(offset + RECORD_HEADER_BYTES as u32);
                is_damage |= header.group > bad;
                next = next.or((offset >= bad + RECORD_BYTES_MIN).then_some(offset));
            })?;
            if is_damage {
                self.damages.push(Damage {
                    segment: number,
                    offset: bad,
                    what: What::Record,
                });
            }
            if !is_damage || !self.salvages {
                return Ok(Rest {
                    end: bad,
                    is_sealed: false,
                    has_records,
                    group,
                    torn_until,
                });
            }
            if !std::mem::replace(&mut is_copied, true) {
                keep_aside(self.files, number)?;
            }
            fill(file, salt, bad, next)?;
            reader = Reader::new(
                file,
                salt,
                bad,
                file.bytes()?.max(u64::from(bad + RECORD_BYTES_MIN)),
            );
        }
    }
}

/// Puts a void record over what is damaged up to the next header, or a seal where there is none.
fn fill(file: &dyn File, salt: Salt, offset: u32, next: Option<u32>) -> io::Result<()> {
    let header = match next {
        Some(next) => RecordHeader {
            length: next - offset - RECORD_HEADER_BYTES as u32,
            flags: VOID,
            ..seal()
        },
        None => seal(),
    };
    let mut bytes = header.encode(salt, offset).to_vec();
    bytes.resize(RECORD_BYTES_MIN as usize, 0);
    files::write_all_at(file, u64::from(offset), &[&bytes])?;
    file.sync()
}

/// Overwrites the headers of a torn group, and makes what is before it durable.
fn cut(number: u32, file: &dyn File, rest: &Rest) -> io::Result<Option<Torn>> {
    if let Some(until) = rest.torn_until {
        let (mut offset, zeros) = (rest.end, vec![0; CHUNK_BYTES]);
        while offset < until {
            let bytes = zeros.len().min((until - offset) as usize);
            files::write_all_at(file, u64::from(offset), &[&zeros[..bytes]])?;
            offset += bytes as u32;
        }
    }
    make_firm(file, rest)?;
    Ok(rest.torn_until.map(|until| Torn {
        segment: number,
        offset: rest.end,
        bytes: until - rest.end,
    }))
}

/// Writes the last group once more, and syncs it. A process that was killed may have left it in
/// memory only; and after a sync that failed it may read as written, count as clean, and never
/// reach the disk unless it is written anew.
fn make_firm(file: &dyn File, rest: &Rest) -> io::Result<()> {
    let bytes = CHUNK_BYTES.min((rest.end - rest.group) as usize);
    let (mut offset, mut buffer) = (rest.group, vec![0; bytes]);
    while offset < rest.end {
        let bytes = buffer.len().min((rest.end - offset) as usize);
        let read = file.read_at(u64::from(offset), &mut buffer[..bytes])?;
        files::write_all_at(file, u64::from(offset), &[&buffer[..read]])?;
        offset += bytes as u32;
    }
    file.sync()
}
