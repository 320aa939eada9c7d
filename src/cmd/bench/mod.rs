//! `mailrail bench`: how fast a server takes mail, and what bounds it.

mod findings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::PoolBuilder;
use smtp::{Address, Content, Envelope, Recipient};

use crate::cmd::relay::{self, RelayArgs};
use crate::cmd::wire::{WireArgs, WireSettings};
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::load::{self, Latency, Load};
use crate::machine;
use crate::mistakes::Mistakes;
use crate::out;
use findings::Findings;

const EXAMPLES: &str = "\
Examples:
  mailrail bench smtp://127.0.0.1:2525 --messages 100000
  mailrail bench smtp://127.0.0.1:2525 --mode windowed --window 8 --duration 10
  mailrail bench smtp://relay.example:25 --tls required --reconnect-every 10 --no-resumption
  mailrail bench smtp://127.0.0.1:2525 --connections auto --json
  mailrail bench smtp://127.0.0.1:2525 --rate 5000/s --duration 10

With --rate messages fall due evenly, whether or not the server keeps up, and latencies count from
when they were due; without it the next is sent when one is answered.

Mail is really sent: point it at a server of your own, such as `mailrail sink`.";

/// Flags of `mailrail bench`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[arg(help = "The server: smtp[s]://[user@]host[:port]")]
    url: String,

    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    wire: WireArgs,

    #[command(flatten)]
    relay: RelayArgs,

    #[command(flatten)]
    what: WhatArgs,
}

/// What is sent, and for how long.
#[derive(clap::Args)]
#[command(next_help_heading = "Load")]
struct WhatArgs {
    /// Stop after so many messages [default: 10000, or no end with --duration]
    #[arg(long, short = 'n', value_name = "N")]
    messages: Option<String>,

    /// Stop after so many seconds
    #[arg(long, short, value_name = "SECONDS")]
    duration: Option<String>,

    /// Octets of a message, header section included
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    size: String,

    /// Recipients of each message
    #[arg(long, value_name = "N", default_value = "1")]
    recipients: String,

    /// Reverse-path
    #[arg(long, value_name = "ADDRESS", default_value = "bench@mailrail.example")]
    from: String,

    /// Recipient; further ones become local+2@…, local+3@…
    #[arg(long, value_name = "ADDRESS", default_value = "sink@mailrail.example")]
    to: String,

    /// Close a connection after so many messages; 0 for never
    #[arg(long, value_name = "N", default_value = "0")]
    reconnect_every: String,

    /// Make every TLS handshake a full one
    #[arg(long)]
    no_resumption: bool,

    /// Threads of the client
    #[arg(long, value_name = "N", default_value = "1")]
    threads: String,
}

/// [`Args`], checked.
struct Settings {
    builder: PoolBuilder,
    wire: WireSettings,
    envelope: Arc<Envelope>,
    content: Content,
    load: Load,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let mut mistakes = Mistakes::default();
    let settings = args.settings(&mut mistakes);
    mistakes.settle()?;
    let settings = settings.expect("without mistakes there are settings");
    let runtime = build_runtime(settings.load.threads).or_exit(Exit::Temporary)?;
    runtime.block_on(measure(settings, args.json))
}

impl Args {
    fn settings(&self, mistakes: &mut Mistakes) -> Option<Settings> {
        let builder =
            self.relay
                .pool_builder("the server", std::slice::from_ref(&self.url), mistakes);
        let wire = self.wire.settings(mistakes);
        let what = &self.what;
        let envelope = what.envelope(mistakes);
        let size = mistakes.parse("--size", Some(&what.size));
        let reconnect_every = mistakes.parse("--reconnect-every", Some(&what.reconnect_every));
        let load = what.load(mistakes);
        let envelope = envelope?;
        let content = mistakes.take("--size", content(&envelope, size?));
        let wire = wire?;
        // The load keeps the rate itself: what falls due while the server stalls must not be left out.
        let mut builder = WireSettings { rate: None, ..wire }
            .apply(builder?)
            .messages_per_connection(reconnect_every?);
        if what.no_resumption {
            builder = builder.no_resumption();
        }
        if reconnect_every == Some(0) {
            builder = builder.connection_age_max(Duration::MAX);
        }
        Some(Settings {
            builder,
            wire,
            content: content?,
            envelope: Arc::new(envelope),
            load: Load {
                tasks: wire.in_flight_max(),
                rate: wire.rate,
                ..load?
            },
        })
    }
}

