//! Mistakes in flags and in the files they name, all reported at once.

use std::fmt::Display;

use crate::exit::{Exit, Stop};

/// Collects what is wrong while settings are read.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    texts: Vec<String>,
    /// Some are in the flags themselves, not only in files.
    has_usage: bool,
}

impl Mistakes {
    /// Notes a mistake in the flags.
    pub(crate) fn add(&mut self, mistake: impl Display) {
        self.texts.push(mistake.to_string());
        self.has_usage = true;
    }

    /// Whether nothing is wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The value, or `None` and a note: `flag: error`.
    pub(crate) fn take<T>(&mut self, flag: &str, result: Result<T, impl Display>) -> Option<T> {
        result
            .map_err(|error| self.add(format_args!("{flag}: {error}")))
            .ok()
    }

    /// The same for what a flag names: a file, a template.
    pub(crate) fn take_data<T>(&mut self, result: Result<T, impl Display>) -> Option<T> {
        result
            .map_err(|error| self.texts.push(error.to_string()))
            .ok()
    }

    /// Parses a flag that may be absent.
    pub(crate) fn parse<T>(&mut self, flag: &str, text: Option<&str>) -> Option<T>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let text = text?;
        let parsed = text.parse().map_err(|error| format!("{text:?}: {error}"));
        self.take(flag, parsed)
    }

    /// Parses a flag that may be given several times.
    pub(crate) fn parse_all<T>(&mut self, flag: &str, texts: &[String]) -> Vec<T>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let parse = |text: &String| self.parse(flag, Some(text));
        texts.iter().filter_map(parse).collect()
    }

    /// Stops with all of them, if there are any.
    pub(crate) fn settle(self) -> Result<(), Stop> {
        let exit = if self.has_usage {
            Exit::Usage
        } else {
            Exit::Data
        };
        match self.texts.as_slice() {
            [] => Ok(()),
            [one] => Err(Stop::new(exit, one)),
            many => Err(Stop::new(
                exit,
                format_args!("{} mistakes:\n  {}", many.len(), many.join("\n  ")),
            )),
        }
    }
}
