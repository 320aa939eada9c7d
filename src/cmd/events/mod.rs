//! `mailrail events`: what became of each recipient.

mod export;

use crate::exit::Outcome;

/// Flags of `mailrail events`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write events to a file for other programs to read, from a data folder that may be in use.
    Export(Box<export::Args>),
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Export(args) => export::run(args),
    }
}
