//! The pool against the scripted server: what it promises its callers, in every mode.
//!
//! Over 500 lines: each promise is a few lines against the same server.

#[path = "e2e_pool/one_message.rs"]
mod one_message;

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use client::{
    Cause, Concurrency, Failure, Kind, Pool, PoolBuilder, Relay, Report, Scope, Secret, Stage,
    Timeouts, TlsMode, Wire,
};
use flow::backoff::Backoff;
use flow::rate::{RateLimit, Unit};
use flow::retry::RetryPolicy;
use futures_util::future::join_all;
use sink::{Action, Builder, Rule, Sink};
use smtp::{Address, Content, Envelope, Recipient, Reply};

const WIRES: [Wire; 4] = [
    Wire::Lockstep,
    Wire::Pipelined,
    Wire::Overlapped,
    Wire::Windowed(4),
];

async fn start(builder: Builder) -> Sink {
    builder.keep_records().start().await.unwrap()
}

fn pool(sink: &Sink) -> PoolBuilder {
    Pool::builder(Relay::plaintext(sink.addr())).timeouts(Timeouts::all(Duration::from_secs(20)))
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients
        .iter()
        .map(|text| Recipient::from(address(text)))
        .collect();
    Envelope::new(address("me@example.org"), recipients).unwrap()
}

/// Message number `n`: each has its own id and its own recipient, and a line with a dot.
fn content(n: usize) -> Content {
    Content::from_text(format!("Message-ID: <{n}@example.org>\n\n.dot {n}\n").as_bytes()).unwrap()
}

async fn send(pool: &Pool, n: usize) -> Report {
    let to = format!("r{n}@example.net");
    pool.send(envelope(&[&to]), content(n)).await
}

async fn send_many(pool: &Pool, count: usize) -> Vec<Report> {
    join_all((0..count).map(|n| send(pool, n))).await
}

#[track_caller]
fn failure(report: &Report) -> Failure {
    report
        .first_failure()
        .unwrap_or_else(|| panic!("no failure in {report:?}"))
        .clone()
}

/// Every message 0..count came exactly once, to its own recipient.
#[track_caller]
fn assert_each_once(sink: &Sink, count: usize) {
    let records = sink.records();
    assert_eq!(records.len(), count, "messages taken");
    let ids: HashSet<_> = records
        .iter()
        .filter_map(|record| record.message_id.clone())
        .collect();
    assert_eq!(ids.len(), count, "different messages taken");
    for record in records {
        let n = record
            .message_id
            .unwrap()
            .split('@')
            .next()
            .unwrap()
            .to_owned();
        assert_eq!(record.to, [format!("r{n}@example.net")]);
    }
}

async fn in_every_mode<F: Future<Output = ()>>(test: impl Fn(Wire) -> F) {
    for wire in WIRES {
        test(wire).await;
    }
}

#[tokio::test]
async fn every_mode_delivers_each_message_once_under_its_own_envelope() {
    in_every_mode(|wire| async move {
        let sink = start(Sink::builder()).await;
        let pool = pool(&sink)
            .wire(wire)
            .concurrency(Concurrency::Fixed(3))
            .build()
            .unwrap();
        for report in send_many(&pool, 60).await {
            assert!(report.is_accepted(), "{wire:?}: {report:?}");
            assert_eq!(report.attempts, 1);
        }
        pool.close().await;
        assert_each_once(&sink, 60);
        assert_eq!(sink.shutdown().await.refused, 0);
    })
    .await;
}

#[tokio::test]
async fn the_cap_on_connections_holds_under_concurrent_callers() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink)
        .concurrency(Concurrency::Fixed(5))
        .messages_per_connection(7);
    let pool = pool.build().unwrap();
    send_many(&pool, 300).await;
    assert!(pool.stats().connections_open_max <= 5);
    pool.close().await;
    assert_each_once(&sink, 300);
    let report = sink.shutdown().await;
    assert!(report.messages_per_connection_max <= 7, "{report:?}");
    assert_eq!(report.connections_open, 0);
}

#[tokio::test]
async fn a_server_that_closes_after_some_messages_costs_nobody_anything() {
    in_every_mode(|wire| async move {
        let sink = start(Sink::builder().messages_per_connection_max(3)).await;
        let pool = pool(&sink)
            .wire(wire)
            .concurrency(Concurrency::Fixed(2))
            .build()
            .unwrap();
        for report in send_many(&pool, 40).await {
            assert!(report.is_accepted(), "{wire:?}: {report:?}");
        }
        pool.close().await;
        assert_each_once(&sink, 40);
    })
    .await;
}

