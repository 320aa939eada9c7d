//! Mistakes in flags, all reported at once.

use std::fmt::Display;

use crate::exit::{Exit, Stop};

/// Collects what is wrong while settings are read.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<String>);

impl Mistakes {
    /// Notes a mistake.
    pub(crate) fn add(&mut self, mistake: impl Display) {
        self.0.push(mistake.to_string());
    }

    /// The value, or `None` and a note: `flag: error`.
    pub(crate) fn take<T>(&mut self, flag: &str, result: Result<T, impl Display>) -> Option<T> {
        result
            .map_err(|error| self.add(format_args!("{flag}: {error}")))
            .ok()
    }

    /// Parses a flag that may be absent.
    pub(crate) fn parse<T>(&mut self, flag: &str, text: Option<&str>) -> Option<T>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let text = text?;
        self.take(flag, text.parse())
    }

    /// Stops with all of them, if there are any.
    pub(crate) fn settle(self) -> Result<(), Stop> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(Stop::new(Exit::Usage, one)),
            many => Err(Stop::new(
                Exit::Usage,
                format_args!("{} mistakes:\n  {}", many.len(), many.join("\n  ")),
            )),
        }
    }
}
