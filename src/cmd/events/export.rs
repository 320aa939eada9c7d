//! `mailrail events export`: history as a file of Parquet or of JSON lines.
//!
//! Reads the data folder itself, beside the server if one runs there, and changes nothing in it.
//! The columns are those of `docs/formats/events-export.md`, in both formats.

mod json;
mod parquet;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow::{Break, Continue};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flow::retry::ErrorClass;
use jiff::{Span, Timestamp, Zoned};
use store::history::{HistoryReader, OpenError, Order};
use store::{Event, MessageId, Query, Status, Time};

use crate::exit::{Exit, OrExit, Outcome, Stop};

/// Flags of `mailrail events export`.
#[derive(clap::Args)]
#[group(skip)]
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

    /// Events from this time on: 2026-08-05T11:52:01Z, or so long ago, as 24h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Time>,

    /// Events before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<Time>,

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
    #[arg(long, value_name = "NAME:VALUE", value_parser = parse_tag)]
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
    let (name, value) = text.split_once(':').ok_or("a label is NAME:VALUE")?;
    Ok((name.into(), value.into()))
}

fn parse_status(text: &str) -> Result<Status, String> {
    let names = Status::ALL.map(Status::name).join(", ");
    Status::parse(text).ok_or_else(|| format!("one of {names}"))
}

fn parse_time(text: &str) -> Result<Time, String> {
    let ago = |ago: Span| Zoned::now().checked_sub(ago).ok();
    let ago = || text.parse().ok().and_then(ago);
    let time: Option<Timestamp> = text.parse().ok();
    let time = time.or_else(|| ago().map(|time| time.timestamp()));
    let time = time.and_then(|time| Time::try_from(time.as_duration()).ok());
    time.ok_or_else(|| "a time is like 2026-08-05T11:52:01Z, or 24h".into())
}

/// Takes events one by one, and writes a file of them.
trait Sink {
    fn event(&mut self, event: &Event) -> io::Result<()>;
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let folder = args.data_dir.join("history");
    let reader = HistoryReader::open(&folder).map_err(|error| refusal(&folder, error))?;
    let file = &args.out;
    let damaged = write(args, &reader).inspect_err(|_| {
        if !is_stdout(file) {
            // A part of an export is no export; the error that led here is the one to report.
            let _ = std::fs::remove_file(file);
        }
    });
    let damaged = damaged.or_exit_with(
        Exit::Temporary,
        format_args!("cannot write {}", file.display()),
    )?;
    for damage in &damaged {
        eprintln!("mailrail: {} is damaged at {}", damage.file, damage.offset);
    }
    Ok(if damaged.is_empty() {
        Exit::Done
    } else {
        Exit::Data
    })
}

fn refusal(folder: &Path, error: OpenError) -> Stop {
    match error {
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Stop::new(
            Exit::Data,
            format_args!("no history in {}", folder.display()),
        ),
        error => Stop {
            exit: Exit::Data,
            error: error.into(),
        },
    }
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

/// Writes all that is asked for. Returns the places that could not be read.
fn write(args: &Args, reader: &HistoryReader) -> anyhow::Result<Vec<store::history::Damage>> {
    let mut sink = sink(args)?;
    let mut failure = None;
    let damaged = reader.for_each(&query(args), |event| match sink.event(&event) {
        Ok(()) => Continue(()),
        Err(error) => {
            failure = Some(error);
            Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    sink.finish()?;
    Ok(damaged)
}

fn sink(args: &Args) -> io::Result<Box<dyn Sink>> {
    let out: Box<dyn Write + Send> = if is_stdout(&args.out) {
        Box::new(io::stdout())
    } else {
        Box::new(create(&args.out)?)
    };
    Ok(match args.format {
        Format::Jsonl => Box::new(json::Lines::new(BufWriter::new(out))),
        Format::Parquet => Box::new(parquet::Table::new(out)?),
    })
}

/// Only its owner may read it: it names people.
fn create(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)
}

fn query(args: &Args) -> Query {
    Query {
        message: args.message,
        recipient: args.recipient.clone(),
        tenant: args.tenant.clone(),
        tag: args.tag.clone(),
        site: args.site.clone(),
        status: args.status,
        from: args.from,
        to: args.to,
        order: Order::Oldest,
        ..Query::default()
    }
}

/// What went wrong, in a word; `None` where nothing did.
fn class_name(number: u8) -> Option<&'static str> {
    let class = ErrorClass::ALL
        .into_iter()
        .find(|class| *class as u8 == number)?;
    Some(match class {
        ErrorClass::Connect => "connect",
        ErrorClass::Handshake => "handshake",
        ErrorClass::Throttled => "throttled",
        ErrorClass::Greylisted => "greylisted",
        ErrorClass::MailboxFull => "mailbox_full",
        ErrorClass::Transient => "transient",
        ErrorClass::Permanent => "permanent",
        ErrorClass::Unknown => "unknown",
    })
}

/// `None` for a text that says nothing.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
