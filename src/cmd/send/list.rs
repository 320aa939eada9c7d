//! Lists of recipients, read row by row: CSV with a header row, or JSON lines.
//!
//! A row's number is what an editor or a spreadsheet shows: a CSV's header is row 1 and its first
//! recipient row 2; a JSONL's first line is row 1. One column is `email`, in any case; all columns
//! are variables of the templates. A CSV may be divided by commas, semicolons or tabs, whichever
//! its header row has first, and may begin with a byte order mark.
//!
//! Limits: a row of 1 MiB. Memory does not depend on the length of the list.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use csv::{ByteRecord, StringRecord};
use message::Mailbox;
use serde_json::{Map, Value};

/// Longest row in bytes; a quote that is never closed would otherwise swallow the list.
const ROW_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// The column that makes a list.
const EMAIL: &str = "email";

/// Why a list as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("the list {path} cannot be read: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("the list {0} is not a file: it is read twice, to check it before anything is sent")]
    NotAFile(PathBuf),
    #[error("the list {0} is neither .csv nor .jsonl")]
    Format(PathBuf),
    #[error("the list {path} has no column `email`; its columns: {columns}")]
    NoEmail { path: PathBuf, columns: String },
    #[error("the list {path} has two columns `{column}`")]
    TwoColumns { path: PathBuf, column: String },
    #[error("the list {0} is empty")]
    Empty(PathBuf),
    #[error("the list {path}: row {row} is longer than 1 MiB (a quote that is not closed?)")]
    RowTooLong { path: PathBuf, row: u64 },
}

/// One row, as it is.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// As the list has it, for reports; empty if the row has none.
    pub(crate) email: String,
    /// Or what is wrong with the row.
    pub(crate) person: Result<Person, String>,
}

/// A row that can be sent to.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) to: Mailbox,
    /// All columns.
    pub(crate) variables: Map<String, Value>,
}

/// A list, open; to be iterated once.
pub(crate) struct List {
    path: PathBuf,
    rows: Rows,
    /// Of the row being read or read last.
    number: u64,
    budget: Budget,
}

enum Rows {
    Csv {
        reader: csv::Reader<Limited>,
        columns: Vec<String>,
        record: ByteRecord,
    },
    Jsonl {
        reader: BufReader<Limited>,
        line: Vec<u8>,
    },
}

impl List {
    /// Opens a list and reads its header row, if its kind has one.
    ///
    /// # Errors
    /// See [`ListError`].
    pub(crate) fn open(path: &Path) -> Result<Self, ListError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let open = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv" | "tsv") => open_csv,
            Some("jsonl" | "ndjson") => open_jsonl,
            _ => return Err(ListError::Format(path.to_owned())),
        };
        let io_error = |error| ListError::Io {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(io_error)?;
        if !file.metadata().map_err(io_error)?.is_file() {
            return Err(ListError::NotAFile(path.to_owned()));
        }
        let budget = Budget::default();
        open(path, file, budget)
    }

    /// The columns of a CSV; `None` where each row has its own.
    pub(crate) fn columns(&self) -> Option<&[String]> {
        match &self.rows {
            Rows::Csv { columns, .. } => Some(columns),
            Rows::Jsonl { .. } => None,
        }
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// The list cannot be read on. What is wrong with one row is in the row.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>, ListError> {
        self.budget.refill();
        let read = match &mut self.rows {
            Rows::Csv {
                reader,
                columns,
                record,
            } => read_csv_row(reader, columns, record),
            Rows::Jsonl { reader, line } => read_json_row(reader, line, &mut self.number),
        };
        match read {
            Ok(None) => Ok(None),
            Ok(Some((email, person))) => {
                self.number += 1;
                Ok(Some(Row {
                    number: self.number,
                    email,
                    person,
                }))
            }
            Err(_) if self.budget.is_spent() => Err(ListError::RowTooLong {
                path: self.path.clone(),
                row: self.number + 1,
            }),
            Err(error) => Err(ListError::Io {
                path: self.path.clone(),
                error,
            }),
        }
    }
}

/// Email as it stands, and the person or what is wrong.
type ReadRow = (String, Result<Person, String>);

fn open_csv(path: &Path, mut file: File, budget: Budget) -> Result<List, ListError> {
    let io_error = |error| ListError::Io {
        path: path.to_owned(),
        error,
    };
    let delimiter = find_delimiter(&mut file).map_err(io_error)?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(Limited::new(file, &budget));
    let mut record = ByteRecord::new();
    let has_header = reader.read_byte_record(&mut record);
    if !has_header.map_err(|error| io_error(error.into()))? {
        return Err(ListError::Empty(path.to_owned()));
    }
    let columns: Vec<_> = record.iter().map(column_name).collect();
    check_columns(path, &columns)?;
    Ok(List {
        path: path.to_owned(),
        rows: Rows::Csv {
            reader,
            columns,
            record,
        },
        number: 1,
        budget,
    })
}

