//! What stands in a segment: its header, and the header of each record.
//!
//! Byte tables are in `docs/formats/journal.md`. A record's header carries a checksum of itself that
//! is salted with the journal's secret, the segment's number and its own offset: bytes that an
//! earlier use of the file left behind never pass, nor do bytes that somebody sent us in a message.

/// The format written here.
pub(crate) const VERSION: u32 = 1;
/// Where the first record of a segment stands; the header has this page for itself.
pub(crate) const FIRST: u32 = 4096;
pub(crate) const RECORD_HEADER_BYTES: usize = 20;
/// Every record begins at a multiple of this.
pub(crate) const ALIGNMENT: u32 = 8;
/// Of the mark that ends a segment.
pub(crate) const SEAL_BYTES: u32 = padded(0);

const MAGIC: [u8; 8] = *b"mrjournl";
const SEGMENT_HEADER_BYTES: usize = 32;
/// The segment's header stands twice in its page.
const COPIES: [usize; 2] = [0, 2048];

/// What a record takes in the file.
pub(crate) const fn padded(length: u32) -> u32 {
    (RECORD_HEADER_BYTES as u32 + length).next_multiple_of(ALIGNMENT)
}

/// The start of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    /// Random, chosen once for a journal.
    pub(crate) secret: u64,
}

/// Why there is no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoHeader {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn page(self) -> Vec<u8> {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.secret.to_le_bytes());
        let sum = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&sum.to_le_bytes());
        let mut page = vec![0; FIRST as usize];
        for copy in COPIES {
            page[copy..copy + header.len()].copy_from_slice(&header);
        }
        page
    }

    pub(crate) fn from_page(page: &[u8]) -> Result<Self, NoHeader> {
        let mut result = Err(NoHeader::Damaged);
        for copy in COPIES {
            let Some(header) = page.get(copy..copy + SEGMENT_HEADER_BYTES) else {
                continue;
            };
            match Self::parse(header) {
                Ok(header) => return Ok(header),
                Err(NoHeader::Damaged) => {}
                newer => result = newer,
            }
        }
        result
    }

    /// Magic, version and checksum stay where they are in any version.
    fn parse(header: &[u8]) -> Result<Self, NoHeader> {
        if header[..8] != MAGIC || u32_at(header, 28) != crc32c::crc32c(&header[..28]) {
            return Err(NoHeader::Damaged);
        }
        match u32_at(header, 8) {
            VERSION => Ok(Self {
                number: u32_at(header, 12),
                secret: u64::from(u32_at(header, 16)) | u64::from(u32_at(header, 20)) << 32,
            }),
            other => Err(NoHeader::Version(other)),
        }
    }
}

/// What the checksums of record headers of one segment begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Salt(u32);

impl Salt {
    pub(crate) fn new(secret: u64, segment: u32) -> Self {
        let sum = crc32c::crc32c(&secret.to_le_bytes());
        Self(crc32c::crc32c_append(sum, &segment.to_le_bytes()))
    }
}

/// The mark that ends a segment; it has no body.
pub(crate) const SEAL: u8 = 1;
/// Fills a place: refused for want of room, or damaged and given up. Its body means nothing.
pub(crate) const VOID: u8 = 2;
/// Somebody waits for this one.
pub(crate) const AWAITED: u8 = 4;

/// The start of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    /// Of the body.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) body_sum: u32,
    /// Where the group it was written with begins: all before was durable by then.
    pub(crate) group: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self, salt: Salt, offset: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        bytes[8..12].copy_from_slice(&self.body_sum.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.group.to_le_bytes());
        let sum = header_sum(salt, offset, &bytes);
        bytes[16..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at this offset, if there is a whole one of ours.
    pub(crate) fn decode(salt: Salt, offset: u32, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        let header = Self {
            length: u32_at(bytes, 0),
            kind: bytes[4],
            flags: bytes[5],
            body_sum: u32_at(bytes, 8),
            group: u32_at(bytes, 12),
        };
        // Most of what is no header ends here, before its checksum is computed.
        let is_possible = header.flags <= SEAL | VOID | AWAITED
            && bytes[6..8] == [0, 0]
            && (FIRST..=offset).contains(&header.group)
            && header.length <= u32::MAX - 2 * FIRST - offset.min(u32::MAX - 2 * FIRST);
        (is_possible && header_sum(salt, offset, bytes) == u32_at(bytes, 16)).then_some(header)
    }

    pub(crate) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Where the next record begins if this one stands at `offset`.
    pub(crate) fn end(&self, offset: u32) -> u32 {
        offset + padded(self.length)
    }

    pub(crate) fn fits_body(&self, body: &[u8]) -> bool {
        self.is(VOID) || self.body_sum == crc32c::crc32c(body)
    }
}

fn header_sum(salt: Salt, offset: u32, header: &[u8; RECORD_HEADER_BYTES]) -> u32 {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..].copy_from_slice(&header[..16]);
    crc32c::crc32c_append(salt.0, &bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The checksum of a body in parts.
pub(crate) fn body_sum(parts: &[&[u8]]) -> u32 {
    let add = |sum, part: &&[u8]| crc32c::crc32c_append(sum, part);
    parts.iter().fold(0, add)
}
