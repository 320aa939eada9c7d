//! What several targets need to know of octets, written as plainly as can be: the crates do it fast.

/// Canonical content, octet by octet (RFC 5321 §2.3.8). `whole`: its last line must have its end.
pub(crate) fn is_canonical(bytes: &[u8], whole: bool) -> bool {
    let mut line_len = 0;
    for (index, &b) in bytes.iter().enumerate() {
        let after_cr = index > 0 && bytes[index - 1] == b'\r';
        match b {
            0 => return false,
            b'\n' if !after_cr => return false,
            _ if after_cr && b != b'\n' => return false,
            b'\n' => line_len = 0,
            b'\r' => {}
            _ => line_len += 1,
        }
        if line_len > 998 {
            return false;
        }
    }
    match whole {
        true => bytes.ends_with(b"\r\n"),
        false => !bytes.ends_with(b"\r"),
    }
}

/// Whether a line could carry more than one command, or none.
pub(crate) fn is_one_line(line: &[u8]) -> bool {
    line.strip_suffix(b"\r\n")
        .is_some_and(|line| !line.contains(&b'\r') && !line.contains(&b'\n') && !line.contains(&0))
}

/// Undoes dot-stuffing of whole lines (RFC 5321 §4.5.2).
pub(crate) fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut meant = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        meant.extend_from_slice(rest[..end].strip_prefix(b".").unwrap_or(&rest[..end]));
        rest = &rest[end..];
    }
    meant
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// Cuts `bytes` in pieces whose lengths `plan` gives, over and over; an empty plan cuts nothing.
pub(crate) fn pieces<'a>(bytes: &'a [u8], plan: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = plan.iter().cycle().map(|&b| usize::from(b) + 1);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = lengths.next().unwrap_or(rest.len()).min(rest.len());
        let (piece, tail) = rest.split_at(len);
        rest = tail;
        Some(piece)
    })
}
