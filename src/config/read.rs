//! Reads a TOML file setting by setting: every mistake is noted with its line, none stops the reading.
//!
//! Reading *is* the list of what may be set: a [`Section`] remembers what it was asked for, so that
//! whatever else stands in the file is an unknown setting, and all that was asked for can be shown
//! with its value and where it comes from. Defaults are TOML texts that go through the same parser.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// Reads it; an error says what is wrong, without the name of the setting.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

/// Something wrong in the file, or with what it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mistake {
    /// Counted from 1; `None` where it is not in the file.
    pub(crate) line: Option<usize>,
    /// Dotted, as in `route[0].via`; empty for the file itself.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Line(usize),
    Default,
    /// A flag or the environment, as given.
    Given(&'static str),
    /// Neither set nor defaulted.
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Default => f.write_str("default"),
            Self::Given(name) => f.write_str(name),
            Self::Unset => f.write_str("not set"),
        }
    }
}

/// One setting in force.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// The table it is in, as in [`Mistake::path`]; empty at the top.
    pub(crate) table: String,
    /// Empty where it stands for the table itself.
    pub(crate) key: &'static str,
    /// As TOML; secrets are masked. Empty where it is not set.
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// What flags and the environment say instead of the file: path → TOML text and who says it.
pub(crate) type Given = BTreeMap<&'static str, (String, &'static str)>;

/// What was found while reading.
#[derive(Debug)]
pub(crate) struct Notes {
    /// Where each line but the first begins.
    line_starts: Vec<usize>,
    given: Given,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    mistakes: Vec<Mistake>,
    shown: Vec<Shown>,
}

impl Notes {
    pub(crate) fn new(text: &str, given: Given) -> Self {
        Self {
            line_starts: text.match_indices('\n').map(|(at, _)| at + 1).collect(),
            given,
            found: RefCell::default(),
        }
    }

    /// All mistakes in the order of their lines, and all settings that were read.
    pub(crate) fn into_parts(self) -> (Vec<Mistake>, Vec<Shown>) {
        let mut found = self.found.into_inner();
        found.mistakes.sort();
        found.mistakes.dedup();
        (found.mistakes, found.shown)
    }

    pub(crate) fn mistake(&self, at: Option<&Range<usize>>, path: &str, text: impl fmt::Display) {
        self.found.borrow_mut().mistakes.push(Mistake {
            line: at.map(|at| self.line(at)),
            path: path.to_owned(),
            text: text.to_string(),
        });
    }

    fn line(&self, at: &Range<usize>) -> usize {
        self.line_starts.partition_point(|start| *start <= at.start) + 1
    }
}

