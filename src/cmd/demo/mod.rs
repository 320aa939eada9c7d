//! `mailrail demo`: what makes sending mail slow, and what removes it, shown in a minute.
//!
//! A sink of its own, 20 ms away, takes the same messages in five ways; then a stormy one takes
//! some, and its records prove who got what. Then `mailrail serve` runs as a child process before another
//! stormy sink, is killed in the middle and started again, and all that it acknowledged is accounted for.
//! The result is a table and a page of HTML.
//!
//! The child ends with the demo, also by SIGINT, SIGTERM and SIGHUP; it outlives the demo's own SIGKILL.

mod account;
mod chart;
mod contest;
mod engine;
mod page;
mod serving;
mod storm;
mod submit;

use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::out;
use account::Account;
use contest::Lap;
use storm::Aftermath;

/// Flags of `mailrail demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Messages sent in each way
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    messages: u64,

    /// Round trip to the sink
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = sink::script::duration)]
    rtt: Duration,

    /// What the storm's every chance is drawn from
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,

    /// Where the report is written
    #[arg(long, value_name = "FILE", default_value = "mailrail-demo.html")]
    report: PathBuf,
}

/// Everything that was seen.
pub(crate) struct Findings {
    pub(crate) messages: u64,
    pub(crate) rtt: Duration,
    pub(crate) seed: u64,
    pub(crate) laps: Vec<Lap>,
    pub(crate) aftermath: Aftermath,
    pub(crate) account: Account,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?;
    let findings = runtime.block_on(async {
        tokio::select! {
            findings = find_out(args) => findings,
            stop = signalled() => Err(stop),
        }
    })?;
    out::line(format_args!("{}", table(&findings)));
    out::line(format_args!("{}", findings.aftermath));
    out::line(format_args!("{}", findings.account));
    std::fs::write(&args.report, page::html(&findings))
        .or_exit_with(Exit::Temporary, args.report.display())?;
    out::line(format_args!(
        "The same with charts: {}",
        args.report.display()
    ));
    if findings.aftermath.is_exactly_once() && findings.account.is_whole() {
        Ok(Exit::Done)
    } else {
        Ok(Exit::Temporary)
    }
}

/// So that whatever runs is dropped, and the child with it.
async fn signalled() -> Stop {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => signal.recv().await,
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        _ = wait(SignalKind::interrupt()) => {}
        _ = wait(SignalKind::terminate()) => {}
        _ = wait(SignalKind::hangup()) => {}
    }
    Stop::new(Exit::Temporary, "interrupted")
}

async fn find_out(args: &Args) -> Result<Findings, Stop> {
    let rtt_ms = args.rtt.as_secs_f64() * 1e3;
    out::line(format_args!(
        "{} messages to a server {rtt_ms} ms away, in five ways; then a storm; then the engine in one, \
         killed in the middle.\n",
        args.messages
    ));
    Ok(Findings {
        messages: args.messages,
        rtt: args.rtt,
        seed: args.seed,
        laps: contest::run(args.messages, args.rtt).await?,
        aftermath: storm::run(args.messages, args.seed).await?,
        account: engine::run(args.messages, args.rtt, args.seed).await?,
    })
}

fn table(findings: &Findings) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "",
            "messages/s",
            "against (a)",
            "round trips a message",
            "p50 ms",
            "p99 ms",
            "connections",
        ]);
    for lap in &findings.laps {
        table.add_row([
            lap.title(),
            format!("{:.0}", lap.rate()),
            format!("{:.0} ×", lap.rate() / findings.laps[0].rate()),
            format!("{:.2}", lap.round_trips(findings.rtt)),
            format!("{:.1}", lap.p50_ms),
            format!("{:.1}", lap.p99_ms),
            lap.connections_opened.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
