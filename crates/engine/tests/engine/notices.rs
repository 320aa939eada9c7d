//! Whom is told what of mail that was passed on, or waits.

use std::sync::Arc;

use engine::{Follower, Submission};
use sink::{Record, Sink};
use smtp::{Envelope, EnvelopeId, Notify, Recipient, Ret, ReversePath};
use store::Status;

use crate::{Bench, submission};

/// A message under this reverse-path to recipients with what they ask for.
fn asking(from: &str, to: &[(&str, Option<Notify>)]) -> Submission {
    let recipients = to.iter().map(|(to, notify)| Recipient {
        notify: *notify,
        original: Some("ann@old.example".parse().unwrap()),
        ..Recipient::from(to.parse::<smtp::Address>().unwrap())
    });
    let from: ReversePath = from.parse().unwrap();
    let envelope = Envelope::new(from, recipients.collect()).unwrap();
    let envelope = envelope
        .with_id(EnvelopeId::new("order 17").unwrap())
        .with_ret(Ret::Headers);
    Submission {
        envelope: Arc::new(envelope),
        ..submission(&["x@example.net"])
    }
}

/// Waits for so many deliveries, and gives what came under the null reverse-path.
async fn notices(bench: &Bench, events: &mut Follower, mut deliveries: usize) -> Vec<Record> {
    while deliveries > 0 {
        let followed = events.next().await.unwrap().unwrap();
        deliveries -= usize::from(followed.event.status == Status::Delivered);
    }
    let all = bench.sink.records().into_iter();
    all.filter(|record| record.from.is_empty()).collect()
}

fn text(notice: &Record) -> String {
    String::from_utf8(notice.content.as_ref().unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn success_at_a_server_without_dsn_is_told_as_relayed_to_who_asked() {
    let bench = Bench::with(Sink::builder().keep_content().no_dsn(), &[]).await;
    let engine = bench.engine().await;
    let mut events = engine.follow();
    let both = Notify::SUCCESS.and(Notify::FAILURE).ok();
    let to = [
        ("ann@example.net", both),
        ("bob@example.net", None),
        ("cat@example.net", Some(Notify::FAILURE)),
        ("dan@example.net", Some(Notify::NEVER)),
    ];
    let submission = asking("app@example.org", &to);
    engine.accept(submission).await.unwrap();
    let told = notices(&bench, &mut events, 5).await;
    assert_eq!(
        (told.len(), &*told[0].to),
        (1, &["app@example.org".to_owned()][..])
    );
    let text = text(&told[0]);
    for field in [
        "Original-Envelope-Id: order 17\r\n",
        "Original-Recipient: rfc822; ann@old.example\r\n",
        "Final-Recipient: rfc822; ann@example.net\r\n",
        "Action: relayed\r\n",
        "Content-Type: text/rfc822-headers\r\n",
    ] {
        assert!(text.contains(field), "{field}{text}");
    }
    assert_eq!(text.matches("Final-Recipient:").count(), 1, "{text}");
    assert_eq!(engine.stats().notices, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn success_at_a_server_that_offers_dsn_is_its_own_to_tell() {
    let bench = Bench::with(Sink::builder().keep_content(), &[]).await;
    let engine = bench.engine().await;
    let mut events = engine.follow();
    let to = [("ann@example.net", Some(Notify::SUCCESS))];
    let submission = asking("app@example.org", &to);
    engine.accept(submission).await.unwrap();
    assert_eq!(notices(&bench, &mut events, 1).await, []);
    assert_eq!(engine.stats().notices, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_success_under_the_null_reverse_path() {
    let bench = Bench::with(Sink::builder().keep_content().no_dsn(), &[]).await;
    let engine = bench.engine().await;
    let mut events = engine.follow();
    let to = [("ann@example.net", Some(Notify::SUCCESS))];
    engine.accept(asking("", &to)).await.unwrap();
    assert_eq!(notices(&bench, &mut events, 1).await.len(), 1);
    assert_eq!(engine.stats().notices, 0);
}
