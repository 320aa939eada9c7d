//! A whole engine in front of a sink: what is accepted comes out, and every outcome is told.

mod age;
mod failed;
mod notices;
mod once;
mod rate;
mod reload;

use std::sync::Arc;
use std::time::Duration;

use client::Relay;
use engine::route::{Route, Via};
use engine::{Config, Engine, Options, Submission};
use sink::{Rule, Sink};
use smtp::{Content, Envelope};
use store::{Event, MessageId, Status};

struct Bench {
    sink: Sink,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new(rules: &[&str]) -> Self {
        Self::with(Sink::builder().keep_records(), rules).await
    }

    async fn with(mut builder: sink::Builder, rules: &[&str]) -> Self {
        for rule in rules {
            builder = builder.rule(rule.parse::<Rule>().expect("a rule"));
        }
        Self {
            sink: builder.start().await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self) -> Config {
        let host: smtp::Domain = "mail.example.org".parse().unwrap();
        let relay = Relay::plaintext(self.sink.addr());
        let mut config = Config::new(self.folder.path(), host.clone());
        config.routes = vec![Route::new("relay", Via::Smarthosts(vec![relay]), host)];
        config
    }

    async fn engine(&self) -> Engine {
        Engine::open(self.config()).await.unwrap()
    }

    fn delivered_to(&self) -> Vec<String> {
        let records = self.sink.records();
        let mut to: Vec<String> = records.into_iter().flat_map(|record| record.to).collect();
        to.sort();
        to
    }
}

fn submission(to: &[&str]) -> Submission {
    let recipients = to
        .iter()
        .map(|to| to.parse::<smtp::Address>().unwrap().into());
    let from: smtp::Address = "app@example.org".parse().unwrap();
    Submission {
        tenant: "default".into(),
        envelope: Arc::new(Envelope::new(from, recipients.collect()).unwrap()),
        content: Content::from_text(b"From: app@example.org\nSubject: hi\n\nhello\n").unwrap(),
        options: Options::default(),
    }
}

/// The last event of each recipient, once all have one that `is_wanted`.
async fn settled(engine: &Engine, id: MessageId, is_wanted: fn(Status) -> bool) -> Vec<Status> {
    let mut follower = engine.follow();
    loop {
        let view = engine.status(id).expect("the message is known");
        let statuses: Vec<Status> = view.recipients.iter().map(|one| one.status).collect();
        if statuses.iter().all(|status| is_wanted(*status)) {
            return statuses;
        }
        // Woken by the next event; history may take a moment longer.
        let next = tokio::time::timeout(Duration::from_millis(50), follower.next());
        let _: Result<Result<Option<engine::views::Followed>, _>, _> = next.await;
    }
}

async fn terminal(engine: &Engine, id: MessageId) -> Vec<Status> {
    settled(engine, id, Status::is_terminal).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_is_delivered_and_the_timeline_says_so() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let accepted = engine.accept(submission(&["a@example.net"])).await.unwrap();
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Delivered]);
    assert_eq!(bench.delivered_to(), ["a@example.net"]);

    let query = store::Query {
        message: Some(accepted.id),
        order: store::history::Order::Oldest,
        ..store::Query::default()
    };
    let events: Vec<Event> = engine.events(&query).unwrap().events;
    let statuses: Vec<Status> = events.iter().map(|event| event.status).collect();
    assert_eq!(statuses, [Status::Accepted, Status::Delivered]);
    let outcome = events[1].outcome.as_ref().unwrap();
    assert_eq!((outcome.attempt, outcome.said.code), (1, 250));
    assert_eq!(*outcome.site, *"relay");
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_known_by_from_and_subject_even_from_the_journal_alone() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let mut message = submission(&["a@example.net", "b@example.net"]);
    message.options.subject = "Order 7".into();
    let id = engine.accept(message).await.unwrap().id;
    terminal(&engine, id).await;
    let view = engine.status(id).unwrap();
    assert!(view.message.is_none(), "it is settled");
    let heading = view.heading.clone().expect("history has it");
    assert_eq!(
        (&*heading.from, &*heading.subject),
        ("app@example.org", "Order 7")
    );
    let query = store::Query::default();
    let events = engine.events(&query).unwrap().events;
    engine.drain(Duration::from_secs(5)).await;

    std::fs::remove_dir_all(bench.folder.path().join("history")).unwrap();
    let engine = bench.engine().await;
    assert_eq!(terminal(&engine, id).await, [Status::Delivered; 2]);
    assert_eq!(engine.status(id).unwrap().heading, view.heading);
    assert_eq!(engine.events(&query).unwrap().events, events);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_several_recipients_are_kept_apart_in_one_transaction() {
    let rules = [
        "at = 'rcpt', reply = '550 5.1.1 no such user', address = 'nobody@example.net'",
        "at = 'rcpt', reply = '452 4.2.2 full', address = 'full@example.net'",
    ];
    let bench = Bench::new(&rules).await;
    let engine = bench.engine().await;
    let to = ["a@example.net", "nobody@example.net", "full@example.net"];
    let accepted = engine.accept(submission(&to)).await.unwrap();
    let is_tried = |status: Status| status != Status::Accepted;
    let statuses = settled(&engine, accepted.id, is_tried).await;
    assert_eq!(
        statuses,
        [Status::Delivered, Status::Bounced, Status::Deferred]
    );
    // The notice about the bounce may be there already.
    let records = bench.sink.records();
    let of_app = records
        .iter()
        .filter(|record| record.from == "app@example.org");
    assert_eq!(of_app.count(), 1);
    let view = engine.status(accepted.id).unwrap();
    assert!(view.recipients[2].due_at.unwrap() > engine.now());
    assert_eq!(view.recipients[1].outcome.as_ref().unwrap().said.code, 550);

    let suppressed = engine.suppressions("default");
    assert_eq!(&*suppressed[0].address, "nobody@example.net");
    let again = engine
        .accept(submission(&["nobody@example.net"]))
        .await
        .unwrap();
    assert_eq!(again.suppressed, ["nobody@example.net".parse().unwrap()]);
    assert_eq!(terminal(&engine, again.id).await, [Status::Suppressed]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_up_what_waits_and_sends_none_of_it_early() {
    let bench = Bench::new(&["at = 'rcpt', reply = '450 4.2.0 later'"]).await;
    let engine = bench.engine().await;
    let accepted = engine
        .accept(submission(&["later@example.net"]))
        .await
        .unwrap();
    settled(&engine, accepted.id, |status| status == Status::Deferred).await;
    let due_at = engine.status(accepted.id).unwrap().recipients[0].due_at;
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);

    let engine = bench.engine().await;
    let mut line = engine.queue(&engine::views::Filter::default());
    while line.is_empty() {
        tokio::task::yield_now().await;
        line = engine.queue(&engine::views::Filter::default());
    }
    assert_eq!((line[0].ready, line[0].waiting), (0, 1));
    let view = engine.status(accepted.id).unwrap();
    assert_eq!(view.recipients[0].due_at, due_at);
    assert_eq!(view.recipients[0].outcome.as_ref().unwrap().attempt, 1);
    assert_eq!(engine.stats().in_flight, 0);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_message_can_be_moved_and_canceled_until_it_leaves() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let mut later = submission(&["a@example.net"]);
    later.options.send_at = Some(engine.now() + Duration::from_secs(3600));
    let accepted = engine.accept(later).await.unwrap();
    let soon = engine.now() + Duration::from_secs(1800);
    assert_eq!(engine.reschedule(accepted.id, soon).await, Ok(Some(())));
    assert_eq!(
        engine.status(accepted.id).unwrap().recipients[0].due_at,
        Some(soon)
    );
    let filter = engine::views::Filter {
        message: Some(accepted.id),
        ..engine::views::Filter::default()
    };
    assert_eq!(engine.cancel(&filter).await, Ok(1));
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Canceled]);
    assert_eq!(engine.cancel(&filter).await, Ok(0));
    assert!(bench.delivered_to().is_empty());
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_beyond_its_age_is_sent_after_a_restart_all_the_same() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let mut later = submission(&["a@example.net"]);
    later.options.send_at = Some(engine.now() + Duration::from_secs(2));
    later.options.max_age = Some(Duration::from_millis(1));
    let accepted = engine.accept(later).await.unwrap();
    let moved_to = engine.now() + Duration::from_secs(4);
    assert_eq!(engine.reschedule(accepted.id, moved_to).await, Ok(Some(())));
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);

    let engine = bench.engine().await;
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Delivered]);
    assert!(engine.now() >= moved_to);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_how_it_is_while_it_refuses_is_answered() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.policy.limits.disk_free_bytes_min = u64::MAX;
    let engine = Engine::open(config).await.unwrap();
    let mut follower = engine.follow();
    loop {
        let asked = engine.clone();
        let asking = tokio::task::spawn_blocking(move || asked.health());
        let health = tokio::time::timeout(Duration::from_secs(10), asking).await;
        if health.expect("an answer").unwrap().refusing.is_some() {
            break;
        }
        // Nothing happens; it looks at the disk twice a second.
        let _ = tokio::time::timeout(Duration::from_millis(50), follower.next()).await;
    }
    engine.drain(Duration::from_secs(5)).await;
}

