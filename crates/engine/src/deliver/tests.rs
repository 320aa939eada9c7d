//! Attempts against scripted servers.

use client::TlsMode;
use flow::retry::ErrorClass;
use sink::{Action, Builder, Rule, Sink};
use smtp::{Address, Domain, Recipient, Reply};
use store::Said;

use super::*;
use crate::dispose::Disposition;
use crate::route::zone::Zone;
use crate::route::{Own, Resolver, ResolverOptions, Route, Routes, UnknownPolicy};

fn host() -> Domain {
    "us.example.org".parse().unwrap()
}

fn relay(sink: &Sink) -> Relay {
    Relay::plaintext(sink.addr())
}

fn smarthosts(relays: Vec<Relay>) -> Route {
    Route {
        timeouts: client::Timeouts::all(Duration::from_secs(20)).into(),
        ..Route::new("smart", Via::Smarthosts(relays), host())
    }
}

fn resolver(route: Route, zone: Arc<Zone>) -> Resolver {
    let options = ResolverOptions {
        ttl_min: Duration::ZERO,
        ..ResolverOptions::default()
    };
    Resolver::new(
        Routes::new(vec![route]).unwrap(),
        zone,
        Own::default(),
        options,
    )
}

async fn resolved(route: Route) -> Arc<Resolved> {
    let zone = Arc::new(Zone::new(Duration::ZERO, ""));
    resolver(route, zone)
        .resolve("example.net", "t")
        .await
        .unwrap()
}

fn deliverer() -> Deliverer {
    Deliverer::new(TlsContext::new(Vec::new()).unwrap(), None, 0)
}

fn envelope(recipients: &[&str]) -> Arc<Envelope> {
    let recipient = |text: &&str| Recipient::from(text.parse::<Address>().unwrap());
    let recipients = recipients.iter().map(recipient).collect();
    Arc::new(Envelope::new("me@example.org".parse::<Address>().unwrap(), recipients).unwrap())
}

fn content() -> Content {
    Content::from_text(b"Subject: hello\n\nHello.\n").unwrap()
}

async fn deliver(deliverer: &Deliverer, resolved: &Arc<Resolved>, recipients: &[&str]) -> Delivery {
    let source = resolved.route.source(1);
    let sent = deliverer.deliver(resolved, source, outgoing(recipients), content());
    sent.await
}

fn outgoing(recipients: &[&str]) -> Outgoing {
    Outgoing {
        envelope: envelope(recipients),
        content: content(),
        wait_max: WAIT_MAX,
    }
}

fn dispositions(delivery: &Delivery) -> Vec<Disposition> {
    delivery
        .attempts
        .iter()
        .map(|attempt| attempt.verdict.disposition)
        .collect()
}

async fn start(builder: Builder) -> Sink {
    builder.keep_records().start().await.unwrap()
}

fn refuse(at: sink::Stage, code: u16, status: (u8, u16, u16), text: &str) -> Rule {
    Rule::new(at, Action::Reply(Reply::fixed(code, Some(status), text)))
}

#[tokio::test]
async fn each_recipient_has_an_outcome_of_its_own() {
    let refused = refuse(sink::Stage::Rcpt, 550, (5, 1, 1), "no such user");
    let later = refuse(sink::Stage::Rcpt, 450, (4, 2, 0), "greylisted");
    let sink = start(
        Sink::builder()
            .rule(refused.address("gone@example.net".parse().unwrap()))
            .rule(later.address("new@example.net".parse().unwrap())),
    )
    .await;
    let deliverer = deliverer();
    let resolved = resolved(smarthosts(vec![relay(&sink)])).await;
    let recipients = [
        "gone@example.net",
        "a@example.net",
        "new@example.net",
        "b@example.org",
    ];
    let delivery = deliver(&deliverer, &resolved, &recipients).await;
    assert_eq!(
        dispositions(&delivery),
        [
            Disposition::Bounced,
            Disposition::Delivered,
            Disposition::Deferred(ErrorClass::Greylisted),
            Disposition::Delivered,
        ]
    );
    assert!(matches!(delivery.feedback, Feedback::Delivered { .. }));
    let records = sink.records();
    assert_eq!(records.len(), 1, "one transaction for all");
    assert_eq!(records[0].to, ["a@example.net", "b@example.org"]);
    let first = &delivery.attempts[0].outcome;
    let said = Said {
        code: 550,
        enhanced: smtp::EnhancedStatus::new(5, 1, 1),
        text: "no such user".into(),
    };
    assert_eq!((&first.said, &*first.stage), (&said, "rcpt"));
    let second = &delivery.attempts[1].outcome;
    assert_eq!((&*second.site, second.class), ("smart", 0xff));
    assert_eq!(*second.host, sink.addr().to_string());
    assert!(second.times.0.iter().any(|stage| *stage > 0));
}

