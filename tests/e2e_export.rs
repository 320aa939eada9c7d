//! `mailrail events export`, read by DuckDB and by pandas.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use store::history::{EventSink, History, HistoryOptions, Position};
use store::{Event, Heading, MessageId, Outcome, Said, StageTimes, Status, Tags, Time};
use support::{Run, mailrail};
use tempfile::TempDir;

const COUNT: u64 = 400;

/// `$MAILRAIL_PYTHON`, or the one that `make setup` installs.
fn python() -> PathBuf {
    let python = std::env::var_os("MAILRAIL_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "{} is missing: run `make setup`",
        python.display()
    );
    python
}

fn event(number: u64) -> Event {
    let status = Status::ALL[(number % 8) as usize];
    let at = Time::from_micros(1_790_000_000_000_000 + number * 61_000_001);
    let tags = (0..number % 3).map(|tag| {
        let value = format!("v{}, \"{number}\"", tag * 2);
        (format!("name{tag}").into(), value.into())
    });
    Event {
        at,
        message: MessageId::assemble(at.as_millis() as u64, number as u16, 9),
        recipient: (number % 5) as u32,
        address: format!("r{number}@b\u{fc}cher.example").into(),
        tenant: ["shop", "news"][(number % 2) as usize].into(),
        tags: tags.collect::<Tags>(),
        status,
        due_at: (number % 4 < 2).then(|| at + Time::from_secs(300)),
        outcome: (status != Status::Accepted).then(|| Box::new(outcome(number, status))),
        heading: (status == Status::Accepted).then(|| Arc::new(heading(number))),
    }
}

fn heading(number: u64) -> Heading {
    let from = ["", "shop@example.com"][(number / 8 % 2) as usize];
    Heading {
        from: from.into(),
        subject: format!("Order {number}, \"caf\u{e9}\"").into(),
    }
}

fn outcome(number: u64, status: Status) -> Outcome {
    let is_delivered = status == Status::Delivered;
    let mut times = StageTimes::default();
    times.0[7..].copy_from_slice(&[1, 0, u32::MAX, number as u32]);
    Outcome {
        attempt: 1 + (number % 3) as u16,
        site: if number.is_multiple_of(7) {
            ""
        } else {
            "mx.example"
        }
        .into(),
        host: if number.is_multiple_of(7) {
            ""
        } else {
            "mx1.example:25"
        }
        .into(),
        source: Arc::from(""),
        stage: if is_delivered { "" } else { "rcpt" }.into(),
        class: if is_delivered { 0xff } else { 3 },
        said: Said {
            code: if is_delivered { 250 } else { 0 },
            enhanced: smtp::EnhancedStatus::new(2, 0, 0).filter(|_| is_delivered),
            text: format!("line one\nqueued as {number:X} \u{e9}").into(),
        },
        times,
    }
}

/// What an export says of an event: every column, `null` where it has none.
fn row(event: &Event) -> Map<String, Value> {
    let micros = |time: Time| time.as_micros() as u64;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let tags: BTreeMap<_, _> = event.tags.iter().cloned().collect();
    let outcome = event.outcome.as_deref();
    let row = json!({
        "at": micros(event.at),
        "email_id": event.message.to_string(),
        "recipient": *event.address,
        "recipient_index": event.recipient,
        "tenant": *event.tenant,
        "status": event.status.name(),
        "due_at": event.due_at.map(micros),
        "from": event.heading.as_ref().and_then(|it| some(&it.from)),
        "subject": event.heading.as_ref().map(|it| it.subject.clone()),
        "tags": tags,
        "attempt": outcome.map(|it| it.attempt),
        "site": outcome.and_then(|it| some(&it.site)),
        "host": outcome.and_then(|it| some(&it.host)),
        "source": null,
        "stage": outcome.and_then(|it| some(&it.stage)),
        "class": outcome.filter(|it| it.class == 3).map(|_| "greylisted"),
        "code": outcome.map(|it| it.said.code).filter(|code| *code > 0),
        "enhanced": outcome.and_then(|it| it.said.enhanced).map(|it| it.to_string()),
        "text": outcome.map(|it| it.said.text.clone()),
    });
    let Value::Object(mut row) = row else {
        unreachable!()
    };
    for (index, name) in StageTimes::NAMES.iter().enumerate() {
        let us = outcome.map(|it| it.times.0[index]).filter(|us| *us > 0);
        row.insert(format!("{name}_us"), json!(us));
    }
    row
}

/// A data folder whose history is in use: sealed files, an open one, and events not yet written.
fn data_folder() -> (TempDir, History, Vec<Event>) {
    let folder = tempfile::tempdir().unwrap();
    let options = HistoryOptions {
        block_events: 16,
        file_events: 100,
        thread: false,
        ..HistoryOptions::default()
    };
    let history = History::open(&folder.path().join("history"), &options).unwrap();
    let events: Vec<_> = (0..COUNT).map(event).collect();
    for (position, event) in (0..).zip(&events) {
        history.committed(Position::from_u64(position), event.clone());
    }
    history.flush().unwrap();
    (folder, history, events)
}

