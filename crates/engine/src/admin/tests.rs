//! What is asked of one message looks at no other.

use std::time::Duration;

use client::Relay;
use smtp::{Content, Envelope};

use crate::route::{Route, Via};
use crate::{Config, Engine, Options, Submission};

use super::*;

/// An engine that nothing leaves: all that is accepted is for later.
async fn engine(folder: &std::path::Path) -> Engine {
    let host: smtp::Domain = "mail.example.org".parse().unwrap();
    let mut config = Config::new(folder, host.clone());
    config.shards = 2;
    let route = |name: &str| {
        let relay = Relay::plaintext("127.0.0.1:1".parse().unwrap());
        let mut route = Route::new(name, Via::Smarthosts(vec![relay]), host.clone());
        route.domains = vec![name.parse().unwrap()];
        route
    };
    config.routes = vec![route("a.example"), route("b.example"), route("c.example")];
    Engine::open(config).await.unwrap()
}

async fn accept(engine: &Engine, to: &[&str]) -> MessageId {
    let address = |to: &&str| to.parse::<smtp::Address>().unwrap().into();
    let from: smtp::Address = "app@example.org".parse().unwrap();
    let envelope = Envelope::new(from, to.iter().map(address).collect()).unwrap();
    let submission = Submission {
        tenant: "shop".into(),
        envelope: Arc::new(envelope),
        content: Content::new("\r\nhi\r\n").unwrap(),
        options: Options {
            send_at: Some(engine.now() + Duration::from_secs(3600)),
            ..Options::default()
        },
    };
    engine.accept(submission).await.unwrap().id
}

fn only(id: MessageId) -> Filter {
    Filter {
        message: Some(id),
        ..Filter::default()
    }
}

/// Jobs that were looked at to find others.
fn searched(engine: &Engine) -> u64 {
    let shards = engine.core.shards.iter();
    shards.map(|shard| shard.schedule().totals().searched).sum()
}

fn waiting(engine: &Engine) -> usize {
    let shards = engine.core.shards.iter();
    shards.map(|shard| shard.schedule().len()).sum()
}

const MANY: [&str; 5] = [
    "1@a.example",
    "2@b.example",
    "3@a.example",
    "4@c.example",
    "5@b.example",
];

#[tokio::test(flavor = "multi_thread")]
async fn canceling_one_message_takes_all_of_its_jobs_and_looks_at_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    for _ in 0..50 {
        accept(&engine, &["x@a.example"]).await;
    }
    let many = accept(&engine, &MANY).await;
    let one = accept(&engine, &["x@b.example"]).await;
    assert_eq!(waiting(&engine), 54);
    assert_eq!(engine.cancel(&only(many)).await, Ok(5));
    assert_eq!(engine.cancel(&only(many)).await, Ok(0));
    assert_eq!(waiting(&engine), 51);
    assert_eq!(engine.cancel(&only(one)).await, Ok(1));
    assert_eq!(waiting(&engine), 50);
    assert_eq!(searched(&engine), 0);
    let statuses = engine.status(many).unwrap().recipients;
    let mut statuses = statuses.iter().map(|one| one.status);
    assert!(statuses.all(|status| status == Status::Canceled));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_is_moved_and_hastened_without_a_look_at_others() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    for site in ["a.example", "b.example", "c.example"] {
        accept(&engine, &[&format!("x@{site}")]).await;
        let site = Filter {
            site: Some(site.into()),
            ..Filter::default()
        };
        engine.suspend(&site).await.unwrap();
    }
    let many = accept(&engine, &MANY).await;
    let send_at = engine.now() + Duration::from_secs(1800);
    assert_eq!(engine.reschedule(many, send_at).await, Ok(Some(())));
    let view = engine.status(many).unwrap();
    assert!(view.recipients.iter().all(|it| it.due_at == Some(send_at)));
    assert_eq!(engine.retry(&only(many)).await, Ok(5));
    assert_eq!(engine.retry(&only(many)).await, Ok(0));
    assert_eq!(searched(&engine), 0);
    let lines = engine.queue(&only(many));
    let ready: Vec<_> = lines.iter().map(|line| (&*line.site, line.ready)).collect();
    assert_eq!(
        ready,
        [("a.example", 1), ("b.example", 1), ("c.example", 1)]
    );
    assert!(lines.iter().all(|line| line.waiting == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_a_filter_says_holds_beside_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path()).await;
    let id = accept(&engine, &MANY).await;
    let others = [
        Filter {
            tenant: Some("other".into()),
            ..only(id)
        },
        Filter {
            domain: Some("d.example".into()),
            ..only(id)
        },
        Filter {
            tag: Some(("k".into(), "v".into())),
            ..only(id)
        },
        Filter {
            site: Some("nowhere".into()),
            ..only(id)
        },
    ];
    for filter in others {
        assert_eq!(engine.cancel(&filter).await, Ok(0), "{filter:?}");
    }
    let at_a = Filter {
        site: Some("a.example".into()),
        tenant: Some("shop".into()),
        ..only(id)
    };
    assert_eq!(engine.cancel(&at_a).await, Ok(2));
    assert_eq!(engine.cancel(&only(id)).await, Ok(3));
}
