//! `mailrail send`: one message, or a mailing to a list of any length.

mod args;
mod bulk;
mod check;
mod compose;
mod deliver;
mod feed;
mod list;
mod progress;
mod record;
mod settings;
mod single;
mod summary;

pub(crate) use args::Args;

use crate::exit::Outcome;
use crate::mistakes::Mistakes;
use settings::Job;

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let mut mistakes = Mistakes::default();
    let settings = args.settings(&mut mistakes);
    mistakes.settle()?;
    let (settings, job) = settings.expect("without mistakes there are settings");
    match job {
        Job::One { envelope, content } => single::run(settings, envelope, content),
        Job::Bulk(bulk) => bulk::run(settings, &bulk),
    }
}