#[tokio::test]
async fn one_bad_recipient_fails_neither_the_others_nor_the_connection() {
    in_every_mode(|wire| async move {
        let no = Reply::fixed(550, Some((5, 1, 1)), "no such user");
        let later = Reply::fixed(451, Some((4, 3, 0)), "later");
        let sink = start(
            Sink::builder()
                .rule(
                    Rule::new(sink::Stage::Rcpt, Action::Reply(no))
                        .address(address("bad@example.net")),
                )
                .rule(
                    Rule::new(sink::Stage::Rcpt, Action::Reply(later))
                        .address(address("slow@example.net")),
                ),
        )
        .await;
        let pool = pool(&sink)
            .wire(wire)
            .concurrency(Concurrency::Fixed(1))
            .build()
            .unwrap();
        let to = [
            "a@example.net",
            "bad@example.net",
            "b@example.net",
            "slow@example.net",
        ];
        let report = pool.send(envelope(&to), content(0)).await;
        let kinds: Vec<_> = report
            .results
            .iter()
            .map(|result| result.as_ref().err().map(|f| f.kind))
            .collect();
        assert_eq!(
            kinds,
            [None, Some(Kind::Permanent), None, Some(Kind::Transient)]
        );
        let bad = report.results[1].as_ref().unwrap_err();
        assert_eq!((bad.stage, bad.scope), (Stage::Rcpt, Scope::Recipient));
        assert_eq!(
            bad.reply().unwrap().enhanced().unwrap().to_string(),
            "5.1.1"
        );

        let all_bad = pool.send(envelope(&["bad@example.net"]), content(1)).await;
        assert_eq!(failure(&all_bad).code().unwrap().get(), 550);
        let next = Envelope::single(address("other@example.org"), address("c@example.net"));
        assert!(pool.send(next, content(2)).await.is_accepted());
        pool.close().await;
        let records = sink.records();
        assert_eq!(records[0].to, ["a@example.net", "b@example.net"]);
        assert_eq!(
            (records[1].from.as_str(), &records[1].to[..]),
            ("other@example.org", &["c@example.net".to_owned()][..])
        );
        assert_eq!(sink.shutdown().await.connections, 1, "{wire:?}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_dies_before_any_reply_is_replaced_without_the_caller_knowing() {
    for wire in [Wire::Lockstep, Wire::Pipelined, Wire::Overlapped] {
        let drop = Rule::new(sink::Stage::Mail, Action::Drop).times(2);
        let sink = start(Sink::builder().rule(drop)).await;
        let pool = pool(&sink)
            .wire(wire)
            .concurrency(Concurrency::Fixed(1))
            .build()
            .unwrap();
        for report in send_many(&pool, 5).await {
            assert!(report.is_accepted(), "{wire:?}: {report:?}");
            assert_eq!(report.attempts, 1);
        }
        assert_eq!(pool.stats().stale_retries, 2);
        pool.close().await;
        assert_each_once(&sink, 5);
    }
}

#[tokio::test]
async fn a_lost_final_reply_is_unknown_and_is_not_sent_again() {
    in_every_mode(|wire| async move {
        let lose = Rule::new(sink::Stage::Final, Action::LoseReply).times(1);
        let sink = start(Sink::builder().rule(lose)).await;
        let pool = pool(&sink)
            .wire(wire)
            .retry(RetryPolicy::default())
            .build()
            .unwrap();
        let lost = failure(&send(&pool, 0).await);
        assert_eq!(
            (lost.kind, lost.stage),
            (Kind::Unknown, Stage::Final),
            "{wire:?}"
        );
        assert!(send(&pool, 1).await.is_accepted());
        pool.close().await;
        assert_each_once(&sink, 2);
    })
    .await;
}

fn quick_retries(attempts_max: u32) -> RetryPolicy {
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(2));
    RetryPolicy::new(attempts_max, backoff)
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_and_only_for_those_recipients() {
    let later = Reply::fixed(451, Some((4, 3, 0)), "later");
    let rule = Rule::new(sink::Stage::Rcpt, Action::Reply(later))
        .address(address("slow@example.net"))
        .times(2);
    let sink = start(Sink::builder().rule(rule)).await;
    let pool = pool(&sink).retry(quick_retries(3)).build().unwrap();
    let report = pool
        .send(envelope(&["a@example.net", "slow@example.net"]), content(0))
        .await;
    assert!(report.is_accepted(), "{report:?}");
    assert_eq!(report.attempts, 3);
    let to: Vec<_> = sink.records().into_iter().map(|record| record.to).collect();
    assert_eq!(to, [["a@example.net"], ["slow@example.net"]]);
}

#[tokio::test]
async fn retries_end_and_permanent_failures_have_none() {
    for (code, attempts) in [(451, 3), (554, 1)] {
        let no = Reply::fixed(code, None, "no");
        let sink =
            start(Sink::builder().rule(Rule::new(sink::Stage::Final, Action::Reply(no)))).await;
        let pool = pool(&sink).retry(quick_retries(3)).build().unwrap();
        let report = send(&pool, 0).await;
        assert_eq!(report.attempts, attempts);
        let failure = failure(&report);
        assert_eq!(
            (failure.stage, failure.scope, failure.code().unwrap().get()),
            (Stage::Final, Scope::Message, code)
        );
    }
}

#[tokio::test]
async fn waiters_give_up_at_their_deadline() {
    let slow = Rule::new(sink::Stage::Final, Action::Continue)
        .delay(Duration::from_millis(1500))
        .times(1);
    let sink = start(Sink::builder().rule(slow)).await;
    let pool = pool(&sink)
        .wire(Wire::Lockstep)
        .concurrency(Concurrency::Fixed(1))
        .wait_max(Duration::from_millis(300))
        .build()
        .unwrap();
    pool.check().await.unwrap();
    let (first, second) = tokio::join!(send(&pool, 0), send(&pool, 1));
    assert!(
        first.is_accepted(),
        "on the wire there is no such deadline: {first:?}"
    );
    assert!(
        matches!(failure(&second).cause, Cause::Deadline),
        "{second:?}"
    );
    pool.close().await;
    assert_eq!(sink.records().len(), 1);
}

#[tokio::test]
async fn dropped_futures_never_corrupt_a_connection() {
    in_every_mode(|wire| async move {
        let sink = start(Sink::builder()).await;
        let pool = pool(&sink)
            .wire(wire)
            .concurrency(Concurrency::Fixed(2))
            .build()
            .unwrap();
        let mut kept = Vec::new();
        for n in 0..120 {
            let mut sending = Box::pin({
                let pool = pool.clone();
                async move { send(&pool, n).await }
            });
            let polls = n % 4;
            let mut done = None;
            for _ in 0..polls {
                let poll =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx)));
                if let std::task::Poll::Ready(report) = poll.await {
                    done = Some(report);
                    break;
                }
                tokio::task::yield_now().await;
            }
            match done {
                Some(report) => assert!(report.is_accepted()),
                None if polls % 2 == 1 => kept.push(sending),
                None => drop(sending),
            }
        }
        for report in join_all(kept).await {
            assert!(report.is_accepted(), "{wire:?}: {report:?}");
        }
        pool.close().await;
        let records = sink.records();
        let ids: HashSet<_> = records.iter().map(|record| &record.message_id).collect();
        assert_eq!(ids.len(), records.len(), "nothing twice");
        for record in &records {
            let n = record
                .message_id
                .as_ref()
                .unwrap()
                .split('@')
                .next()
                .unwrap();
            assert_eq!(record.to, [format!("r{n}@example.net")]);
        }
        assert!(records.len() >= 60, "{}", records.len());
    })
    .await;
}

