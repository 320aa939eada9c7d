//! `mailrail sink`: a scripted SMTP server to test and measure against.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use crate::exit::{Exit, OrExit, Outcome};

/// Flags of `mailrail sink`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen; may be given several times. Port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: Vec<SocketAddr>,

    /// Delay of the link, such as 20ms: octets arrive that much later, and a flight shares it
    #[arg(long, value_name = "TIME", value_parser = duration)]
    rtt: Option<Duration>,
}

/// Serves until SIGINT or SIGTERM, then reports.
pub(crate) fn run(args: &Args) -> Outcome {
    let mut builder = sink::Sink::builder();
    for &address in &args.listen {
        builder = builder.listen(address);
    }
    if let Some(rtt) = args.rtt {
        builder = builder.rtt(rtt);
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?
        .block_on(serve(builder))
}

async fn serve(builder: sink::Builder) -> Outcome {
    let sink = builder.start().await.or_exit(Exit::Unavailable)?;
    announce(sink.addresses()).or_exit(Exit::Unavailable)?;
    stop_signal().await.or_exit(Exit::Unavailable)?;
    let report = sink.shutdown().await;
    let report = serde_json::to_string_pretty(&report).or_exit(Exit::Temporary)?;
    println!("{report}");
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

async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

/// Reads `20ms`, `1.5s`, `250us`; a bare number is milliseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no duration such as 20ms or 1.5s"))?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" | "" => number / 1e3,
        "s" => number,
        "min" => number * 60.0,
        _ => return Err(format!("{unit:?} is none of us, ms, s, min")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
