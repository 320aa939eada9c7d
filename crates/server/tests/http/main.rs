//! The HTTP edge over loopback: who may, what is refused and how that reads.

mod described;
mod hostile;
mod levers;
mod mail;
mod server;
mod statistics;
mod stream;

use ::server::auth::Scopes;
use ::server::http::Config;
use serde_json::json;
use server::Server;

#[tokio::test]
async fn nobody_gets_past_without_a_key_that_may() {
    let server = Server::start(Config::default()).await;
    let send = server.key("shop", Scopes::SEND);
    let read = server.key("shop", Scopes::READ);
    let nonsense = "mr_000000000000_0".to_owned();
    for (head, key, status, name) in [
        ("POST /emails", None, 401, "missing_api_key"),
        ("POST /emails", Some(&nonsense), 403, "invalid_api_key"),
        ("POST /emails", Some(&read), 401, "restricted_api_key"),
        ("POST /emails/batch", Some(&read), 401, "restricted_api_key"),
        ("POST /emails/raw", Some(&read), 401, "restricted_api_key"),
        ("GET /events", Some(&send), 401, "restricted_api_key"),
        ("GET /events/stream", Some(&send), 401, "restricted_api_key"),
        ("GET /queue", Some(&send), 401, "restricted_api_key"),
        (
            "POST /queue/suspend",
            Some(&send),
            401,
            "restricted_api_key",
        ),
        ("GET /sites", Some(&read), 401, "restricted_api_key"),
        ("GET /status", Some(&read), 401, "restricted_api_key"),
        ("GET /keys", Some(&read), 401, "restricted_api_key"),
        ("POST /keys", Some(&send), 401, "restricted_api_key"),
    ] {
        let head = match key {
            None => head.to_owned(),
            Some(key) => format!("{head}\nAuthorization: Bearer {key}"),
        };
        let answer = server.ask(&head, "{}").await;
        let json = answer.json();
        assert_eq!(
            (answer.status, &json["name"]),
            (status, &json!(name)),
            "{head}"
        );
        assert_eq!(json["statusCode"], status, "{head}");
        assert!(json["message"].is_string(), "{head}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_route_but_the_open_ones_asks_for_a_key() {
    let server = Server::start(Config::default()).await;
    let document = server.ask("GET /openapi.json", "").await.json();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace(['{', '}'], "");
            let head = format!("{} {path}", method.to_uppercase());
            let answer = server.ask(&head, "{}").await;
            match path.as_str() {
                "/healthz" | "/readyz" | "/metrics" => assert_ne!(answer.status, 401, "{head}"),
                _ => assert_eq!(answer.status, 401, "{head}"),
            }
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    server.stop().await;
}

#[tokio::test]
async fn a_mistake_in_a_message_is_told_with_its_field() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    let good = json!({
        "from": "Shop <shop@example.com>", "to": "a@example.net", "subject": "s", "text": "t",
    });
    let with = |field: &str, value: serde_json::Value| {
        let mut email = good.clone();
        email[field] = value;
        email.to_string()
    };
    let without = |field: &str| {
        let mut email = good.clone();
        email.as_object_mut().unwrap().remove(field);
        email.to_string()
    };
    let file = |file: serde_json::Value| with("attachments", json!([file]));
    #[rustfmt::skip]
    let cases = [
        ("{".into(), 400, "validation_error", None),
        ("[]".into(), 422, "validation_error", None),
        (without("from"), 422, "missing_required_field", Some("from")),
        (without("to"), 422, "missing_required_field", Some("to")),
        (without("subject"), 422, "missing_required_field", Some("subject")),
        (without("text"), 422, "missing_required_field", None),
        (with("from", json!("x")), 422, "invalid_from_address", Some("from")),
        (with("to", json!([])), 422, "missing_required_field", Some("to")),
        (with("to", json!(["a@example.net", "b"])), 422, "validation_error", Some("to[1]")),
        (with("to", json!([5])), 422, "validation_error", Some("to[0]")),
        (with("schedule_at", json!("now")), 422, "validation_error", Some("schedule_at")),
        (with("scheduled_at", json!("soon")), 422, "validation_error", Some("scheduled_at")),
        (with("scheduled_at", json!("in 2 years")), 422, "validation_error", Some("scheduled_at")),
        (with("subject", json!("a\r\nBcc: x@example.org")), 422, "validation_error", Some("subject")),
        (with("headers", json!({"X-A": "a\nb"})), 422, "validation_error", Some("headers.X-A")),
        (with("headers", json!({"Bcc": "x@example.org"})), 422, "validation_error", Some("headers.Bcc")),
        (with("tags", json!([{"name": "a b"}])), 422, "validation_error", Some("tags[0]")),
        (with("priority", json!("urgent")), 422, "validation_error", Some("priority")),
        (with("template", json!("none")), 422, "validation_error", Some("template")),
        (with("template", json!({"text": "{{ x }}"})), 422, "validation_error", Some("template")),
        (with("variables", json!({"x": 1})), 422, "validation_error", Some("variables")),
        (file(json!({"filename": "a", "path": "http://x"})), 422, "invalid_attachment", Some("attachments[0].path")),
        (file(json!({"filename": "a", "content": "%"})), 422, "invalid_attachment", Some("attachments[0].content")),
        (file(json!({"filename": "a"})), 422, "invalid_attachment", Some("attachments[0]")),
    ];
    for (body, status, name, field) in cases {
        let answer = server.post("/emails", &key, &body).await;
        let json = answer.json();
        assert_eq!(answer.status, status, "{body}: {json}");
        assert_eq!(json["name"], name, "{body}: {json}");
        assert_eq!(json["field"].as_str(), field, "{body}: {json}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_said_in_json() {
    let server = Server::start(Config::default()).await;
    let key = server.key("shop", Scopes::SEND);
    for (head, status, name) in [
        ("GET /nothing", 404, "not_found"),
        ("DELETE /emails", 405, "method_not_allowed"),
        (
            "GET /emails/0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b",
            404,
            "not_found",
        ),
        ("GET /emails/1", 422, "validation_error"),
    ] {
        let head = format!("{head}\nAuthorization: Bearer {key}");
        let answer = server.ask(&head, "").await;
        assert_eq!(answer.status, status, "{head}");
        assert_eq!(answer.json()["name"], name, "{head}");
    }
    server.stop().await;
}
