//! `mailrail serve` as a child process that never outlives its owner.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::cmd::api::Api;
use crate::exit::{Exit, OrExit, Stop};
use crate::listening::Listening;

/// A server that is not ready by then is given up.
const START_MAX: Duration = Duration::from_secs(30);
const CONFIG_FILE: &str = "mailrail.toml";
const DATA_DIR: &str = "data";
const LOG_FILE: &str = "log";
/// Of this process's environment, what would change how the server runs.
const ENVIRONMENT: [&str; 5] = [
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "RUST_LOG",
    "STATE_DIRECTORY",
    "WATCHDOG_USEC",
];

/// A server that runs; killed when it goes.
pub(super) struct Serving {
    child: Child,
    pub(super) smtp: SocketAddr,
    pub(super) api: Arc<Api>,
}

impl Serving {
    /// Starts a server in `home` and waits until it takes mail; with what an earlier one left there.
    pub(super) async fn start(home: &Path, config: &str) -> Result<Self, Stop> {
        let failed = "cannot start `mailrail serve`";
        let mut child = Killed(Some(
            spawn(home, config).or_exit_with(Exit::Temporary, failed)?,
        ));
        let said = child.0.as_mut().and_then(|child| child.stdout.take());
        let said = said.expect("its standard output is a pipe");
        // Ends at the latest when the child is killed.
        let ready = tokio::task::spawn_blocking(move || is_ready(said));
        if !matches!(tokio::time::timeout(START_MAX, ready).await, Ok(Ok(true))) {
            let log = std::fs::read_to_string(home.join(LOG_FILE)).unwrap_or_default();
            return Err(Stop::new(Exit::Temporary, format!("{failed}: {log}")));
        }
        let data_dir = home.join(DATA_DIR);
        let listening =
            Listening::read(&data_dir).or_exit_with(Exit::Temporary, data_dir.display())?;
        let smtp = listening.smtp.first().copied();
        Ok(Self {
            smtp: smtp.ok_or_else(|| Stop::new(Exit::Temporary, failed))?,
            api: Arc::new(Api::of_data_dir(&data_dir)?),
            child: child.0.take().expect("nobody took it"),
        })
    }

    /// SIGKILL: no destructor, no flush, no goodbye.
    pub(super) fn kill(&mut self) {
        kill(&mut self.child);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child that is not ready yet.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            kill(child);
        }
    }
}

/// Where it has ended already there is nothing left to do.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(home: &Path, config: &str) -> std::io::Result<Child> {
    let config_file = home.join(CONFIG_FILE);
    std::fs::write(&config_file, config)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(home.join(LOG_FILE))?;
    let mut command = Command::new(std::env::current_exe()?);
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    command
        .arg("serve")
        .arg("--config")
        .arg(config_file)
        .arg("--data-dir")
        .arg(home.join(DATA_DIR))
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
}

/// Whether it says `ready` before it ends.
fn is_ready(said: ChildStdout) -> bool {
    let mut lines = BufReader::new(said).lines();
    lines.any(|line| line.is_ok_and(|line| line == "ready"))
}
