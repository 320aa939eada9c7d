//! `mailrail events export`: history as a file of Parquet or of JSON lines.

use std::path::PathBuf;

use jiff::Timestamp;
use store::{MessageId, Status};

use crate::exit::{Exit, Outcome, Stop};

/// Flags of `mailrail events export`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The data folder of mailrail serve, which may be running
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// How to write it
    #[arg(long, value_enum, default_value = "parquet")]
    format: Format,

    /// Where to; - is standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    /// Events from this time on (RFC 3339, such as 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,

    /// Events before this time
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,

    /// Events of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<Box<str>>,

    /// Events of this message
    #[arg(long, value_name = "ID")]
    message: Option<MessageId>,

    /// Events of this recipient
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<Box<str>>,

    /// Events of attempts at this site
    #[arg(long, value_name = "NAME")]
    site: Option<Box<str>>,

    /// Events with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_tag)]
    tag: Option<(Box<str>, Box<str>)>,

    /// Events that led to this status
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Option<Status>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Format {
    Parquet,
    Jsonl,
}

fn parse_tag(text: &str) -> Result<(Box<str>, Box<str>), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

fn parse_status(text: &str) -> Result<Status, String> {
    let names = Status::ALL.map(Status::name).join(", ");
    Status::parse(text).ok_or_else(|| format!("one of {names}"))
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let folder = args.data_dir.join("history");
    Err(Stop::new(
        Exit::Data,
        format_args!("no history in {}", folder.display()),
    ))
}
