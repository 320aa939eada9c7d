//! Messages that somebody else composed: Bcc is never sent, and the envelope is what the headers say.

use message::Eml;

use crate::Target;
use crate::bytes::is_canonical;

pub(crate) const TARGET: Target = Target {
    name: "eml",
    check,
    examples: &[
        b"From: A <a@example.org>\nTo: b@example.org, \"C, D\" <c@example.org>\nBcc: x@example.org\n\nx\n",
        b"Resent-From: r@example.org\r\nResent-To: x@example.org\r\nResent-Bcc: y@example.org\r\nFrom: a@b.c\r\n\r\n",
        b"From: a@example.org\nTo: group: b@example.org, c@example.org;\nBCC :\n d@example.org,\n\te@example.org\n",
        b"Sender: =?utf-8?q?=C3=A9?= <s@example.org>\nCc: (comment) c@example.org\n\n.\n",
    ],
    words: &[
        "From: ", "To: ", "Cc: ", "Bcc: ", "bcc:", "Bcc :", "Resent-Bcc: ", "Resent-To: ", "Sender: ", "\n", "\r\n",
        "\n ", "\n\t", "a@example.org", "<", ">", "\"", "(", ";", ":", "=?utf-8?b?", "?=", ",",
    ],
    rounds: 20_000,
};

fn check(bytes: &[u8]) {
    let Ok(eml) = Eml::parse(bytes) else {
        return;
    };
    let content = eml.content().as_bytes();
    assert!(is_canonical(content, true));
    assert!(
        !header_names(content)
            .iter()
            .any(|name| name == "bcc" || name == "resent-bcc")
    );
    let again = Eml::parse(content).expect("what is sent is a message");
    assert_eq!(again.content(), eml.content());
    if let Ok(envelope) = eml.envelope() {
        let mut recipients: Vec<_> = envelope
            .recipients()
            .iter()
            .map(|r| r.address.as_str())
            .collect();
        let count = recipients.len();
        recipients.sort_unstable();
        recipients.dedup();
        assert!(
            count > 0 && recipients.len() == count,
            "each recipient once"
        );
    }
}

/// Lower-case names of the fields of the header section.
pub(crate) fn header_names(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let header = text.split("\r\n\r\n").next().unwrap_or_default();
    let lines = header.split("\r\n").take_while(|line| !line.is_empty());
    let fields = lines.filter(|line| !line.starts_with([' ', '\t']));
    fields
        .map(|field| {
            field
                .split(':')
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_ascii_lowercase()
        })
        .collect()
}