fn open_jsonl(path: &Path, file: File, budget: Budget) -> Result<List, ListError> {
    Ok(List {
        path: path.to_owned(),
        rows: Rows::Jsonl {
            reader: BufReader::with_capacity(BUFFER_BYTES, Limited::new(file, &budget)),
            line: Vec::new(),
        },
        number: 0,
        budget,
    })
}

/// Looks at the beginning of the header row; leaves the file after a byte order mark.
fn find_delimiter(file: &mut File) -> io::Result<u8> {
    let mut head = Vec::new();
    file.take(BUFFER_BYTES as u64).read_to_end(&mut head)?;
    let mark_len = if head.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    file.seek(io::SeekFrom::Start(mark_len))?;
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut delimiters = line.iter().copied().filter(|b| b",;\t".contains(b));
    Ok(delimiters.next().unwrap_or(b','))
}

/// A column's name without white space around it; `email` in one spelling.
fn column_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let name = name.trim();
    if name.eq_ignore_ascii_case(EMAIL) {
        EMAIL.to_owned()
    } else {
        name.to_owned()
    }
}

fn check_columns(path: &Path, columns: &[String]) -> Result<(), ListError> {
    if !columns.iter().any(|column| column == EMAIL) {
        return Err(ListError::NoEmail {
            path: path.to_owned(),
            columns: columns.join(", "),
        });
    }
    let is_named_before = |(index, column): &(usize, &String)| columns[..*index].contains(column);
    match columns.iter().enumerate().find(is_named_before) {
        None => Ok(()),
        Some((_, column)) => Err(ListError::TwoColumns {
            path: path.to_owned(),
            column: column.clone(),
        }),
    }
}

fn read_csv_row(
    reader: &mut csv::Reader<Limited>,
    columns: &[String],
    record: &mut ByteRecord,
) -> io::Result<Option<ReadRow>> {
    if !reader.read_byte_record(record)? {
        return Ok(None);
    }
    let email_at = columns.iter().position(|column| column == EMAIL);
    let email = email_at.and_then(|at| record.get(at)).unwrap_or_default();
    let email = String::from_utf8_lossy(email).trim().to_owned();
    let person = csv_person(columns, record, &email);
    Ok(Some((email, person)))
}

fn csv_person(columns: &[String], record: &ByteRecord, email: &str) -> Result<Person, String> {
    if record.len() != columns.len() {
        return Err(format!(
            "{} fields where the header row has {}",
            record.len(),
            columns.len()
        ));
    }
    let record = StringRecord::from_byte_record(record.clone())
        .map_err(|_| "the row is not UTF-8".to_owned())?;
    let to = email.parse().map_err(|error| in_words(email, &error))?;
    let cells = columns.iter().cloned().zip(&record);
    let variables = cells
        .map(|(column, cell)| (column, Value::from(cell)))
        .collect();
    Ok(Person { to, variables })
}

/// Counts blank lines into `number`, so that a row's number is its line's.
fn read_json_row(
    reader: &mut BufReader<Limited>,
    line: &mut Vec<u8>,
    number: &mut u64,
) -> io::Result<Option<ReadRow>> {
    loop {
        line.clear();
        if reader.read_until(b'\n', line)? == 0 {
            return Ok(None);
        }
        if !line.trim_ascii().is_empty() {
            break;
        }
        *number += 1;
    }
    let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let variables = serde_json::from_slice::<Map<String, Value>>(text);
    Ok(Some(match variables {
        Err(error) => {
            let problem = format!("not a JSON object: {error}");
            (String::new(), Err(problem))
        }
        Ok(variables) => json_person(variables),
    }))
}

fn json_person(mut variables: Map<String, Value>) -> ReadRow {
    let key = variables.keys().find(|key| key.eq_ignore_ascii_case(EMAIL));
    let value = key.cloned().and_then(|key| variables.remove(&key));
    let Some(Value::String(email)) = value else {
        return (String::new(), Err("there is no text `email`".to_owned()));
    };
    let email = email.trim().to_owned();
    variables.insert(EMAIL.to_owned(), Value::from(email.as_str()));
    let person = match email.parse() {
        Ok(to) => Ok(Person { to, variables }),
        Err(error) => Err(in_words(&email, &error)),
    };
    (email, person)
}

fn in_words(email: &str, error: &message::MailboxError) -> String {
    if email.is_empty() {
        return "there is no email address".to_owned();
    }
    format!("{email:?} is not an email address: {error}")
}

/// What may still be read before the row is too long.
#[derive(Clone)]
struct Budget(Rc<Cell<u64>>);

impl Default for Budget {
    fn default() -> Self {
        let budget = Self(Rc::new(Cell::new(0)));
        budget.refill();
        budget
    }
}

