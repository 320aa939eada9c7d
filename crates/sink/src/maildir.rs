//! A Maildir: one file a message, written under `tmp` and renamed into `new`.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A directory with `tmp`, `new` and `cur` in it.
#[derive(Debug)]
pub(crate) struct Maildir {
    path: PathBuf,
}

impl Maildir {
    /// Makes what is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(path.join(part))?;
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Writes one message, its envelope in front of it as `Return-Path` and `Delivered-To`.
    pub(crate) fn deliver(
        &self,
        id: u64,
        from: &str,
        to: &[String],
        content: &[u8],
    ) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!(
            "{}.M{:06}P{}Q{id}.sink",
            now.as_secs(),
            now.subsec_micros(),
            std::process::id()
        );
        let mut head = format!("Return-Path: <{from}>\r\n");
        for recipient in to {
            head.push_str("Delivered-To: ");
            head.push_str(recipient);
            head.push_str("\r\n");
        }
        let tmp = self.path.join("tmp").join(&name);
        write_both(&mut File::create_new(&tmp)?, head.as_bytes(), content)?;
        fs::rename(tmp, self.path.join("new").join(name))
    }
}

/// One system call, as a rule.
fn write_both(file: &mut File, head: &[u8], content: &[u8]) -> io::Result<()> {
    let written = file.write_vectored(&[IoSlice::new(head), IoSlice::new(content)])?;
    let (head_rest, content_from) = match written.checked_sub(head.len()) {
        None => (&head[written..], 0),
        Some(content_from) => (&[][..], content_from),
    };
    file.write_all(head_rest)?;
    file.write_all(&content[content_from..])
}
