//! `mailrail config`: what a file would mean, without starting anything.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, Given};
use crate::exit::{Exit, Outcome, Stop};
use crate::out;

/// Flags of `mailrail config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Name every mistake in a file, each with its line.
    Check(File),
    /// Show all settings in force as TOML, each with where it comes from; secrets are masked.
    Show(File),
}

#[derive(clap::Args)]
struct File {
    /// The file [default: mailrail.toml if there is one here, else all defaults]
    file: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Check(file) => {
            let config = load(file.path().as_deref(), Given::new())?;
            let (routes, tenants) = (config.routes.len(), config.tenants.len());
            out::line(format_args!(
                "{}: no mistakes; routes: {routes}, tenants: {tenants}",
                file.name()
            ));
        }
        Command::Show(file) => {
            let config = load(file.path().as_deref(), Given::new())?;
            out::line(format_args!("# {}", file.name()));
            out::line(config::show::show(&config.shown).trim_end());
        }
    }
    Ok(Exit::Done)
}

impl File {
    fn path(&self) -> Option<PathBuf> {
        or_usual(self.file.as_ref())
    }

    fn name(&self) -> String {
        self.path()
            .map_or("defaults".to_owned(), |path| path.display().to_string())
    }
}

/// The file that was named, or the one that is there.
pub(crate) fn or_usual(file: Option<&PathBuf>) -> Option<PathBuf> {
    let usual = || Some(PathBuf::from("mailrail.toml")).filter(|path| path.exists());
    file.cloned().or_else(usual)
}

/// Reads it, or stops with every mistake.
pub(crate) fn load(path: Option<&Path>, given: Given) -> Result<Config, Stop> {
    config::load(path, given).map_err(|mistakes| {
        let text = match mistakes.mistakes.len() {
            1 => mistakes.to_string(),
            count => format!("{count} mistakes in the configuration\n{mistakes}"),
        };
        Stop::new(Exit::Config, text)
    })
}