#[tokio::test]
async fn a_rate_is_shared_and_never_exceeded() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink).rate("200/s".parse().unwrap()).build().unwrap();
    let start = std::time::Instant::now();
    for report in send_many(&pool, 41).await {
        assert!(report.is_accepted());
    }
    // 41 messages are 40 intervals of 5 ms; two may go at once where a timer was late.
    assert!(
        start.elapsed() >= Duration::from_millis(195),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn more_recipients_than_a_transaction_takes_are_split() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink).build().unwrap();
    let to: Vec<_> = (0..250).map(|n| format!("r{n}@example.net")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let report = pool.send(envelope(&to), content(0)).await;
    assert_eq!(report.results.len(), 250);
    assert!(report.is_accepted());
    pool.close().await;
    let taken: HashSet<_> = sink
        .records()
        .into_iter()
        .flat_map(|record| record.to)
        .collect();
    assert_eq!(taken.len(), 250);
}

#[tokio::test]
async fn warm_up_opens_min_idle_connections_before_any_message() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink).min_idle(3).build().unwrap();
    pool.warm_up();
    pool.check().await.unwrap();
    while pool.stats().connections_opened < 3 {
        tokio::task::yield_now().await;
    }
    let report = send(&pool, 0).await;
    assert!(report.is_accepted() && report.timings.reused);
    assert_eq!(pool.stats().connections_open_max, 3);
}

