//! What was taken, so that a test can prove that it was taken exactly once.
//!
//! A record is made when the sink takes responsibility, before the 250 is written: to a JSONL file with
//! one `write` a message, to a Maildir by rename, or to memory. Nothing is synced to disk: a record
//! survives the sink's end, not the machine's.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Serialize;

use crate::maildir::Maildir;

/// What becomes of the mail taken; more than one may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keep {
    /// Records in memory.
    pub(crate) records: bool,
    /// With their content.
    pub(crate) content: bool,
    pub(crate) jsonl: Option<PathBuf>,
    pub(crate) maildir: Option<PathBuf>,
}

/// One message taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// Number of the message, from 1, in the order they were taken.
    pub id: u64,
    /// When, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// Number of the connection, from 1.
    pub connection: u64,
    /// What the client called itself.
    pub ehlo: String,
    /// Who had authenticated.
    pub user: Option<String>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The reverse-path without brackets; empty if null.
    pub from: String,
    /// The recipients taken, in order.
    pub to: Vec<String>,
    /// Octets of the content.
    pub size: u64,
    /// SHA-256 of the content in hexadecimal.
    pub sha256: String,
    /// The Message-ID, without its brackets, where there is one.
    pub message_id: Option<String>,
    /// Whether a rule lost the reply that took it.
    pub reply_lost: bool,
    /// The content, where it was asked for.
    #[serde(skip)]
    pub content: Option<Bytes>,
}

/// Octets of a header section that are searched for a Message-ID.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One content as it comes in.
pub(crate) struct Gatherer {
    digest: digest::Context,
    size: u64,
    /// All of it, or its first [`HEAD_BYTES_MAX`] octets.
    bytes: Vec<u8>,
    keeps_all: bool,
}

impl Gatherer {
    fn new(keeps_all: bool) -> Self {
        Self {
            digest: digest::Context::new(&digest::SHA256),
            size: 0,
            bytes: Vec::new(),
            keeps_all,
        }
    }

    pub(crate) fn take(&mut self, text: &[u8]) {
        self.digest.update(text);
        self.size += text.len() as u64;
        let wanted = match self.keeps_all {
            true => text.len(),
            false => text
                .len()
                .min(HEAD_BYTES_MAX.saturating_sub(self.bytes.len())),
        };
        self.bytes.extend_from_slice(&text[..wanted]);
    }
}

/// What is known of a message beside its content.
#[derive(Debug)]
pub(crate) struct Circumstances {
    pub(crate) connection: u64,
    pub(crate) ehlo: String,
    pub(crate) user: Option<String>,
    pub(crate) tls: bool,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) reply_lost: bool,
}

/// Where records go.
#[derive(Debug)]
pub(crate) struct Ledger {
    keep: Keep,
    ids: AtomicU64,
    jsonl: Option<Mutex<File>>,
    maildir: Option<Maildir>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    records: Vec<Record>,
    /// First half of SHA-256 over content hash and recipient, or over Message-ID and recipient.
    contents: HashSet<[u8; 16]>,
    message_ids: HashSet<[u8; 16]>,
    duplicates: Duplicates,
}

/// Recipients who were sent something twice, as far as records were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Duplicates {
    /// The same octets again, to the same recipient.
    pub by_content: u64,
    /// The same Message-ID again, to the same recipient.
    pub by_message_id: u64,
}

impl Ledger {
    /// `None` where nothing is kept.
    pub(crate) fn open(keep: Keep) -> Result<Option<Self>, (PathBuf, io::Error)> {
        if keep == Keep::default() {
            return Ok(None);
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let jsonl = match &keep.jsonl {
            None => None,
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Some(Mutex::new(file.map_err(failed(path))?))
            }
        };
        let maildir = match &keep.maildir {
            None => None,
            Some(path) => Some(Maildir::open(path).map_err(failed(path))?),
        };
        Ok(Some(Self {
            keep,
            ids: AtomicU64::new(0),
            jsonl,
            maildir,
            book: Mutex::default(),
        }))
    }

    /// For the next content.
    pub(crate) fn gatherer(&self) -> Gatherer {
        Gatherer::new(self.keep.content || self.maildir.is_some())
    }

    /// Records a message; when it returns, the record is where it was asked for.
    pub(crate) fn commit(&self, content: Gatherer, about: Circumstances) -> io::Result<()> {
        let Gatherer {
            digest,
            size,
            bytes,
            ..
        } = content;
        let digest = digest.finish();
        let id = self.ids.fetch_add(1, Relaxed) + 1;
        if let Some(maildir) = &self.maildir {
            maildir.deliver(id, &about.from, &about.to, &bytes)?;
        }
        let record = Record {
            id,
            time: format!("{:.6}", jiff::Timestamp::now()),
            connection: about.connection,
            ehlo: about.ehlo,
            user: about.user,
            tls: about.tls,
            from: about.from,
            to: about.to,
            size,
            sha256: hex(digest.as_ref()),
            message_id: message_id(&bytes),
            reply_lost: about.reply_lost,
            content: self.keep.content.then(|| Bytes::from(bytes)),
        };
        if let Some(jsonl) = &self.jsonl {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            lock(jsonl).write_all(&line)?;
        }
        let mut book = lock(&self.book);
        book.count(&record, digest.as_ref());
        if self.keep.records {
            book.records.push(record);
        }
        Ok(())
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = lock(&self.book).records.clone();
        // Two threads may have come to the book in the other order.
        records.sort_by_key(|record| record.id);
        records
    }

    pub(crate) fn duplicates(&self) -> Duplicates {
        lock(&self.book).duplicates
    }
}

impl Book {
    fn count(&mut self, record: &Record, content_digest: &[u8]) {
        for recipient in &record.to {
            if !self.contents.insert(half(content_digest, recipient)) {
                self.duplicates.by_content += 1;
            }
            if let Some(id) = &record.message_id
                && !self.message_ids.insert(half(id.as_bytes(), recipient))
            {
                self.duplicates.by_message_id += 1;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn half(key: &[u8], recipient: &str) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(key);
    context.update(b"\0");
    context.update(recipient.as_bytes());
    let digest = context.finish();
    *digest
        .as_ref()
        .first_chunk()
        .expect("SHA-256 has 32 octets")
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

/// The Message-ID of the header section that `bytes` begin with; folded ones included.
fn message_id(bytes: &[u8]) -> Option<String> {
    let mut lines = bytes.split(|&b| b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return None;
        }
        let Some((name, value)) = line.split_first_chunk::<11>() else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"message-id:") {
            let mut value = String::from_utf8_lossy(value).into_owned();
            while let Some(folded) =
                lines.next_if(|line| line.starts_with(b" ") || line.starts_with(b"\t"))
            {
                value.push_str(&String::from_utf8_lossy(folded));
            }
            let id = value.trim().trim_start_matches('<').trim_end_matches('>');
            return (!id.is_empty()).then(|| id.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_found_in_the_header_section_only() {
        for (bytes, id) in [
            ("Message-ID: <a@b>\r\n\r\n", Some("a@b")),
            ("A: b\r\nmessage-id:\r\n <a@b>\r\n\r\n", Some("a@b")),
            ("A: b\r\n\r\nMessage-ID: <a@b>\r\n", None),
            ("", None),
        ] {
            assert_eq!(message_id(bytes.as_bytes()).as_deref(), id, "{bytes:?}");
        }
    }
}
