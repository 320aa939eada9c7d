//! What becomes of a request, as other people's parser reads it.

use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};

use super::*;
use crate::http::body;

fn now() -> Timestamp {
    "2026-08-05T10:00:00Z".parse().unwrap()
}

fn composer(templates: &Templates) -> Composer<'_> {
    let month = jiff::SignedDuration::from_hours(30 * 24);
    Composer::new("shop".into(), templates, now(), month, true)
}

fn submission_with(templates: &Templates, body: &Value) -> Result<Submission, Problem> {
    let text = body.to_string();
    let request: SendRequest<'_> = body::json(text.as_bytes())?;
    composer(templates).submission(&request)
}

fn submission(body: &Value) -> Submission {
    submission_with(&Templates::default(), body).unwrap()
}

fn email(more: &Value) -> Value {
    let mut email = json!({
        "from": "Shop <shop@example.com>",
        "to": ["Ann <ann@example.net>", "bob@example.net"],
        "subject": "Grüße",
        "text": "Hello.\n",
    });
    let more = more.as_object().unwrap().clone();
    email.as_object_mut().unwrap().extend(more);
    email
}

fn parsed(submission: &Submission) -> mail_parser::Message<'_> {
    let content = submission.content.as_bytes();
    MessageParser::new().parse(content).unwrap()
}

#[test]
fn the_envelope_has_everybody_and_the_content_hides_bcc() {
    let made = submission(&email(&json!({
        "cc": "cc@example.net", "bcc": ["bcc@example.net", "bob@example.net"],
        "reply_to": "help@example.com", "html": "<p>Hello.</p>",
    })));
    let envelope = &made.envelope;
    let to: Vec<_> = envelope
        .recipients()
        .iter()
        .map(|r| r.address.as_str())
        .collect();
    let all = [
        "ann@example.net",
        "bob@example.net",
        "cc@example.net",
        "bcc@example.net",
    ];
    assert_eq!(to, all);
    assert_eq!(envelope.reverse_path().to_string(), "<shop@example.com>");
    let message = parsed(&made);
    assert_eq!(message.subject(), Some("Grüße"));
    assert_eq!(&*made.options.subject, "Grüße");
    assert_eq!(message.body_text(0).unwrap().trim_end(), "Hello.");
    assert_eq!(message.body_html(0).unwrap().trim_end(), "<p>Hello.</p>");
    assert_eq!(
        message.reply_to().unwrap().first().unwrap().address(),
        Some("help@example.com")
    );
    assert!(message.bcc().is_none());
    let content = String::from_utf8(made.content.as_bytes().to_vec()).unwrap();
    assert!(!content.contains("bcc@example.net"), "{content}");
}

#[test]
fn options_are_read() {
    let made = submission(&email(&json!({
        "scheduled_at": "in 1 min", "priority": "bulk",
        "tags": [{"name": "campaign", "value": "may-5"}, {"name": "test"}],
    })));
    let at = jiff::SignedDuration::try_from(made.options.send_at.unwrap()).unwrap();
    assert_eq!(at, now().as_duration() + jiff::SignedDuration::from_mins(1));
    assert_eq!(made.options.priority, Priority::Bulk);
    let tags: Vec<_> = made
        .options
        .tags
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(tags, [("campaign", "may-5"), ("test", "")]);
}

#[test]
fn headers_that_the_composer_writes_itself_are_given_to_it() {
    let made = submission(&email(&json!({"headers": {
        "Message-ID": "<one@example.com>",
        "Reply-To": "Help <help@example.com>",
        "Sender": "robot@example.com",
        "List-Unsubscribe": "<https://example.com/u/1>, <mailto:u@example.com>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "X-Entity-Ref-ID": "17",
    }})));
    let content = String::from_utf8(made.content.as_bytes().to_vec()).unwrap();
    for line in [
        "Message-ID: <one@example.com>\r\n",
        "Reply-To: Help <help@example.com>\r\n",
        "Sender: robot@example.com\r\n",
        "X-Entity-Ref-ID: 17\r\n",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
    ] {
        assert_eq!(content.matches(line).count(), 1, "{line}{content}");
    }
    assert_eq!(
        made.envelope.reverse_path().to_string(),
        "<robot@example.com>"
    );
}

