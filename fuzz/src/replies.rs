//! Replies: any split gives the same, and nothing grows past its limit.

use smtp::{Reply, ReplyError, ReplyLimits, ReplyParser};

use crate::Target;
use crate::bytes::pieces;

pub(crate) const TARGET: Target = Target {
    name: "replies",
    check,
    examples: &[
        b"\x02\x00\x05250 2.1.0 Ok\r\n",
        b"\x01\x20\x01250-mx.example.org\r\n250-SIZE 1000\r\n250 LIMITS RCPTMAX=3\r\n354 go\r\n",
        b"\x03\x03\x00550-5.1.1 no\n550 5.1.1 such user\n421\r\n",
        b"\x00\x00\x00220 \xc3\xa9\xff\x07\r\n",
    ],
    words: &[
        "250 ",
        "250-",
        "\r\n",
        "2.1.5 ",
        "5.7.1 ",
        "421 4.3.2 ",
        "599",
        "199 ",
    ],
    rounds: 30_000,
};

/// The first three octets choose limits and split.
fn check(input: &[u8]) {
    let Some((&[limits, first, second], bytes)) = input.split_first_chunk::<3>() else {
        return;
    };
    let limits = ReplyLimits {
        line_bytes_max: 8 + usize::from(limits) * 8,
        lines_max: 1 + usize::from(limits % 8),
    };
    let whole = parse_all([bytes].into_iter(), limits);
    let split = parse_all(pieces(bytes, &[first, second]), limits);
    let octets = parse_all(pieces(bytes, &[0]), limits);
    assert_eq!(split, whole);
    assert_eq!(octets, whole);
    whole.0.iter().for_each(|reply| check_reply(reply, limits));
}

fn parse_all<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    limits: ReplyLimits,
) -> (Vec<Reply>, Option<ReplyError>) {
    let (mut parser, mut replies) = (ReplyParser::new(limits), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            match parser.parse(&mut piece) {
                Ok(reply) => replies.extend(reply),
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

fn check_reply(reply: &Reply, limits: ReplyLimits) {
    let lines = reply.text().split('\n').count();
    assert!(lines <= limits.lines_max, "{lines} lines");
    // What is no UTF-8 becomes U+FFFD, of three octets.
    assert!(
        reply
            .text()
            .split('\n')
            .all(|line| line.len() <= 3 * limits.line_bytes_max)
    );
    assert!(reply.text().chars().all(|c| c == '\n' || !c.is_control()));

    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let roomy = ReplyLimits {
        line_bytes_max: wire.len(),
        lines_max: lines,
    };
    let again = ReplyParser::new(roomy)
        .parse(&mut &wire[..])
        .expect("our own reply parses");
    let again = again.expect("it is whole");
    assert_eq!(again.code(), reply.code());
    assert_eq!(again.text().split('\n').count(), lines);
    assert!(!reply.to_string().contains(['\r', '\n']));
}
