//! Reading a record that a run left behind.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use serde::Deserialize;

use super::{Event, Identity, RecordError, States, VERSION, in_path};

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// How a record begins.
const HEAD: &[u8] = b"{\"event\":\"run\",";

/// Reads a record from its beginning.
pub(super) struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    line: Vec<u8>,
}

/// As much of a line as resuming needs.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Seen {
    Run {
        version: u32,
        #[serde(flatten)]
        identity: Identity,
    },
    Attempting {
        rows: Vec<(u64, u64)>,
    },
    #[serde(untagged)]
    Outcome {
        event: Event,
        row: u64,
    },
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, file: File) -> Self {
        Self {
            path,
            file: BufReader::with_capacity(256 * 1024, file),
            line: Vec::new(),
        }
    }

    /// Whether a run ended while it wrote its first line: nothing was sent then.
    pub(super) fn has_torn_head(&mut self) -> io::Result<bool> {
        self.file.rewind()?;
        let mut head = Vec::new();
        io::Read::take(&mut self.file, LINE_BYTES_MAX).read_until(b'\n', &mut head)?;
        let is_ours = head.starts_with(HEAD) || HEAD.starts_with(&head);
        Ok(is_ours && !head.ends_with(b"\n"))
    }

    /// Gives the states and the length up to which the file is whole.
    pub(super) fn read(
        &mut self,
        identity: &Identity,
        row_max: u64,
    ) -> Result<(States, u64), RecordError> {
        self.file.rewind().map_err(in_path(self.path))?;
        let mut states = States::new(row_max);
        let (mut number, mut whole_bytes) = (0, 0);
        let mut torn_line = None;
        while self.next_line()? {
            number += 1;
            // A line that cannot be read is a torn end only if nothing follows it.
            if let Some(line) = torn_line {
                return Err(self.damaged(line));
            }
            let Some(seen) = self.parse() else {
                torn_line = Some(number);
                continue;
            };
            let is_first = number == 1;
            match seen {
                Seen::Run {
                    version,
                    identity: theirs,
                } if is_first => self.check(version, &theirs, identity)?,
                Seen::Attempting { rows } if !is_first => {
                    let noted = rows.iter().all(|&(from, to)| states.begin(from, to));
                    self.expect(noted, number)?;
                }
                Seen::Outcome { event, row } if !is_first => {
                    self.expect(states.settle(row, event), number)?;
                }
                _ => return Err(self.damaged(number)),
            }
            whole_bytes += self.line.len() as u64;
        }
        // Without its first line whole, nobody knows of which run it is.
        self.expect(whole_bytes > 0, 1)?;
        Ok((states, whole_bytes))
    }

    /// Reads one line, its end included if it has one.
    fn next_line(&mut self) -> Result<bool, RecordError> {
        self.line.clear();
        let mut limited = io::Read::take(&mut self.file, LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut self.line);
        Ok(read.map_err(in_path(self.path))? > 0)
    }

    fn parse(&self) -> Option<Seen> {
        let line = self.line.strip_suffix(b"\n")?;
        serde_json::from_slice(line).ok()
    }

    fn check(&self, version: u32, theirs: &Identity, ours: &Identity) -> Result<(), RecordError> {
        let what = if version != VERSION {
            "version of this program"
        } else if (theirs.list_bytes, &theirs.list_sha256) != (ours.list_bytes, &ours.list_sha256) {
            "list"
        } else if theirs.message_sha256 != ours.message_sha256 {
            "message (templates, subject, attachments, headers)"
        } else if theirs.from != ours.from {
            "sender (--from)"
        } else {
            return Ok(());
        };
        let path = self.path.to_owned();
        Err(RecordError::Other { path, what })
    }

    fn expect(&self, is_sound: bool, line: u64) -> Result<(), RecordError> {
        if is_sound {
            Ok(())
        } else {
            Err(self.damaged(line))
        }
    }

    fn damaged(&self, line: u64) -> RecordError {
        RecordError::Damaged {
            path: self.path.to_owned(),
            line,
        }
    }
}