#[test]
fn files_come_as_base64_or_octets_and_may_be_shown_within_the_html() {
    let made = submission(&email(&json!({
        "html": "<img src=\"cid:logo\">",
        "attachments": [
            {"filename": "a.pdf", "content": "aGVs\nbG8"},
            {"filename": "b.bin", "content": [0, 1, 255]},
            {"filename": "c", "content": "", "contentType": "text/csv; charset=utf-8"},
            {"filename": "logo.png", "content": "aGk=", "content_id": "logo"},
        ],
    })));
    let message = parsed(&made);
    let file = |name: &str| {
        let is_it = |part: &&mail_parser::MessagePart<'_>| part.attachment_name() == Some(name);
        message
            .attachments()
            .find(is_it)
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(file("a.pdf").contents(), b"hello");
    assert_eq!(file("a.pdf").content_type().unwrap().subtype(), Some("pdf"));
    assert_eq!(file("b.bin").contents(), [0, 1, 255]);
    assert_eq!(file("c").content_type().unwrap().subtype(), Some("csv"));
    assert_eq!(file("logo.png").content_id(), Some("logo"));
}

#[test]
fn what_a_batch_shares_is_made_once() {
    let file = json!([{"filename": "a.pdf", "content": "aGVsbG8="}]);
    let template = json!({"subject": "Hi {{ n }}", "text": "{{ n }}", "variables": {"n": 1}});
    let body = email(&json!({"attachments": file, "template": template}));
    let texts = [body.to_string(), body.to_string()];
    let requests: Vec<SendRequest<'_>> = texts
        .iter()
        .map(|text| body::json(text.as_bytes()).unwrap())
        .collect();
    let templates = Templates::default();
    let mut composer = composer(&templates);
    for request in &requests {
        composer.submission(request).unwrap();
    }
    assert_eq!((composer.files.len(), composer.inline.len()), (1, 1));
}

#[test]
fn a_template_gives_what_the_request_does_not() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("welcome.subject", "Welcome, {{ name }}\n"),
        ("welcome.txt.j2", "Dear {{ name }}"),
        ("welcome.html", "<p>{{ name }}</p>"),
        ("README", "not a template"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let templates = Templates::load(Some(folder.path())).unwrap();
    let base = || {
        let variables = json!({"name": "A & B"});
        json!({"from": "a@example.com", "to": "b@example.net", "variables": variables})
    };
    for template in [json!("welcome"), json!({"id": "welcome"})] {
        let mut body = base();
        body["template"] = template;
        let made = submission_with(&templates, &body).unwrap();
        let message = parsed(&made);
        assert_eq!(message.subject(), Some("Welcome, A & B"));
        assert_eq!(message.body_text(0).unwrap().trim_end(), "Dear A & B");
        assert_eq!(message.body_html(0).unwrap().trim_end(), "<p>A &amp; B</p>");
    }
    let mut body = base();
    body["template"] = json!({"id": "welcome", "variables": {"name": "C"}});
    body["subject"] = json!("Mine");
    let made = submission_with(&templates, &body).unwrap();
    assert_eq!(&*made.options.subject, "Mine");
    assert_eq!(parsed(&made).body_text(0).unwrap().trim_end(), "Dear C");
    body["template"] = json!({"id": "welcome", "variables": {}});
    let problem = submission_with(&templates, &body).unwrap_err();
    assert!(
        problem.message.contains("the variable name is not given"),
        "{problem:?}"
    );
}

#[test]
fn a_folder_with_a_mistake_leaves_the_templates_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "old").unwrap();
    let templates = Templates::load(Some(folder.path())).unwrap();
    std::fs::write(folder.path().join("a.txt"), "{% if %}").unwrap();
    assert!(templates.reload(Some(folder.path())).is_err());
    assert!(templates.get("a").is_some());
    assert!(templates.reload(Some(&folder.path().join("none"))).is_err());
    templates.reload(None).unwrap();
    assert!(templates.get("a").is_none());
}

#[test]
fn texts_without_escapes_are_borrowed() {
    let text = r#"{"from": "a@example.com", "to": ["b@example.net"], "text": "c\n"}"#;
    let request: SendRequest<'_> = body::json(text.as_bytes()).unwrap();
    let is_borrowed = |text: &Text<'_>| matches!(text.0, std::borrow::Cow::Borrowed(_));
    assert!(is_borrowed(request.from.as_ref().unwrap()));
    assert!(is_borrowed(&request.to.as_ref().unwrap().0[0]));
    assert!(!is_borrowed(request.text.as_ref().unwrap()));
}
