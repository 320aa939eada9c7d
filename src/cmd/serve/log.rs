//! The log of a server: structured lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::policy::{Log, LogFormat};
use crate::exit::Stop;

/// Libraries that say more than an operator wants to know.
const QUIET: &[&str] = &["hickory_proto", "hickory_resolver", "hyper", "rustls", "h2"];

/// Begins to log. `$RUST_LOG`, where it is set, says how much of what instead of the file.
pub(super) fn start(log: &Log) {
    let is_terminal = std::io::stderr().is_terminal();
    let is_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(filter(log));
    // Its own complaint about a line that could not be written would go there too, and panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // Fails only where there is a log already.
    let _ = match is_text {
        true => registry.with(lines.with_ansi(is_terminal)).try_init(),
        false => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

fn filter(log: &Log) -> EnvFilter {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        return filter;
    }
    let quiet = QUIET.iter().map(|name| format!(",{name}=warn"));
    let directives = format!("{}{}", log.level.0, quiet.collect::<String>());
    EnvFilter::new(directives)
}

/// What is wrong with a file that was to be read again; the old settings stay.
pub(super) fn mistakes(stop: &Stop) {
    for line in format!("{:#}", stop.error).lines() {
        tracing::error!(mistake = line, "the configuration was not reloaded");
    }
}
