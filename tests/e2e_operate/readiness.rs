//! `/readyz`: what makes it say no, and what only makes it warn.

use std::path::Path;
use std::sync::Arc;

use journal::{DirFiles, Journal};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use smtp::{Address, Content, Envelope};
use store::{Head, Message, Priority, Spool, SpoolOptions, Time};

use crate::get;
use crate::support::serving::{Dialogue, Home, Serving, route_to};
use crate::support::{start, wait_until};

fn readiness(server: &Serving<'_>) -> (u16, Value) {
    let (status, text) = get(server, "/readyz");
    (status, serde_json::from_str(&text).unwrap())
}

/// Mail in several sealed segments, as an earlier run may have left it.
fn leave_mail(folder: &Path) {
    let files = DirFiles::open(&folder.join("journal")).unwrap();
    let options = journal::Options {
        segment_bytes_max: 64 << 10,
        ..journal::Options::default()
    };
    let (journal, _) = Journal::open(Arc::new(files), options).unwrap();
    let (spool, mut recovery) = Spool::open(journal, SpoolOptions::default());
    assert!(recovery.next().is_none());
    let from: Address = "a@x.example".parse().unwrap();
    let now = Time::from_secs(1_800_000_000);
    for number in 0..20 {
        let to: Address = format!("b{number}@y.example").parse().unwrap();
        let content = format!("Subject: hi\n\n{}", "x\n".repeat(5000));
        let head = Head {
            id: spool.next_id(now),
            accepted_at: now,
            tenant: "default".into(),
            envelope: Arc::new(Envelope::single(from.clone(), to)),
            tags: [].into(),
            subject: "hi".into(),
            priority: Priority::Normal,
            due_at: now,
            expires_at: now * 2,
        };
        let content = Content::from_text(content.as_bytes()).unwrap();
        let message = Message::new(head, content);
        let (_, commit) = spool.append(message).unwrap();
        commit.wait().unwrap();
    }
}

#[test]
fn a_server_that_is_well_is_ready_without_a_warning() {
    let home = Home::new("[limits]\ncpu_max = \"100 %\"\ndisk_free_min = \"0 B\"\n");
    let server = home.serve();
    let well = (200, json!({ "ready": true, "warnings": [] }));
    // A sync may be slow while the machine is busy with something else.
    wait_until("it is well", || readiness(&server) == well);
}

#[test]
fn damage_in_the_journal_is_a_warning_for_mail_is_taken_all_the_same() {
    let sink = start(sink::Sink::builder().keep_records());
    let home = Home::in_front_of(&sink);
    leave_mail(&home.data_dir());
    let segment = home.data_dir().join("journal/0000000001.journal");
    let mut octets = std::fs::read(&segment).unwrap();
    octets[30_000] ^= 1;
    std::fs::write(&segment, octets).unwrap();

    let server = home.serve();
    let warning = json!("journal: 1 places cannot be read, see the log");
    wait_until("it warns", || {
        let (status, said) = readiness(&server);
        assert_eq!(status, 200, "{said}");
        said["warnings"].as_array().unwrap().contains(&warning)
    });
    assert_eq!(server.json(&["status"])["journal_damaged"], 1);
    assert!(
        get(&server, "/metrics")
            .1
            .contains("mailrail_journal_damaged_places 1.0\n")
    );
    assert!(home.log().contains("a record of the journal is damaged"));
    server.send_to("new@y.example");
    wait_until("new mail is delivered", || {
        let taken = crate::support::recipients(&sink);
        taken.contains(&"new@y.example".to_owned())
    });
}

#[test]
fn who_takes_no_mail_is_not_ready_and_says_why() {
    let sink = start(sink::Sink::builder());
    let home = Home::new(&format!(
        "{}[limits]\ndisk_free_min = \"1000 TiB\"\n",
        route_to(&sink)
    ));
    let server = home.serve();
    wait_until("the disk is found to be short", || {
        readiness(&server).0 == 503
    });
    let (_, said) = readiness(&server);
    assert_eq!(said["name"], "service_unavailable", "{said}");
    let message = said["message"].as_str().unwrap();
    assert!(message.contains("too busy (disk)"), "{said}");
    assert_eq!(get(&server, "/healthz").0, 200);
}

#[test]
fn who_has_no_descriptor_for_a_connection_says_so_and_takes_it_later() {
    let home = Home::new("");
    let server = home.serve();
    let set = |limit| prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();
    let before = set(Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Nofile)
    });
    std::thread::scope(|scope| {
        let smtp = scope.spawn(|| Dialogue::open(server.smtp_address()));
        let http = scope.spawn(|| get(&server, "/healthz").0);
        wait_until("both say so", || {
            let log = home.log();
            let edges = [r#""edge":"smtp""#, r#""edge":"http""#];
            log.contains("no connection can be taken") && edges.iter().all(|it| log.contains(it))
        });
        set(before);
        assert_eq!(http.join().unwrap(), 200);
        assert!(smtp.join().unwrap().say("NOOP").starts_with("250"));
    });
}

#[test]
fn memory_that_was_freed_is_given_back_and_mail_is_taken_again() {
    let limits =
        "[limits]\nmemory_max = \"96 MiB\"\ncpu_max = \"100 %\"\ndisk_free_min = \"0 B\"\n";
    let sink = start(sink::Sink::builder());
    let home = Home::new(&format!("{}{limits}", route_to(&sink)));
    let server = home.serve();
    // Many pieces of a size that an allocator likes to keep.
    let text = "x".repeat(40_000);
    let mail = json!({ "from": "a@x.example", "to": "b@y.example", "subject": "s", "text": text });
    let batch = Value::Array(vec![mail; 1000]).to_string();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let agent = ureq::Agent::config_builder().http_status_as_error(false);
                let request = agent.build().new_agent();
                let request = request.post(format!("{}/emails/batch", server.http()));
                let key = server.key().unwrap();
                let request = request.header("Authorization", format!("Bearer {key}"));
                request.send(&*batch).unwrap();
            });
        }
    });
    wait_until("mail is taken", || readiness(&server).0 == 200);
    let metrics = get(&server, "/metrics").1;
    let memory = metrics
        .lines()
        .find_map(|line| line.strip_prefix("mailrail_process_memory_bytes "));
    let memory: f64 = memory.unwrap().parse().unwrap();
    assert!(memory < f64::from(96 << 20), "{memory}");
}
