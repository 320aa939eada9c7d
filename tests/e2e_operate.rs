//! `mailrail serve` as whoever operates it sees it: is it well, what does it count, what do the commands say.

mod support;

#[path = "e2e_operate/commands.rs"]
mod commands;
#[path = "e2e_operate/metrics.rs"]
mod metrics;
#[path = "e2e_operate/once.rs"]
mod once;
#[path = "e2e_operate/readiness.rs"]
mod readiness;
#[path = "e2e_operate/systemd.rs"]
mod systemd;

/// Status and text of what is asked without a key.
fn get(server: &support::serving::Serving<'_>, path: &str) -> (u16, String) {
    let mut answer = support::serving::agent()
        .get(format!("{}{path}", server.http()))
        .call()
        .unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), text)
}
