//! The part of the report about the engine.

use crate::cmd::demo::account::{Account, Costs};
use crate::cmd::demo::chart::{self, Line, Row};
use crate::cmd::demo::engine::RULES;

/// The account, its course over time, and where the time went.
pub(super) fn section(account: &Account) -> String {
    let verdict = match account.is_whole() {
        true => "All that was acknowledged arrived.",
        false => "Not all that was acknowledged arrived: this is a defect.",
    };
    let rules = RULES.map(|(_, words)| format!("<li>{words}</li>"));
    format!(
        "<section><h2>The engine, killed in the middle of a storm</h2><p class=\"verdict\">{verdict}</p>\
         <p><code>mailrail serve</code> took {handed_in} messages by SMTP and by HTTP, each on disk before it was \
         acknowledged, and handed them on to a stormy server {rtt_ms} ms away. With half of them acknowledged it was killed (SIGKILL) and \
         started again on the same folder. What the application had no answer to, it repeated under the same \
         idempotency key. The counts below compare the acknowledgements with the records of the server behind it.</p>\
         {tiles}{became}<p>{restart}</p>{course}{time}<h3>The weather</h3><ul>{rules}</ul>\
         <h3>Why duplicates</h3><p>A reply that was lost, by the storm or because the process that waited for it was \
         killed, leaves unknown whether the message was taken. The engine sends it again (<code>unknown = \"retry\"</code>): \
         twice rather than never. A route with <code>unknown = \"hold\"</code> asks you instead.</p></section>",
        handed_in = account.handed_in,
        rtt_ms = account.rtt.as_secs_f64() * 1e3,
        tiles = tiles(account),
        became = what_became(account),
        restart = account.restart_words(),
        course = course(account),
        time = time(&account.costs),
        rules = rules.concat(),
    )
}

fn tiles(account: &Account) -> String {
    let tile = |words: &str, figure: String, unit: &str, note: &str| {
        format!(
            "<div class=\"tile\"><p>{words}</p><p class=\"figure\">{figure}<small> {unit}</small></p><p>{note}</p></div>"
        )
    };
    let again = account.accepting_after.unwrap_or(account.ready_after);
    format!(
        "<div class=\"tiles\">{}{}{}</div>",
        tile(
            "lost",
            account.lost.to_string(),
            "messages",
            "of those acknowledged"
        ),
        tile(
            "accepted",
            format!("{:.0}", account.accept_rate()),
            "messages/s",
            "each synced to disk first",
        ),
        tile(
            "accepting again",
            again.as_millis().to_string(),
            "ms",
            "after the kill",
        ),
    )
}

fn what_became(account: &Account) -> String {
    let parts = [
        ("ok", account.delivered, "acknowledged, and there"),
        (
            "unsure",
            account.duplicates_reply_lost,
            "copies too many, after a lost reply",
        ),
        (
            "gone",
            account.duplicates_cut,
            "copies too many, because the server was killed or a connection cut",
        ),
        ("bad", account.lost, "acknowledged, and lost"),
    ];
    let row = Row {
        label: format!("{} acknowledged", account.acknowledged),
        parts: parts
            .map(|(class, count, _)| (class, count as f64))
            .to_vec(),
        value: String::new(),
    };
    let legend = parts.map(|(class, count, words)| {
        format!("<li><i class=\"{class}-back\"></i><b>{count}</b> {words}</li>")
    });
    let chart = chart::bars("What became of what was acknowledged", &[row]);
    format!(
        "<h3>What became of the messages</h3>{chart}<ul class=\"legend tall\">{}</ul>",
        legend.concat()
    )
}

fn course(account: &Account) -> String {
    // Both end at the same point, where two labels would hide each other.
    let line = |class, of: fn(&(f64, u64, u64)) -> u64| Line {
        class,
        label: String::new(),
        points: account
            .samples
            .iter()
            .map(|sample| (sample.0, of(sample) as f64))
            .collect(),
    };
    let lines = [
        line("way-d", |sample| sample.1),
        line("way-e", |sample| sample.2),
    ];
    format!(
        "<h3>Messages over time</h3><ul class=\"legend\"><li><i class=\"way-d-back\"></i>acknowledged</li>\
         <li><i class=\"way-e-back\"></i>taken by the server behind it</li></ul>{}",
        chart::lines("Messages acknowledged and delivered over time", "s", &lines),
    )
}

fn time(costs: &Costs) -> String {
    let parts = costs.parts();
    let row = |label: &str, parts: &[(&'static str, &str, f64)]| Row {
        label: label.to_owned(),
        parts: parts.iter().map(|(class, _, ms)| (*class, *ms)).collect(),
        value: format!("{:.0} ms", parts.iter().map(|(_, _, ms)| ms).sum::<f64>()),
    };
    let legend = parts.map(|(class, words, ms)| {
        format!("<li><i class=\"{class}-back\"></i><b>{ms:.1} ms</b> {words}</li>")
    });
    format!(
        "<h3>Where the time went</h3><p>From acceptance to delivery, on average, all attempts of a message together; \
         by the engine's own metrics, those of both processes.</p>{}{}<ul class=\"legend tall\">{}</ul>",
        chart::bars("Where the time went", &[row("all of it", &parts)]),
        chart::bars(
            "Of that, in attempts",
            &[row("of it, in attempts", &parts[1..])]
        ),
        legend.concat(),
    )
}
