//! `mailrail demo`.

use crate::exit::{Exit, Outcome, Stop};

/// Flags of `mailrail demo`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs it.
pub(crate) fn run(_args: &Args) -> Outcome {
    Err(Stop::new(Exit::Usage, "not in this build"))
}
