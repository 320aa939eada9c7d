//! The demo's report: one page of HTML that needs nothing from elsewhere.

use std::fmt::Write;

use super::Findings;
use super::chart::{self, Line, Row};
use super::contest::Lap;
use super::storm::{Aftermath, GREYLIST, RULES};

mod engine;

const STYLE: &str = include_str!("page.css");

/// Stages that belong together in the chart: class, words, stages.
const GROUPS: [(&str, &str, &[&str]); 4] = [
    (
        "setup",
        "connecting, greeting, EHLO",
        &["dns", "connect", "tls", "greeting", "ehlo", "auth"],
    ),
    ("mail", "waiting for the first reply (MAIL)", &["mail"]),
    ("rcpt", "RCPT, DATA and the content", &["rcpt", "content"]),
    ("final", "waiting for the final reply", &["final"]),
];

/// The page.
pub(super) fn html(findings: &Findings) -> String {
    let rtt_ms = findings.rtt.as_secs_f64() * 1e3;
    let (first, last) = (&findings.laps[0], &findings.laps[findings.laps.len() - 1]);
    let overlapped = &findings.laps[3];
    let mut page = String::new();
    let _ = write!(
        page,
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><title>mailrail: what makes sending mail slow</title>
<style>{STYLE}</style></head><body><main>
<header><p class="brand">mailrail demo</p>
<h1>The same mail, <em>{:.0} times</em> faster</h1>
<p class="lead">{} messages of 4 KiB, one recipient each, to a server {rtt_ms} ms away. Nothing about the server or the
line changes from row to row, only how the client uses them: {:.0} times the rate of one connection after another, {:.0}
times that of a pool in lockstep.</p></header>
<div class="tiles">{}{}{}</div>"#,
        last.rate() / first.rate(),
        findings.messages,
        last.rate() / first.rate(),
        last.rate() / findings.laps[1].rate(),
        tile(first, "the way everyone writes it"),
        tile(overlapped, "mailrail, as it comes"),
        tile(last, "mailrail, to a relay of your own"),
    );
    page.push_str(&speed(findings));
    page.push_str(&reasons(findings));
    page.push_str(&time(findings));
    page.push_str(&storm(&findings.aftermath, findings.seed));
    page.push_str(&engine::section(&findings.account));
    page.push_str(
        "<footer>Written by <code>mailrail demo</code>. Client and server shared this machine; the link between \
         them was delayed, as a network would. Measure your own relay: \
         <code>mailrail bench smtp://relay.example</code></footer></main></body></html>\n",
    );
    page
}

fn tile(lap: &Lap, words: &str) -> String {
    let letter = lap.way.letter;
    let (rate, name) = (lap.rate(), lap.way.name);
    format!(
        "<div class=\"tile\"><p>{words}</p><p class=\"figure {letter}-text\">{rate:.0}<small> messages/s</small></p>\
         <p>({letter}) {name}</p></div>"
    )
}

fn class_of(letter: char) -> &'static str {
    match letter {
        'a' => "way-a",
        'b' => "way-b",
        'c' => "way-c",
        'd' => "way-d",
        _ => "way-e",
    }
}

fn speed(findings: &Findings) -> String {
    let rows: Vec<_> = findings
        .laps
        .iter()
        .map(|lap| Row {
            label: lap.title(),
            parts: vec![(class_of(lap.way.letter), lap.rate())],
            value: format!("{:.0}", lap.rate()),
        })
        .collect();
    let lines: Vec<_> = findings
        .laps
        .iter()
        .map(|lap| Line {
            class: class_of(lap.way.letter),
            label: format!("({})", lap.way.letter),
            points: lap.samples.iter().map(|(s, n)| (*s, *n as f64)).collect(),
        })
        .collect();
    format!(
        "<section><h2>Messages a second</h2>{}</section>\
         <section><h2>Messages delivered over time</h2><p>A line that ends early has delivered everything; one that \
         ends low was cut off.</p>{}</section>",
        chart::bars("Messages a second", &rows),
        chart::lines("Messages delivered over time", "s", &lines),
    )
}

fn reasons(findings: &Findings) -> String {
    let mut html =
        String::from("<section><h2>What is slow, and what removes it</h2><ol class=\"ways\">");
    for lap in &findings.laps {
        let way = lap.way;
        let remedy = match way.remedy {
            "" => String::new(),
            remedy => format!("<p class=\"remedy\"><b>The remedy.</b> {remedy}</p>"),
        };
        let cut = lap.cut_words(findings.messages);
        let cut = cut.map_or_else(String::new, |words| format!(" · {words}"));
        let _ = write!(
            html,
            "<li><div class=\"badge {class}-back\">{letter}</div><div><h3>{name}</h3>\
             <p class=\"facts\">{rate:.0} messages/s · {trips:.2} round trips a message · p50 {p50:.0} ms · \
             p99 {p99:.0} ms · {connections} connections opened{cut}</p>\
             <p>{does}</p><p><b>What is slow.</b> {slow}</p>{remedy}</div></li>",
            class = class_of(way.letter),
            letter = way.letter,
            name = way.name,
            rate = lap.rate(),
            trips = lap.round_trips(findings.rtt),
            p50 = lap.p50_ms,
            p99 = lap.p99_ms,
            connections = lap.connections_opened,
            does = way.does,
            slow = way.slow,
        );
    }
    html.push_str("</ol></section>");
    html
}

