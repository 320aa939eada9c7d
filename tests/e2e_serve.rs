//! `mailrail serve` as a program, and the commands that ask it and tell it things.
//!
//! Over 500 lines: each promise is a few lines before the same program.

mod support;

use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::process::{Resource, Rlimit, Signal};
use serde_json::{Value, json};
use sink::Sink;
use support::serving::{Dialogue, Home, Serving, agent, route_to};
use support::{command, path_str, recipients, start, wait_until};

fn taking_sink() -> Sink {
    start(Sink::builder().keep_records())
}

/// A sink that keeps the final reply of every message to itself.
fn deaf_sink() -> Sink {
    let script = "[[rule]]\nat = \"final\"\ndelay = \"60min\"\n"
        .parse()
        .unwrap();
    start(Sink::builder().keep_records().script(script))
}

fn wait_for(sink: &Sink, count: usize) {
    wait_until("the sink has the mail", || recipients(sink).len() >= count);
}

/// POST with a key; status and answer.
fn post(server: &Serving<'_>, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let mut answer = agent()
        .post(format!("{}{path}", server.http()))
        .header("Authorization", format!("Bearer {key}"))
        .send_json(body)
        .unwrap();
    (
        answer.status().as_u16(),
        answer.body_mut().read_json().unwrap(),
    )
}

fn message(to: &str) -> Value {
    json!({"from": "A <a@x.example>", "to": to, "subject": "hi", "text": "Hello."})
}

#[test]
fn without_any_configuration_it_listens_on_loopback_and_says_that_nothing_says_where_mail_goes() {
    let home = Home::new("");
    let server = home.serve();
    assert!(server.smtp().starts_with("smtp://127.0.0.1:"));
    assert!(server.said.contains("no route"), "{}", server.said);
    let mode = home.data_dir().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let mut dialogue = Dialogue::open(server.smtp_address());
    dialogue.say("EHLO x");
    assert!(dialogue.say("MAIL FROM:<a@x.example>").starts_with("250"));
    assert!(
        dialogue
            .say("RCPT TO:<b@y.example>")
            .starts_with("550 5.7.1")
    );
    let (status, answer) = post(
        &server,
        "/emails",
        server.key().unwrap(),
        &message("b@y.example"),
    );
    assert!((400..500).contains(&status), "{status} {answer}");
    let refused = server.sendmail(&["b@y.example"], "Subject: x\n\n");
    refused.expect(67, "5.7.1");
}

#[test]
fn the_first_key_is_printed_once_and_is_valid_ever_after() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let key = server.key().unwrap().to_owned();
    assert_eq!(server.end(Signal::TERM), Some(0));
    let server = home.serve();
    assert_eq!(server.key(), None);
    let (status, answer) = post(&server, "/emails", &key, &message("b@y.example"));
    assert_eq!(status, 200, "{answer}");
    let (status, _) = post(
        &server,
        "/emails",
        &key.replace("mr_", "mr_0"),
        &message("b@y.example"),
    );
    assert!(status == 401 || status == 403, "{status}");
}

#[test]
fn no_key_is_printed_into_the_journal() {
    let home = Home::new("");
    let server = home.serve_with(&[("JOURNAL_STREAM", std::path::Path::new("8:1"))]);
    assert_eq!(server.key(), None);
    let made = server.json(&["key", "create", "first"]);
    assert!(made["token"].is_string());
}

#[test]
fn what_comes_in_by_http_and_by_smtp_is_delivered_and_can_be_asked_about() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let (status, sent) = post(
        &server,
        "/emails",
        server.key().unwrap(),
        &message("web@y.example"),
    );
    assert_eq!(status, 200, "{sent}");
    server.send_to("mail@y.example");
    wait_for(&sink, 2);

    let id = sent["id"].as_str().unwrap();
    let is_delivered = || {
        let message = server.json(&["status", id]);
        message["recipients"][0]["status"] == "delivered"
    };
    wait_until("it is known", is_delivered);
    server
        .run(&["status", id])
        .expect(0, "web@y.example")
        .expect(0, "delivered");
    server
        .run(&["status", "mail@y.example"])
        .expect(0, "accepted");
    server
        .run(&["status", "nobody@y.example"])
        .expect(65, "nothing is known");
    server
        .run(&["status", "colour"])
        .expect(64, "neither a message's id nor an address");
    server
        .run(&["events", "--status", "delivered"])
        .expect(0, "web@y.example");
    let events = server.json(&["events", "--recipient", "web@y.example"]);
    assert_eq!(events["data"].as_array().unwrap().len(), 2, "{events}");
    server.run(&["sites"]).expect(0, "bound by");
    server.run(&["queue"]).expect(0, "");
    let counts = &server.json(&["status"])["counts"];
    assert_eq!(counts["messages_accepted"], 2, "{counts}");
    let get = |path: &str| {
        let mut answer = ureq::get(format!("{}{path}", server.http()))
            .call()
            .unwrap();
        answer.body_mut().read_to_string().unwrap()
    };
    assert_eq!(get("/healthz"), "ok\n");
}

