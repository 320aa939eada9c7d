//! `mailrail sink`: a scripted SMTP server to test and measure against.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::rate::RateLimit;
use sink::{Identity, Rule, Script, Sink, TlsMode};
use smtp::Reply;

use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::machine;
use crate::mistakes::Mistakes;
use crate::out;

/// Flags of `mailrail sink`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen; may be given several times. Port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: Vec<SocketAddr>,

    /// Serve on so many threads; 1 leaves the other processors to the client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,

    /// Report as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    offer: OfferArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    script: ScriptArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Link")]
struct LinkArgs {
    /// Delay of the link, such as 20ms: octets arrive that much later, and a flight shares it
    #[arg(long, value_name = "TIME", value_parser = sink::script::duration)]
    rtt: Option<Duration>,

    /// Octets a second that each connection carries towards the sink, such as 1000000
    #[arg(long, value_name = "OCTETS")]
    bandwidth: Option<u64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "What is offered")]
struct OfferArgs {
    /// Do not offer PIPELINING
    #[arg(long)]
    no_pipelining: bool,

    /// Do not offer CHUNKING (BDAT)
    #[arg(long)]
    no_chunking: bool,

    /// Biggest message taken, in octets
    #[arg(long, value_name = "OCTETS")]
    size: Option<u64>,

    /// Offer STARTTLS
    #[arg(long)]
    starttls: bool,

    /// Encrypt from the first octet, as on port 465
    #[arg(long, conflicts_with = "starttls")]
    implicit_tls: bool,

    /// Certificate chain in PEM; without one, an authority is made that signs one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// Key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Write the authority that was made to this file, for clients to trust
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    ca_out: Option<PathBuf>,

    /// Let this user in, and nobody without AUTH; may be given several times
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Vec<String>,

    /// Connections at once; the next is told 421
    #[arg(long, value_name = "N")]
    max_connections: Option<u64>,

    /// Messages on a connection; the next is told 421
    #[arg(long, value_name = "N")]
    max_messages_per_connection: Option<u32>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "What is kept (nothing, unless told so)")]
struct KeepArgs {
    /// Append a record of each message to this file before it is answered
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,

    /// Put each message into this Maildir before it is answered
    #[arg(long, value_name = "DIR")]
    maildir: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Misbehaviour")]
struct ScriptArgs {
    /// Read seed, rules, rate and greylisting from a TOML file; flags add to it
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// One rule, as in a TOML table: 'at = "rcpt", domain = "x.example", reply = "452 4.2.2 Full"';
    /// may be given several times
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,

    /// What every chance is drawn from
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Refuse a new triplet of client, sender and recipient for so long
    #[arg(long, value_name = "TIME", value_parser = sink::script::duration)]
    greylist: Option<Duration>,

    /// Messages taken, such as 100/s; above, 451 4.7.1 at MAIL
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,

    /// Above the rate, say 421 4.7.0 and close instead
    #[arg(long, requires = "rate")]
    rate_closes: bool,
}

/// Serves until SIGINT or SIGTERM, then reports.
pub(crate) fn run(args: &Args) -> Outcome {
    let builder = args.builder()?;
    machine::raise_file_limit();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?
        .block_on(serve(builder, args))
}

async fn serve(builder: sink::Builder, args: &Args) -> Outcome {
    let sink = builder.start().await.or_exit(Exit::Unavailable)?;
    if let Some(path) = &args.offer.ca_out {
        write_authority(path, sink.identity())?;
    }
    announce(sink.addresses()).or_exit_with(Exit::Unavailable, "cannot write to the terminal")?;
    stop_signal()
        .await
        .or_exit_with(Exit::Temporary, "cannot wait for a signal")?;
    let report = sink.shutdown().await;
    if args.json {
        let report = serde_json::to_string(&report).or_exit(Exit::Temporary)?;
        out::line(report);
    } else {
        out::line(report);
    }
    Ok(Exit::Done)
}

/// One line an address, at once: scripts wait for it.
fn announce(addresses: &[SocketAddr]) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    for address in addresses {
        writeln!(out, "listening on {address}")?;
    }
    out.flush()
}