fn time(findings: &Findings) -> String {
    let rows: Vec<_> = findings
        .laps
        .iter()
        .map(|lap| {
            let of = |stages: &[&str]| {
                let in_group = |(name, _): &&(&str, f64)| stages.contains(name);
                let stages = lap.stages_ms.iter().filter(in_group);
                stages.map(|(_, ms)| ms).sum::<f64>()
            };
            let parts: Vec<_> = GROUPS
                .iter()
                .map(|(class, _, stages)| (*class, of(stages)))
                .collect();
            let sum: f64 = parts.iter().map(|(_, ms)| ms).sum();
            Row {
                label: lap.title(),
                parts,
                value: format!("{sum:.0} ms"),
            }
        })
        .collect();
    let legend: String = GROUPS
        .iter()
        .map(|(class, words, _)| format!("<li><i class=\"{class}-back\"></i>{words}</li>"))
        .collect();
    format!(
        "<section><h2>Where a message's time goes</h2><p>From the first octet to the last reply, on average. In (d) and (e) this time \
         is shared: while one message waits for its reply, others are on the same connection.</p>{}\
         <ul class=\"legend\">{legend}</ul></section>",
        chart::bars("Where a message's time goes", &rows),
    )
}

fn storm(aftermath: &Aftermath, seed: u64) -> String {
    let verdict = match aftermath.is_exactly_once() {
        true => "Every recipient got the mail exactly once, or is named unknown.",
        false => "Not every recipient is accounted for: this is a defect.",
    };
    format!(
        "<section><h2>In a storm</h2><p class=\"verdict\">{verdict}</p>\
         <p>{attempts} attempts over {connections} connections in {seconds:.1} s, {refused} refusals. The counts below \
         compare what the client reported with what the server's own records say.</p>{became}{weather}\
         <h3>Why “unknown”</h3><p>When a connection is cut after the content went out and before the reply came back, nobody can \
         know whether the server took the message (RFC 1047). Sending it again may deliver it twice; leaving it may lose it. \
         mailrail does neither on its own: it names them and leaves the choice to you.</p>{named}</section>",
        attempts = aftermath.attempts,
        connections = aftermath.connections,
        seconds = aftermath.elapsed.as_secs_f64(),
        refused = aftermath.refused,
        became = what_became(aftermath),
        weather = weather(seed),
        named = named(&aftermath.unknown_named),
    )
}

fn what_became(aftermath: &Aftermath) -> String {
    let wrong = aftermath.wrong.len() as u64;
    let parts = [
        (
            "ok",
            aftermath.sent_once,
            "reported sent, there exactly once",
        ),
        (
            "unsure",
            aftermath.unknown_arrived,
            "reported unknown, there once",
        ),
        (
            "gone",
            aftermath.unknown_lost,
            "reported unknown, not there",
        ),
        ("left", aftermath.not_sent, "reported not sent, not there"),
        ("bad", wrong, "duplicates, losses, false reports"),
    ];
    let row = Row {
        label: format!("{} recipients", aftermath.recipients),
        parts: parts
            .map(|(class, count, _)| (class, count as f64))
            .to_vec(),
        value: String::new(),
    };
    let legend = parts.map(|(class, count, words)| {
        format!("<li><i class=\"{class}-back\"></i><b>{count}</b> {words}</li>")
    });
    let chart = chart::bars("What became of the recipients", &[row]);
    format!("{chart}<ul class=\"legend tall\">{}</ul>", legend.concat())
}

fn weather(seed: u64) -> String {
    let rules = RULES.map(|(_, words)| format!("<li>{words}</li>"));
    format!(
        "<h3>The weather</h3><ul><li>a sender and recipient not seen before are turned away for {} ms \
         (greylisting)</li>{}</ul><p class=\"note\">Drawn from seed {seed}; <code>--seed</code> makes other weather.</p>",
        GREYLIST.as_millis(),
        rules.concat(),
    )
}

fn named(unknown: &[String]) -> String {
    if unknown.is_empty() {
        return String::new();
    }
    let names = unknown.join(", ");
    format!("<details><summary>The unknown, by name</summary><p>{names}</p></details>")
}
