//! What a running server leaves in its data folder for commands on the same machine: where it
//! listens, and a key to it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "listening.json";
const KEY_FILE: &str = "operator.key";

/// The addresses that were bound, ports that were 0 filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) pid: u32,
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) smtps: Vec<SocketAddr>,
    pub(crate) http: Option<SocketAddr>,
}

impl Listening {
    pub(crate) fn read(data_dir: &Path) -> io::Result<Self> {
        let text = std::fs::read(data_dir.join(FILE))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    /// Replaces what an earlier server left.
    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        replace(data_dir, FILE, &text)
    }
}

/// The key of whoever may read the data folder; valid while the server runs.
pub(crate) fn read_operator_key(data_dir: &Path) -> io::Result<String> {
    let key = std::fs::read_to_string(data_dir.join(KEY_FILE))?;
    Ok(key.trim_end().to_owned())
}

pub(crate) fn write_operator_key(data_dir: &Path, key: &str) -> io::Result<()> {
    replace(data_dir, KEY_FILE, format!("{key}\n").as_bytes())
}

/// Both are of no use once the server has ended.
pub(crate) fn remove(data_dir: &Path) {
    for file in [FILE, KEY_FILE] {
        let _ = std::fs::remove_file(data_dir.join(file));
    }
}

/// Nobody reads half of it, and nobody but us reads it at all.
fn replace(data_dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let new = data_dir.join(format!("{name}.new"));
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    std::fs::rename(new, data_dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_left_reads_back_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let listening = Listening {
            pid: 7,
            smtp: vec!["127.0.0.1:2525".parse().unwrap()],
            smtps: Vec::new(),
            http: Some("[::1]:8025".parse().unwrap()),
        };
        for _ in 0..2 {
            listening.write(dir.path()).unwrap();
            write_operator_key(dir.path(), "mr_x").unwrap();
        }
        assert_eq!(Listening::read(dir.path()).unwrap(), listening);
        assert_eq!(read_operator_key(dir.path()).unwrap(), "mr_x");
        let mode = std::fs::metadata(dir.path().join(KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        remove(dir.path());
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
