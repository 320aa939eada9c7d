//! What systemd is told (sd_notify(3)); nothing where it did not start us.

use std::time::Duration;

use engine::Engine;
use sd_notify::NotifyState;
use tokio::task::AbortHandle;

/// Aborts its task when it goes.
pub(super) struct Watchdog(Option<AbortHandle>);

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

pub(super) fn ready(summary: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(summary)]);
}

pub(super) fn reloading() {
    // With Type=notify-reload systemd wants to know when it began.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

pub(super) fn failing(why: &str) {
    let status = format!("the journal has failed, to be restarted: {why}");
    say(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Says twice in each period that the engine lives, while it does and what this gives back lives.
pub(super) fn keep_watchdog(engine: &Engine) -> Watchdog {
    let alive = |period: Duration| tokio::spawn(keep_alive(engine.clone(), period / 2));
    let period = sd_notify::watchdog_enabled();
    Watchdog(period.map(|period| alive(period).abort_handle()))
}

/// Where the engine does not answer, nothing is said either, and systemd starts us again.
async fn keep_alive(engine: Engine, pause: Duration) {
    let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        if let Err(error) = engine.pulse().await {
            tracing::error!(%error, "the watchdog is told nothing more: only a restart helps");
            return say(&[NotifyState::Status(&format!("to be restarted: {error}"))]);
        }
        say(&[NotifyState::Watchdog]);
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
