//! Every command of an operator: to people a table or a sentence, to programs JSON, and an exit code that
//! says why where it did not work.

use std::path::Path;

use rustix::process::Signal;
use sink::Sink;

use crate::support::serving::{Home, Serving};
use crate::support::{Run, command, path_str, start, wait_until};

/// Arguments, a part of what people read, and where something is in what programs read.
type Row = (Vec<String>, &'static str, &'static str);

/// Commands that work one after the other; `id`: a message delivered to b@y.example, `key`: an API key's.
fn all(id: &str, site: &str, key: &str) -> Vec<Row> {
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str)] = &[
        ("status", "journal sync us", "/counts/recipients"),
        ("status ID", "b@y.example", "/recipients/0/address"),
        ("status b@y.example", "delivered", "/data/0/recipient"),
        ("queue", "nothing waits", "/data"),
        ("queue --tenant default --state held", "nothing waits", "/data"),
        ("sites", "bound by", "/data/0/name"),
        ("sites SITE", "why", "/binding"),
        ("events", "delivered", "/data/0/status"),
        ("events --message ID --status delivered", "b@y.example", "/data/0/email_id"),
        ("events --status bounced", "no such event", "/data"),
        ("statistics", "delivered", "/data/0/counts/delivered"),
        ("statistics --by site --step 1h", "site", "/data/0/site"),
        ("statistics --tenant default --from 24h --step 1d", "default", "/data/0/tenant"),
        ("retry --all", "0 recipients due now", "/recipients"),
        ("retry b@y.example", "0 recipients due now", "/recipients"),
        ("retry --failed --since 24h", "0 recipients taken up again", "/recipients"),
        ("cancel ID", "0 recipients canceled", "/recipients"),
        ("suspend --site SITE", "suspended", ""),
        ("resume --site SITE", "resumed", ""),
        ("suppress add n@y.example", "1 suppressed", "/suppressed"),
        ("suppress list", "n@y.example", "/data/0/email"),
        ("suppress remove n@y.example", "may get mail again", "/deleted"),
        ("key create shop --tenant shop", "mr_", "/token"),
        ("key list", "scopes", "/data/0/id"),
        ("key revoke KEY", "no longer valid", "/deleted"),
    ];
    let fill = |word: &str| match word {
        "ID" => id.to_owned(),
        "SITE" => site.to_owned(),
        "KEY" => key.to_owned(),
        word => word.to_owned(),
    };
    let row =
        |&(words, said, place): &(&str, _, _)| (words.split(' ').map(fill).collect(), said, place);
    rows.iter().map(row).collect()
}

fn words(row: &Row) -> Vec<&str> {
    row.0.iter().map(String::as_str).collect()
}

/// A message delivered to b@y.example: its id and its site.
fn deliver_one(server: &Serving<'_>) -> (String, String) {
    server.send_to("b@y.example");
    let mut found = None;
    wait_until("it is delivered", || {
        let events = server.json(&["events", "--status", "delivered"]);
        let event = &events["data"][0];
        let words = |name: &str| Some(event[name].as_str()?.to_owned());
        found = words("email_id").zip(words("site"));
        found.is_some()
    });
    found.unwrap()
}

