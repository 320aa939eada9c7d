//! `mailrail key`: who may use the API, and hashes of passwords for the configuration.

use std::io::{BufRead, IsTerminal};

use serde_json::json;
use server::auth::PasswordHash;

use super::api::{ServerArgs, segment};
use super::list;
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::out;
use crate::table::words;

/// Flags of `mailrail key`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a key. It is printed this once; the server keeps only its hash.
    Create {
        /// What to call it, such as the application that gets it
        name: String,

        /// On whose account it acts
        #[arg(long, default_value = "default")]
        tenant: String,

        /// What it may do; may be given several times
        #[arg(long = "scope", value_name = "send|read|admin", default_values = ["send", "read"])]
        scopes: Vec<String>,
    },
    /// Show all keys, without their secrets.
    List,
    /// Make keys invalid from the next request on.
    Revoke {
        /// As `list` shows it
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Make of a password the hash that mailrail.toml wants for a user of SMTP AUTH.
    Hash,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Create {
            name,
            tenant,
            scopes,
        } => {
            let wanted = json!({ "name": name, "tenant": tenant, "scopes": scopes });
            let made = args.server.api()?.post("/keys", &wanted)?;
            match args.server.json {
                true => out::line(made),
                false => {
                    out::line(words(&made["token"]));
                    eprintln!(
                        "it is not shown again; `mailrail key revoke {}`",
                        words(&made["id"])
                    );
                }
            }
        }
        Command::List => {
            let columns = [
                ("id", "id"),
                ("name", "name"),
                ("tenant", "tenant"),
                ("scopes", "scopes"),
                ("since", "created_at"),
            ];
            return list::show(&args.server, "/keys", &[], &columns, "there is no key");
        }
        Command::Revoke { ids } => {
            let api = args.server.api()?;
            for id in ids {
                let done = api.delete(&format!("/keys/{}", segment(id)), &[])?;
                match args.server.json {
                    true => out::line(done),
                    false => out::line(format_args!("{id} is no longer valid")),
                }
            }
        }
        Command::Hash => out::line(PasswordHash::make(&password()?)),
    }
    Ok(Exit::Done)
}

/// From the terminal, twice, or the first line of standard input.
fn password() -> Result<String, Stop> {
    let read = |prompt: &str| {
        rpassword::prompt_password(prompt).or_exit_with(Exit::Usage, "cannot read the password")
    };
    let password = if std::io::stdin().is_terminal() {
        let password = read("Password: ")?;
        if password != read("Again: ")? {
            return Err(Stop::new(Exit::Usage, "they differ"));
        }
        password
    } else {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        read.or_exit_with(Exit::Usage, "standard input")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    match password.is_empty() {
        true => Err(Stop::new(Exit::Usage, "the password is empty")),
        false => Ok(password),
    }
}
