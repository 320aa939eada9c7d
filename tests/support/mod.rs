//! The real binary and an in-process sink, for end-to-end tests.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod serving;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sink::{Builder, Sink};
use tempfile::TempDir;

/// Between two looks at something that is waited for.
const POLL: std::time::Duration = std::time::Duration::from_millis(1);

/// A finished run of the binary.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The code and a part of what stderr says, or all that is known of the run.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, part: &str) -> &Self {
        let says = self.stderr.contains(part) || self.stdout.contains(part);
        assert!(
            self.code == Some(code) && says,
            "want {code}, {part:?}: {self:#?}"
        );
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The binary, without a password and without standard input.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailrail"));
    command
        .args(args)
        .env_remove("MAILRAIL_PASSWORD")
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn mailrail(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
    command(args).output().unwrap().into()
}

/// A sink on threads of its own.
pub(crate) fn start(builder: Builder) -> Sink {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(builder.threads(1).start())
        .unwrap()
}

/// A relay URL for a sink without TLS.
pub(crate) fn url(sink: &Sink) -> String {
    format!("smtp://{}?tls=none", sink.addr())
}

/// A folder with a list in it, and the flags of a mailing to it.
pub(crate) struct Mailing {
    pub(crate) dir: TempDir,
    pub(crate) list: PathBuf,
    pub(crate) record: PathBuf,
}

impl Mailing {
    pub(crate) fn new(list: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let list_path = dir.path().join("people.csv");
        std::fs::write(&list_path, list).unwrap();
        Self {
            record: dir.path().join("people.csv.run.jsonl"),
            list: list_path,
            dir,
        }
    }

    /// Rows 2 to `count + 1`: `p2@x.example` and so on.
    pub(crate) fn of(count: usize) -> Self {
        let rows = (2..count + 2).map(|row| format!("p{row}@x.example,Person {row}\n"));
        Self::new(&format!("email,name\n{}", rows.collect::<String>()))
    }

    pub(crate) fn args(&self, url: &str, more: &[&str]) -> Vec<String> {
        let list = self.list.to_str().unwrap();
        let mut args = vec!["send", "--via", url, "--from", "news@a.example"];
        args.extend(["--recipients", list, "--subject", "Hi {{ name }}"]);
        args.extend(["--text", "Dear {{ name }}"]);
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn send(&self, url: &str, more: &[&str]) -> Run {
        mailrail(self.args(url, more))
    }

    pub(crate) fn spawn(&self, url: &str, more: &[&str]) -> Child {
        command(self.args(url, more)).spawn().unwrap()
    }

    /// Row and event of each outcome in the record.
    pub(crate) fn outcomes(&self) -> Vec<(u64, String)> {
        self.lines()
            .iter()
            .filter_map(|line| {
                let row = line["row"].as_u64()?;
                Some((row, line["event"].as_str().unwrap().to_owned()))
            })
            .collect()
    }

    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.record).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap();
        text.lines().map(parse).collect()
    }

    /// How many rows have this event.
    pub(crate) fn count(&self, event: &str) -> usize {
        let outcomes = self.outcomes();
        outcomes.iter().filter(|(_, seen)| seen == event).count()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn has_record(&self) -> bool {
        self.record.exists()
    }
}

/// How much of something: from the environment, to make a run longer.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Waits until something is so; fails after a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(
            started.elapsed().as_secs() < 60,
            "waited a minute until {what}"
        );
        std::thread::sleep(POLL);
    }
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// To whom the sink took mail, in order.
pub(crate) fn recipients(sink: &Sink) -> Vec<String> {
    sink.records()
        .into_iter()
        .flat_map(|record| record.to)
        .collect()
}

pub(crate) fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}