#[tokio::test]
async fn a_smarthost_that_is_down_is_passed_over() {
    let dead = start(Sink::builder()).await;
    let dead_relay = relay(&dead);
    dead.shutdown().await;
    let sink = start(Sink::builder()).await;
    let deliverer = deliverer();
    let alive = resolved(smarthosts(vec![dead_relay.clone(), relay(&sink)])).await;
    for _ in 0..4 {
        let delivery = deliver(&deliverer, &alive, &["a@example.net"]).await;
        assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
    }
    assert_eq!(sink.records().len(), 4);
    let none = resolved(smarthosts(vec![dead_relay])).await;
    let delivery = deliver(&deliverer, &none, &["a@example.net"]).await;
    assert_eq!(
        dispositions(&delivery),
        [Disposition::Deferred(ErrorClass::Connect)]
    );
    assert_eq!(delivery.feedback, Feedback::ConnectFailed);
}

/// Two sinks at one port of two loopback addresses, so that both can be MX hosts of one route.
async fn two_sinks() -> (Sink, Sink, u16) {
    loop {
        let first = start(Sink::builder()).await;
        let port = first.addr().port();
        let second = Sink::builder()
            .listen(([127, 0, 0, 2], port).into())
            .keep_records();
        if let Ok(second) = second.start().await {
            return (first, second, port);
        }
    }
}

fn mx_route(port: u16) -> Route {
    Route {
        allow_loopback: true,
        port,
        tls: TlsMode::None,
        ..Route::new("mx", Via::Mx, host())
    }
}

#[tokio::test]
async fn the_preferred_host_is_taken_and_the_next_where_it_is_down() {
    let (first, second, port) = two_sinks().await;
    let zone = "
        example.net MX 20 mx2.example.net
        example.net MX 10 mx1.example.net
        mx1.example.net A 127.0.0.1
        mx2.example.net A 127.0.0.2";
    let resolver = resolver(mx_route(port), Arc::new(Zone::new(Duration::ZERO, zone)));
    let deliverer = deliverer();
    for _ in 0..5 {
        let resolved = resolver.resolve("example.net", "t").await.unwrap();
        let delivery = deliver(&deliverer, &resolved, &["a@example.net"]).await;
        assert_eq!(
            *delivery.attempts[0].outcome.host,
            format!("mx1.example.net:{port}")
        );
    }
    assert_eq!((first.records().len(), second.records().len()), (5, 0));
    first.shutdown().await;
    let resolved = resolver.resolve("example.net", "t").await.unwrap();
    let delivery = deliver(&deliverer, &resolved, &["a@example.net"]).await;
    assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
    assert_eq!(second.records().len(), 1);
    assert_eq!(deliverer.views().len(), 1, "one pool for all");
}

#[tokio::test]
async fn a_host_that_moves_is_found_where_it_is_now() {
    let (first, second, port) = two_sinks().await;
    let zone = Arc::new(Zone::new(Duration::ZERO, "example.net A 127.0.0.1"));
    let resolver = resolver(mx_route(port), Arc::clone(&zone));
    let deliverer = deliverer();
    let before = resolver.resolve("example.net", "t").await.unwrap();
    deliver(&deliverer, &before, &["a@example.net"]).await;
    first.shutdown().await;
    zone.set("example.net A 127.0.0.2");
    // Times are compared to the millisecond.
    let after = loop {
        let after = resolver.resolve("example.net", "t").await.unwrap();
        if after.found_at > before.found_at + Duration::from_millis(2) {
            break after;
        }
    };
    let delivery = deliver(&deliverer, &after, &["a@example.net"]).await;
    assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
    assert_eq!(second.records().len(), 1);
}

#[tokio::test]
async fn a_hosts_next_address_is_tried_where_one_refuses() {
    let (first, second, port) = two_sinks().await;
    first.shutdown().await;
    let zone = "
        example.net A 127.0.0.1
        example.net A 127.0.0.2";
    let resolver = resolver(mx_route(port), Arc::new(Zone::new(Duration::ZERO, zone)));
    let resolved = resolver.resolve("example.net", "t").await.unwrap();
    let delivery = deliver(&deliverer(), &resolved, &["a@example.net"]).await;
    assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
    assert_eq!(second.records().len(), 1);
}

#[tokio::test]
async fn connections_of_a_site_are_capped() {
    let sink = start(Sink::builder().rtt(Duration::from_millis(5))).await;
    let mut route = smarthosts(vec![relay(&sink)]);
    route.connections_max = 2;
    let (deliverer, resolved) = (deliverer(), resolved(route).await);
    let many = (0..40).map(|_| deliver(&deliverer, &resolved, &["a@example.net"]));
    let deliveries = join_all(many).await;
    let is_delivered = |delivery: &Delivery| dispositions(delivery) == [Disposition::Delivered];
    assert!(deliveries.iter().all(is_delivered));
    assert_eq!(sink.report().connections, 2);
}

