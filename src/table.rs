//! Tables for people to read on a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;

/// A column: its header, and where its value is in a row (dotted).
pub(crate) type Column = (&'static str, &'static str);

/// Rows of a JSON list; numbers to the right.
pub(crate) fn of(columns: &[Column], rows: &[Value]) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(|(header, _)| *header));
    for row in rows {
        table.add_row(columns.iter().map(|(_, path)| cell(at(row, path))));
    }
    table.trim_fmt()
}

/// What is at a dotted path; null where nothing is.
pub(crate) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |value, name| &value[name])
}

fn cell(value: &Value) -> Cell {
    let alignment = match value {
        Value::Number(_) => CellAlignment::Right,
        _ => CellAlignment::Left,
    };
    Cell::new(words(value)).set_alignment(alignment)
}

/// A value in words. Nothing in it can control the terminal: some of it was said by strangers.
pub(crate) fn words(value: &Value) -> String {
    let text = match value {
        Value::Null | Value::Bool(false) => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Number(number) if number.is_f64() => {
            let text = format!("{:.2}", number.as_f64().unwrap_or_default());
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() => "–".to_owned(),
        Value::Array(values) if values.is_empty() => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(_) => value.to_string(),
    };
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_a_header_and_a_row_for_each_item() {
        let rows = [
            json!({"a": "x", "b": {"c": 7.5}}),
            json!({"a": "\u{1b}[31mred", "b": null}),
        ];
        let table = of(&[("name", "a"), ("count", "b.c")], &rows);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec!["name", "count"],
                vec!["x", "7.5"],
                vec!["[31mred", "–"]
            ]
        );
    }
}
