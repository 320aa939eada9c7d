//! Shows a list that the server has.

use super::api::ServerArgs;
use crate::exit::{Exit, Outcome};
use crate::out;
use crate::table::{self, Column};

/// Asks for it and prints it.
///
/// * `query`: conditions; those without a value are left out.
/// * `none`: what is said where it is empty.
pub(crate) fn show(
    server: &ServerArgs,
    path: &str,
    query: &[(&str, Option<&str>)],
    columns: &[Column],
    none: &str,
) -> Outcome {
    let list = server.api()?.get(path, &given(query))?;
    if server.json {
        out::line(list);
        return Ok(Exit::Done);
    }
    match list["data"].as_array().map(Vec::as_slice) {
        None | Some([]) => eprintln!("{none}"),
        Some(rows) => out::line(table::of(columns, rows)),
    }
    Ok(Exit::Done)
}

/// Conditions that were given.
pub(crate) fn given<'a>(query: &[(&'a str, Option<&'a str>)]) -> Vec<(&'a str, &'a str)> {
    let given = query
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?)));
    given.collect()
}