impl Budget {
    fn refill(&self) {
        self.0.set(ROW_BYTES_MAX);
    }

    fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// A file of which a row can only take so much.
struct Limited {
    file: File,
    budget: Budget,
}

impl Limited {
    fn new(file: File, budget: &Budget) -> Self {
        Self {
            file,
            budget: budget.clone(),
        }
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.0.get();
        if left == 0 {
            return Err(io::Error::other("the row is too long"));
        }
        let len = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..len])?;
        self.budget.0.set(left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(name: &str, text: impl AsRef<[u8]>) -> Result<List, ListError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        List::open(&path)
    }

    /// Number and address, or number and what is wrong.
    fn rows(name: &str, text: impl AsRef<[u8]>) -> Vec<(u64, String)> {
        let mut list = open(name, text).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = list.next_row().unwrap() {
            let text = match row.person {
                Ok(person) => format!("{} {}", person.to, Value::Object(person.variables)),
                Err(error) => error,
            };
            rows.push((row.number, text));
        }
        rows
    }

    #[test]
    fn a_csv_is_read_as_spreadsheets_write_it() {
        for text in [
            "email,name\na@b.example,\"Lee, A\"\n",
            "\u{feff}Email;name\r\n a@b.example ;\"Lee, A\"\r\n",
            " EMAIL \tname\na@b.example\tLee, A",
        ] {
            let rows = rows("l.csv", text);
            assert_eq!(rows.len(), 1, "{text}");
            assert_eq!(rows[0].0, 2);
            assert!(rows[0].1.starts_with("a@b.example {"), "{rows:?}");
            assert!(rows[0].1.contains(r#""name":"Lee, A""#), "{rows:?}");
        }
    }

    #[test]
    fn a_row_that_is_wrong_says_so_and_the_next_is_read() {
        let csv = b"email,name\nnobody,x\na@b.example\n,y\n\xff@b.example,z\nok@b.example,\xff\nlast@b.example,w\n";
        let read = rows("l.csv", csv);
        let wants = [
            (2, "\"nobody\" is not an email address"),
            (3, "1 fields where the header row has 2"),
            (4, "there is no email address"),
            (5, "not UTF-8"),
            (6, "not UTF-8"),
            (7, "last@b.example {"),
        ];
        assert_eq!(read.len(), wants.len());
        for ((number, text), (want_number, want)) in read.iter().zip(wants) {
            assert_eq!(*number, want_number);
            assert!(text.contains(want), "{text}: {want}");
        }
    }

    #[test]
    fn json_lines_count_as_lines() {
        let json =
            "{\"Email\":\"a@b.example\",\"n\":1}\n\n[]\n{\"n\":2}\n{\"email\":\"b@b.example\"}";
        let read = rows("l.jsonl", json);
        assert_eq!(read[0].0, 1);
        assert!(read[0].1.contains("\"n\":1"), "{read:?}");
        assert_eq!((read[1].0, &read[1].1[..17]), (3, "not a JSON object"));
        assert_eq!(read[2], (4, "there is no text `email`".to_owned()));
        assert_eq!(read[3].0, 5);
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for (name, text, want) in [
            ("l.csv", "", "is empty"),
            (
                "l.csv",
                "mail,name\n",
                "no column `email`; its columns: mail, name",
            ),
            ("l.csv", "email,Email\n", "two columns `email`"),
            ("l.xlsx", "PK", "neither .csv nor .jsonl"),
        ] {
            let error = open(name, text).err().unwrap().to_string();
            assert!(error.contains(want), "{error}");
        }
        let missing = List::open(Path::new("/nonexistent/l.csv")).err().unwrap();
        assert!(missing.to_string().contains("cannot be read"), "{missing}");
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_swallow_the_list() {
        let text = format!("email\na@b.example\n\"{}", "x\n".repeat(2_000_000));
        let mut list = open("l.csv", text).unwrap();
        assert!(list.next_row().unwrap().is_some());
        let error = list.next_row().err().unwrap().to_string();
        assert!(error.contains("row 3 is longer than 1 MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_in_order_or_an_error(
            bytes in prop::collection::vec(prop::sample::select(&b"a@b.\",;\n\r\t{}:1 \xff"[..]), 0..200),
            is_csv: bool,
        ) {
            let (name, head) = if is_csv { ("l.csv", "email,a\n") } else { ("l.jsonl", "") };
            let mut list = open(name, [head.as_bytes(), &bytes].concat()).unwrap();
            let mut last = 0;
            while let Some(row) = list.next_row().unwrap() {
                prop_assert!(row.number > last);
                last = row.number;
                if let Ok(person) = row.person {
                    prop_assert!(person.variables.contains_key(EMAIL));
                }
            }
        }
    }
}
