//! Content on its way in: canonical, traced by us alone, freed of what recipients must not see, and the same however
//! it was cut.

use server::smtp::fuzzing::{RECEIVED_MAX, take_in};
use smtp::Content;

use crate::Target;
use crate::bytes::{is_canonical, pieces};
use crate::eml::header_names;

pub(crate) const TARGET: Target = Target {
    name: "intake",
    check,
    examples: &[
        b"\x20app.example\nFrom: a@example.org\r\nSubject: x\r\n\r\nHello\r\n",
        b"\x03[IPv6:::1]\nDate: d\r\nMessage-ID: <a@b>\r\nBcc: x@y,\r\n\tz@y\r\n\r\nBcc: body\r\n",
        b"\x01x) Bcc: y\nIdempotency-Key: k\r\nX-Mailrail-Tag: a=b\r\nX-Mailrail-Priority: bulk\r\n\r\n",
        b"\x05me\nFrom me Mon\r\nResent-Bcc : a\r\nno field\r\nBcc: hidden\r\n\r\nbody",
        b"\x09me\nReceived: a\r\nReceived: b\r\nX-Mailrail-Send-At: 2026-01-01T00:00:00Z\r\nSubject: =?utf-8?q?=0D?=\r\n",
    ],
    words: &[
        "Bcc: ", "bcc:", "Bcc :", "Resent-Bcc: ", "Received: ", "Date: ", "Message-ID: ", "Subject: ", "\r\n", "\r\n ",
        "\r\n\t", "\r\n\r\n", "From ", ">From ", "Idempotency-Key: ", "X-Mailrail-Tag: a=b", "X-Mailrail-Priority: high",
        "X-Mailrail-Send-At: 1", "no field", ":", "=?utf-8?b?", "?=",
    ],
    rounds: 20_000,
};

/// Fields that are for us alone.
const OURS: &[&str] = &[
    "bcc",
    "resent-bcc",
    "idempotency-key",
    "x-mailrail-tag",
    "x-mailrail-priority",
    "x-mailrail-send-at",
];

/// The first octet chooses how the content is cut; up to the first LF stands what the client calls itself.
fn check(input: &[u8]) {
    let Some((&plan, rest)) = input.split_first() else {
        return;
    };
    let Some(end) = memchr::memchr(b'\n', rest) else {
        return;
    };
    let (name, raw) = (String::from_utf8_lossy(&rest[..end]), &rest[end + 1..]);
    // The machine in front takes nothing else.
    if !is_canonical(raw, false) {
        return;
    }
    let whole = take_in([raw].into_iter(), &name);
    let cut = take_in(pieces(raw, &[plan]), &name);
    assert_eq!(cut, whole);
    let Ok((content, _)) = whole else {
        return;
    };
    let bytes = content.as_bytes();
    assert!(is_canonical(bytes, true));
    assert_eq!(Content::new(bytes.to_vec()).as_ref(), Ok(&content));
    let names = header_names(bytes);
    assert_eq!(names[0], "received");
    let count = |name: &str| names.iter().filter(|it| *it == name).count();
    assert!(count("received") <= RECEIVED_MAX + 1);
    assert!(count("date") >= 1 && count("message-id") >= 1);
    for ours in OURS {
        assert_eq!(count(ours), 0, "{ours}");
    }
    if count("received") > RECEIVED_MAX {
        return;
    }
    // A second hand would add its trace and nothing else.
    let (again, _) = take_in([bytes].into_iter(), &name).expect("what was taken in is taken again");
    let added = again.len() - content.len();
    assert!(again.as_bytes().ends_with(bytes) && again.as_bytes().starts_with(b"Received: "));
    assert_eq!(
        again.as_bytes()[..added]
            .iter()
            .filter(|&&b| b == b'\n')
            .count(),
        3
    );
}
