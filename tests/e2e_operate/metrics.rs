//! `/metrics` beside what the guide says of it, and beside what is really so.

use std::collections::BTreeMap;
use std::path::Path;

use crate::get;
use crate::support::serving::{Home, Serving};
use crate::support::{start, wait_until};

/// Name, as Prometheus stores it, and type of every metric.
fn printed(server: &Serving<'_>) -> BTreeMap<String, String> {
    // What counts requests is there once there was one.
    get(server, "/healthz");
    let text = get(server, "/metrics").1;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let total = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{total}"), kind.to_owned())
    });
    types.collect()
}

/// The same as the guide's tables have it.
fn documented() -> BTreeMap<String, String> {
    let guide = include_str!("../../docs/guide/operate.md");
    let rows = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `mailrail_"));
    let rows = rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().trim_end_matches('`');
        let name = name.split('{').next().unwrap();
        (format!("mailrail_{name}"), cells.next().unwrap().to_owned())
    });
    rows.collect()
}

fn value(server: &Serving<'_>, name: &str) -> f64 {
    let text = get(server, "/metrics").1;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name}\n{text}"))
        .parse()
        .unwrap()
}

#[test]
fn the_guide_has_every_metric_with_its_type_and_no_other() {
    let home = Home::new("");
    let server = home.serve();
    let (printed, documented) = (printed(&server), documented());
    for metric in &printed {
        assert_eq!(
            documented.get_key_value(metric.0),
            Some(metric),
            "the guide lacks it"
        );
    }
    for metric in &documented {
        assert_eq!(
            printed.get_key_value(metric.0),
            Some(metric),
            "the guide invents it"
        );
    }
}

#[test]
fn a_share_is_a_ratio_and_its_name_says_so() {
    let home = Home::new("");
    let server = home.serve();
    assert_eq!(value(&server, "mailrail_window_ratio"), 1.0);
    let cpu = value(&server, "mailrail_process_cpu_ratio");
    assert!((0.0..=1.0).contains(&cpu), "{cpu}");
    assert!(printed(&server).keys().all(|name| !name.contains("ratios")));
}

#[test]
fn jobs_are_counted_where_they_are() {
    let sink = start(
        sink::Sink::builder().keep_records().script(
            "[[rule]]\nat = \"final\"\ndelay = \"60min\"\n"
                .parse()
                .unwrap(),
        ),
    );
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let jobs = || {
        let count = |state: &str| {
            value(
                &server,
                &format!("mailrail_queue_jobs{{state=\"{state}\"}}"),
            )
        };
        (count("ready"), count("waiting"), count("in_flight"))
    };
    assert_eq!(jobs(), (0.0, 0.0, 0.0));
    server.send_to("one@y.example");
    wait_until("one is on the wire", || jobs() == (0.0, 0.0, 1.0));
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "");
    server.send_to("two@y.example");
    assert_eq!(jobs(), (1.0, 0.0, 1.0));
    let later =
        "From: a@x.example\nTo: c@y.example\nX-Mailrail-Send-At: 2100-01-01T00:00:00Z\n\nx\n";
    // Too far ahead for the limit, so it is not taken.
    assert_ne!(server.sendmail(&["-t", "-i"], later).code, Some(0));
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(5);
    let later = later.replace("2100-01-01T00:00:00Z", &soon.to_string());
    server.sendmail(&["-t", "-i"], &later).expect(0, "");
    assert_eq!(jobs(), (1.0, 1.0, 1.0));
    assert_eq!(value(&server, "mailrail_spool_recipients"), 3.0);
    assert_eq!(value(&server, "mailrail_held_recipients"), 0.0);
}

/// What the files of a folder take, by their lengths.
fn folder_bytes(folder: &Path, ending: &str) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let ours = files.filter(|file| file.file_name().to_str().unwrap().ends_with(ending));
    ours.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn the_journals_space_is_what_its_files_take_and_what_waits_is_less() {
    let home = Home::new("[[route]]\ndomain = \"*\"\nvia = \"smtp://127.0.0.1:1?tls=none\"\n");
    let server = home.serve();
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "");
    for number in 0..10 {
        server.send_to(&format!("p{number}@y.example"));
    }
    let used = value(&server, "mailrail_journal_used_bytes");
    assert_eq!(
        used,
        folder_bytes(&home.data_dir().join("journal"), "") as f64
    );
    let live = value(&server, "mailrail_spool_live_bytes");
    assert!(live > 10.0 * 100.0 && live < used, "{live} of {used}");
    wait_until("history is written", || {
        let history = folder_bytes(&home.data_dir().join("history"), "") as f64;
        history > 0.0 && value(&server, "mailrail_history_used_bytes") == history
    });
}

#[test]
fn the_stages_of_a_message_are_timed() {
    let sink = start(sink::Sink::builder().keep_records());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server.send_to("b@y.example");
    wait_until("it is delivered and seen", || {
        value(&server, "mailrail_delivery_seconds_count") == 1.0
    });
    for stage in ["queue", "connect", "greeting", "ehlo", "final"] {
        let name = format!("mailrail_stage_seconds_count{{stage=\"{stage}\"}}");
        assert_eq!(value(&server, &name), 1.0, "{stage}");
    }
}
