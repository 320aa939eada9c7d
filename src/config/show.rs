//! All settings in force as a file that could be read again, each with where it comes from.

use std::fmt::Write;

use super::read::{Origin, Shown};

/// Column of the comments.
const COMMENT_COLUMN: usize = 44;

/// TOML, one setting a line. Secrets are masked already.
pub(crate) fn show(shown: &[Shown]) -> String {
    let mut tables: Vec<&str> = vec![""];
    for setting in shown {
        if !tables.contains(&setting.table.as_str()) {
            tables.push(&setting.table);
        }
    }
    let mut text = String::new();
    for table in tables {
        let settings = shown.iter().filter(|setting| setting.table == table);
        let is_absent = settings
            .clone()
            .all(|setting| setting.origin == Origin::Unset);
        if !table.is_empty() {
            let mark = if is_absent && !table.ends_with(']') {
                "# "
            } else {
                ""
            };
            let _ = writeln!(text, "\n{mark}{}", header(table));
        }
        for setting in settings.filter(|setting| !setting.key.is_empty()) {
            line(&mut text, setting);
        }
    }
    text
}

/// `route[0].via[1]` → `[[route.via]]`.
fn header(table: &str) -> String {
    let mut name = String::new();
    let mut is_index = false;
    for c in table.chars() {
        match c {
            '[' => is_index = true,
            ']' => is_index = false,
            c if !is_index => name.push(c),
            _ => {}
        }
    }
    match table.ends_with(']') {
        true => format!("[[{name}]]"),
        false => format!("[{name}]"),
    }
}

fn line(text: &mut String, setting: &Shown) {
    let Shown {
        key, value, origin, ..
    } = setting;
    let left = match origin {
        Origin::Unset => format!("# {key} ="),
        _ => format!("{key} = {value}"),
    };
    let _ = writeln!(text, "{left:COMMENT_COLUMN$} # {origin}");
}
