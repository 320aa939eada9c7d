//! What systemd is told (sd_notify(3)); nothing where it did not start us.

use std::time::Duration;

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

/// Says twice in each period that the runtime still runs tasks, while what it gives back lives.
pub(super) fn keep_watchdog() -> Watchdog {
    let period = sd_notify::watchdog_enabled();
    Watchdog(period.map(|period| tokio::spawn(keep_alive(period / 2)).abort_handle()))
}

async fn keep_alive(pause: Duration) {
    let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
