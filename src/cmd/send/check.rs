//! The first pass over a list: is every row a message? Nothing is sent until it has ended.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use message::MailingError;
use sha2::{Digest, Sha256};
use smtp::{Address, Content};

use super::list::{List, Row};
use super::settings::{Bulk, hex};
use crate::exit::{Exit, OrExit, Stop};

/// Wrong rows that are told one by one.
const SHOWN_MAX: usize = 20;
/// Addresses that are compared with one another: as many as fit a table of 2²⁰ places, 9 MiB.
const COMPARED_MAX: usize = 900_000;

/// What the pass found.
pub(super) struct Checked {
    /// The highest row number.
    pub(super) row_max: u64,
    /// Rows that are messages.
    pub(super) valid: u64,
    /// Rows that are not, the first of them in words.
    pub(super) invalid: Noted<String>,
    /// Rows whose address an earlier row has.
    pub(super) duplicates: Noted<u64>,
    /// Not all rows could be compared.
    pub(super) is_partly_compared: bool,
    pub(super) list_bytes: u64,
    pub(super) list_sha256: String,
    /// The first row's message, unsigned.
    pub(super) first: Option<Content>,
}

/// How many there are, and the first of them.
pub(super) struct Noted<T> {
    pub(super) count: u64,
    pub(super) first: Vec<T>,
}

impl<T> Noted<T> {
    fn new() -> Self {
        Self {
            count: 0,
            first: Vec::new(),
        }
    }

    fn add(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(item);
        }
    }
}

/// Reads the list to its end and renders every row.
pub(super) fn check(bulk: &Bulk) -> Result<Checked, Stop> {
    let mut list = List::open(&bulk.list).or_exit(Exit::Data)?;
    let (list_bytes, list_sha256) = hash_file(&bulk.list)
        .or_exit_with(Exit::Data, format_args!("the list {}", bulk.list.display()))?;
    let mut seen = SeenAddresses::default();
    let mut checked = Checked {
        row_max: 0,
        valid: 0,
        invalid: Noted::new(),
        duplicates: Noted::new(),
        is_partly_compared: false,
        list_bytes,
        list_sha256,
        first: None,
    };
    let now = Timestamp::now();
    while let Some(row) = list.next_row().or_exit(Exit::Data)? {
        checked.row_max = row.number;
        if let Ok(person) = &row.person
            && seen.is_duplicate(person.to.address())
        {
            checked.duplicates.add(row.number);
        }
        match render(bulk, &row, now) {
            Ok(content) => {
                checked.valid += 1;
                checked.first.get_or_insert(content);
            }
            Err(Flaw::Column(problem)) if list.columns().is_some() => {
                return Err(no_such_column(&list, bulk, &problem));
            }
            Err(flaw) => checked.invalid.add(flaw.in_row(row.number)),
        }
    }
    checked.is_partly_compared = seen.is_full();
    Ok(checked)
}

/// What is wrong with a row.
enum Flaw {
    Row(String),
    /// A template's own words, row included.
    Template(String),
    /// A template wants a variable that this row has not.
    Column(message::TemplateError),
}

impl Flaw {
    fn in_row(self, number: u64) -> String {
        match self {
            Self::Row(problem) => format!("row {number}: {problem}"),
            Self::Template(problem) => problem,
            Self::Column(problem) => problem.to_string(),
        }
    }
}

fn render(bulk: &Bulk, row: &Row, now: Timestamp) -> Result<Content, Flaw> {
    let person = match &row.person {
        Ok(person) => person,
        Err(problem) => return Err(Flaw::Row(problem.clone())),
    };
    let rendered = bulk
        .unsigned
        .content(&person.to, &person.variables, Some(row.number), now);
    rendered.map_err(|error| match error {
        MailingError::Template(error) if error.variable.is_some() => Flaw::Column(error),
        error => Flaw::Template(error.to_string()),
    })
}

/// In a CSV every row would fail alike: one message says it all.
fn no_such_column(list: &List, bulk: &Bulk, error: &message::TemplateError) -> Stop {
    let columns = list.columns().unwrap_or_default().join(", ");
    let mut error = error.clone();
    error.row = None;
    let list = bulk.list.display();
    let words = format_args!("{error} (the columns of {list}: {columns})").to_string();
    Stop::new(Exit::Data, words)
}

/// Says what is wrong with the list; stops unless the valid rows are to be sent all the same.
pub(super) fn judge(bulk: &Bulk, checked: &Checked) -> Result<(), Stop> {
    let list = bulk.list.display();
    if checked.duplicates.count > 0 {
        eprintln!("mailrail: {list}: {}", duplicate_words(bulk, checked));
    }
    if checked.is_partly_compared {
        eprintln!("mailrail: {list}: only the first {COMPARED_MAX} addresses were compared");
    }
    if checked.invalid.count == 0 {
        return Ok(());
    }
    let words = format!("{list}: {}", invalid_words(&checked.invalid));
    if bulk.skip_invalid && checked.valid > 0 {
        eprintln!("mailrail: {words}");
        return Ok(());
    }
    let advice = "nothing was sent; mend the list, or leave these rows out with --skip-invalid";
    Err(Stop::new(Exit::Data, format_args!("{words}\n{advice}")))
}

fn duplicate_words(bulk: &Bulk, checked: &Checked) -> String {
    let Noted { count, first } = &checked.duplicates;
    let rows: Vec<_> = first.iter().map(u64::to_string).collect();
    let more = if *count > rows.len() as u64 {
        ", …"
    } else {
        ""
    };
    let what = if bulk.skip_duplicates {
        "are skipped"
    } else {
        "are sent to as well (--skip-duplicates leaves them out)"
    };
    let rows = rows.join(", ");
    format!("{count} rows have the address of an earlier row and {what}: {rows}{more}")
}

fn invalid_words(invalid: &Noted<String>) -> String {
    let mut words = format!("{} rows cannot be sent to:", invalid.count);
    for flaw in &invalid.first {
        words.push_str("\n  ");
        words.push_str(flaw);
    }
    let more = invalid.count - invalid.first.len() as u64;
    if more > 0 {
        words.push_str(&format!("\n  … and {more} more"));
    }
    words
}

/// Addresses met so far, in bounded memory: 64-bit hashes of the first [`COMPARED_MAX`].
#[derive(Default)]
pub(super) struct SeenAddresses {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl SeenAddresses {
    /// Whether an earlier one was the same but for case.
    pub(super) fn is_duplicate(&mut self, address: &Address) -> bool {
        let hash = self.hasher.hash_one(address.as_str().to_lowercase());
        if self.is_full() {
            return self.hashes.contains(&hash);
        }
        !self.hashes.insert(hash)
    }

    fn is_full(&self) -> bool {
        self.hashes.len() >= COMPARED_MAX
    }
}

fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}
