//! Other settings while mail waits.

use engine::config::{Policy, Tenant};
use flow::backoff::Backoff;
use flow::rate::RateLimit;
use flow::retry::ErrorClass;

use super::*;

fn one_an_hour() -> Option<RateLimit> {
    "1/h".parse().ok()
}

/// With this setting one of three messages leaves, and without it the others do, at once.
async fn check(slow: impl Fn(&mut Route, &mut Policy)) {
    let bench = Bench::new(&[]).await;
    let usual = bench.config();
    let mut config = bench.config();
    slow(&mut config.routes[0], &mut config.policy);
    let engine = Engine::open(config).await.unwrap();
    let mut ids = Vec::new();
    for to in ["a@example.net", "b@example.net", "c@example.net"] {
        ids.push(engine.accept(submission(&[to])).await.unwrap().id);
    }
    assert_eq!(terminal(&engine, ids[0]).await, [Status::Delivered]);
    assert_eq!(bench.delivered_to().len(), 1);
    engine.reload(usual.routes, usual.policy).unwrap();
    for id in &ids[1..] {
        assert_eq!(terminal(&engine, *id).await, [Status::Delivered]);
    }
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rate_of_a_route_holds_for_what_waits_already() {
    check(|route, _| route.rate = one_an_hour()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rate_of_a_tenant_holds_for_what_waits_already() {
    check(|_, policy| {
        let mut tenant = Tenant::default();
        tenant.sending.rate = one_an_hour();
        policy.tenants.insert("default".into(), tenant);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rate_of_the_whole_engine_holds_for_what_waits_already() {
    check(|_, policy| policy.schedule.rate = one_an_hour()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_retry_curve_holds_from_the_next_failure_on() {
    let bench =
        Bench::new(&["at = 'rcpt', reply = '451 4.3.0 later', address = 'a@example.net'"]).await;
    let engine = bench.engine().await;
    let mut policy = (*engine.policy()).clone();
    let soon = Backoff::new(Duration::from_millis(10), Duration::from_millis(10));
    policy.schedule.retry = policy
        .schedule
        .retry
        .with_backoff(ErrorClass::Transient, soon);
    engine.reload(bench.config().routes, policy).unwrap();
    let id = engine
        .accept(submission(&["a@example.net"]))
        .await
        .unwrap()
        .id;
    let of_id = store::Query {
        message: Some(id),
        status: Some(Status::Deferred),
        ..store::Query::default()
    };
    while engine.events(&of_id).unwrap().events.len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.drain(Duration::from_secs(5)).await;
}