impl WhatArgs {
    fn load(&self, mistakes: &mut Mistakes) -> Option<Load> {
        let messages: Option<u64> = mistakes.parse("--messages", self.messages.as_deref());
        let seconds: Option<f64> = mistakes.parse("--duration", self.duration.as_deref());
        let threads = mistakes.parse("--threads", Some(&self.threads));
        let duration = match seconds.map(Duration::try_from_secs_f64) {
            None => None,
            Some(Ok(duration)) if !duration.is_zero() => Some(duration),
            Some(_) => {
                mistakes.add("--duration: not a time in seconds above 0");
                None
            }
        };
        let messages_default = if duration.is_some() { u64::MAX } else { 10_000 };
        Some(Load {
            tasks: 1,
            threads: threads?,
            messages_max: messages.unwrap_or(messages_default),
            duration_max: duration,
            rate: None,
            latency: Latency::Whole,
        })
    }

    fn envelope(&self, mistakes: &mut Mistakes) -> Option<Envelope> {
        let from: Option<Address> = mistakes.parse("--from", Some(&self.from));
        let to: Option<Address> = mistakes.parse("--to", Some(&self.to));
        let count: Option<usize> = mistakes.parse("--recipients", Some(&self.recipients));
        let recipients = numbered(&to?, count?);
        let recipients = mistakes.take("--recipients", recipients)?;
        mistakes.take("--recipients", Envelope::new(from?, recipients))
    }
}

/// `a@b`, `a+2@b`, `a+3@b`, …
fn numbered(to: &Address, count: usize) -> Result<Vec<Recipient>, smtp::AddressError> {
    let text = to.to_string();
    let (local, domain) = text.rsplit_once('@').unwrap_or((&text, ""));
    let recipient = |n: usize| match n {
        1 => Ok(to.clone().into()),
        n => format!("{local}+{n}@{domain}")
            .parse::<Address>()
            .map(Recipient::from),
    };
    (1..=count).map(recipient).collect()
}

/// A message of exactly `size` octets, if that is enough for its header section.
fn content(envelope: &Envelope, size: usize) -> Result<Content, String> {
    let to = &envelope.recipients()[0].address;
    let mut bytes = format!(
        "From: <{}>\r\nTo: <{to}>\r\nSubject: mailrail bench\r\n\r\n",
        envelope
            .reverse_path()
            .address()
            .map_or_else(String::new, ToString::to_string),
    )
    .into_bytes();
    let size_min = bytes.len() + 2;
    if size < size_min {
        return Err(format!("a message has at least {size_min} octets"));
    }
    while bytes.len() < size {
        // A rest of one octet would be no line, so the line before it is one shorter.
        let left = size - bytes.len();
        let line = if left == 81 { 79 } else { left.min(80) };
        bytes.resize(bytes.len() + line - 2, b'x');
        bytes.extend_from_slice(b"\r\n");
    }
    Content::new(bytes).map_err(|error| error.to_string())
}

/// One thread unless more are asked for: what the client costs is then one core's.
fn build_runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = if threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}

async fn measure(settings: Settings, as_json: bool) -> Outcome {
    let pool = settings.builder.build().or_exit(Exit::Usage)?;
    relay::check(&pool).await?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_ctrl_c(&stop);
    let cpu = machine::CpuMeter::start();
    let (envelope, content) = (settings.envelope, settings.content);
    let load = load::run(&pool, envelope, content, settings.load, stop).await;
    let findings = Findings {
        load,
        wire: settings.wire,
        cpu_share: cpu.share_since().unwrap_or(0.0),
        // Before the connections are closed, so that it is what the work took.
        rss_bytes: machine::rss_bytes(),
        stats: pool.stats(),
    };
    pool.close().await;
    if as_json {
        out::line(format_args!("{:#}", findings.to_json()));
    } else {
        out::line(&findings);
    }
    let tally = &findings.load.tally;
    match &tally.first_failure {
        Some(failure) if tally.sent == 0 => Err(Stop::new(Exit::Unavailable, failure)),
        Some(_) => Ok(Exit::Temporary),
        None => Ok(Exit::Done),
    }
}

fn stop_on_ctrl_c(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.store(true, Ordering::Relaxed);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_exactly_the_size_asked_for() {
        let envelope = Envelope::single(
            "a@b.example".parse::<Address>().unwrap(),
            "c@d.example".parse::<Address>().unwrap(),
        );
        let least = content(&envelope, 0).unwrap_err();
        let least: usize = least.split(' ').find_map(|word| word.parse().ok()).unwrap();
        for size in (least..least + 400).chain([4096, 65_536]) {
            assert_eq!(content(&envelope, size).unwrap().len(), size);
        }
    }

    #[test]
    fn further_recipients_are_numbered() {
        let to: Address = "a@b.example".parse().unwrap();
        let recipients = numbered(&to, 3).unwrap();
        let texts: Vec<_> = recipients.iter().map(|r| r.address.to_string()).collect();
        assert_eq!(texts, ["a@b.example", "a+2@b.example", "a+3@b.example"]);
    }
}
