//! Mail in, and what the engine makes of it.

use serde_json::{Value, json};
use server::auth::Scopes;
use server::http::Config;
use store::Status;

use crate::server::Server;

pub(crate) fn email(to: &str) -> Value {
    json!({"from": "Shop <shop@example.com>", "to": to, "subject": "Hi", "text": "Hello.\n"})
}

impl Server {
    /// Sends it; the id.
    pub(crate) async fn send(&self, key: &str, email: &Value) -> String {
        let answer = self.post("/emails", key, &email.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until every recipient of it has a status that `is_wanted`, as GET tells it.
    pub(crate) async fn wait(&self, key: &str, id: &str, is_wanted: fn(Status) -> bool) -> Value {
        let mut events = self.engine.follow();
        loop {
            let view = self.get(&format!("/emails/{id}"), key).await.json();
            let recipients = view["recipients"]
                .as_array()
                .unwrap_or_else(|| panic!("{view}"));
            let status = |one: &Value| Status::parse(one["status"].as_str().unwrap()).unwrap();
            if recipients.iter().map(status).all(is_wanted) {
                return view;
            }
            // Woken by the next event; history may take a moment longer.
            let next = tokio::time::timeout(std::time::Duration::from_millis(50), events.next());
            let _ = next.await;
        }
    }

    pub(crate) async fn delivered(&self, key: &str, id: &str) -> Value {
        self.wait(key, id, |status| status == Status::Delivered)
            .await
    }

    pub(crate) fn delivered_to(&self) -> Vec<String> {
        let records = self.sink.records().into_iter();
        let mut to: Vec<_> = records.flat_map(|record| record.to).collect();
        to.sort();
        to
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_and_its_timeline_tells() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let id = server.send(&key, &email("ann@example.net")).await;
    let view = server.delivered(&key, &id).await;
    assert_eq!(server.delivered_to(), ["ann@example.net"]);
    assert_eq!(
        (&view["object"], &view["last_event"]),
        (&json!("email"), &json!("delivered"))
    );
    assert_eq!(view["recipients"][0]["last_attempt"]["code"], 250);
    // Its content is gone.
    assert_eq!(view["text"], Value::Null);
    assert_eq!(
        [&view["from"], &view["to"], &view["subject"]],
        [
            &json!("shop@example.com"),
            &json!(["ann@example.net"]),
            &json!("Hi")
        ]
    );
    let events = server
        .get(&format!("/emails/{id}/events"), &key)
        .await
        .json();
    let statuses: Vec<_> = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["status"])
        .collect();
    assert_eq!(statuses, ["accepted", "delivered"]);
    let [accepted, delivered] = [0, 1].map(|index| &events["data"][index]);
    assert_eq!(
        (&accepted["from"], &accepted["subject"]),
        (&json!("shop@example.com"), &json!("Hi"))
    );
    assert_eq!(delivered.get("subject"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_one_message_of_any_number_of_requests_across_a_restart() {
    let server = Server::start(Config::default()).await;
    let scopes = Scopes::SEND;
    let admin = server.engine.clone();
    let token = ::server::http::make_key(&admin, &server.access, "t", "shop".into(), scopes);
    let token = token.await.unwrap().reveal();
    drop(admin);
    let head =
        |key: &str| format!("POST /emails\nAuthorization: Bearer {token}\nIdempotency-Key: {key}");
    let body = email("ann@example.net").to_string();
    let first = server.ask(&head("order/1"), &body).await.json();
    assert_eq!(server.ask(&head("order/1"), &body).await.json(), first);
    let other = server
        .ask(&head("order/1"), &email("bob@example.net").to_string())
        .await;
    assert_eq!(
        (other.status, &other.json()["name"]),
        (409, &json!("invalid_idempotent_request"))
    );
    let long = server.ask(&head(&"x".repeat(257)), &body).await;
    assert_eq!(
        (long.status, &long.json()["name"]),
        (400, &json!("invalid_idempotency_key"))
    );
    let id = first["id"].as_str().unwrap();
    server.delivered(&token, id).await;

    let server = server.restarted().await;
    assert_eq!(server.ask(&head("order/1"), &body).await.json(), first);
    assert_eq!(server.delivered_to(), ["ann@example.net"]);
    assert_ne!(server.ask(&head("order/2"), &body).await.json(), first);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_of_a_request_in_flight_is_told_to_come_later() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let claim = server
        .engine
        .claim("shop", "order/1", [0; 32], 1)
        .await
        .unwrap();
    let head = format!("POST /emails\nAuthorization: Bearer {key}\nIdempotency-Key: order/1");
    let twin = server
        .ask(&head, &email("ann@example.net").to_string())
        .await;
    assert_eq!(
        (twin.status, &twin.json()["name"]),
        (409, &json!("concurrent_idempotent_requests"))
    );
    drop(claim);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_taken_in_order_or_not_at_all_or_but_for_its_mistakes() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let good = json!([
        email("a@example.net"),
        email("b@example.net"),
        email("c@example.net")
    ]);
    let answer = server.post("/emails/batch", &key, &good.to_string()).await;
    let data = answer.json()["data"].clone();
    for (item, to) in data.as_array().unwrap().iter().zip(["a", "b", "c"]) {
        let view = server.delivered(&key, item["id"].as_str().unwrap()).await;
        assert_eq!(
            view["recipients"][0]["address"],
            format!("{to}@example.net")
        );
    }
    let mixed = json!([email("d@example.net"), email("nobody"), {"to": 5}, email("e@example.net")]);
    let strict = server.post("/emails/batch", &key, &mixed.to_string()).await;
    assert_eq!(
        (strict.status, &strict.json()["field"]),
        (422, &json!("emails[1].to"))
    );
    assert_eq!(server.delivered_to().len(), 3);

    let head =
        format!("POST /emails/batch\nAuthorization: Bearer {key}\nX-Batch-Validation: permissive");
    let permissive = server.ask(&head, &mixed.to_string()).await.json();
    let ids: Vec<_> = permissive["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    for (id, to) in ids.iter().zip(["d", "e"]) {
        let view = server.delivered(&key, id).await;
        assert_eq!(
            view["recipients"][0]["address"],
            format!("{to}@example.net")
        );
    }
    let errors = permissive["errors"].as_array().unwrap();
    let errors: Vec<_> = errors
        .iter()
        .map(|it| (&it["index"], &it["field"]))
        .collect();
    assert_eq!(
        errors,
        [(&json!(1), &json!("to")), (&json!(2), &json!("to"))]
    );

    for (wrong, status) in [("[]", 422), ("{}", 422), ("[", 400)] {
        let answer = server.post("/emails/batch", &key, wrong).await;
        assert_eq!(answer.status, status, "{wrong}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_message_waits_is_moved_and_taken_back() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let mut later = email("ann@example.net");
    later["scheduled_at"] = json!("in 1 hour");
    later["html"] = json!("<p>Hello.</p>");
    later["bcc"] = json!("hidden@example.net");
    let id = server.send(&key, &later).await;
    let path = format!("/emails/{id}");
    let view = server.get(&path, &key).await.json();
    assert_eq!(view["last_event"], "scheduled");
    assert_eq!(view["from"], "Shop <shop@example.com>");
    assert_eq!(
        (&view["to"], &view["bcc"]),
        (&json!(["ann@example.net"]), &json!(["hidden@example.net"]))
    );
    assert_eq!(view["subject"], "Hi");
    assert_eq!(view["text"].as_str().unwrap().trim(), "Hello.");
    assert_eq!(view["html"].as_str().unwrap().trim(), "<p>Hello.</p>");

    let patch = format!("PATCH {path}\nAuthorization: Bearer {key}");
    let moved = server
        .ask(&patch, r#"{"scheduled_at": "in 2 hours"}"#)
        .await;
    assert_eq!(moved.json(), json!({"object": "email", "id": id}));
    let after = server.get(&path, &key).await.json();
    assert!(
        after["scheduled_at"].as_str() > view["scheduled_at"].as_str(),
        "{after}"
    );

    let cancel = format!("{path}/cancel");
    assert_eq!(server.post(&cancel, &key, "").await.status, 200);
    let view = server
        .wait(&key, &id, |status| status == Status::Canceled)
        .await;
    assert_eq!(view["last_event"], "canceled");
    assert_eq!(server.post(&cancel, &key, "").await.status, 409);
    let late = server
        .ask(&patch, r#"{"scheduled_at": "in 3 hours"}"#)
        .await;
    assert_eq!(late.status, 409, "{late:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composed_message_goes_where_its_header_says_or_the_query() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let text = "From: a@example.com\nTo: b@example.net\nBcc: c@example.net\nSubject: s\n\nhello\n";
    for (path, to) in [
        ("/emails/raw", &["b@example.net", "c@example.net"][..]),
        (
            "/emails/raw?from=&to=d@example.net,e@example.net",
            &["d@example.net", "e@example.net"],
        ),
    ] {
        let answer = server.post(path, &key, text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        server.delivered(&key, &id).await;
        for to in to {
            assert!(server.delivered_to().contains(&(*to).to_owned()), "{to}");
        }
    }
    for (path, body) in [
        ("/emails/raw", "hello"),
        ("/emails/raw", "From: a@example.com\n\nx\n"),
        ("/emails/raw?to=nobody", text),
        ("/emails/raw?too=b@example.net", text),
    ] {
        assert_eq!(
            server.post(path, &key, body).await.status,
            422,
            "{path} {body}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_their_own_mail_and_operators_all() {
    let server = Server::start(Config::default()).await;
    let both = Scopes::SEND.and(Scopes::READ);
    let (shop, lab) = (server.key("shop", both), server.key("lab", both));
    let operator = server.key("ops", Scopes::ADMIN);
    let id = server.send(&shop, &email("ann@example.net")).await;
    server.delivered(&shop, &id).await;
    let path = format!("/emails/{id}");
    assert_eq!(server.get(&path, &lab).await.status, 404);
    assert_eq!(
        server.get(&format!("{path}/events"), &lab).await.status,
        404
    );
    assert_eq!(
        server
            .post(&format!("{path}/cancel"), &lab, "")
            .await
            .status,
        404
    );
    assert_eq!(server.get(&path, &operator).await.status, 200);
    for (key, query, count) in [
        (&shop, "", 2),
        (&shop, "?status=delivered", 1),
        (&shop, "?recipient=ANN@example.net&from=1h", 2),
        (&shop, "?to=1h", 0),
        (&lab, "", 0),
        (&operator, "?tenant=shop", 2),
    ] {
        let events = server.get(&format!("/events{query}"), key).await.json();
        assert_eq!(
            events["data"].as_array().map(Vec::len),
            Some(count),
            "{query} {events}"
        );
    }
    let page = server
        .get("/events?limit=1&order=oldest", &shop)
        .await
        .json();
    assert_eq!(
        (&page["data"][0]["status"], &page["has_more"]),
        (&json!("accepted"), &json!(true))
    );
    let next = format!(
        "/events?order=oldest&cursor={}",
        page["cursor"].as_str().unwrap()
    );
    assert_eq!(
        server.get(&next, &shop).await.json()["data"][0]["status"],
        "delivered"
    );
    for wrong in [
        "cursor=x",
        "status=x",
        "from=x",
        "tag=",
        "limit=x",
        "nonsense=1",
    ] {
        let answer = server.get(&format!("/events?{wrong}"), &shop).await;
        assert_eq!(
            (answer.status, &answer.json()["name"]),
            (422, &json!("validation_error")),
            "{wrong}"
        );
    }
    server.stop().await;
}
