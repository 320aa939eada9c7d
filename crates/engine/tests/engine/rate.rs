//! What leaves, leaves at the rate.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_connection_leaves_at_the_rate_all_the_same() {
    let bench = Bench::new(&["at = 'greeting', delay = '1s'"]).await;
    let mut config = bench.config();
    config.routes[0].rate = "20/s".parse().ok();
    let engine = Engine::open(config).await.unwrap();
    let mut events = engine.follow();
    for number in 0..20 {
        let to = format!("r{number}@example.net");
        engine.accept(submission(&[&to])).await.unwrap();
    }
    let mut left = Vec::new();
    while left.len() < 20 {
        let event = events.next().await.unwrap().unwrap().event;
        left.extend((event.status == Status::Delivered).then_some(event.at));
    }
    // A fifth of a second has room for five; a busy machine may bring some of them together.
    let span = Duration::from_millis(200);
    for (index, from) in left.iter().enumerate() {
        let within = left[index..].iter().filter(|at| **at < *from + span);
        assert!(within.count() <= 7, "{left:?}");
    }
    engine.drain(Duration::from_secs(5)).await;
}
