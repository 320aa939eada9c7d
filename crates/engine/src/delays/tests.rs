//! Who is told of a delay, how often, and what.

use std::time::Duration;

use client::Relay;
use sink::Sink;
use smtp::{Content, Envelope, EnvelopeId, Notify, Recipient, ReversePath};
use store::Status;

use crate::route::{Route, Via};
use crate::views::Filter;
use crate::{Config, Engine, Follower, Options, Policy, Submission};

/// An engine in front of a sink that takes nothing for example.net, and tells of no delay.
async fn engine(folder: &std::path::Path, sink: &Sink) -> Engine {
    let host: smtp::Domain = "mail.example.org".parse().unwrap();
    let mut config = Config::new(folder, host.clone());
    config.policy = telling_after(Duration::ZERO);
    config.routes = vec![route(sink, host)];
    Engine::open(config).await.unwrap()
}

fn route(sink: &Sink, host: smtp::Domain) -> Route {
    let relay = Relay::plaintext(sink.addr());
    Route::new("relay", Via::Smarthosts(vec![relay]), host)
}

fn telling_after(delay: Duration) -> Policy {
    Policy {
        delay_notice: delay,
        ..Policy::default()
    }
}

async fn sink() -> Sink {
    let later = "at = 'rcpt', reply = '450 4.2.0 later', domain = 'example.net'";
    let builder = Sink::builder().keep_content().rule(later.parse().unwrap());
    builder.start().await.unwrap()
}

/// From now on so long a delay is told of, as often as that is looked for.
async fn look(engine: &Engine, sink: &Sink, delay: Duration) {
    let routes = vec![route(sink, engine.host().clone())];
    engine.reload(routes, telling_after(delay)).unwrap();
    while engine.health().recovering {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..3 {
        engine.core.tell_delays().await;
    }
}

const SOON: Duration = Duration::from_millis(1);

async fn accept(engine: &Engine, from: &str, to: &[(&str, Option<Notify>)]) {
    let recipients = to.iter().map(|(to, notify)| Recipient {
        notify: *notify,
        original: Some("ann@old.example".parse().unwrap()),
        ..Recipient::from(to.parse::<smtp::Address>().unwrap())
    });
    let from: ReversePath = from.parse().unwrap();
    let envelope = Envelope::new(from, recipients.collect()).unwrap();
    let envelope = envelope.with_id(EnvelopeId::new("order 17").unwrap());
    let submission = Submission {
        tenant: "default".into(),
        envelope: envelope.into(),
        content: Content::new("Subject: hi\r\n\r\nhello\r\n").unwrap(),
        options: Options::default(),
    };
    engine.accept(submission).await.unwrap();
}

/// Waits for so many events of a kind.
async fn wait(events: &mut Follower, status: Status, mut count: usize) {
    while count > 0 {
        let followed = events.next().await.unwrap().unwrap();
        count -= usize::from(followed.event.status == status);
    }
}

/// What was told to somebody.
fn told(sink: &Sink, whom: &str) -> String {
    let mut records = sink.records().into_iter();
    let record = records.find(|record| record.to == [whom]).unwrap();
    assert_eq!(record.from, "");
    String::from_utf8(record.content.unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_delay_is_told_once_to_who_did_not_ask_for_silence_and_never_again() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), sink().await);
    let engine_1 = engine(folder.path(), &sink).await;
    let mut events = engine_1.follow();
    let to = [
        ("ann@example.net", None),
        ("bob@example.net", Some(Notify::DELAY)),
        ("cat@example.net", Some(Notify::FAILURE)),
        ("dan@example.net", Some(Notify::NEVER)),
    ];
    accept(&engine_1, "app@example.org", &to).await;
    wait(&mut events, Status::Deferred, 4).await;
    look(&engine_1, &sink, Duration::from_secs(4 * 3600)).await;
    assert_eq!(engine_1.stats().notices, 0);
    look(&engine_1, &sink, SOON).await;
    assert_eq!(engine_1.stats().notices, 1);
    wait(&mut events, Status::Delivered, 1).await;
    let text = told(&sink, "app@example.org");
    for field in [
        "Original-Envelope-Id: order 17\r\n",
        "Original-Recipient: rfc822; ann@old.example\r\n",
        "Final-Recipient: rfc822; ann@example.net\r\n",
        "Final-Recipient: rfc822; bob@example.net\r\n",
        "Action: delayed\r\n",
        "Will-Retry-Until: ",
        "Last-Attempt-Date: ",
        "450 4.2.0 later",
        "Content-Type: text/rfc822-headers\r\n",
    ] {
        assert!(text.contains(field), "{field}{text}");
    }
    assert_eq!(text.matches("Final-Recipient:").count(), 2, "{text}");
    engine_1.drain(Duration::from_secs(5)).await;
    drop((engine_1, events));

    let engine_2 = engine(folder.path(), &sink).await;
    look(&engine_2, &sink, SOON).await;
    assert_eq!(engine_2.stats().notices, 0);
    engine_2.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_was_never_tried_is_delayed_too() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), sink().await);
    let engine = engine(folder.path(), &sink).await;
    let mut events = engine.follow();
    accept(&engine, "app@example.org", &[("first@example.net", None)]).await;
    wait(&mut events, Status::Deferred, 1).await;
    let site = Filter {
        site: Some("relay".into()),
        ..Filter::default()
    };
    engine.suspend(&site).await.unwrap();
    accept(&engine, "other@example.org", &[("ann@example.net", None)]).await;
    look(&engine, &sink, SOON).await;
    assert_eq!(engine.stats().notices, 2);
    engine.resume(&site).await.unwrap();
    wait(&mut events, Status::Delivered, 2).await;
    let text = told(&sink, "other@example.org");
    assert!(
        text.contains("Action: delayed\r\n") && text.contains("not been tried"),
        "{text}"
    );
    assert!(!text.contains("Last-Attempt-Date"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_under_the_null_reverse_path_or_without_a_delay() {
    let (folder, sink) = (tempfile::tempdir().unwrap(), sink().await);
    let engine = engine(folder.path(), &sink).await;
    let mut events = engine.follow();
    accept(&engine, "", &[("ann@example.net", Some(Notify::DELAY))]).await;
    accept(&engine, "app@example.org", &[("bob@example.net", None)]).await;
    wait(&mut events, Status::Deferred, 2).await;
    look(&engine, &sink, Duration::ZERO).await;
    assert_eq!(engine.stats().notices, 0);
    look(&engine, &sink, SOON).await;
    assert_eq!(engine.stats().notices, 1);
    wait(&mut events, Status::Delivered, 1).await;
    assert!(told(&sink, "app@example.org").contains("bob@example.net"));
}
