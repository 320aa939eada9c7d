//! `mailrail queue`: what waits, by site and tenant.

use super::api::ServerArgs;
use super::list;
use crate::exit::Outcome;

/// Flags of `mailrail queue`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// For this site
    #[arg(long)]
    site: Option<String>,

    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,

    /// Only what has mail that is ready, waiting, in_flight, held or suspended
    #[arg(long)]
    state: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// All of it, as `sendmail -bp` shows it.
pub(crate) fn run_without_flags() -> Outcome {
    run(&Args {
        server: ServerArgs::of_environment(),
        ..Args::default()
    })
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let query = [
        ("site", args.site.as_deref()),
        ("tenant", args.tenant.as_deref()),
        ("state", args.state.as_deref()),
    ];
    let columns = [
        ("site", "site"),
        ("tenant", "tenant"),
        ("ready", "ready"),
        ("waiting", "waiting"),
        ("in flight", "in_flight"),
        ("held", "held"),
        ("suspended", "suspended"),
    ];
    list::show(&args.server, "/queue", &query, &columns, "nothing waits")
}