#[test]
fn an_operator_stops_a_site_takes_mail_back_and_lets_the_rest_go() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "suspended");
    for name in ["one", "two", "three"] {
        server.send_to(&format!("{name}@y.example"));
    }
    server.run(&["queue"]).expect(0, "default");
    server
        .run(&["cancel", "two@y.example"])
        .expect(0, "1 recipients canceled");
    server.run(&["cancel"]).expect(64, "required");
    assert!(recipients(&sink).is_empty());
    assert_eq!(server.end(Signal::TERM), Some(0));

    let server = home.serve();
    server
        .run(&["resume", "--tenant", "default"])
        .expect(0, "resumed");
    server.run(&["retry", "--all"]).expect(0, "due now");
    wait_for(&sink, 2);
    let mut taken = recipients(&sink);
    taken.sort();
    assert_eq!(taken, ["one@y.example", "three@y.example"]);
    server
        .run(&["status", "two@y.example"])
        .expect(0, "canceled");
}

#[test]
fn who_is_suppressed_gets_nothing_until_taken_off_the_list() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server
        .run(&["suppress", "add", "b@y.example", "--reason", "asked for it"])
        .expect(0, "1 suppressed");
    server.run(&["suppress", "list"]).expect(0, "asked for it");
    let key = server.key().unwrap().to_owned();
    post(&server, "/emails", &key, &message("b@y.example"));
    post(&server, "/emails", &key, &message("c@y.example"));
    wait_for(&sink, 1);
    assert_eq!(recipients(&sink), ["c@y.example"]);
    server
        .run(&["status", "b@y.example"])
        .expect(0, "suppressed");
    server
        .run(&["suppress", "remove", "b@y.example"])
        .expect(0, "may get mail again");
    server
        .run(&["suppress", "remove", "b@y.example"])
        .expect(65, "not found");
    post(&server, "/emails", &key, &message("b@y.example"));
    wait_for(&sink, 2);
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let made = server.json(&[
        "key", "create", "shop", "--tenant", "shop", "--scope", "send",
    ]);
    let (key, id) = (
        made["token"].as_str().unwrap(),
        made["id"].as_str().unwrap(),
    );
    assert_eq!(
        post(&server, "/emails", key, &message("b@y.example")).0,
        200
    );
    let listed = server.run(&["key", "list"]);
    listed.expect(0, id).expect(0, "shop");
    assert!(!listed.stdout.contains(key));
    server
        .run(&["key", "create", "x", "--scope", "everything"])
        .expect(65, "scopes");
    server
        .run(&["key", "revoke", id])
        .expect(0, "no longer valid");
    assert_ne!(
        post(&server, "/emails", key, &message("b@y.example")).0,
        200
    );

    // A key with few rights does not operate the server, from wherever it comes.
    let few = home.path("key");
    std::fs::write(&few, server.key().unwrap()).unwrap();
    let few = few.to_str().unwrap();
    server
        .run(&["sites", "--key-file", few])
        .expect(77, "scope");
    server
        .run(&["sites", "--server", "http://127.0.0.1:1"])
        .expect(69, "is `mailrail serve` running?");
}

#[test]
fn a_user_of_the_configuration_logs_in_and_nobody_else() {
    let sink = taking_sink();
    let hash = command(["key", "hash"])
        .stdin(std::process::Stdio::piped())
        .spawn();
    let mut hash = hash.unwrap();
    std::io::Write::write_all(&mut hash.stdin.take().unwrap(), b"secret\n").unwrap();
    let hash = hash.wait_with_output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let home = Home::new(&format!(
        "{}[listen]\ntrust_loopback = false\n[[tenant]]\nname = \"shop\"\n\
         user = [{{ name = \"shop\", password_hash = \"{}\" }}]\n",
        route_to(&sink),
        hash.trim_end()
    ));
    let server = home.serve();
    let send = |user: &str, password: &str| {
        let via = server.smtp().replace("smtp://", &format!("smtp://{user}")) + "?tls=none";
        let message = [
            "--from",
            "a@x.example",
            "--to",
            "b@y.example",
            "--text",
            "x",
        ];
        let mut send = command(["send", "--via", &via, "--allow-plaintext-auth"]);
        send.args(message).env("MAILRAIL_PASSWORD", password);
        send.output().unwrap().status.code()
    };
    assert_eq!(send("shop@", "secret"), Some(0));
    assert_eq!(send("shop@", "Secret"), Some(77));
    assert_ne!(send("", ""), Some(0));
    wait_for(&sink, 1);
}

