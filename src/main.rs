//! The `mailrail` binary.

mod bound;
mod cmd;
mod config;
mod exit;
mod load;
mod machine;
mod mistakes;
mod out;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Outcome;

/// Sends mail fast: pooled, pipelined, encrypted SMTP connections.
#[derive(Parser)]
#[command(name = "mailrail", version, max_term_width = 100, after_help = exit::HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send one message, or a mailing to a list of any length.
    Send(Box<cmd::send::Args>),
    /// Measure how fast an SMTP server takes mail, and what bounds it.
    Bench(Box<cmd::bench::Args>),
    /// Show in a minute what makes sending mail slow, and what removes it.
    Demo(cmd::demo::Args),
    /// Run a scripted SMTP server to test and measure against.
    Sink(Box<cmd::sink::Args>),
    /// Check a configuration, or show what is in force.
    Config(cmd::config::Args),
    /// Make keys that sign mail.
    Dkim(cmd::dkim::Args),
    /// Ask what became of mail, or export it.
    Events(cmd::events::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_usage(&error),
    };
    exit::finish(run(cli.command))
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Send(args) => cmd::send::run(&args),
        Command::Bench(args) => cmd::bench::run(&args),
        Command::Demo(args) => cmd::demo::run(&args),
        Command::Sink(args) => cmd::sink::run(&args),
        Command::Config(args) => cmd::config::run(&args),
        Command::Dkim(args) => cmd::dkim::run(&args),
        Command::Events(args) => cmd::events::run(&args),
    }
}
