//! `mailrail events`: what happened, and with `--follow` what happens, as a server tells it.

use serde_json::Value;

use crate::cmd::api::ServerArgs;
use crate::cmd::list;
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::out;
use crate::table::{self, Column, at, words};

/// What a table of events shows.
pub(crate) const COLUMNS: &[Column] = &[
    ("at", "at"),
    ("recipient", "recipient"),
    ("status", "status"),
    ("attempt", "attempt"),
    ("site", "site"),
    ("host", "host"),
    ("stage", "stage"),
    ("code", "code"),
    ("said", "text"),
    ("next attempt", "due_at"),
    ("message", "email_id"),
];

/// Flags of `mailrail events` without a subcommand.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Print each event as it happens, until interrupted
    #[arg(long, short)]
    follow: bool,

    /// Of this message
    #[arg(long, value_name = "ID")]
    message: Option<String>,

    /// To this address
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,

    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,

    /// With this label
    #[arg(long, value_name = "NAME:VALUE")]
    tag: Option<String>,

    /// Of attempts at this site
    #[arg(long)]
    site: Option<String>,

    /// Accepted, deferred, held, delivered, bounced, expired, suppressed or canceled
    #[arg(long)]
    status: Option<String>,

    /// From this time on: 2026-08-05T11:52:01Z, or so long ago, as 24h
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    to: Option<String>,

    /// At most so many, the newest [default: 100]
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    limit: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Outcome {
    let query = [
        ("email_id", args.message.as_deref()),
        ("recipient", args.recipient.as_deref()),
        ("tenant", args.tenant.as_deref()),
        ("tag", args.tag.as_deref()),
        ("site", args.site.as_deref()),
        ("status", args.status.as_deref()),
        ("from", args.from.as_deref()),
        ("to", args.to.as_deref()),
        ("limit", args.limit.as_deref()),
    ];
    match args.follow {
        true => follow(&args.server, &list::given(&query)),
        false => show(&args.server, &list::given(&query)),
    }
}

/// The newest page, oldest first, as a log reads.
fn show(server: &ServerArgs, query: &[(&str, &str)]) -> Outcome {
    let page = server.api()?.get("/events", query)?;
    if server.json {
        out::line(page);
        return Ok(Exit::Done);
    }
    let events = page["data"].as_array().cloned().unwrap_or_default();
    match events.is_empty() {
        true => eprintln!("no such event"),
        false => {
            let rows: Vec<Value> = events.into_iter().rev().collect();
            out::line(table::of(COLUMNS, &rows));
        }
    }
    Ok(Exit::Done)
}

fn follow(server: &ServerArgs, query: &[(&str, &str)]) -> Outcome {
    let is_json = server.json;
    server
        .api()?
        .stream("/events/stream", query, |name, data| {
            match name {
                "closing" => eprintln!("{data}"),
                "error" => return Err(Stop::new(Exit::Temporary, data)),
                _ if is_json => out::line(data),
                _ => {
                    let event: Value = serde_json::from_str(data).or_exit(Exit::Temporary)?;
                    out::line(line(&event));
                }
            }
            Ok(())
        })?;
    Ok(Exit::Done)
}

/// One event on a line of its own: columns would jump.
fn line(event: &Value) -> String {
    let columns = [
        "at",
        "email_id",
        "recipient",
        "status",
        "host",
        "code",
        "text",
    ];
    let values = columns.iter().map(|path| at(event, path));
    let given = values.filter(|value| !value.is_null() && **value != 0 && **value != "");
    given.map(words).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_what_there_is_to_say() {
        let event = serde_json::json!({
            "at": "2026-08-05T10:00:00.000Z", "email_id": "0190", "recipient": "a@x.example",
            "status": "accepted", "code": 0, "host": "", "text": null,
        });
        assert_eq!(
            line(&event),
            "2026-08-05T10:00:00.000Z  0190  a@x.example  accepted"
        );
    }
}