#[test]
fn sighup_takes_over_a_right_file_and_leaves_everything_as_it_is_for_a_wrong_one() {
    let (before, after) = (taking_sink(), taking_sink());
    let home = Home::in_front_of(&before);
    let server = home.serve();
    let mut dialogue = Dialogue::open(server.smtp_address());
    dialogue.say("EHLO x");

    home.configure("[[route]]\ndomain = \"*\"\nvai = \"smtp://127.0.0.1\"\n[log]\ncolour = 1\n");
    server.signal(Signal::HUP);
    wait_until("both mistakes are in the log", || {
        let log = home.log();
        log.contains(":3: route[0].vai: unknown setting") && log.contains(":5: log.colour: ")
    });
    server.send_to("one@y.example");
    wait_for(&before, 1);

    home.configure(&route_to(&after));
    server.signal(Signal::HUP);
    wait_until("the file is taken over", || {
        home.log().contains("the configuration was reloaded")
    });
    server.send_to("two@y.example");
    wait_for(&after, 1);
    assert_eq!(recipients(&before).len(), 1);
    assert!(
        dialogue.say("NOOP").starts_with("250"),
        "the connection was dropped"
    );
}

#[test]
fn sigterm_drains_and_tells_nobody_any_more_where_it_was() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server.send_to("b@y.example");
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(!home.data_dir().join("listening.json").exists());
    assert!(!home.data_dir().join("operator.key").exists());
    assert!(home.log().contains("drained"));
    let _server = home.serve();
    wait_for(&sink, 1);
}

#[test]
fn a_second_sigterm_stops_at_once_and_nothing_is_lost() {
    let sink = deaf_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server.send_to("b@y.example");
    wait_until("it is on the wire", || {
        server.json(&["status"])["counts"]["in_flight"] == 1
    });
    server.signal(Signal::TERM);
    wait_until("it drains", || home.log().contains("draining"));
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(home.log().contains("stopping at once"));

    let taking = taking_sink();
    home.configure(&route_to(&taking));
    let server = home.serve();
    server.run(&["retry", "--all"]).expect(0, "");
    wait_for(&taking, 1);
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let gone = taking_sink();
    let home = Home::in_front_of(&gone);
    let server = home.serve();
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "");
    for number in 0..20 {
        server.send_to(&format!("p{number}@y.example"));
    }
    assert_eq!(server.end(Signal::KILL), None);
    let server = home.serve();
    server.run(&["resume", "--tenant", "default"]).expect(0, "");
    wait_for(&gone, 20);
    let mut taken = recipients(&gone);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 20);
}

/// A limit on the size of files stands for a disk that fails: a write of the journal beyond it fails for
/// no want of room, while all else that is written is shorter.
#[test]
fn a_server_whose_journal_fails_says_so_begins_nothing_more_and_ends_to_be_started_again() {
    const LIMIT_BYTES: u64 = 1 << 20;
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let mut program = std::process::Command::new("env");
    program.args(["--ignore-signal=XFSZ", env!("CARGO_BIN_EXE_mailrail")]);
    let server = home.serve_by(program);
    // Longer than the limit though it is packed.
    let mut rng = flow::rng::Rng::new(1);
    let lines = (0..3 << 16).map(|_| format!("{:016x}\n", rng.next_u64()));
    let long = format!(
        "From: a@x.example\nTo: long@y.example\n\n{}",
        lines.collect::<String>()
    );
    server.sendmail(&["-t", "-i"], &long).expect(0, "");
    wait_for(&sink, 1);
    let limit = Rlimit {
        current: Some(LIMIT_BYTES),
        maximum: Some(LIMIT_BYTES),
    };
    rustix::process::prlimit(Some(server.pid()), Resource::Fsize, limit).unwrap();

    let run = server.sendmail(
        &["-t", "-i"],
        "From: a@x.example\nTo: late@y.example\n\nHello.\n",
    );
    assert_eq!(run.code, Some(75), "{run:#?}");
    assert_eq!(server.wait(), Some(75));
    assert!(
        home.log().contains("the journal has failed"),
        "{}",
        home.log()
    );
    let server = home.serve();
    server.send_to("next@y.example");
    wait_until("the next is there", || {
        recipients(&sink).contains(&"next@y.example".to_owned())
    });
    let mut to = recipients(&sink);
    to.sort_unstable();
    to.dedup();
    // Whoever was refused may have been written all the same.
    to.retain(|to| to != "late@y.example");
    assert_eq!(to, ["long@y.example", "next@y.example"]);
}

