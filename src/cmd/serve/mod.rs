//! `mailrail serve`: the engine and its edges, from start to drain.
//!
//! ```text
//! configuration ─ data folder ─ edges ─ ready ─┬─ SIGHUP: read the file again, keep what is open
//!                                              └─ SIGTERM, SIGINT: drain; again: stop at once
//! ```
//!
//! Standard output says where it listens, one URL a line, then `ready`; the log goes to standard
//! error. Nothing acknowledged is lost however it ends.

mod log;
mod notify;
mod running;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config::{load, or_usual};
use crate::config::{Config, Given};
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::machine;
use running::Running;

/// Flags of `mailrail serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration [default: mailrail.toml if there is one here, else all defaults]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where mail, history and keys are kept [default: as the file says, else $STATE_DIRECTORY, else
    /// mailrail-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Take SMTP here instead of where the file says; may be given several times. Port 0 takes a
    /// free one
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,

    /// Serve HTTP here instead of where the file says
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,

    /// Open a damaged data folder: mail in the damaged places is given up, a copy of their files is
    /// kept beside them, and all else is delivered
    #[arg(long)]
    salvage: bool,
}

/// Serves until a signal ends it.
pub(crate) fn run(args: &Args) -> Outcome {
    let config = args.load()?;
    log::start(&config.log);
    machine::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(machine::workers())
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?;
    let outcome = runtime.block_on(serve(args, config));
    // What still runs was told to stop and has had its time.
    runtime.shutdown_background();
    outcome
}

async fn serve(args: &Args, config: Config) -> Outcome {
    // Before anything is open, so that no signal finds us without an answer.
    let mut signals = Signals::new().or_exit_with(Exit::Temporary, "cannot wait for signals")?;
    let mut running = tokio::select! {
        running = Running::start(config, args.path(), args.salvage) => running?,
        () = signals.stop() => return Ok(Exit::Done),
    };
    notify::ready(&running.summary());
    let watchdog = notify::keep_watchdog(running.engine());
    let engine = running.engine().clone();
    loop {
        let told = tokio::select! {
            told = signals.next() => told,
            why = engine.failed() => return fail(running, &mut signals, &why).await,
        };
        match told {
            Told::Stop => break,
            Told::Reload => {
                notify::reloading();
                match args.load() {
                    Ok(config) => running.reload(config),
                    Err(stop) => log::mistakes(&stop),
                }
                notify::ready(&running.summary());
            }
        }
    }
    notify::stopping();
    tokio::select! {
        () = running.drain() => {}
        () = signals.stop() => tracing::warn!("told twice: stopping at once"),
    }
    drop(watchdog);
    Ok(Exit::Done)
}

/// The journal has failed: only another start can record anything. What is on the wire ends, who asks
/// meanwhile is told why, and then we go, to be started again.
async fn fail(running: Running, signals: &mut Signals, why: &str) -> Outcome {
    notify::failing(why);
    tokio::select! {
        () = running.end() => {}
        () = signals.stop() => tracing::warn!("told to stop: what is on the wire is left"),
    }
    Err(Stop::new(
        Exit::Temporary,
        format!("the journal has failed: {why}"),
    ))
}

impl Args {
    fn path(&self) -> Option<PathBuf> {
        or_usual(self.config.as_ref())
    }

    /// The file with the flags on top.
    fn load(&self) -> Result<Config, Stop> {
        let text = |text: String| toml::Value::String(text).to_string();
        let mut given = Given::new();
        if let Some(dir) = &self.data_dir {
            let dir = text(dir.display().to_string());
            given.insert("data_dir", (dir, "--data-dir"));
        }
        if !self.listen.is_empty() {
            let all = self.listen.iter().map(|address| text(address.to_string()));
            let all = all.collect::<Vec<_>>().join(", ");
            given.insert("listen.smtp", (format!("[{all}]"), "--listen"));
        }
        if let Some(address) = self.http {
            given.insert("listen.http", (text(address.to_string()), "--http"));
        }
        let config = load(self.path().as_deref(), given);
        // What is shown takes more room than what is used.
        let bare = |config| Config {
            shown: Vec::new(),
            ..config
        };
        config.map(bare)
    }
}

/// What a signal means.
enum Told {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
        }
    }

    async fn stop(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}
