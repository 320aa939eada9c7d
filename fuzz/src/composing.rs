//! Composing and templates: no value makes a header of its own, and what comes out is canonical.

use jiff::Timestamp;
use message::{ListUnsubscribe, Mailbox, Message, Source, Template, UriTemplate};
use serde_json::{Map, Value};
use smtp::Address;

use crate::Target;
use crate::bytes::is_canonical;
use crate::eml::header_names;

pub(crate) const TARGET: Target = Target {
    name: "composing",
    check,
    examples: &[
        b"Ann\0Hello\0X-Campaign\0spring\0text\n.\nmore\0<b>html</b>\0https://example.org/u?a={{ email }}",
        "J\u{f6}rg\0\u{1f600} sale\0X-A\0\u{e9}\0{{ name }}\0{% if name %}a{% endif %}\0mailto:a@b.c".as_bytes(),
        b"\0a\r\nBcc: x@y.z\0Bcc\0x@y.z\0{{ missing }}\0{% raw %}\0",
        b"a\0{{ name | upper }}\0X\0y\0{{ name }}",
    ],
    words: &[
        "{{ ", " }}", "{% ", " %}", "name", "email", " | ", "upper", "escape", "urlencode", "\0", "\r\n", "\nBcc: ",
        "=?utf-8?q?", "\u{e9}", "\u{1f600}", "https://", "mailto:", "if name", "endif", "\u{2028}", "  ",
    ],
    rounds: 6_000,
};

/// Divided by NUL: display name, subject, header name and value, text, HTML, URI to unsubscribe.
/// Text and HTML are templates too; the others are also values for templates that are fixed.
fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0').chain(std::iter::repeat(""));
    let mut next = || parts.next().unwrap_or_default();
    let [name, subject, field, value, plain, html, uri] = std::array::from_fn(|_| next());
    check_composing(name, subject, (field, value), plain, html, uri);
    check_values(name, subject);
    check_template(plain, html, uri);
}

fn check_composing(
    name: &str,
    subject: &str,
    (field, value): (&str, &str),
    plain: &str,
    html: &str,
    uri: &str,
) {
    let address: Address = "a@example.org".parse().expect("an address");
    let mut message = Message::new(Mailbox::named(name, address.clone()))
        .to(Mailbox::named(name, address.clone()))
        .bcc(address)
        .subject(subject)
        .text(plain);
    if !html.is_empty() {
        message = message.html(html);
    }
    if !field.is_empty() {
        message = message.header(field, value);
    }
    if let Ok(unsubscribe) = ListUnsubscribe::new(&[uri]) {
        message = message.list_unsubscribe(unsubscribe);
    }
    let Ok(content) = message.compose(Timestamp::UNIX_EPOCH) else {
        return;
    };
    assert!(is_canonical(content.as_bytes(), true));
    assert!(content.is_7bit());
    for header in header_names(content.as_bytes()) {
        let ours = OURS.contains(&header.as_str());
        assert!(
            ours || header == field.to_ascii_lowercase(),
            "a header of its own: {header:?}"
        );
    }
}

const OURS: &[&str] = &[
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-unsubscribe",
    "list-unsubscribe-post",
];

/// Values of recipients in templates of the one who sends.
fn check_values(name: &str, company: &str) {
    let template = Template::load(
        Some(Source::inline("subject", "Hello {{ name }}")),
        Some(Source::inline("text", "{{ name }} of {{ company }}")),
        Some(Source::inline(
            "html",
            "<p title=\"{{ name }}\">{{ company }}</p>",
        )),
    );
    let variables: Map<String, Value> = [("name", name), ("company", company)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let rendered = template
        .expect("they are sound")
        .render(&variables, Some(1));
    let is_injection = name.chars().any(|c| c.is_control() && c != '\t');
    assert_eq!(rendered.is_err(), is_injection, "{rendered:?}");
    if let Ok(rendered) = rendered {
        assert_eq!(rendered.text, Some(format!("{name} of {company}")));
        let html = rendered.html.expect("there is HTML");
        assert_eq!(html.matches('<').count(), 2);
        assert_eq!(html.matches('"').count(), 2);
    }
}

/// Templates themselves: errors with a place in them, never a panic.
fn check_template(plain: &str, html: &str, uri: &str) {
    let _ = UriTemplate::load(Source::inline("uri", uri)).map(|template| template.variables());
    let texts = [plain, html].map(|text| Source::inline("template", text));
    let [text, html_source] = texts;
    match Template::load(None, Some(text), Some(html_source)) {
        Ok(template) => {
            let _ = template.variables();
            // Loops are not bounded: that is the template's author's own affair.
            if !["for", "range", "macro", "*"]
                .iter()
                .any(|word| plain.contains(word) || html.contains(word))
            {
                let _ = template.render(&Map::new(), None);
            }
        }
        Err(error) => {
            let lines = plain.lines().count().max(html.lines().count()) + 1;
            assert!(
                error.line.is_none_or(|line| (1..=lines).contains(&line)),
                "{error:?}"
            );
        }
    }
}
