//! The `mailrail` binary.

mod bound;
mod cmd;
mod config;
mod exit;
mod listening;
mod load;
mod machine;
mod mistakes;
mod out;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Outcome;

/// Gives back what a burst took: whether mail is taken again is decided by what the process has.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Take mail, own it, and deliver it: the engine with its SMTP and HTTP edges.
    Serve(cmd::serve::Args),
    /// Say what became of a message or of the mail to an address, or how the server is.
    Status(cmd::status::Args),
    /// Show what waits, by site and tenant.
    Queue(cmd::queue::Args),
    /// Show the limits in force at each remote, and which of them binds.
    Sites(cmd::sites::Args),
    /// Show what happened to each recipient, or follow it as it happens.
    Events(Box<cmd::events::Args>),
    /// Show how much happened when, by minute or a longer step.
    Statistics(cmd::statistics::Args),
    /// Send now what waits, or take up again what failed.
    Retry(cmd::levers::RetryArgs),
    /// Take back what is not on its way yet.
    Cancel(cmd::levers::Args),
    /// Stop sending to a site, or for a tenant; survives a restart.
    Suspend(cmd::levers::PlacesArgs),
    /// Send again what was suspended.
    Resume(cmd::levers::PlacesArgs),
    /// Keep the list of those who get no mail.
    Suppress(cmd::suppress::Args),
    /// Make, list and revoke API keys; hash passwords.
    Key(cmd::key::Args),
    /// Take the place of sendmail(8).
    #[command(disable_help_flag = true)]
    Sendmail(cmd::sendmail::Args),
    /// Check a configuration, or show what is in force.
    Config(cmd::config::Args),
    /// Make keys that sign mail.
    Dkim(cmd::dkim::Args),
}

fn main() -> ExitCode {
    if let Some(name) = cmd::sendmail::called_as() {
        let args = std::env::args_os().skip(1).collect();
        return exit::finish(cmd::sendmail::run_as(name, args));
    }
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
        Command::Serve(args) => cmd::serve::run(&args),
        Command::Status(args) => cmd::status::run(&args),
        Command::Queue(args) => cmd::queue::run(&args),
        Command::Sites(args) => cmd::sites::run(&args),
        Command::Events(args) => cmd::events::run(&args),
        Command::Statistics(args) => cmd::statistics::run(&args),
        Command::Retry(args) => cmd::levers::retry(&args),
        Command::Cancel(args) => cmd::levers::cancel(&args),
        Command::Suspend(args) => cmd::levers::suspend(&args),
        Command::Resume(args) => cmd::levers::resume(&args),
        Command::Suppress(args) => cmd::suppress::run(&args),
        Command::Key(args) => cmd::key::run(&args),
        Command::Sendmail(args) => cmd::sendmail::run(args),
        Command::Config(args) => cmd::config::run(&args),
        Command::Dkim(args) => cmd::dkim::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn all_flags_go_together() {
        Cli::command().debug_assert();
    }
}