#[tokio::test]
async fn idle_connections_expire() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink)
        .idle_max(Duration::from_millis(20))
        .build()
        .unwrap();
    assert!(send(&pool, 0).await.is_accepted());
    while pool.stats().connections_open > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!send(&pool, 1).await.timings.reused);
}

/// A port that nobody listens on.
async fn dead_relay() -> Relay {
    let sink = Sink::builder().start().await.unwrap();
    let relay = Relay::plaintext(sink.addr());
    sink.shutdown().await;
    relay
}

#[tokio::test]
async fn an_unreachable_relay_is_told_by_check_and_by_send() {
    let pool = Pool::builder(dead_relay().await).build().unwrap();
    let failure_of_check = pool.check().await.unwrap_err();
    let failure_of_send = failure(&send(&pool, 0).await);
    for failure in [failure_of_check, failure_of_send] {
        assert_eq!(
            (failure.stage, failure.scope, failure.kind),
            (Stage::Connect, Scope::Endpoint, Kind::Transient)
        );
        assert!(failure.endpoint.is_some());
    }
}

#[tokio::test]
async fn of_many_relays_a_dead_one_harms_nobody() {
    let sink = start(Sink::builder()).await;
    let other = start(Sink::builder()).await;
    let pool = Pool::builder(dead_relay().await)
        .relay(Relay::plaintext(sink.addr()))
        .relay(Relay::plaintext(other.addr()))
        .concurrency(Concurrency::Fixed(6))
        .messages_per_connection(3)
        .build()
        .unwrap();
    for report in send_many(&pool, 60).await {
        assert!(report.is_accepted(), "{report:?}");
    }
    pool.close().await;
    let (here, there) = (sink.records().len(), other.records().len());
    assert!(
        here > 0 && there > 0 && here + there == 60,
        "{here} and {there}"
    );
}

#[tokio::test]
async fn close_lets_the_wire_finish_and_refuses_the_rest() {
    let slow = Rule::new(sink::Stage::Final, Action::Continue)
        .delay(Duration::from_millis(50))
        .times(1);
    let sink = start(Sink::builder().rule(slow)).await;
    let pool = pool(&sink)
        .wire(Wire::Lockstep)
        .concurrency(Concurrency::Fixed(1))
        .build()
        .unwrap();
    pool.check().await.unwrap();
    let (first, second, ()) = tokio::join!(send(&pool, 0), send(&pool, 1), async {
        while pool.stats().waiting != 1 {
            tokio::task::yield_now().await;
        }
        pool.close().await;
    });
    assert!(first.is_accepted(), "{first:?}");
    assert!(matches!(failure(&second).cause, Cause::PoolClosed));
    assert!(matches!(
        failure(&send(&pool, 2).await).cause,
        Cause::PoolClosed
    ));
    assert_eq!(sink.shutdown().await.connections_open, 0);
}

#[tokio::test]
async fn automatic_concurrency_delivers_everything_within_its_cap() {
    let sink = start(Sink::builder()).await;
    let pool = pool(&sink)
        .concurrency(Concurrency::Auto { max: 8 })
        .build()
        .unwrap();
    for report in send_many(&pool, 500).await {
        assert!(report.is_accepted(), "{report:?}");
    }
    let stats = pool.stats();
    assert!(
        stats.connections_open_max <= 8 && (1..=8).contains(&stats.concurrency),
        "{stats:?}"
    );
    pool.close().await;
    assert_each_once(&sink, 500);
}

async fn tls_sink(mode: sink::TlsMode) -> (Sink, PoolBuilder) {
    let identity = sink::Identity::self_signed(&["127.0.0.1"]).unwrap();
    let roots = vec![identity.authority().clone()];
    let sink = start(
        Sink::builder()
            .tls(mode)
            .identity(identity)
            .user("me", "secret"),
    )
    .await;
    let mut relay = Relay::plaintext(sink.addr());
    relay.tls = match mode {
        sink::TlsMode::Implicit => TlsMode::Implicit,
        _ => TlsMode::Required,
    };
    relay.user = Some("me".into());
    relay.password = Some(Secret::new("secret"));
    (
        sink,
        Pool::builder(relay)
            .roots(roots)
            .timeouts(Timeouts::all(Duration::from_secs(20))),
    )
}

