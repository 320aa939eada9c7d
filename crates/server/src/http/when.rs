//! `scheduled_at`: a moment as ISO 8601 says it, or a span from now as people do.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Why a text is not a moment that mail can be scheduled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WhenError {
    #[error("give a date as 2026-08-05T11:52:01Z, with its offset, or a span as \"in 1 min\"")]
    Form,
    #[error("that is further away than mail may be scheduled for")]
    TooFar,
}

/// Reads `2026-08-05T11:52:01.858Z`, `2026-08-05 13:52+02:00`, `now`, `in 1 min`, `in 2 days 4h`.
///
/// A moment that has passed is now.
pub(crate) fn parse(
    text: &str,
    now: Timestamp,
    ahead_max: jiff::SignedDuration,
) -> Result<Timestamp, WhenError> {
    let text = text.trim();
    let at = if text.eq_ignore_ascii_case("now") {
        now
    } else if let Some(span) = strip_in(text) {
        let span: Span = span.trim().parse().map_err(|_| WhenError::Form)?;
        let at = now.to_zoned(TimeZone::UTC).checked_add(span);
        at.map_err(|_| WhenError::TooFar)?.timestamp()
    } else {
        text.parse().map_err(|_| WhenError::Form)?
    };
    if at.duration_since(now) > ahead_max {
        return Err(WhenError::TooFar);
    }
    Ok(at.max(now))
}

fn strip_in(text: &str) -> Option<&str> {
    let (front, rest) = text.split_at_checked(3)?;
    front.eq_ignore_ascii_case("in ").then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, WhenError> {
        let now = "2026-08-05T10:00:00Z".parse().unwrap();
        let month = jiff::SignedDuration::from_hours(30 * 24);
        parse(text, now, month).map(|at| at.to_string())
    }

    #[test]
    fn a_moment_is_read_as_iso_8601_or_as_people_say_it() {
        for (text, at) in [
            ("2026-08-05T11:52:01.858Z", "2026-08-05T11:52:01.858Z"),
            ("2026-08-05T13:52:00+02:00", "2026-08-05T11:52:00Z"),
            ("2026-08-05 13:52+02:00", "2026-08-05T11:52:00Z"),
            ("in 1 min", "2026-08-05T10:01:00Z"),
            ("In 1 hour", "2026-08-05T11:00:00Z"),
            ("in 90 seconds", "2026-08-05T10:01:30Z"),
            ("in 2 days 4h", "2026-08-07T14:00:00Z"),
            ("in 1 week", "2026-08-12T10:00:00Z"),
            ("now", "2026-08-05T10:00:00Z"),
            ("2020-01-01T00:00:00Z", "2026-08-05T10:00:00Z"),
            ("in -5 min", "2026-08-05T10:00:00Z"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(at), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_or_too_far_away_is_refused() {
        for text in [
            "",
            "soon",
            "in",
            "in a while",
            "2026-08-05",
            "2026-08-05T11:52",
            "é",
        ] {
            assert_eq!(check(text), Err(WhenError::Form), "{text}");
        }
        for text in [
            "in 31 days",
            "2027-01-01T00:00:00Z",
            "in 9000 years",
            "in 19000 years",
        ] {
            assert_eq!(check(text), Err(WhenError::TooFar), "{text}");
        }
    }
}
