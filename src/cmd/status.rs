//! `mailrail status`: what became of a message, or of the mail to an address; or how the server is.

use serde_json::Value;
use store::MessageId;

use super::api::{Api, ServerArgs, segment};
use super::events::COLUMNS;
use super::sites::fields;
use crate::exit::{Exit, Outcome, Stop};
use crate::out;
use crate::table::{self, words};

/// Flags of `mailrail status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A message's id, or a recipient's address; neither: the server itself
    #[arg(value_name = "ID|ADDRESS")]
    what: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let api = args.server.api()?;
    let is_json = args.server.json;
    match args.what.as_deref() {
        None => server(&api, is_json),
        Some(id) if id.parse::<MessageId>().is_ok() => message(&api, id, is_json),
        Some(address) if address.contains('@') => recipient(&api, address, is_json),
        Some(what) => Err(Stop::new(
            Exit::Usage,
            format!("{what:?} is neither a message's id nor an address"),
        )),
    }
}

fn server(api: &Api, is_json: bool) -> Outcome {
    let status = api.get("/status", &[])?;
    if is_json {
        out::line(status);
        return Ok(Exit::Done);
    }
    let (mut about, mut counts) = (status.clone(), Value::Null);
    if let Some(about) = about.as_object_mut() {
        counts = about.remove("counts").unwrap_or_default();
    }
    out::line(format_args!("{}\n\n{}", fields(&about), fields(&counts)));
    Ok(Exit::Done)
}

fn message(api: &Api, id: &str, is_json: bool) -> Outcome {
    let path = format!("/emails/{}", segment(id));
    let message = api.get(&path, &[])?;
    if is_json {
        out::line(message);
        return Ok(Exit::Done);
    }
    let said = |name: &str| words(&message[name]);
    out::line(format_args!(
        "{id}\nfrom       {}\nsubject    {}\ntenant     {}\naccepted   {}\n",
        said("from"),
        said("subject"),
        said("tenant"),
        said("created_at"),
    ));
    let columns = [
        ("recipient", "address"),
        ("status", "status"),
        ("since", "at"),
        ("next attempt", "due_at"),
    ];
    let recipients = message["recipients"].as_array();
    out::line(table::of(&columns, recipients.map_or(&[], Vec::as_slice)));
    let events = api.get(&format!("{path}/events"), &[])?;
    let events = events["data"].as_array();
    out::line(format_args!(
        "\n{}",
        table::of(COLUMNS, events.map_or(&[], Vec::as_slice))
    ));
    Ok(Exit::Done)
}

fn recipient(api: &Api, address: &str, is_json: bool) -> Outcome {
    let events = api.get("/events", &[("recipient", address)])?;
    let rows = events["data"].as_array().map_or(&[][..], Vec::as_slice);
    if is_json {
        out::line(&events);
    } else if !rows.is_empty() {
        out::line(table::of(COLUMNS, rows));
    }
    if rows.is_empty() {
        eprintln!("nothing is known of mail to {address}");
        return Ok(Exit::Data);
    }
    Ok(Exit::Done)
}
