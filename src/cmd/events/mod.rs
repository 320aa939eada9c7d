//! `mailrail events`: what became of each recipient.

mod ask;
mod export;

pub(crate) use ask::COLUMNS;

use crate::exit::Outcome;

/// Flags of `mailrail events`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    ask: ask::Args,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write events to a file for other programs to read, from a data folder that may be in use.
    Export(Box<export::Args>),
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.command {
        Some(Command::Export(args)) => export::run(args),
        None => ask::run(&args.ask),
    }
}
