//! The operator's levers.

use serde_json::json;
use server::auth::Scopes;
use server::http::Config;
use store::Status;

use crate::mail::email;
use crate::server::{Answer, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_site_keeps_its_mail_until_it_is_let_go() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let operator = server.key("ops", Scopes::ADMIN);
    let first = server.send(&key, &email("first@example.net")).await;
    server.delivered(&key, &first).await;
    let sites = server.get("/sites", &operator).await.json();
    let site = "relay";
    let has_it = |sites: &[serde_json::Value]| sites.iter().any(|it| it["name"] == site);
    assert!(has_it(sites["data"].as_array().unwrap()), "{sites}");

    let which = json!({"site": site}).to_string();
    assert_eq!(
        server
            .post("/queue/suspend", &operator, &which)
            .await
            .status,
        200
    );
    let id = server.send(&key, &email("ann@example.net")).await;
    let view = server
        .get(&format!("/sites/{site}"), &operator)
        .await
        .json();
    assert_eq!(
        (&view["suspended"], &view["ready"]),
        (&json!(true), &json!(1)),
        "{view}"
    );
    let queue = server.get("/queue?state=suspended", &key).await.json();
    assert_eq!(queue["data"][0]["tenant"], "shop", "{queue}");
    assert_eq!(server.delivered_to(), ["first@example.net"]);

    assert_eq!(
        server.post("/queue/resume", &operator, &which).await.status,
        200
    );
    server.delivered(&key, &id).await;
    assert_eq!(server.get("/sites/none", &operator).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_sent_now_or_taken_back_by_filter_within_the_tenant() {
    let server = Server::start(Config::default()).await;
    let (shop, lab) = (
        server.key("shop", Scopes::SEND),
        server.key("lab", Scopes::SEND),
    );
    let mut later = email("ann@example.net");
    later["scheduled_at"] = json!("in 1 hour");
    later["tags"] = json!([{"name": "campaign", "value": "may"}]);
    let sent = server.send(&shop, &later).await;
    let gone = server
        .send(&shop, &{
            let mut other = later.clone();
            other["to"] = json!("bob@example.org");
            other
        })
        .await;
    for (lever, key, which, recipients) in [
        ("retry", &lab, json!({"domain": "example.net"}), 0),
        (
            "cancel",
            &shop,
            json!({"domain": "example.org", "tag": "campaign:may"}),
            1,
        ),
        (
            "cancel",
            &shop,
            json!({"recipient": "nobody@example.net"}),
            0,
        ),
        ("retry", &shop, json!({"email_id": sent}), 1),
    ] {
        let answer = server
            .post(&format!("/queue/{lever}"), key, &which.to_string())
            .await;
        assert_eq!(
            answer.json(),
            json!({"recipients": recipients}),
            "{lever} {which}"
        );
    }
    server.delivered(&shop, &sent).await;
    server
        .wait(&shop, &gone, |status| status == Status::Canceled)
        .await;
    for (which, status) in [
        (json!({}), 422),
        (json!({"tenant": "lab"}), 401),
        (json!({"email_id": "x"}), 422),
        (json!({"tag": ":"}), 422),
    ] {
        let answer = server
            .post("/queue/cancel", &shop, &which.to_string())
            .await;
        assert_eq!(answer.status, status, "{which}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppressed_recipient_is_answered_as_such() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let body = json!({"emails": ["ann@example.net", "bob@example.net"], "reason": "asked us to"});
    let answer = server.post("/suppressions", &key, &body.to_string()).await;
    assert_eq!(answer.json(), json!({"suppressed": 2}));
    let both = json!({"from": "shop@example.com", "to": ["ann@example.net", "cat@example.net"],
        "subject": "Hi", "text": "Hello."});
    let head = format!("POST /emails\nAuthorization: Bearer {key}\nIdempotency-Key: both");
    let first = server.ask(&head, &both.to_string()).await.json();
    assert_eq!(first["suppressed"], json!(["ann@example.net"]));
    server
        .wait(&key, first["id"].as_str().unwrap(), Status::is_terminal)
        .await;
    assert_eq!(server.ask(&head, &both.to_string()).await.json(), first);
    let batch = json!([email("cat@example.net"), email("bob@example.net")]);
    let answer = server.post("/emails/batch", &key, &batch.to_string()).await;
    let data = &answer.json()["data"];
    assert_eq!(
        (&data[0]["suppressed"], &data[1]["suppressed"]),
        (&json!(null), &json!(["bob@example.net"]))
    );
    let id = server.send(&key, &email("ann@example.net")).await;
    let view = server
        .wait(&key, &id, |status| status == Status::Suppressed)
        .await;
    assert_eq!(view["last_event"], "suppressed");

    let page = server.get("/suppressions?limit=1", &key).await.json();
    assert_eq!(
        (&page["data"][0]["email"], &page["has_more"]),
        (&json!("ann@example.net"), &json!(true))
    );
    assert_eq!(page["data"][0]["reason"], "asked us to");
    let rest = server
        .get("/suppressions?after=ann@example.net", &key)
        .await
        .json();
    assert_eq!(
        (rest["data"].as_array().map(Vec::len), &rest["has_more"]),
        (Some(1), &json!(false))
    );

    let remove = format!("DELETE /suppressions/ann%40example.net\nAuthorization: Bearer {key}");
    assert_eq!(
        server.ask(&remove, "").await.json(),
        json!({"deleted": true})
    );
    assert_eq!(server.ask(&remove, "").await.status, 404);
    let id = server.send(&key, &email("ann@example.net")).await;
    server.delivered(&key, &id).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_outlives_a_restart_and_ends_when_it_is_revoked() {
    let server = Server::start(Config::default()).await;
    let operator = server.key("ops", Scopes::ADMIN);
    let body = json!({"name": "ci", "tenant": "lab", "scopes": ["send", "read"]});
    let made = server.post("/keys", &operator, &body.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let token = made["token"].as_str().unwrap();
    let server = server.restarted().await;
    let operator = server.key("ops", Scopes::ADMIN);
    let list = server.get("/keys", &operator).await;
    assert!(!list.body.contains(&token[15..]), "{list:?}");
    let list = list.json();
    let is_it = |key: &&serde_json::Value| key["name"] == "ci";
    let key = list["data"].as_array().unwrap().iter().find(is_it).unwrap();
    assert_eq!(
        (&key["id"], &key["tenant"], &key["scopes"]),
        (&made["id"], &json!("lab"), &json!(["send", "read"]))
    );
    server.send(token, &email("ann@example.net")).await;
    let revoke = format!(
        "DELETE /keys/{}\nAuthorization: Bearer {operator}",
        made["id"].as_str().unwrap()
    );
    assert_eq!(server.ask(&revoke, "").await.status, 200);
    assert_eq!(server.ask(&revoke, "").await.status, 404);
    assert_eq!(server.post("/emails", token, "{}").await.status, 403);
    for wrong in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "a", "scopes": ["root"]}),
    ] {
        let answer = server.post("/keys", &operator, &wrong.to_string()).await;
        assert_eq!(answer.status, 422, "{wrong}");
    }
    let server = server.restarted().await;
    assert_eq!(server.post("/emails", token, "{}").await.status, 403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_says_how_it_is_and_counts_what_it_did() {
    let server = Server::start(Config::default()).await;
    let operator = server.key("ops", Scopes::ADMIN);
    let id = server.send(&operator, &email("ann@example.net")).await;
    server.delivered(&operator, &id).await;
    let status = server.get("/status", &operator).await.json();
    assert_eq!(status["refusing"], json!(null), "{status}");
    assert_eq!(status["counts"]["messages_accepted"], 1, "{status}");
    assert_eq!(status["counts"]["recipients_delivered"], 1, "{status}");
    assert_eq!(server.ask("GET /readyz", "").await.status, 200);
    let metrics = server.ask("GET /metrics", "").await.body;
    assert!(
        metrics.contains("mailrail_delivered_recipients_total 1\n"),
        "{metrics}"
    );
    server.engine.drain(std::time::Duration::from_secs(5)).await;
    let ready = server.ask("GET /readyz", "").await;
    assert_eq!(
        (ready.status, &ready.json()["name"]),
        (503, &json!("service_unavailable"))
    );
    let refused = server
        .post("/emails", &operator, &email("ann@example.net").to_string())
        .await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: "), "{refused:?}");
    server.stop().await;
}

/// All that takes the name of a tenant.
async fn ask_of_tenant(server: &Server, key: &str, tenant: &str) -> Vec<(String, Answer)> {
    let of = json!({"tenant": tenant});
    let mut suppress = of.clone();
    suppress["email"] = json!("ann@example.net");
    let mut answers = Vec::new();
    for (head, body) in [
        ("GET /queue?tenant=", None),
        ("GET /events?tenant=", None),
        ("GET /events/stream?tenant=", None),
        ("GET /suppressions?tenant=", None),
        ("DELETE /suppressions/bob%40example.net?tenant=", None),
        ("POST /suppressions", Some(&suppress)),
        ("POST /queue/retry", Some(&of)),
        ("POST /queue/cancel", Some(&of)),
        ("POST /retry", Some(&json!({"since": "1h", "where": of}))),
    ] {
        let (head, body) = match body {
            Some(body) => (head.to_owned(), body.to_string()),
            None => (format!("{head}{tenant}"), String::new()),
        };
        let asked = format!("{head}\nAuthorization: Bearer {key}");
        answers.push((head, server.ask(&asked, &body).await));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_nobody_knows_is_a_mistake_and_no_empty_answer() {
    let server = Server::start(Config::default()).await;
    let operator = server.key("ops", Scopes::ADMIN);
    for (head, answer) in ask_of_tenant(&server, &operator, "shop").await {
        let said = answer.json();
        assert_eq!(
            (answer.status, &said["field"]),
            (422, &json!("tenant")),
            "{head}: {said}"
        );
    }
    for lever in ["suspend", "resume"] {
        let path = format!("/queue/{lever}");
        let answer = server.post(&path, &operator, r#"{"tenant": "shop"}"#).await;
        assert_eq!(answer.status, 422, "{lever}: {answer:?}");
    }
    // Whoever has a key is known, though there is no mail yet; whoever had mail still is, without one.
    let key = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let nothing = server.get("/events?tenant=shop", &operator).await.json();
    assert_eq!(nothing["data"], json!([]), "{nothing}");
    let id = server.send(&key, &email("ann@example.net")).await;
    server.delivered(&key, &id).await;
    for key in server.access.keys() {
        server.access.remove_key(key.id);
    }
    let server = server.restarted().await;
    let operator = server.key("ops", Scopes::ADMIN);
    let events = server.get("/events?tenant=shop", &operator).await.json();
    assert_eq!(events["data"].as_array().map(Vec::len), Some(2), "{events}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_another_tenant_does_not_learn_whether_there_is_one() {
    let server = Server::start(Config::default()).await;
    let shop = server.key("shop", Scopes::SEND.and(Scopes::READ));
    let _lab = server.key("lab", Scopes::READ);
    let there = ask_of_tenant(&server, &shop, "lab").await;
    let not_there = ask_of_tenant(&server, &shop, "nobody").await;
    for ((head, there), (_, not_there)) in there.iter().zip(&not_there) {
        assert_eq!(
            (there.status, &there.json()["field"]),
            (401, &json!("tenant")),
            "{head}"
        );
        assert_eq!(
            (there.status, &there.body),
            (not_there.status, &not_there.body),
            "{head}"
        );
    }
    server.stop().await;
}