#[test]
fn a_damaged_data_folder_is_refused_with_advice_and_salvaged_when_told_so() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    server
        .run(&["suspend", "--tenant", "default"])
        .expect(0, "");
    for number in 10..20 {
        server.send_to(&format!("p{number}@y.example"));
    }
    assert_eq!(server.end(Signal::KILL), None);
    let path = home.data_dir().join("journal/0000000001.journal");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(12).position(|it| it == b"p13@y.exampl");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"X", at.unwrap() as u64).unwrap();

    let (config, data_dir) = (home.path("mailrail.toml"), home.data_dir());
    let serve = |more: &[&str]| {
        let mut serve = command(["serve", "--config", path_str(&config)]);
        serve.args(["--data-dir", path_str(&data_dir)]);
        serve.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        serve.args(more);
        serve
    };
    let refused = support::Run::from(serve(&[]).output().unwrap());
    refused.expect(69, "serve --salvage");
    let mut salvaging = serve(&["--salvage"]).spawn().unwrap();
    let resumes = || {
        let resume = ["resume", "--tenant", "default", "--data-dir"];
        let run = command(resume).arg(&data_dir).output().unwrap();
        run.status.success()
    };
    wait_until("the server lets mail go", resumes);
    wait_for(&sink, 9);
    support::signal(&salvaging, Signal::TERM);
    assert_eq!(salvaging.wait().unwrap().code(), Some(0));
    assert!(!recipients(&sink).contains(&"p13@y.example".to_owned()));
}

#[test]
fn two_servers_do_not_open_one_data_folder() {
    let home = Home::new("");
    let _server = home.serve();
    let config = home.path("mailrail.toml");
    let data_dir = home.data_dir();
    let second = command(["serve", "--config", config.to_str().unwrap()])
        .args(["--data-dir", data_dir.to_str().unwrap()])
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .output()
        .unwrap();
    support::Run::from(second).expect(69, "in use");
}

#[test]
fn events_are_followed_as_they_happen() {
    use std::io::BufRead;
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let server = home.serve();
    let data_dir = home.data_dir();
    let mut follower = command(["events", "--follow", "--json", "--from", "1h"])
        .args(["--data-dir", data_dir.to_str().unwrap()])
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(follower.stdout.take().unwrap()).lines();
    server.send_to("b@y.example");
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["status"], "accepted");
    assert_eq!(next()["status"], "delivered");
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(lines.next().is_none());
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[test]
fn a_certificate_lets_clients_encrypt_and_another_is_taken_over_by_sighup() {
    let sink = taking_sink();
    let home = Home::in_front_of(&sink);
    let make = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(home.path("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(home.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    };
    make();
    let tls = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    home.configure(&(route_to(&sink) + tls));
    let server = home.serve();
    let port = server.smtp_address().rsplit_once(':').unwrap().1;
    let send = || {
        let via = format!("smtp://localhost:{port}?tls=required");
        let ca = home.path("cert.pem");
        let run: support::Run = command(["send", "--via", &via, "--ca", ca.to_str().unwrap()])
            .args([
                "--from",
                "a@x.example",
                "--to",
                "b@y.example",
                "--text",
                "x",
            ])
            .output()
            .unwrap()
            .into();
        run
    };
    send().expect(0, "sent");
    make();
    send().expect(69, "securely");
    server.signal(Signal::HUP);
    wait_until("the file is taken over", || {
        home.log().contains("the configuration was reloaded")
    });
    send().expect(0, "sent");
    wait_for(&sink, 2);
}

#[test]
fn a_message_of_the_size_that_is_offered_is_taken_and_no_larger_one() {
    let sink = taking_sink();
    let route = route_to(&sink);
    let home = Home::new(&format!("[limits]\nmessage_max = \"64 KiB\"\n{route}"));
    let server = home.serve();
    for (octets, code) in [(64 << 10, "250 "), ((64 << 10) + 1, "552 ")] {
        let mut dialogue = Dialogue::open(server.smtp_address());
        for line in ["EHLO x", "MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>"] {
            assert!(dialogue.say(line).starts_with("250 "));
        }
        assert!(dialogue.say("DATA").starts_with("354 "));
        let mut content = "Subject: hi\r\n\r\n".to_owned();
        while content.len() + 66 < octets {
            content += &format!("{}\r\n", "x".repeat(62));
        }
        content += &format!("{}\r\n", "x".repeat(octets - content.len() - 2));
        assert_eq!(content.len(), octets);
        let reply = dialogue.say(&format!("{content}."));
        assert!(reply.starts_with(code), "{octets}: {reply}");
    }
    wait_for(&sink, 1);
}
