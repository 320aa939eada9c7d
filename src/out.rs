//! Standard output, whose reader may go away at any time (`mailrail … | head`).

use std::fmt::Display;
use std::io::Write;

/// Prints a line. A closed pipe is no reason to fail: the work has been done.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
