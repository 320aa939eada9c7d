//! Requests that are made again under the same key.

use super::*;

/// The one thread that may block is taken until a task has run on the one that must not: so whoever
/// asks the disk on the latter is done before that.
#[test]
fn a_repeated_request_asks_the_disk_while_others_get_on() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let bench = Bench::new(&[]).await;
        let engine = bench.engine().await;
        let once = || engine.accept_once("key", [1; 32], submission(&["a@example.net"]));
        let first = once().await.unwrap();
        let (release, released) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || released.recv());
        let other = tokio::spawn(async move { release.send(()) });
        let again = once().await.unwrap();
        assert_eq!(again.id, first.id);
        assert!(other.is_finished());
        engine.drain(Duration::from_secs(5)).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_claim_twice_makes_one_message() {
    let bench = Bench::new(&[]).await;
    let engine = bench.engine().await;
    for is_repeated in [false, true] {
        let claim = engine.claim("default", "key", [1; 32], 1).await.unwrap();
        assert_eq!(claim.is_repeated, is_repeated);
        let twin = engine.claim("default", "key", [1; 32], 1).await;
        assert_eq!(twin.unwrap_err(), engine::ClaimError::InFlight);
        assert_eq!(claim.accepted[0].is_some(), is_repeated);
        if !is_repeated {
            let mut message = submission(&["a@example.net"]);
            message.options.id = Some(claim.ids[0]);
            engine.accept(message).await.unwrap();
        }
        assert_eq!(terminal(&engine, claim.ids[0]).await, [Status::Delivered]);
    }
    let other = engine.claim("default", "key", [2; 32], 1).await;
    assert_eq!(other.unwrap_err(), engine::ClaimError::OtherRequest);
    let longest = "😀".repeat(256);
    engine.claim("default", &longest, [1; 32], 1).await.unwrap();
    assert_eq!(bench.delivered_to(), ["a@example.net"]);
    engine.drain(Duration::from_secs(5)).await;
}

/// Whatever made history so short: its size, or its age in an engine that is embedded.
#[tokio::test(flavor = "multi_thread")]
async fn what_history_has_forgotten_is_not_sent_again_under_its_key() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.history.file_events = 1;
    config.history.block_events = 1;
    let engine = Engine::open(config).await.unwrap();
    let once = |engine: &Engine| {
        let engine = engine.clone();
        async move {
            engine
                .accept_once("key", [1; 32], submission(&["a@example.net"]))
                .await
        }
    };
    let first = once(&engine).await.unwrap();
    terminal(&engine, first.id).await;
    let later = engine.accept(submission(&["b@example.net"])).await.unwrap();
    terminal(&engine, later.id).await;
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);

    let short = store::HistoryOptions {
        bytes_max: Some(0),
        ..store::HistoryOptions::default()
    };
    let folder = bench.folder.path().join("history");
    let history = store::History::open(&folder, &short).unwrap();
    history.retain(store::Time::ZERO).unwrap();
    drop(history);

    let engine = bench.engine().await;
    assert!(engine.status(first.id).is_none() && engine.status(later.id).is_some());
    let again = once(&engine).await;
    assert_eq!(again, Err(engine::ClaimError::Forgotten));
    assert_eq!(bench.delivered_to(), ["a@example.net", "b@example.net"]);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_or_refused_takes_no_place_in_a_tenants_stock() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.policy.other_tenants.quota.stock_max = Some(2);
    let engine = Engine::open(config).await.unwrap();
    engine.suspend(&relay()).await.unwrap();

    let mut message = submission(&["a@example.net"]);
    let once = || engine.accept_once("key", [1; 32], submission(&["a@example.net"]));
    for _ in 0..4 {
        message.options.id = Some(once().await.unwrap().id);
    }
    engine
        .accept(message.clone())
        .await
        .expect_err("the id is in use");
    engine.accept(submission(&["b@example.net"])).await.unwrap();
    let third = engine.accept(submission(&["c@example.net"])).await;
    assert!(matches!(third, Err(engine::AcceptError::Quota { .. })));
    let again = once().await.expect("it was accepted before");
    assert_eq!(Some(again.id), message.options.id);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_under_which_nothing_was_accepted_is_forgotten() {
    let bench = Bench::new(&[]).await;
    let mut config = bench.config();
    config.policy.other_tenants.quota.daily_max = Some(1);
    let engine = Engine::open(config).await.unwrap();
    let once = async |key: &str, body| {
        let message = submission(&["a@example.net"]);
        engine.accept_once(key, [body; 32], message).await
    };
    let first = once("first", 1).await.unwrap();
    assert_eq!(once("first", 1).await.unwrap().id, first.id);
    let refused = once("second", 1).await.unwrap_err();
    let is_quota = |error| {
        matches!(
            error,
            engine::ClaimError::Accept(engine::AcceptError::Quota { .. })
        )
    };
    assert!(is_quota(refused));
    assert!(is_quota(once("second", 2).await.unwrap_err()));
    let other = once("first", 2).await.unwrap_err();
    assert_eq!(other, engine::ClaimError::OtherRequest);
    engine.drain(Duration::from_secs(5)).await;
}
