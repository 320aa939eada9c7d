//! `mailrail sites`: limits in force at each remote, and which of them binds.

use serde_json::Value;

use super::api::{ServerArgs, segment};
use super::list;
use crate::exit::{Exit, Outcome};
use crate::out;
use crate::table::words;

/// Flags of `mailrail sites`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// All about this one
    site: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    if let Some(site) = &args.site {
        return one(&args.server, site);
    }
    let columns = [
        ("site", "name"),
        ("ready", "ready"),
        ("waiting", "waiting"),
        ("in flight", "in_flight"),
        ("window", "window"),
        ("pace/s", "pace_per_s"),
        ("breaker", "breaker"),
        ("suspended", "suspended"),
        ("bound by", "binding"),
        ("why", "why"),
    ];
    list::show(
        &args.server,
        "/sites",
        &[],
        &columns,
        "no site is known yet",
    )
}

fn one(server: &ServerArgs, site: &str) -> Outcome {
    let site = server
        .api()?
        .get(&format!("/sites/{}", segment(site)), &[])?;
    if server.json {
        out::line(site);
    } else {
        out::line(fields(&site));
    }
    Ok(Exit::Done)
}

/// One field of an object a line.
pub(crate) fn fields(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    let lines =
        fields.map(|(name, value)| format!("{:24} {}", name.replace('_', " "), words(value)));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_line() {
        let text = fields(&serde_json::json!({"in_flight": 2, "why": "its window"}));
        assert_eq!(
            text,
            "in flight                2\nwhy                      its window"
        );
    }
}