fn to(recipient: &str) -> engine::views::Filter {
    engine::views::Filter {
        recipient: Some(recipient.into()),
        ..engine::views::Filter::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_is_canceled_or_hastened_and_nobody_else_of_the_message() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let mut later = submission(&["a@example.net", "b@example.net", "c@example.com"]);
    later.options.send_at = Some(engine.now() + Duration::from_secs(3600));
    let accepted = engine.accept(later).await.unwrap();
    assert_eq!(engine.cancel(&to("a@example.net")).await, Ok(1));
    let c = engine::views::Filter {
        message: Some(accepted.id),
        domain: Some("example.com".into()),
        ..engine::views::Filter::default()
    };
    assert_eq!(engine.retry(&c).await, Ok(1));
    let is_settled = |statuses: &[Status]| statuses[2] == Status::Delivered;
    let mut follower = engine.follow();
    let statuses = loop {
        let view = engine.status(accepted.id).unwrap();
        let statuses: Vec<Status> = view.recipients.iter().map(|one| one.status).collect();
        if is_settled(&statuses) {
            break statuses;
        }
        let _ = tokio::time::timeout(Duration::from_millis(50), follower.next()).await;
    };
    let wanted = [Status::Canceled, Status::Accepted, Status::Delivered];
    assert_eq!(statuses, wanted);
    assert_eq!(bench.delivered_to(), ["c@example.com"]);
    assert_eq!(engine.cancel(&to("b@example.net")).await, Ok(1));
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_mail_is_shown_and_taken_back_by_its_own_tenant_alone() {
    let bench = Bench::new(&[r#"at = "final", do = "lose-reply""#]).await;
    let mut config = bench.config();
    config.routes[0].unknown = engine::route::UnknownPolicy::Hold;
    let engine = Engine::open(config).await.unwrap();
    let accepted = engine.accept(submission(&["a@example.net"])).await.unwrap();
    settled(&engine, accepted.id, |status| status == Status::Held).await;
    let lines = engine.queue(&engine::views::Filter::default());
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!((&*line.site, line.held, line.in_flight), ("relay", 1, 0));
    let others = engine::views::Filter {
        tenant: Some("other".into()),
        ..to("a@example.net")
    };
    assert_eq!(engine.cancel(&others).await, Ok(0));
    assert_eq!(engine.retry(&others).await, Ok(0));
    assert!(engine.queue(&others).is_empty());
    let all = engine::views::Filter::default();
    assert_eq!(engine.cancel(&all).await, Ok(1));
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Canceled]);
    assert_eq!(engine.stats().held, 0);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_release_and_take_back_held_mail_at_once_do_one_or_the_other_once() {
    let bench = Bench::new(&[r#"at = "final", do = "lose-reply", times = 40"#]).await;
    let mut config = bench.config();
    config.routes[0].unknown = engine::route::UnknownPolicy::Hold;
    let engine = Engine::open(config).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..40 {
        let to = format!("r{number}@example.net");
        let id = engine.accept(submission(&[&to])).await.unwrap().id;
        settled(&engine, id, |status| status == Status::Held).await;
        ids.push(id);
    }
    let all = engine::views::Filter::default;
    let asked = (0..6).map(|number| {
        let engine = engine.clone();
        tokio::spawn(async move {
            match number % 2 {
                0 => engine.retry(&all()).await.unwrap(),
                _ => engine.cancel(&all()).await.unwrap(),
            }
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut done = 0;
    for one in asked {
        done += one.await.unwrap();
    }
    let (mut delivered, mut canceled) = (0, 0);
    for id in ids {
        match terminal(&engine, id).await[..] {
            [Status::Delivered] => delivered += 1,
            [Status::Canceled] => canceled += 1,
            ref other => panic!("{other:?}"),
        }
    }
    let stats = engine.stats();
    assert_eq!(
        (stats.held, stats.delivered, stats.canceled),
        (0, delivered, canceled)
    );
    // What was released may be taken back before it goes.
    assert!((40..=40 + canceled).contains(&done), "{done} of {canceled}");
    // Each was there once when its reply was lost.
    assert_eq!(bench.delivered_to().len() as u64, 40 + delivered);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_site_waits_until_it_is_resumed() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let first = engine.accept(submission(&["a@example.net"])).await.unwrap();
    terminal(&engine, first.id).await;
    let site = engine::views::Filter {
        site: Some("relay".into()),
        ..engine::views::Filter::default()
    };
    engine.suspend(&site).await.unwrap();
    let second = engine.accept(submission(&["b@example.net"])).await.unwrap();
    assert_eq!(engine.site("relay").unwrap().binding, "suspended");
    assert_eq!(bench.delivered_to(), ["a@example.net"]);
    engine.resume(&site).await.unwrap();
    assert_eq!(terminal(&engine, second.id).await, [Status::Delivered]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_suppressed_while_mail_for_them_waits_gets_none_of_it() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    let mut later = submission(&["a@example.net", "b@example.net"]);
    later.options.send_at = Some(engine.now() + Duration::from_secs(3600));
    let accepted = engine.accept(later).await.unwrap();
    assert_eq!(accepted.suppressed, []);
    let address = "a@example.net".parse().unwrap();
    engine
        .suppress("default", &address, "asked us to")
        .await
        .unwrap();
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);

    let engine = bench.engine().await;
    let filter = engine::views::Filter {
        message: Some(accepted.id),
        ..engine::views::Filter::default()
    };
    while engine.retry(&filter).await == Ok(0) {
        tokio::task::yield_now().await;
    }
    let statuses = terminal(&engine, accepted.id).await;
    assert_eq!(statuses, [Status::Suppressed, Status::Delivered]);
    assert_eq!(bench.delivered_to(), ["b@example.net"]);
    engine.drain(Duration::from_secs(5)).await;
}

/// All mail for this site.
fn relay() -> engine::views::Filter {
    engine::views::Filter {
        site: Some("relay".into()),
        ..engine::views::Filter::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_of_a_site_survives_a_restart_also_where_it_has_had_no_mail() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    engine.suspend(&relay()).await.unwrap();
    engine.accept(submission(&["a@example.net"])).await.unwrap();
    assert_eq!(engine.site("relay").unwrap().binding, "suspended");
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);

    let engine = bench.engine().await;
    let accepted = engine.accept(submission(&["b@example.net"])).await.unwrap();
    assert_eq!(engine.site("relay").unwrap().binding, "suspended");
    assert!(bench.delivered_to().is_empty());
    engine.resume(&relay()).await.unwrap();
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Delivered]);
    engine.drain(Duration::from_secs(5)).await;
}

/// Where this stands in a file of the mail's journal.
fn find_in_journal(folder: &std::path::Path, text: &[u8]) -> (std::path::PathBuf, u64) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(text.len()).position(|it| it == text) {
                return (path, at as u64);
            }
        }
    }
    panic!("it is nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_now_is_tried_again_later() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.cache_bytes_max = 0;
    let engine = Engine::open(config).await.unwrap();
    let first = engine.accept(submission(&["a@example.net"])).await.unwrap();
    terminal(&engine, first.id).await;
    engine.suspend(&relay()).await.unwrap();
    let mut message = submission(&["b@example.net"]);
    message.content = Content::from_text(b"Subject: hi\n\nunreadable for now\n").unwrap();
    let second = engine.accept(message).await.unwrap();

    let (path, at) = find_in_journal(bench.folder.path(), b"unreadable for now");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let write = |text: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, text, at).unwrap();
    write(b"UNREADABLE");
    engine.resume(&relay()).await.unwrap();
    // The job is on its way, and comes back.
    while engine.stats().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    let lines = engine.queue(&engine::views::Filter::default());
    assert_eq!(
        lines
            .iter()
            .map(|line| line.waiting + line.ready)
            .sum::<u64>(),
        1
    );
    write(b"unreadable");
    engine.retry(&relay()).await.unwrap();
    assert_eq!(terminal(&engine, second.id).await, [Status::Delivered]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_taken_back_and_goes_on_waiting() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.cache_bytes_max = 0;
    let engine = Engine::open(config).await.unwrap();
    engine.suspend(&relay()).await.unwrap();
    let mut message = submission(&["a@example.net"]);
    message.content = Content::from_text(b"Subject: hi\n\nunreadable for now\n").unwrap();
    let id = engine.accept(message).await.unwrap().id;
    let (path, at) = find_in_journal(bench.folder.path(), b"unreadable for now");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let write = |text: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, text, at).unwrap();
    write(b"UNREADABLE");
    assert_eq!(engine.cancel(&relay()).await, Ok(0));
    write(b"unreadable");
    assert_eq!(engine.cancel(&relay()).await, Ok(1));
    assert_eq!(terminal(&engine, id).await, [Status::Canceled]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_setting_lets_in_more_recipients_than_a_message_can_have() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.policy.limits.recipients_max = usize::MAX;
    let engine = Engine::open(config).await.unwrap();
    let to: Vec<String> = (0..=32_767).map(|it| format!("r{it}@x.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let refused = engine.accept(submission(&to)).await.unwrap_err();
    let too_many = engine::AcceptError::TooManyRecipients {
        recipients: 32_768,
        recipients_max: 32_767,
    };
    assert_eq!(refused, too_many);
    engine.drain(Duration::from_secs(5)).await;
}