fn make_key(server: &Serving<'_>) -> String {
    let made = server.json(&["key", "create", "x"]);
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn every_command_speaks_to_people_and_to_programs() {
    let sink = start(Sink::builder());
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let (id, site) = deliver_one(&server);
    for row in &all(&id, &site, &make_key(&server)) {
        server.run(&words(row)).expect(0, row.1);
    }
    for row in &all(&id, &site, &make_key(&server)) {
        let answer = server.json(&words(row));
        assert!(answer.pointer(row.2).is_some(), "{:?}: {answer}", row.0);
    }
}

/// Where no server is found by chance.
fn run_in(folder: &Path, row: &Row, more: &[&str]) -> Run {
    let mut run = command(words(row));
    run.args(more)
        .current_dir(folder)
        .env_remove("MAILRAIL_KEY");
    run.output().unwrap().into()
}

#[test]
fn where_no_server_answers_every_command_ends_with_69() {
    let home = Home::new("");
    let server = home.serve();
    assert_eq!(server.end(Signal::KILL), None);
    // What it left says where it was.
    let data_dir = home.data_dir();
    assert!(data_dir.join("listening.json").exists());
    let empty = tempfile::tempdir().unwrap();
    let id = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
    for row in &all(id, "y.example", "0190a1b2c3d4") {
        let gone = run_in(empty.path(), row, &["--data-dir", path_str(&data_dir)]);
        gone.expect(69, "is `mailrail serve` running?");
        let nowhere = run_in(empty.path(), row, &["--data-dir", path_str(empty.path())]);
        nowhere.expect(69, "no server found");
    }
    let queue = command(["sendmail", "-bp"])
        .env("MAILRAIL_DATA_DIR", &data_dir)
        .output()
        .unwrap();
    Run::from(queue).expect(69, "is `mailrail serve` running?");
}

#[test]
fn a_wrong_key_or_none_is_77_and_one_is_taken_from_a_file_or_the_environment() {
    let home = Home::new("");
    let server = home.serve();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = |name: &str, key: &str| {
        let path = elsewhere.path().join(name);
        std::fs::write(&path, format!("{key}\nits first line counts\n")).unwrap();
        path_str(&path).to_owned()
    };
    let wrong = file("wrong", &server.key().unwrap().replace("mr_", "mr_0"));
    let http = server.http();
    let id = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
    for row in &all(id, "y.example", "0190a1b2c3d4") {
        let from = ["--server", &http];
        run_in(elsewhere.path(), row, &from).expect(77, "--key-file FILE or MAILRAIL_KEY");
        let with = [&from[..], &["--key-file", &wrong]].concat();
        run_in(elsewhere.path(), row, &with).expect(77, "--key-file FILE or MAILRAIL_KEY");
    }

    let made = server.json(&["key", "create", "ops", "--scope", "admin"]);
    let key = made["token"].as_str().unwrap();
    let by_file = |file: &str| -> Run {
        let mut run = command(["status", "--server", &http, "--key-file", file]);
        run.env("MAILRAIL_KEY", "mr_nonsense")
            .output()
            .unwrap()
            .into()
    };
    by_file(&file("right", key)).expect(0, "journal sync us");
    by_file("no-such-file").expect(64, "--key-file no-such-file");
    let mut by_environment = command(["status", "--server", &http]);
    let run: Run = by_environment
        .env("MAILRAIL_KEY", key)
        .output()
        .unwrap()
        .into();
    run.expect(0, "journal sync us");
}

#[test]
fn bad_input_is_64_in_the_command_and_65_where_the_server_says_so() {
    let home = Home::new("");
    let server = home.serve();
    for (words, code) in [
        ("status colour", 64),
        ("status 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b", 65),
        ("status nobody@y.example", 65),
        ("status nobody@y.example --json", 65),
        ("queue --state colour", 65),
        ("queue --colour", 64),
        ("queue --tenant nobody", 65),
        ("suspend --tenant nobody", 65),
        ("events --tenant nobody --follow", 65),
        ("sites no.such.site", 65),
        ("events --status colour", 65),
        ("events --from soon", 65),
        ("events --limit x", 65),
        ("events --message x", 65),
        ("events --follow --to 1h", 64),
        ("statistics --by colour", 64),
        ("statistics --step 1s", 65),
        ("statistics --step=-1h", 65),
        ("statistics --from soon", 65),
        ("statistics --tenant nobody", 65),
        ("statistics --tenant default --site x", 65),
        ("retry", 64),
        ("retry colour", 64),
        ("retry --failed", 64),
        ("retry --failed --since soon", 65),
        ("cancel", 64),
        ("cancel colour", 64),
        ("suspend", 64),
        ("resume", 64),
        ("suppress", 64),
        ("suppress add", 64),
        ("suppress add nonsense", 65),
        ("suppress remove nonsense", 65),
        ("suppress list --limit x", 65),
        ("key", 64),
        ("key create x --scope everything", 65),
        ("key revoke nonsense", 65),
        ("status --server ftp://x", 64),
    ] {
        let run = server.run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(run.code, Some(code), "{words}: {run:#?}");
        assert!(!run.stderr.is_empty(), "{words}: {run:#?}");
    }
}