fn export(folder: &Path, out: &Path, flags: &[&str]) -> Run {
    let [folder, out] = [folder, out].map(|path| path.to_str().unwrap());
    let base = ["events", "export", "--data-dir", folder, "-o", out];
    mailrail(base.iter().chain(flags))
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn duckdb_and_pandas_read_every_value_of_a_table_of_events() {
    let (folder, history, events) = data_folder();
    // Not written yet: another process does not see it.
    history.committed(Position::from_u64(COUNT), event(COUNT));
    let [table, text] = ["e.parquet", "e.jsonl"].map(|name| folder.path().join(name));
    export(folder.path(), &table, &[]).expect(0, "");
    export(folder.path(), &text, &["--format", "jsonl"]).expect(0, "");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_export.py");
    let read = Command::new(python())
        .arg(script)
        .args([&table, &text])
        .output()
        .unwrap();
    let read = Run::from(read);
    let read = read.expect(0, "").json();

    let want: Vec<_> = events.iter().map(row).collect();
    for reader in ["duckdb", "pandas"] {
        let rows = read[reader]["rows"].as_array().unwrap();
        assert_eq!(rows.len(), want.len(), "{reader}");
        for (got, want) in rows.iter().zip(&want) {
            assert_eq!(got, &Value::Object(want.clone()), "{reader}");
        }
        assert_eq!(read["delivered"][reader], COUNT / 8, "{reader}");
    }
    for (column, by_duckdb, by_pandas) in [
        ("at", "TIMESTAMP WITH TIME ZONE", "timestamp[us, tz=UTC]"),
        ("status", "VARCHAR", "string"),
        ("recipient_index", "UINTEGER", "uint32"),
        (
            "tags",
            "MAP(VARCHAR, VARCHAR)",
            "map<string, string ('tags')>",
        ),
        ("final_us", "UINTEGER", "uint32"),
    ] {
        assert_eq!(read["duckdb"]["types"][column], by_duckdb, "{column}");
        let by_pandas_is = read["pandas"]["types"][column].as_str().unwrap();
        assert!(
            by_pandas_is.starts_with(by_pandas.split(" (").next().unwrap()),
            "{by_pandas_is}"
        );
    }
}

#[test]
fn an_export_has_what_was_asked_for_and_no_more() {
    let (folder, _history, events) = data_folder();
    let some = &events[42];
    let [at, id] = [
        jiff::Timestamp::from_microsecond(some.at.as_micros() as i64)
            .unwrap()
            .to_string(),
        some.message.to_string(),
    ];
    let has_tag = |event: &Event| event.tags.iter().any(|tag| *tag.1 == *"v2, \"41\"");
    let at_site = |event: &Event| {
        event
            .outcome
            .as_ref()
            .is_some_and(|it| *it.site == *"mx.example")
    };
    type Wanted<'a> = &'a dyn Fn(&Event) -> bool;
    let cases: [(&[&str], Wanted<'_>); 7] = [
        (&["--from", &at], &|it| it.at >= some.at),
        (&["--to", &at], &|it| it.at < some.at),
        (&["--tenant", "news", "--status", "bounced"], &|it| {
            *it.tenant == *"news" && it.status == Status::Bounced
        }),
        (&["--message", &id], &|it| it.message == some.message),
        (&["--recipient", "R42@b\u{fc}cher.EXAMPLE"], &|it| {
            it.address == some.address
        }),
        (&["--tag", "name1:v2, \"41\""], &has_tag),
        (&["--site", "mx.example"], &at_site),
    ];
    for (flags, wanted) in cases {
        let flags: Vec<_> = ["--format", "jsonl"].iter().chain(flags).copied().collect();
        let run = export(folder.path(), Path::new("-"), &flags);
        let got = lines(&run.expect(0, "").stdout);
        let got: Vec<_> = got
            .iter()
            .map(|line| line["recipient"].as_str().unwrap())
            .collect();
        let want: Vec<_> = events.iter().filter(|event| wanted(event)).collect();
        let want: Vec<_> = want.iter().map(|event| &*event.address).collect();
        assert_eq!(got, want, "{flags:?}");
    }
}

#[test]
fn lines_leave_out_what_an_event_does_not_have() {
    let (folder, _history, events) = data_folder();
    let run = export(folder.path(), Path::new("-"), &["--format", "jsonl"]);
    let lines = lines(&run.expect(0, "").stdout);
    assert_eq!(lines.len(), events.len());
    let accepted = lines[0].as_object().unwrap();
    assert_eq!(accepted["at"], "2026-09-21T14:13:20Z");
    assert!(!accepted.contains_key("attempt") && !accepted.contains_key("text"));
    let delivered = &lines[3];
    assert_eq!(delivered["code"], 250);
    assert_eq!(delivered["enhanced"], "2.0.0");
    assert_eq!(delivered["times_us"]["final"], 3);
    assert_eq!(delivered["text"], "line one\nqueued as 3 \u{e9}");
}

#[test]
fn a_folder_without_history_is_named_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    export(folder.path(), &out, &[]).expect(65, "no history in");
    assert!(!out.exists() && !folder.path().join("history").exists());
    let flags = ["--status", "gone"];
    export(folder.path(), &out, &flags).expect(64, "one of accepted, deferred");
}

#[test]
fn what_is_damaged_is_named_and_the_rest_exported() {
    let (folder, history, _) = data_folder();
    drop(history);
    let files = std::fs::read_dir(folder.path().join("history")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let file = files
        .filter(|file| file.extension().is_some_and(|it| it == "events"))
        .min();
    let file = file.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let run = export(folder.path(), Path::new("-"), &["--format", "jsonl"]);
    let named = file.file_name().unwrap().to_str().unwrap();
    run.expect(65, &format!("{named} is damaged at 16"));
    assert_eq!(lines(&run.stdout).len() as u64, COUNT - 16);
}
