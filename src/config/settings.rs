//! The types that a setting can have, each with the words that say what is wrong with it.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use client::{TlsMode, Wire};
use engine::route::Route;
use flow::rate::RateLimit;
use server::auth::{Network, PasswordHash};
use smtp::{ClientName, Domain};
use toml::de::DeValue;

use super::read::{Setting, nearest};
use super::units::{self, Percent, Size};

/// Most messages unanswered on one connection; a cut one leaves that many unknown.
const WINDOW_MAX: u8 = 64;

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

/// A word of a fixed few.
pub(crate) trait Word: Sized + Copy + 'static {
    /// Each with what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

impl Word for TlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("opportunistic", Self::Opportunistic),
        ("required", Self::Required),
    ];
}

/// Reads a [`Word`].
pub(crate) fn read_word<T: Word>(value: &DeValue<'_>) -> Result<T, String> {
    let names: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
    let text = text(value, &format!("one of {}", names.join(", ")))?;
    let found = T::WORDS.iter().find(|(name, _)| *name == text);
    found.map(|(_, word)| *word).ok_or_else(|| {
        let near = nearest(text, &names).map(|near| format!("; did you mean {near:?}?"));
        let known = names.join(", ");
        format!(
            "{text:?} is unknown; known: {known}{}",
            near.unwrap_or_default()
        )
    })
}

/// Text, or what should be there instead of a number.
fn text<'v>(value: &'v DeValue<'_>, what: &str) -> Result<&'v str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("is {}; {what} in quotes is meant", kind(value)))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a plain number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Text that a parser takes.
fn parsed<T, E: Display>(
    value: &DeValue<'_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, String> {
    let text = text(value, what)?;
    parse(text).map_err(|error| format!("{text:?}: {error}"))
}

macro_rules! from_text {
    ($($type:ty: $what:literal, $parse:expr;)*) => {$(
        impl Setting for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                parsed(value, $what, $parse)
            }
        }
    )*};
}

from_text! {
    Duration: "a time such as \"5m\"", units::time;
    Size: "a size such as \"20 MiB\"", str::parse::<Size>;
    Percent: "a share such as \"80 %\"", str::parse::<Percent>;
    RateLimit: "a rate such as \"100/s\"", str::parse::<RateLimit>;
    SocketAddr: "an address such as \"127.0.0.1:2525\"",
        |text| text.parse::<SocketAddr>().map_err(|_| "write it as 127.0.0.1:2525 or [::1]:2525");
    IpAddr: "an IP address", |text| text.parse::<IpAddr>().map_err(|_| "is no IP address");
    Network: "a network such as \"10.0.0.0/8\"", str::parse::<Network>;
    Domain: "a domain name", str::parse::<Domain>;
    ClientName: "a host name", str::parse::<ClientName>;
    Wire: "a way to group commands such as \"overlapped\"", wire;
}

impl Setting for PasswordHash {
    /// The text is not repeated: it is a secret, or a password put there by mistake.
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default();
        text.parse::<Self>().map_err(|error| error.to_string())
    }
}

impl Setting for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("is {}; true or false is meant", kind(value)))
    }
}

impl Setting for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match text(value, "text")? {
            "" => Err("is empty".to_owned()),
            text if text.chars().any(char::is_control) => {
                Err("has control characters in it".to_owned())
            }
            text => Ok(text.to_owned()),
        }
    }
}

impl Setting for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        String::read(value).map(Self::from)
    }
}

/// Whole numbers.
fn number<T: FromStr>(value: &DeValue<'_>, range: &str) -> Result<T, String> {
    let integer = value
        .as_integer()
        .ok_or_else(|| format!("is {}; a whole number is meant", kind(value)))?;
    if integer.radix() != 10 {
        return Err("write it in decimal".to_owned());
    }
    let digits = integer.as_str();
    digits
        .parse()
        .map_err(|_| format!("{digits} is not a number from {range}"))
}

macro_rules! whole_numbers {
    ($($type:ty: $range:literal;)*) => {$(
        impl Setting for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                number(value, $range)
            }
        }
    )*};
}

whole_numbers! {
    u32: "0 to 4294967295";
    u16: "0 to 65535";
    NonZeroU32: "1 to 4294967295";
    NonZeroU16: "1 to 65535";
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let items = value
            .as_array()
            .ok_or_else(|| format!("is {}; a list in [brackets] is meant", kind(value)))?;
        let (mut values, mut wrong) = (Vec::new(), Vec::new());
        for item in items {
            match T::read(item.get_ref()) {
                Ok(value) => values.push(value),
                Err(error) => wrong.push(error),
            }
        }
        match wrong.is_empty() {
            true => Ok(values),
            false => Err(wrong.join("; ")),
        }
    }
}

impl<T: Setting> Setting for OneOrMany<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let values = match value.as_array() {
            Some(_) => Vec::read(value)?,
            None => vec![T::read(value)?],
        };
        match values.is_empty() {
            true => Err("is an empty list".to_owned()),
            false => Ok(Self(values)),
        }
    }
}

/// `lockstep`, `pipelined`, `overlapped`, `windowed` or `windowed:N`.
fn wire(text: &str) -> Result<Wire, String> {
    let window = |text: &str| match text.parse() {
        Ok(window @ 1..=WINDOW_MAX) => Ok(Wire::Windowed(window)),
        _ => Err(format!("the window is a number from 1 to {WINDOW_MAX}")),
    };
    match text.split_once(':') {
        Some(("windowed", size)) => window(size),
        None if text == "windowed" => Ok(Wire::Windowed(Route::WINDOW)),
        None if text == "overlapped" => Ok(Wire::Overlapped),
        None if text == "pipelined" => Ok(Wire::Pipelined),
        None if text == "lockstep" => Ok(Wire::Lockstep),
        _ => Err("known: lockstep, pipelined, overlapped, windowed, windowed:N".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_in_range() {
        for (toml, want) in [
            ("1", Some(1)),
            ("65535", Some(65535)),
            ("0", None),
            ("65536", None),
            ("-1", None),
            ("1.0", None),
            ("0x10", None),
            ("\"1\"", None),
        ] {
            let value = DeValue::parse(toml).unwrap();
            let number = NonZeroU16::read(value.get_ref());
            assert_eq!(number.ok().map(u16::from), want, "{toml}");
        }
    }

    #[test]
    fn every_wrong_item_of_a_list_is_named() {
        let value = DeValue::parse("[\"1.2.3.4\", \"a\", 7]").unwrap();
        let error = Vec::<IpAddr>::read(value.get_ref()).unwrap_err();
        assert!(
            error.contains("\"a\"") && error.contains("a plain number"),
            "{error}"
        );
    }
}
