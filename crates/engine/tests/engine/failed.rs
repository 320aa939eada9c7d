//! Mail that failed for good, and is taken up again.

use engine::views::Filter;

use super::*;

fn at(site: &str) -> Filter {
    Filter {
        site: Some(site.into()),
        ..Filter::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bounced_is_taken_up_again_as_often_as_is_said() {
    let rule = "at = 'rcpt', reply = '550 5.7.1 not today', times = 2, address = 'a@example.net'";
    let bench = Bench::new(&[rule]).await;
    let engine = bench.engine().await;
    let mut message = submission(&["a@example.net"]);
    message.envelope = Arc::new(Envelope::single(
        "app@example.org".parse::<smtp::Address>().unwrap(),
        "a@example.net".parse::<smtp::Address>().unwrap(),
    ));
    let accepted = engine.accept(message).await.unwrap();
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Bounced]);
    let first = Filter {
        message: Some(accepted.id),
        ..Filter::default()
    };
    let since = accepted.accepted_at;
    for expected in [1, 1] {
        let mut again = engine.retry_failed(&first, since, 3).await.unwrap();
        while again == 0 {
            tokio::task::yield_now().await;
            again = engine.retry_failed(&first, since, 3).await.unwrap();
        }
        assert_eq!(again, expected);
    }
    while !bench.delivered_to().contains(&"a@example.net".to_owned()) {
        tokio::task::yield_now().await;
    }
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_take_failed_mail_up_at_once_take_it_up_once() {
    let rule = "at = 'rcpt', reply = '550 5.7.1 not today'";
    let bench = Bench::new(&[rule]).await;
    let mut config = bench.config();
    config.policy.notices = false;
    let engine = Engine::open(config).await.unwrap();
    let since = engine.now();
    for number in 0..50 {
        let to = format!("r{number}@example.net");
        let accepted = engine.accept(submission(&[&to])).await.unwrap();
        assert_eq!(terminal(&engine, accepted.id).await, [Status::Bounced]);
    }
    engine.suspend(&at("relay")).await.unwrap();
    let all = || {
        let engine = engine.clone();
        let filter = Filter::default();
        tokio::spawn(async move { engine.retry_failed(&filter, since, 3).await.unwrap() })
    };
    let (one, other) = tokio::join!(all(), all());
    assert_eq!(one.unwrap() + other.unwrap(), 50);
    engine.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_takes_up_the_failed_recipients_that_it_means_and_no_others() {
    let bench = Bench::new(&["at = 'rcpt', reply = '550 5.7.1 not today'"]).await;
    let mut config = bench.config();
    config.policy.notices = false;
    let mut other = config.routes[0].clone();
    other.name = "other".into();
    other.domains = vec!["example.com".parse().unwrap()];
    config.routes.insert(0, other);
    let engine = Engine::open(config).await.unwrap();
    let since = engine.now();
    let to = ["a@example.net", "b@example.net", "c@example.com"];
    let accepted = engine.accept(submission(&to)).await.unwrap();
    assert_eq!(terminal(&engine, accepted.id).await, [Status::Bounced; 3]);
    for site in ["relay", "other"] {
        engine.suspend(&at(site)).await.unwrap();
    }
    let to = Filter {
        recipient: Some("b@example.net".into()),
        ..Filter::default()
    };
    for (filter, recipients) in [
        (at("nowhere"), 0),
        (at("other"), 1),
        (at("other"), 0),
        (to.clone(), 1),
        (to, 0),
        (Filter::default(), 1),
        (Filter::default(), 0),
    ] {
        let taken_up = engine.retry_failed(&filter, since, 3).await;
        assert_eq!(taken_up, Ok(recipients), "{filter:?}");
    }
    engine.drain(Duration::from_secs(5)).await;
}
