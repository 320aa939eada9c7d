//! `mailrail suppress`: addresses that get no mail of a tenant.

use serde_json::json;

use super::api::{ServerArgs, segment};
use super::list;
use crate::exit::{Exit, Outcome};
use crate::out;
use crate::table::words;

/// Flags of `mailrail suppress`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,

    /// Whose list [default: the key's own; with the data folder's key: default]
    #[arg(long, global = true)]
    tenant: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Put addresses on the list.
    Add {
        /// Whom nothing is to be sent
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,

        /// Why, for whoever reads the list
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take addresses off the list.
    Remove {
        /// Who may get mail again
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
    /// Show the list, in the order of addresses.
    List {
        /// Addresses after this one
        #[arg(long, value_name = "ADDRESS")]
        after: Option<String>,

        /// At most so many
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: String,
    },
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let tenant = args.tenant.as_deref();
    match &args.command {
        Command::Add { addresses, reason } => {
            let mut wanted = json!({ "emails": addresses });
            for (name, value) in [("reason", reason.as_deref()), ("tenant", tenant)] {
                if let Some(value) = value {
                    wanted[name] = value.into();
                }
            }
            let done = args.server.api()?.post("/suppressions", &wanted)?;
            match args.server.json {
                true => out::line(done),
                false => out::line(format_args!("{} suppressed", words(&done["suppressed"]))),
            }
        }
        Command::Remove { addresses } => {
            let api = args.server.api()?;
            for address in addresses {
                let path = format!("/suppressions/{}", segment(address));
                let done = api.delete(&path, &list::given(&[("tenant", tenant)]))?;
                match args.server.json {
                    true => out::line(done),
                    false => out::line(format_args!("{address} may get mail again")),
                }
            }
        }
        Command::List { after, limit } => {
            let query = [
                ("tenant", tenant),
                ("after", after.as_deref()),
                ("limit", Some(limit.as_str())),
            ];
            let columns = [
                ("address", "email"),
                ("since", "created_at"),
                ("reason", "reason"),
            ];
            return list::show(
                &args.server,
                "/suppressions",
                &query,
                &columns,
                "nobody is on it",
            );
        }
    }
    Ok(Exit::Done)
}
