//! `mailrail retry`, `cancel`, `suspend` and `resume`: an operator's hand on what waits.

use clap::ArgGroup;
use serde_json::{Map, Value, json};
use store::MessageId;

use super::api::ServerArgs;
use crate::exit::{Exit, Outcome, Stop};
use crate::out;
use crate::table::words;

/// Which of the waiting mail is meant; conditions hold together.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true))]
pub(crate) struct Args {
    /// This message, or all to this address
    #[arg(value_name = "ID|ADDRESS", group = "selection")]
    what: Option<String>,

    /// To this domain
    #[arg(long, group = "selection")]
    domain: Option<String>,

    /// With this label
    #[arg(long, value_name = "NAME:VALUE", group = "selection")]
    tag: Option<String>,

    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `mailrail retry`.
#[derive(clap::Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    which: Args,

    /// What bounced or expired, not what waits
    #[arg(long, requires = "since", group = "selection")]
    failed: bool,

    /// Of what failed: then or later; 2026-08-05T11:52:01Z, or so long ago, as 24h
    #[arg(long, value_name = "TIME", requires = "failed")]
    since: Option<String>,

    /// Of what failed: how often a recipient may be taken up over its life [default: 3]
    #[arg(long, value_name = "N", requires = "failed")]
    times_max: Option<u16>,
}

/// Which sites and tenants are meant.
#[derive(clap::Args)]
struct PlaceArgs {
    /// For this site
    #[arg(long, group = "selection")]
    site: Option<String>,

    /// Of this tenant
    #[arg(long, group = "selection")]
    tenant: Option<String>,

    /// All there is
    #[arg(long, group = "selection")]
    all: bool,
}

/// Flags of `mailrail suspend` and `mailrail resume`.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true))]
pub(crate) struct PlacesArgs {
    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    server: ServerArgs,
}

/// `mailrail retry`.
pub(crate) fn retry(args: &RetryArgs) -> Outcome {
    let Some(since) = &args.since else {
        let done = args.which.pull("/queue/retry")?;
        return report(&args.which.server, &done, "due now");
    };
    let mut failed = json!({ "since": since });
    let selection = args.which.selection()?;
    if selection
        .as_object()
        .is_some_and(|conditions| !conditions.is_empty())
    {
        failed["where"] = selection;
    }
    if let Some(times_max) = args.times_max {
        failed["times_max"] = times_max.into();
    }
    let done = args.which.server.api()?.post("/retry", &failed)?;
    report(&args.which.server, &done, "taken up again")
}

/// `mailrail cancel`.
pub(crate) fn cancel(args: &Args) -> Outcome {
    let done = args.pull("/queue/cancel")?;
    report(&args.server, &done, "canceled")
}

/// `mailrail suspend`.
pub(crate) fn suspend(args: &PlacesArgs) -> Outcome {
    args.pull(
        "/queue/suspend",
        "suspended; `mailrail resume` takes it back",
    )
}

/// `mailrail resume`.
pub(crate) fn resume(args: &PlacesArgs) -> Outcome {
    args.pull("/queue/resume", "resumed")
}

impl Args {
    fn pull(&self, path: &str) -> Result<Value, Stop> {
        self.server.api()?.post(path, &self.selection()?)
    }

    fn selection(&self) -> Result<Value, Stop> {
        let mut selection = self.place.selection();
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                selection.insert(name.to_owned(), value.as_str().into());
            }
        };
        add("domain", &self.domain);
        add("tag", &self.tag);
        match &self.what {
            None => {}
            Some(id) if id.parse::<MessageId>().is_ok() => add("email_id", &self.what),
            Some(address) if address.contains('@') => add("recipient", &self.what),
            Some(what) => {
                let text = format!("{what:?} is neither a message's id nor an address");
                return Err(Stop::new(Exit::Usage, text));
            }
        }
        Ok(selection.into())
    }
}

impl PlaceArgs {
    fn selection(&self) -> Map<String, Value> {
        let mut selection = Map::new();
        for (name, value) in [("site", &self.site), ("tenant", &self.tenant)] {
            if let Some(value) = value {
                selection.insert(name.to_owned(), value.as_str().into());
            }
        }
        if self.all {
            selection.insert("all".to_owned(), true.into());
        }
        selection
    }
}

impl PlacesArgs {
    fn pull(&self, path: &str, done: &str) -> Outcome {
        let selection = self.place.selection().into();
        let answer = self.server.api()?.post(path, &selection)?;
        if self.server.json {
            out::line(answer);
        } else {
            out::line(done);
        }
        Ok(Exit::Done)
    }
}

fn report(server: &ServerArgs, done: &Value, what: &str) -> Outcome {
    if server.json {
        out::line(done);
    } else {
        out::line(format_args!(
            "{} recipients {what}",
            words(&done["recipients"])
        ));
    }
    Ok(Exit::Done)
}
