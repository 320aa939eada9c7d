//! Values with a unit, as people write them: `5m`, `20 MiB`, `80 %`.
//!
//! A number without a unit is a mistake, and so is a fraction: both have been misread before.

use std::str::FromStr;
use std::time::Duration;

/// Longest time that a setting may say: ten years, so that sums of moments stay in range.
const TIME_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Unit of time and its length in milliseconds.
const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Unit of size and its octets.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Shares of a hundred.
const SHARES: &[(&str, u64)] = &[("%", 1)];

/// What is wrong with a value that has a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("it does not begin with a whole number")]
    Number,
    #[error("there is no unit; use {0}")]
    Missing(String),
    #[error("unknown unit {0:?}; use {1}")]
    Unknown(String, String),
    #[error("it is more than {0}")]
    TooMuch(&'static str),
    #[error("it is nothing")]
    Zero,
}

/// A number of octets: `512 KiB`, `20 MiB`, `10 GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, factor) = split(text, SIZES)?;
        let octets = number.checked_mul(factor);
        octets.map(Self).ok_or(UnitError::TooMuch("16 EiB"))
    }
}

/// A share of something: `80 %`; 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u8);

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match split(text, SHARES)? {
            (0, _) => Err(UnitError::Zero),
            (number, _) => match u8::try_from(number) {
                Ok(number @ ..=100) => Ok(Self(number)),
                _ => Err(UnitError::TooMuch("100 %")),
            },
        }
    }
}

/// A length of time: `500ms`, `30s`, `5m`, `4h`, `7d`; one unit, no fractions.
pub(crate) fn time(text: &str) -> Result<Duration, UnitError> {
    let (number, factor) = split(text, TIMES)?;
    let time = number.checked_mul(factor).map(Duration::from_millis);
    time.filter(|time| *time <= TIME_MAX)
        .ok_or(UnitError::TooMuch("3650d"))
}

/// The number and what its unit stands for.
fn split(text: &str, units: &[(&str, u64)]) -> Result<(u64, u64), UnitError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| UnitError::Number)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let known = || {
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok((number, *factor)),
        None if unit.is_empty() => Err(UnitError::Missing(known())),
        None => Err(UnitError::Unknown(unit.to_owned(), known())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_whole_number_and_a_unit() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("30 s", Some(30_000)),
            ("5m", Some(300_000)),
            ("4h", Some(14_400_000)),
            ("7d", Some(604_800_000)),
            ("3650d", Some(315_360_000_000)),
            ("3651d", None),
            ("18446744073709551615d", None),
            ("99999999999999999999s", None),
            ("5", None),
            ("", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("5min", None),
            ("5  m", None),
            ("1h30m", None),
            ("5M", None),
        ] {
            assert_eq!(time(text).ok(), ms.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn a_size_is_a_whole_number_and_a_unit() {
        for (text, octets) in [
            ("0 B", Some(0)),
            ("20 MiB", Some(20 << 20)),
            ("20MiB", Some(20 << 20)),
            ("50 MB", Some(50_000_000)),
            ("1 TiB", Some(1 << 40)),
            ("16777216 TiB", None),
            ("20", None),
            ("20M", None),
            ("20 mib", None),
            ("20 MiB ", None),
        ] {
            assert_eq!(text.parse().ok(), octets.map(Size), "{text:?}");
        }
    }

    #[test]
    fn a_share_is_a_whole_number_of_percent_from_1_to_100() {
        for (text, percent) in [
            ("80 %", Some(80)),
            ("1%", Some(1)),
            ("100 %", Some(100)),
            ("0 %", None),
            ("101 %", None),
            ("256 %", None),
            ("80", None),
            ("0.8", None),
            ("%", None),
        ] {
            assert_eq!(text.parse().ok(), percent.map(Percent), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_units_that_there_are() {
        let missing = time("5").unwrap_err().to_string();
        assert_eq!(missing, "there is no unit; use ms, s, m, h, d");
        let unknown = time("5min").unwrap_err().to_string();
        assert_eq!(unknown, "unknown unit \"min\"; use ms, s, m, h, d");
    }
}
