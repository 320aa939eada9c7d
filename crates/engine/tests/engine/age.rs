//! Nothing waits beyond its age limit, wherever it waits.

use engine::route::UnknownPolicy;
use flow::backoff::Backoff;
use flow::retry::ErrorClass;
use sink::{Action, Stage};

use super::*;

fn with_age(max_age_ms: u64) -> Submission {
    let mut submission = submission(&["a@example.net"]);
    submission.options.max_age = Some(Duration::from_millis(max_age_ms));
    submission
}

/// Waits for the notice, and gives whom it went to.
async fn told(bench: &Bench) -> Vec<String> {
    loop {
        let records = bench.sink.records();
        if let Some(notice) = records.iter().find(|record| record.from.is_empty()) {
            return notice.to.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Loses the reply to the first message.
async fn that_loses_a_reply() -> (Bench, Config) {
    let builder = Sink::builder().keep_records();
    let rule = Rule::new(Stage::Final, Action::LoseReply).times(1);
    let bench = Bench::with(builder.rule(rule), &[]).await;
    let mut config = bench.config();
    config.routes[0].unknown = UnknownPolicy::Hold;
    (bench, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_a_decision_expires_and_its_sender_is_told() {
    let (bench, config) = that_loses_a_reply().await;
    let engine = Engine::open(config).await.unwrap();
    let id = engine.accept(with_age(1000)).await.unwrap().id;
    settled(&engine, id, |status| status == Status::Held).await;
    assert_eq!(terminal(&engine, id).await, [Status::Expired]);
    assert_eq!(told(&bench).await, ["app@example.org"]);
    let view = engine.status(id).unwrap();
    let said = &view.recipients[0].outcome.as_ref().unwrap().said.text;
    assert!(
        said.contains("not known whether it was delivered"),
        "{said}"
    );
    assert_eq!(engine.stats().held, 0);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_before_a_restart_expires_after_it() {
    let (bench, config) = that_loses_a_reply().await;
    let engine = Engine::open(config).await.unwrap();
    let id = engine.accept(with_age(1000)).await.unwrap().id;
    settled(&engine, id, |status| status == Status::Held).await;
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);
    let engine = bench.engine().await;
    assert_eq!(terminal(&engine, id).await, [Status::Expired]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_connection_expires() {
    let bench = Bench::new(&[]).await;
    // Connects, and is never greeted.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = bench.config();
    let relay = Relay::plaintext(silent.local_addr().unwrap());
    config.routes[0].via = Via::Smarthosts(vec![relay]);
    config.policy.notices = false;
    let engine = Engine::open(config).await.unwrap();
    let id = engine.accept(with_age(1000)).await.unwrap().id;
    assert_eq!(terminal(&engine, id).await, [Status::Expired]);
    engine.drain(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_beyond_its_age_and_failed_for_now_is_tried_again_after_a_restart() {
    let bench = Bench::new(&["at = 'rcpt', reply = '450 4.2.0 later', times = 1"]).await;
    let config = || {
        let mut config = bench.config();
        let soon = Backoff::new(Duration::from_millis(2200), Duration::from_secs(3));
        let retry = config.policy.schedule.retry;
        config.policy.schedule.retry =
            retry.with_backoff(ErrorClass::Transient, soon.with_jitter(0.0));
        config
    };
    let engine = Engine::open(config()).await.unwrap();
    let now = engine.now();
    let mut submission = with_age(2500);
    submission.options.send_at = Some(now + Duration::from_secs(1));
    let id = engine.accept(submission).await.unwrap().id;
    let moved_to = now + Duration::from_millis(1500);
    assert_eq!(engine.reschedule(id, moved_to).await, Ok(Some(())));
    settled(&engine, id, |status| status == Status::Deferred).await;
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);
    let engine = Engine::open(config()).await.unwrap();
    assert_eq!(terminal(&engine, id).await, [Status::Delivered]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_no_longer_be_read_expires_all_the_same() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.cache_bytes_max = 0;
    let engine = Engine::open(config).await.unwrap();
    engine.suspend(&relay()).await.unwrap();
    let mut message = with_age(1);
    message.content = Content::from_text(b"Subject: hi\n\nlost for ever\n").unwrap();
    message.options.send_at = Some(engine.now() + Duration::from_secs(3600));
    let id = engine.accept(message).await.unwrap().id;
    let (path, at) = find_in_journal(bench.folder.path(), b"lost for ever");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"LOST FOR EVER", at).unwrap();
    let moved = engine.reschedule(id, engine.now()).await;
    assert_eq!(moved, Ok(Some(())));

    let end = end_of(&engine, id).await;
    assert_eq!(
        (end.status, &*end.address),
        (Status::Expired, "a@example.net")
    );
    let said = &end.outcome.unwrap().said.text;
    assert!(said.contains("cannot be read"), "{said}");
    assert_eq!(engine.stats().recipients, 0);
    engine.drain(Duration::from_secs(5)).await;
}

/// The event that ended a message for its only recipient, by history alone.
async fn end_of(engine: &Engine, id: MessageId) -> Event {
    let mut follower = engine.follow();
    loop {
        let query = store::Query {
            message: Some(id),
            ..store::Query::default()
        };
        let newest = engine.events(&query).unwrap().events.into_iter().next();
        if let Some(end) = newest.filter(|event| event.status.is_terminal()) {
            return end;
        }
        // Woken by the next event; history may take a moment longer.
        let next = tokio::time::timeout(Duration::from_millis(50), follower.next());
        let _: Result<Result<Option<engine::views::Followed>, _>, _> = next.await;
    }
}