fn write_authority(path: &Path, identity: Option<&Identity>) -> Result<(), Stop> {
    let pem = identity.and_then(Identity::authority_pem).ok_or_else(|| {
        Stop::new(
            Exit::Usage,
            "--ca-out goes with --starttls or --implicit-tls",
        )
    })?;
    std::fs::write(path, pem)
        .or_exit_with(Exit::Unavailable, format!("--ca-out {}", path.display()))
}

async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

impl Args {
    /// All flags, checked.
    fn builder(&self) -> Result<sink::Builder, Stop> {
        let mut mistakes = Mistakes::default();
        let mut builder = Sink::builder();
        for &address in &self.listen {
            builder = builder.listen(address);
        }
        if self.threads > 1 {
            builder = builder.threads(self.threads.into());
        }
        builder = self.link.apply(builder);
        builder = self.offer.apply(builder, &mut mistakes);
        builder = self.keep.apply(builder);
        builder = builder.script(self.script.script(&mut mistakes));
        mistakes.settle()?;
        Ok(builder)
    }
}

impl LinkArgs {
    fn apply(&self, mut builder: sink::Builder) -> sink::Builder {
        if let Some(rtt) = self.rtt {
            builder = builder.rtt(rtt);
        }
        if let Some(bandwidth) = self.bandwidth {
            builder = builder.bandwidth(bandwidth);
        }
        builder
    }
}

impl OfferArgs {
    fn apply(&self, mut builder: sink::Builder, mistakes: &mut Mistakes) -> sink::Builder {
        if self.no_pipelining {
            builder = builder.no_pipelining();
        }
        if self.no_chunking {
            builder = builder.no_chunking();
        }
        if let Some(octets) = self.size {
            builder = builder.size_bytes_max(octets);
        }
        if let Some(connections) = self.max_connections {
            builder = builder.connections_max(connections);
        }
        if let Some(messages) = self.max_messages_per_connection {
            builder = builder.messages_per_connection_max(messages);
        }
        for user in &self.auth {
            match user.split_once(':') {
                Some((name, password)) => builder = builder.user(name, password),
                None => mistakes.add("--auth: there is no colon between user and password"),
            }
        }
        builder = builder.tls(match (self.starttls, self.implicit_tls) {
            (_, true) => TlsMode::Implicit,
            (true, false) => TlsMode::StartTls,
            (false, false) => TlsMode::None,
        });
        match self.identity() {
            Ok(None) => {}
            Ok(Some(identity)) => builder = builder.identity(identity),
            Err(error) => mistakes.add(format!("--cert, --key: {error}")),
        }
        builder
    }

    fn identity(&self) -> Result<Option<Identity>, String> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(None);
        };
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let identity = Identity::from_pem(&read(cert)?, &read(key)?);
        identity.map(Some).map_err(|error| error.to_string())
    }
}

impl KeepArgs {
    fn apply(&self, mut builder: sink::Builder) -> sink::Builder {
        if let Some(path) = &self.jsonl {
            builder = builder.keep_jsonl(path);
        }
        if let Some(path) = &self.maildir {
            builder = builder.keep_maildir(path);
        }
        builder
    }
}

impl ScriptArgs {
    /// The file's script, with the flags on top.
    fn script(&self, mistakes: &mut Mistakes) -> Script {
        let mut script = match &self.rules {
            None => Script::default(),
            Some(path) => {
                let script = read_script(path);
                let flag = format!("--rules {}", path.display());
                mistakes.take(&flag, script).unwrap_or_default()
            }
        };
        for rule in &self.rule {
            let rule = rule.parse::<Rule>().map_err(|error| whole(&error));
            script.rules.extend(mistakes.take("--rule", rule));
        }
        script.seed = self.seed.unwrap_or(script.seed);
        script.greylist = self.greylist.or(script.greylist);
        if let Some(rate) = &self.rate {
            let refusal = match self.rate_closes {
                true => Reply::fixed(421, Some((4, 7, 0)), "Too fast, try again later"),
                false => Reply::fixed(451, Some((4, 7, 1)), "Too fast, try again later"),
            };
            let limit = mistakes.take("--rate", rate.parse::<RateLimit>());
            script.rate = limit.map(|limit| (limit, refusal));
        }
        script
    }
}

fn read_script(path: &Path) -> Result<Script, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| whole(&error))
}

/// An error with its source: TOML's says where.
fn whole(error: &sink::ScriptError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