#[tokio::test]
async fn pools_of_one_site_share_its_connections() {
    let sink = start(Sink::builder().rtt(Duration::from_millis(1))).await;
    let zone = "
        a.example MX 10 mx1.example.net
        a.example MX 20 mx2.example.net
        b.example MX 20 mx1.example.net
        b.example MX 10 mx2.example.net
        mx1.example.net A 127.0.0.1
        mx2.example.net A 127.0.0.1";
    let mut route = mx_route(sink.addr().port());
    route.connections_max = 1;
    let resolver = resolver(route, Arc::new(Zone::new(Duration::ZERO, zone)));
    let a = resolver.resolve("a.example", "t").await.unwrap();
    let b = resolver.resolve("b.example", "t").await.unwrap();
    assert_eq!(a.site, b.site);
    let deliverer = deliverer();
    for resolved in [&a, &b, &a, &b] {
        let delivery = deliver(&deliverer, resolved, &["someone@example.net"]).await;
        assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
        let pools = deliverer.views();
        let open = pools.iter().map(|pool| pool.stats.connections_open);
        assert_eq!(open.sum::<usize>(), 1, "{pools:?}");
    }
    let many = (0..40).map(|number| {
        let resolved = if number % 2 == 0 { &a } else { &b };
        deliver(&deliverer, resolved, &["someone@example.net"])
    });
    let deliveries = join_all(many).await;
    let is_delivered = |delivery: &Delivery| dispositions(delivery) == [Disposition::Delivered];
    assert!(deliveries.iter().all(is_delivered));
    assert_eq!(sink.report().messages_per_connection_max, 21, "a turn each");
}

#[tokio::test]
async fn one_connection_too_many_costs_no_attempt() {
    let sink = start(Sink::builder().connections_max(0)).await;
    let resolved = resolved(smarthosts(vec![relay(&sink)])).await;
    let delivery = deliver(&deliverer(), &resolved, &["a@example.net"]).await;
    assert_eq!(
        dispositions(&delivery),
        [Disposition::PutBack(ErrorClass::Throttled)]
    );
    assert_eq!(delivery.feedback, Feedback::ConnectionRefused);
}

#[tokio::test]
async fn a_lost_reply_is_held_or_retried_as_the_route_says() {
    for (unknown, want) in [
        (UnknownPolicy::Hold, Disposition::Held),
        (
            UnknownPolicy::Retry,
            Disposition::Deferred(ErrorClass::Transient),
        ),
    ] {
        let sink =
            start(Sink::builder().rule(Rule::new(sink::Stage::Final, Action::LoseReply))).await;
        let route = Route {
            unknown,
            ..smarthosts(vec![relay(&sink)])
        };
        let resolved = resolved(route).await;
        let delivery = deliver(&deliverer(), &resolved, &["a@example.net"]).await;
        assert_eq!(dispositions(&delivery), [want]);
        assert_eq!(
            delivery.attempts[0].outcome.class,
            ErrorClass::Unknown as u8
        );
    }
}

#[tokio::test]
async fn tls_that_is_required_and_not_offered_is_said_plainly() {
    let sink = start(Sink::builder()).await;
    let required = Relay {
        tls: TlsMode::Required,
        ..relay(&sink)
    };
    let resolved = resolved(smarthosts(vec![required])).await;
    let delivery = deliver(&deliverer(), &resolved, &["a@example.net"]).await;
    assert_eq!(
        dispositions(&delivery),
        [Disposition::Deferred(ErrorClass::Handshake)]
    );
    let said = &delivery.attempts[0].outcome.said;
    assert!(said.text.starts_with("TLS is required"), "{said:?}");
    assert_eq!(sink.records().len(), 0);
}

#[tokio::test]
async fn sources_have_connections_of_their_own_and_idle_pools_are_forgotten() {
    let sink = start(Sink::builder()).await;
    let named = |name: &str| {
        Arc::new(Source {
            name: name.into(),
            ..Source::any(format!("{name}.example.org").parse::<Domain>().unwrap())
        })
    };
    let route = Route {
        sources: vec![(named("a"), 1), (named("b"), 1)],
        ..smarthosts(vec![relay(&sink)])
    };
    let (deliverer, resolved) = (deliverer(), resolved(route).await);
    for (source, _) in &resolved.route.sources {
        let outgoing = outgoing(&["a@example.net"]);
        let sent = deliverer.deliver(&resolved, source, outgoing, content());
        let delivery = sent.await;
        assert_eq!(delivery.attempts[0].outcome.source, source.name);
    }
    let said: Vec<_> = sink
        .records()
        .into_iter()
        .map(|record| record.ehlo)
        .collect();
    assert_eq!(said, ["a.example.org", "b.example.org"]);
    deliverer.tidy(Duration::from_secs(60));
    assert_eq!(deliverer.views().len(), 2);
    deliverer.tidy(Duration::ZERO);
    assert_eq!(deliverer.views().len(), 0);
    let delivery = deliver(&deliverer, &resolved, &["a@example.net"]).await;
    assert_eq!(dispositions(&delivery), [Disposition::Delivered]);
    deliverer.close().await;
    assert!(deliverer.views().is_empty());
}