/// One table of the file, or the absence of one.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    notes: &'a Notes,
    table: Option<&'a DeTable<'a>>,
    /// Where the table is.
    at: Option<Range<usize>>,
    /// As in [`Mistake::path`].
    path: String,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(notes: &'a Notes, table: &'a DeTable<'a>) -> Self {
        Self {
            notes,
            table: Some(table),
            at: None,
            path: String::new(),
            known: Vec::new(),
        }
    }

    /// Whether a setting is in the file.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Whether a flag or the environment says it instead of the file.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.notes.given.contains_key(self.path_of(key).as_str())
    }

    /// Whether a setting is a list of tables.
    pub(crate) fn holds_tables(&self, key: &str) -> bool {
        let items = self.find(key).and_then(|value| value.get_ref().as_array());
        let mut items = items.into_iter().flat_map(|items| items.iter());
        items.any(|item| item.get_ref().is_table())
    }

    /// A setting that has a default, given as TOML. Where a mistake was noted: the default.
    pub(crate) fn get<T: Setting>(&mut self, key: &'static str, default: &str) -> T {
        self.get_with(key, default, Origin::Default)
    }

    /// The same where the default comes from the environment.
    pub(crate) fn get_with<T: Setting>(
        &mut self,
        key: &'static str,
        default: &str,
        origin: Origin,
    ) -> T {
        let value = self.read(key, false);
        if let Some(value) = value {
            return value;
        }
        let parsed = DeValue::parse(default).expect("a default is TOML");
        if !self.has(key) {
            self.show(key, plain(parsed.get_ref()), origin);
        }
        T::read(parsed.get_ref()).unwrap_or_else(|error| panic!("default of {key}: {error}"))
    }

    /// A setting that may be absent. `None` too where a mistake was noted.
    pub(crate) fn maybe<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.read(key, false);
        if !self.has(key) && value.is_none() {
            self.show(key, String::new(), Origin::Unset);
        }
        value
    }

    /// A setting without which the table means nothing. `None` where a mistake was noted.
    pub(crate) fn must<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.read(key, false);
        if value.is_none() && !self.has(key) {
            self.wrong("", format_args!("`{key}` is missing"));
        }
        value
    }

    /// The same for what must not be shown.
    pub(crate) fn must_secret<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.read(key, true);
        if value.is_none() && !self.has(key) {
            self.wrong("", format_args!("`{key}` is missing"));
        }
        value
    }

    /// The table `[key]`, there or not.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.known.push(key);
        let found = self.find(key);
        let table = found.and_then(|value| value.get_ref().as_table());
        if found.is_some() && table.is_none() {
            self.wrong(key, "is no table; write it as a section of its own");
        }
        let path = self.path_of(key);
        self.child(table, found.map(Spanned::span), path)
    }

    /// The tables `[[key]]`.
    pub(crate) fn list(&mut self, key: &'static str) -> Vec<Section<'a>> {
        self.known.push(key);
        let Some(found) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = found.get_ref().as_array() else {
            let path = self.path_of(key);
            self.wrong(key, format_args!("there may be several: write [[{path}]]"));
            return Vec::new();
        };
        let path = self.path_of(key);
        let mut children = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let name = format!("{path}[{index}]");
            match item.get_ref().as_table() {
                Some(table) => {
                    children.push(self.child(Some(table), Some(item.span()), name));
                }
                None => self.notes.mistake(Some(&item.span()), &name, "is no table"),
            }
        }
        children
    }

    /// Notes a mistake at a setting, or at the table where `key` is empty.
    pub(crate) fn wrong(&self, key: &str, text: impl fmt::Display) {
        let entry = self.table.and_then(|table| table.get_key_value(key));
        let at = entry.map(|(key, _)| key.span()).or_else(|| self.at.clone());
        self.notes.mistake(at.as_ref(), &self.path_of(key), text);
    }

    /// Every setting has been asked for: what else is there is unknown.
    pub(crate) fn end(self) {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let text = match nearest(name, &self.known) {
                Some(near) => format!("unknown setting; did you mean `{near}`?"),
                None => format!("unknown setting; known: {}", self.known.join(", ")),
            };
            let path = self.path_of(name);
            self.notes.mistake(Some(&key.span()), &path, text);
        }
    }

    fn find(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    /// What is given or in the file.
    fn read<T: Setting>(&mut self, key: &'static str, is_secret: bool) -> Option<T> {
        self.known.push(key);
        let path = self.path_of(key);
        if let Some((text, who)) = self.notes.given.get(path.as_str()) {
            let parsed = DeValue::parse(text).expect("what is given is TOML");
            self.show(key, plain(parsed.get_ref()), Origin::Given(who));
            let wrong = |error| {
                self.notes
                    .mistake(None, who, format_args!("{text}: {error}"));
            };
            return T::read(parsed.get_ref()).map_err(wrong).ok();
        }
        let found = self.find(key)?;
        let value = match is_secret {
            true => "\"…\"".to_owned(),
            false => plain(found.get_ref()),
        };
        self.show(key, value, Origin::Line(self.notes.line(&found.span())));
        let read = T::read(found.get_ref());
        read.map_err(|error| self.notes.mistake(Some(&found.span()), &path, error))
            .ok()
    }

    fn show(&self, key: &'static str, value: String, origin: Origin) {
        self.notes.found.borrow_mut().shown.push(Shown {
            table: self.path.clone(),
            key,
            value,
            origin,
        });
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    fn child(
        &self,
        table: Option<&'a DeTable<'a>>,
        at: Option<Range<usize>>,
        path: String,
    ) -> Section<'a> {
        // An item without settings is an item all the same.
        if path.ends_with(']') {
            self.notes.found.borrow_mut().shown.push(Shown {
                table: path.clone(),
                key: "",
                value: String::new(),
                origin: Origin::Unset,
            });
        }
        Section {
            notes: self.notes,
            table,
            at,
            path,
            known: Vec::new(),
        }
    }
}

/// A value as TOML on one line.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()).to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| plain(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                let value = plain(value.get_ref());
                format!("{} = {value}", toml::Value::String(key.to_string()))
            };
            let entries: Vec<String> = table.iter().map(entry).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Integer(value) => value.to_string(),
        DeValue::Float(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
    }
}

/// The known word that was probably meant: at most a third of it differs.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let distances = known.iter().map(|known| (distance(word, known), *known));
    let (distance, near) = distances.min()?;
    let is_near = distance <= near.len().max(3) / 3 || near.starts_with(word);
    is_near.then_some(near)
}

/// Letters to add, drop or replace (Levenshtein), two swapped neighbours counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let swapped =
                        match i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                            true => rows[i - 2][j - 2] + 1,
                            false => usize::MAX,
                        };
                    let inserted = rows[i - 1][j].min(rows[i][j - 1]) + 1;
                    replaced.min(inserted).min(swapped)
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_what_was_meant_and_nonsense_finds_nothing() {
        let known = ["via", "domain", "connections_max", "rate"];
        for (word, want) in [
            ("vai", Some("via")),
            ("domian", Some("domain")),
            ("domains", Some("domain")),
            ("connection_max", Some("connections_max")),
            ("connections", Some("connections_max")),
            ("Rate", Some("rate")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, &known), want, "{word}");
        }
    }
}
