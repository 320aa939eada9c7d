//! `mailrail statistics`: how much happened when.

use super::api::ServerArgs;
use super::list;
use crate::exit::Outcome;
use crate::table::Column;

const COUNTS: [Column; 8] = [
    ("accepted", "counts.accepted"),
    ("deferred", "counts.deferred"),
    ("held", "counts.held"),
    ("delivered", "counts.delivered"),
    ("bounced", "counts.bounced"),
    ("expired", "counts.expired"),
    ("suppressed", "counts.suppressed"),
    ("canceled", "counts.canceled"),
];

/// Flags of `mailrail statistics`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// From this time on: 2026-08-05T11:52:01Z, or so long ago, as 24h [default: 1h]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// The time of one line, as 5m, 1h or 1d [default: 1m]
    #[arg(long, value_name = "SPAN")]
    step: Option<String>,

    /// A line for each of them
    #[arg(long, value_enum)]
    by: Option<By>,

    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,

    /// Of attempts at this site
    #[arg(long)]
    site: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum By {
    Tenant,
    Site,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let by = match args.by {
        Some(By::Tenant) => Some("tenant"),
        Some(By::Site) => Some("site"),
        None => None,
    };
    let query = [
        ("from", args.from.as_deref()),
        ("to", args.to.as_deref()),
        ("step", args.step.as_deref()),
        ("by", by),
        ("tenant", args.tenant.as_deref()),
        ("site", args.site.as_deref()),
    ];
    let mut columns = vec![("at", "at")];
    let is_of_all = by.is_none() && args.tenant.is_none() && args.site.is_none();
    if !is_of_all {
        let is_by_site = by == Some("site") || args.site.is_some();
        let name = if is_by_site { "site" } else { "tenant" };
        columns.push((name, name));
    }
    columns.extend(COUNTS);
    if is_of_all {
        columns.extend([("attempts", "attempts"), ("delivery us", "delivery_us")]);
    }
    list::show(
        &args.server,
        "/statistics",
        &query,
        &columns,
        "nothing happened",
    )
}
