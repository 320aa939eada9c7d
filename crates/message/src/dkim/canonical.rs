//! The relaxed canonicalization algorithms (RFC 6376 §3.4.2, §3.4.4), and which fields are signed.

use aws_lc_rs::digest::{Context, SHA256};
use memchr::memchr;

/// The fields of a header section, unfolded views.
pub(super) struct HeaderFields<'a>(Vec<Field<'a>>);

struct Field<'a> {
    name: &'a [u8],
    /// Name, colon, value, folds, CRLF.
    whole: &'a [u8],
}

impl<'a> HeaderFields<'a> {
    /// * `header`: canonical lines, with or without the empty line.
    pub(super) fn of(header: &'a [u8]) -> Self {
        let mut fields = Vec::with_capacity(24);
        let mut rest = header;
        while !rest.is_empty() && !rest.starts_with(b"\r\n") {
            let (whole, after) = rest.split_at(field_len(rest));
            let colon = memchr(b':', whole).unwrap_or(whole.len());
            fields.push(Field {
                name: whole[..colon].trim_ascii_end(),
                whole,
            });
            rest = after;
        }
        Self(fields)
    }

    /// How often a field occurs.
    pub(super) fn count(&self, name: &str) -> usize {
        self.named(name).count()
    }

    /// Last first, as §5.4.2 numbers them.
    fn named(&self, name: &str) -> impl Iterator<Item = &Field<'a>> {
        let fields = self.0.iter().rev();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Appends the names for `h=` and the canonical fields that they stand for.
    pub(super) fn select(
        &self,
        always: &[&str],
        if_present: &[&str],
        names: &mut String,
        canonical: &mut Vec<u8>,
    ) {
        for (name, is_always) in tagged(always, true).chain(tagged(if_present, false)) {
            let mut count = 0;
            for field in self.named(name) {
                push_relaxed_field(field.whole, canonical);
                canonical.extend_from_slice(b"\r\n");
                count += 1;
            }
            let listed = if count > 0 || is_always { count + 1 } else { 0 };
            for _ in 0..listed {
                if !names.is_empty() {
                    names.push(':');
                }
                names.push_str(name);
            }
        }
    }
}

fn tagged<'n>(names: &'n [&'n str], is_always: bool) -> impl Iterator<Item = (&'n str, bool)> {
    names.iter().map(move |name| (*name, is_always))
}

/// Octets of the first field, its folded lines included.
fn field_len(header: &[u8]) -> usize {
    let mut len = 0;
    while let Some(end) = memchr(b'\n', &header[len..]) {
        len += end + 1;
        if !matches!(header.get(len), Some(b' ' | b'\t')) {
            return len;
        }
    }
    header.len()
}

/// §3.4.2: name in lower case, unfolded, white space runs to one space, none at the value's ends.
/// Without the line end.
pub(super) fn push_relaxed_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = memchr(b':', field).unwrap_or(field.len());
    let name = field[..colon].trim_ascii_end();
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let value_start = out.len();
    let mut in_space = true;
    for &b in field.get(colon + 1..).unwrap_or(&[]) {
        match b {
            b' ' | b'\t' | b'\r' | b'\n' => in_space = true,
            _ => {
                if in_space && out.len() > value_start {
                    out.push(b' ');
                }
                in_space = false;
                out.push(b);
            }
        }
    }
}

/// SHA-256 of the relaxed body (§3.4.4).
///
/// Lines that are canonical as they stand, nearly all, are hashed where they lie, in one go.
pub(super) fn body_hash(body: &[u8]) -> [u8; 32] {
    let body = without_empty_end(body);
    let mut context = Context::new(&SHA256);
    let mut line_start = 0;
    // Where the run of lines that are canonical as they stand begins.
    let mut run_start = 0;
    let mut scratch = Vec::new();
    while let Some(end) = memchr(b'\n', &body[line_start..]) {
        let line_end = line_start + end + 1;
        let line = &body[line_start..line_end];
        if !is_relaxed(line) {
            context.update(&body[run_start..line_start]);
            scratch.clear();
            push_relaxed_line(line, &mut scratch);
            context.update(&scratch);
            run_start = line_end;
        }
        line_start = line_end;
    }
    context.update(&body[run_start..]);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Drops the empty lines at the end, those of white space included.
fn without_empty_end(body: &[u8]) -> &[u8] {
    let text = body.trim_ascii_end().len();
    // trim_ascii_end also takes form feeds, which are text to DKIM.
    let text = match body[text..].iter().rposition(|b| *b == b'\x0c') {
        Some(form_feed) => text + form_feed + 1,
        None => text,
    };
    if text == 0 {
        return &[];
    }
    let end = memchr(b'\n', &body[text..]).map_or(body.len(), |end| text + end + 1);
    &body[..end]
}

/// No tab, no two spaces in a row, no space at the end. No branch within, so that it is vector code.
fn is_relaxed(line: &[u8]) -> bool {
    let mut flaw = 0u8;
    for (b, next) in line.iter().zip(&line[1..]) {
        flaw |= u8::from(*b == b'\t')
            | u8::from(*b == b' ') & u8::from(*next == b' ' || *next == b'\r');
    }
    flaw == 0
}

fn push_relaxed_line(line: &[u8], out: &mut Vec<u8>) {
    let mut in_space = false;
    for &b in line {
        match b {
            b' ' | b'\t' => in_space = true,
            b'\r' | b'\n' => out.push(b),
            _ => {
                if in_space {
                    out.push(b' ');
                }
                out.push(b);
            }
        }
        in_space &= matches!(b, b' ' | b'\t');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::digest;
    use proptest::prelude::*;

    fn relaxed(field: &str) -> String {
        let mut out = Vec::new();
        push_relaxed_field(field.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The RFC's five sentences, one by one, with no thought for speed.
    fn model(body: &str) -> String {
        let mut lines: Vec<String> = body.split("\r\n").map(str::to_owned).collect();
        lines.pop();
        for line in &mut lines {
            let mut out = String::new();
            for c in line.trim_end_matches([' ', '\t']).chars() {
                let c = if c == '\t' { ' ' } else { c };
                if !(c == ' ' && out.ends_with(' ')) {
                    out.push(c);
                }
            }
            *line = out;
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.iter().map(|line| format!("{line}\r\n")).collect()
    }

    #[test]
    fn rfc6376_3_4_5_examples() {
        assert_eq!(relaxed("A: X\r\n"), "a:X");
        assert_eq!(relaxed("B : Y\t\r\n\tZ  \r\n"), "b:Y Z");
        let want = digest(&SHA256, b" C\r\nD E\r\n");
        assert_eq!(body_hash(b" C \r\nD \t E\r\n\r\n\r\n"), want.as_ref());
    }

    #[test]
    fn an_empty_body_hashes_as_nothing() {
        let nothing = digest(&SHA256, b"");
        for body in ["", "\r\n", " \r\n\t\r\n\r\n"] {
            assert_eq!(body_hash(body.as_bytes()), nothing.as_ref(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn the_body_hash_is_that_of_the_model(lines in prop::collection::vec("[a \t\x0c]{0,6}", 0..8)) {
            let body: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let want = digest(&SHA256, model(&body).as_bytes());
            prop_assert_eq!(&body_hash(body.as_bytes())[..], want.as_ref());
        }
    }
}
