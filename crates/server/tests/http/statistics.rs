//! How much happened when, and who may know.

use serde_json::{Value, json};
use server::auth::Scopes;
use server::http::Config;

use crate::mail::email;
use crate::server::Server;

/// One message of `lab` and two of `shop`, delivered; the keys of both.
async fn delivered() -> (Server, String, String) {
    let server = Server::start(Config::default()).await;
    let both = Scopes::SEND.and(Scopes::READ);
    let (shop, lab) = (server.key("shop", both), server.key("lab", both));
    for key in [&shop, &shop, &lab] {
        let id = server.send(key, &email("ann@example.net")).await;
        server.delivered(key, &id).await;
    }
    (server, shop, lab)
}

/// The lines without their times, summed by name and status.
fn sums(answer: &Value, name: &str) -> Vec<(String, u64, u64)> {
    let mut sums: Vec<(String, u64, u64)> = Vec::new();
    for line in answer["data"].as_array().unwrap() {
        let name = line[name].as_str().unwrap_or_default();
        let count = |status: &str| line["counts"][status].as_u64().unwrap();
        let (accepted, delivered) = (count("accepted"), count("delivered"));
        match sums.iter_mut().find(|it| it.0 == name) {
            Some(sum) => (sum.1, sum.2) = (sum.1 + accepted, sum.2 + delivered),
            None => sums.push((name.to_owned(), accepted, delivered)),
        }
    }
    sums.sort();
    sums
}

fn sum(name: &str, accepted: u64, delivered: u64) -> (String, u64, u64) {
    (name.to_owned(), accepted, delivered)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_the_minutes_of_all_and_of_each_tenant_and_site() {
    let (server, _, _) = delivered().await;
    let operator = server.key("ops", Scopes::ADMIN);
    for (query, name, want) in [
        ("", "", vec![sum("", 3, 3)]),
        ("?step=1d&from=24h", "", vec![sum("", 3, 3)]),
        ("?to=1h", "", vec![]),
        (
            "?by=tenant",
            "tenant",
            vec![sum("lab", 1, 1), sum("shop", 2, 2)],
        ),
        ("?tenant=shop&step=1h", "tenant", vec![sum("shop", 2, 2)]),
        // Nothing is accepted at a site.
        ("?by=site", "site", vec![sum("relay", 0, 3)]),
        ("?site=relay", "site", vec![sum("relay", 0, 3)]),
        ("?site=none", "site", vec![]),
        ("?tenant=ops", "tenant", vec![]),
    ] {
        let answer = server
            .get(&format!("/statistics{query}"), &operator)
            .await
            .json();
        assert_eq!(sums(&answer, name), want, "{query}: {answer}");
        assert_eq!(answer["is_complete"], true, "{query}: {answer}");
    }
    let all = server.get("/statistics?step=1d", &operator).await.json();
    let line = &all["data"][0];
    assert!(
        line["attempts"].as_u64() > Some(0) && line["delivery_us"].as_u64() > Some(0),
        "{all}"
    );
    assert!(line["times_us"]["final"].is_u64(), "{all}");
    let at = line["at"].as_str().unwrap();
    assert!(at.ends_with("T00:00:00.000Z"), "{at}");
    for (query, field) in [
        ("by=colour", "by"),
        ("from=soon", "from"),
        ("step=90s", "step"),
        ("step=0s", "step"),
        ("step=1mo", "step"),
        ("tenant=nobody", "tenant"),
        ("tenant=shop&site=relay", "site"),
        ("tenant=shop&by=site", "site"),
    ] {
        let answer = server.get(&format!("/statistics?{query}"), &operator).await;
        assert_eq!(
            (answer.status, &answer.json()["field"]),
            (422, &json!(field)),
            "{query}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_the_minutes_of_its_tenant_and_of_nobody_else() {
    let (server, shop, lab) = delivered().await;
    for (key, query, want) in [
        (&shop, "", sum("shop", 2, 2)),
        (&shop, "?by=tenant", sum("shop", 2, 2)),
        (&shop, "?tenant=shop", sum("shop", 2, 2)),
        (&lab, "", sum("lab", 1, 1)),
    ] {
        let answer = server.get(&format!("/statistics{query}"), key).await.json();
        assert_eq!(sums(&answer, "tenant"), [want], "{query}: {answer}");
        let line = answer["data"][0].as_object().unwrap();
        let names: Vec<&str> = line.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["at", "counts", "tenant"],
            "nothing of others: {answer}"
        );
    }
    for (query, field) in [
        ("tenant=lab", "tenant"),
        ("site=relay", "site"),
        ("by=site", "by"),
    ] {
        let answer = server.get(&format!("/statistics?{query}"), &shop).await;
        assert_eq!(
            (answer.status, &answer.json()["field"]),
            (401, &json!(field)),
            "{query}"
        );
    }
    let writer = server.key("shop", Scopes::SEND);
    assert_eq!(server.get("/statistics", &writer).await.status, 401);
    server.stop().await;
}