#[tokio::test]
async fn tls_is_verified_resumed_and_carries_auth() {
    for mode in [sink::TlsMode::StartTls, sink::TlsMode::Implicit] {
        let (sink, builder) = tls_sink(mode).await;
        let pool = builder
            .concurrency(Concurrency::Fixed(1))
            .messages_per_connection(1)
            .build()
            .unwrap();
        let mut resumed = Vec::new();
        for n in 0..4 {
            let report = send(&pool, n).await;
            assert!(report.is_accepted(), "{mode:?}: {report:?}");
            resumed.push(report.timings.tls_resumed);
        }
        assert_eq!(resumed, [Some(false), Some(true), Some(true), Some(true)]);
        pool.close().await;
        for record in sink.records() {
            assert!(record.tls && record.user.as_deref() == Some("me"));
        }
    }
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused_for_good() {
    let (sink, _) = tls_sink(sink::TlsMode::StartTls).await;
    let stranger = sink::Identity::self_signed(&["127.0.0.1"]).unwrap();
    let mut relay = Relay::plaintext(sink.addr());
    relay.tls = TlsMode::Required;
    let pool = Pool::builder(relay)
        .roots(vec![stranger.authority().clone()])
        .build()
        .unwrap();
    let failure = failure(&send(&pool, 0).await);
    assert_eq!(
        (failure.stage, failure.kind),
        (Stage::Tls, Kind::Permanent),
        "{failure}"
    );
    assert!(sink.records().is_empty());
}

#[tokio::test]
async fn a_wrong_password_fails_the_account() {
    let (sink, _) = tls_sink(sink::TlsMode::Implicit).await;
    let roots = vec![sink.identity().unwrap().authority().clone()];
    let mut relay = Relay::plaintext(sink.addr());
    relay.tls = TlsMode::Implicit;
    relay.user = Some("me".into());
    relay.password = Some(Secret::new("wrong"));
    let pool = Pool::builder(relay).roots(roots).build().unwrap();
    let failure = pool.check().await.unwrap_err();
    assert_eq!(
        (failure.stage, failure.scope, failure.kind),
        (Stage::Auth, Scope::Account, Kind::Permanent)
    );
}

#[tokio::test]
async fn a_password_goes_over_plaintext_only_where_that_is_allowed_by_name() {
    let sink = start(Sink::builder().user("me", "secret")).await;
    let mut relay = Relay::plaintext(sink.addr());
    relay.user = Some("me".into());
    relay.password = Some(Secret::new("secret"));
    let pool = Pool::builder(relay.clone()).build().unwrap();
    let failure = failure(&send(&pool, 0).await);
    assert_eq!(
        (failure.stage, failure.scope),
        (Stage::Auth, Scope::Account),
        "{failure}"
    );
    let pool = Pool::builder(relay).allow_plaintext_auth().build().unwrap();
    assert!(send(&pool, 1).await.is_accepted());
}

#[tokio::test]
async fn opportunistic_tls_encrypts_where_it_can_and_goes_on_where_it_cannot() {
    for (mode, encrypted) in [
        (sink::TlsMode::StartTls, true),
        (sink::TlsMode::None, false),
    ] {
        let sink = start(Sink::builder().tls(mode)).await;
        let mut relay = Relay::plaintext(sink.addr());
        relay.tls = TlsMode::Opportunistic;
        let pool = Pool::builder(relay).build().unwrap();
        assert!(send(&pool, 0).await.is_accepted());
        assert_eq!(sink.records()[0].tls, encrypted);
    }
}

#[tokio::test]
async fn a_421_for_rate_is_told_after_the_second_connection_and_does_not_close_them_all() {
    let fast = RateLimit::new(100_000, Unit::Second).unwrap();
    let refusal = Reply::fixed(421, Some((4, 7, 0)), "Too many messages");
    let link = Duration::from_millis(10);
    let sink = start(Sink::builder().rtt(link).rate(fast, refusal)).await;
    let pool = pool(&sink)
        .wire(Wire::Lockstep)
        .concurrency(Concurrency::Fixed(2))
        .build()
        .unwrap();
    // Ten on one connection, then one on each.
    for n in 0..10 {
        assert!(send(&pool, n).await.is_accepted());
    }
    assert!(send_many(&pool, 2).await.iter().all(Report::is_accepted));
    sink.set_rate(RateLimit::new(1, Unit::Day).unwrap());
    while send(&pool, 12).await.is_accepted() {}
    assert_eq!(sink.report().refused, 2);
}
