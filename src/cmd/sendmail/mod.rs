//! `mailrail sendmail`: takes the place of sendmail(8) for programs that know nothing else.
//!
//! The message goes to a server over SMTP: `$MAILRAIL_SMTP`, else one on this machine. It is done, with
//! exit code 0, once that server has taken the message for every recipient; nothing is kept here.

mod args;
mod compose;
mod session;
mod speakable;

use std::ffi::OsString;
use std::io::Read;

use client::{Kind, Pool, Report, Scope};
use jiff::Timestamp;
use smtp::{Content, Envelope};
use tokio::runtime::Runtime;

use crate::config;
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::mistakes::Mistakes;

use super::relay::RelayArgs;
use args::Mode;
use compose::Caller;

/// Where messages go unless `$MAILRAIL_SMTP` says otherwise: what `mailrail serve` listens on.
const SERVER: &str = "smtp://127.0.0.1:2525?tls=none";
/// Octets of a message that are read.
const MESSAGE_BYTES_MAX: u64 = 100 << 20;

/// The command line, read by rules of its own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// As sendmail(8): -t -i -f ADDR -F NAME -N WHEN -R full|hdrs -V ID -bm -bs -bp, and
    /// recipients; others of its flags are passed over. $MAILRAIL_SMTP names the server
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARG"
    )]
    args: Vec<OsString>,
}

/// Runs it as a command of ours.
pub(crate) fn run(args: Args) -> Outcome {
    run_as("sendmail", args.args)
}

/// Runs it under one of the names that programs call it by.
pub(crate) fn run_as(name: &str, args: Vec<OsString>) -> Outcome {
    let mut args = args::Args::parse(args).map_err(|error| Stop::new(Exit::Usage, error))?;
    match name {
        "mailq" => args.mode = Mode::Queue,
        "newaliases" => args.mode = Mode::Nothing,
        _ => {}
    }
    match args.mode {
        Mode::Nothing => Ok(Exit::Done),
        Mode::Queue => super::queue::run_without_flags(),
        Mode::Session => session(),
        Mode::Deliver => deliver(&args),
    }
}

/// The name that we were called by, if it is one of sendmail's.
pub(crate) fn called_as() -> Option<&'static str> {
    let called = std::env::args_os().next()?;
    let called = std::path::Path::new(&called).file_name()?.to_str()?;
    ["sendmail", "mailq", "newaliases"]
        .into_iter()
        .find(|name| *name == called)
}

fn deliver(args: &args::Args) -> Outcome {
    let mut text = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MESSAGE_BYTES_MAX + 1)
        .read_to_end(&mut text);
    read.or_exit_with(Exit::Temporary, "standard input")?;
    if text.len() as u64 > MESSAGE_BYTES_MAX {
        let words = format!("the message has over {MESSAGE_BYTES_MAX} octets");
        return Err(Stop::new(Exit::Data, words));
    }
    let text = compose::until_dot(args, text);
    let (envelope, content) = compose::compose(args, &caller(), &text)?;
    let runtime = runtime()?;
    let report = runtime.block_on(send(envelope.clone(), content))?;
    for (recipient, result) in envelope.recipients().iter().zip(&report.results) {
        if let Err(failure) = result {
            eprintln!("sendmail: {}: {failure}", recipient.address);
        }
    }
    Ok(exit_of(&report))
}

async fn send(envelope: Envelope, content: Content) -> Result<Report, Stop> {
    let pool = pool()?;
    let report = pool.send(envelope, content).await;
    pool.close().await;
    Ok(report)
}

fn session() -> Outcome {
    let runtime = runtime()?;
    let pool = runtime.block_on(async { pool() })?;
    let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
    session::serve(config::host_name(), &pool, &runtime, input, output)
        .or_exit_with(Exit::Temporary, "standard input and output")?;
    runtime.block_on(pool.close());
    Ok(Exit::Done)
}

fn runtime() -> Result<Runtime, Stop> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")
}

fn pool() -> Result<Pool, Stop> {
    let server = std::env::var("MAILRAIL_SMTP").unwrap_or_else(|_| SERVER.to_owned());
    let mut mistakes = Mistakes::default();
    let builder = RelayArgs::default().pool_builder("$MAILRAIL_SMTP", &[server], &mut mistakes);
    mistakes.settle()?;
    builder
        .expect("without a mistake there is a builder")
        .build()
        .or_exit(Exit::Usage)
}

fn caller() -> Caller {
    let login = ["LOGNAME", "USER"].into_iter().find_map(|name| {
        let login = std::env::var(name).ok()?;
        Some(login).filter(|login| !login.is_empty())
    });
    let user = || match rustix::process::getuid() {
        root if root.is_root() => "root".to_owned(),
        user => format!("uid-{}", user.as_raw()),
    };
    let now = Timestamp::now();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    Caller {
        login: login.unwrap_or_else(user),
        host: config::host_name(),
        unique: format!("{:x}.{random:016x}", now.as_nanosecond()),
        now,
    }
}

/// The worst of what came back; what may succeed later is better than what never will.
fn exit_of(report: &Report) -> Exit {
    let failures = report
        .results
        .iter()
        .filter_map(|result| result.as_ref().err());
    let exits = failures.map(|failure| match (failure.kind, failure.scope) {
        (Kind::Permanent, Scope::Recipient) => Exit::NoUser,
        (Kind::Permanent, Scope::Message) => Exit::Data,
        (Kind::Permanent, Scope::Account) => Exit::NoPermission,
        (Kind::Permanent, _) => Exit::Unavailable,
        (Kind::Transient | Kind::Unknown, _) if failure.reply().is_some() => Exit::Temporary,
        (Kind::Transient, _) if failure.stage < client::Stage::Mail => Exit::Unavailable,
        (Kind::Transient | Kind::Unknown, _) => Exit::Temporary,
    });
    exits
        .max_by_key(|exit| (*exit != Exit::Temporary, *exit as u8))
        .unwrap_or(Exit::Done)
}
