//! Commands: what parses is written in one way, and that way parses back to the same.

use smtp::command::{self, Body};
use smtp::{Command, Domain, Extensions, Mechanism, ReplyParser};

use crate::Target;
use crate::bytes::is_one_line;

pub(crate) const TARGET: Target = Target {
    name: "commands",
    check,
    examples: &[
        b"MAIL FROM:<a@b.example> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>",
        b"RCPT TO:<@x.example,@y.example:\"a > b\"@c.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+40y",
        b"RCPT TO:<Postmaster>",
        b"MAIL FROM:<>",
        b"BDAT 12 LAST",
        b"AUTH PLAIN AHUAcA==",
        b"EHLO [IPv6:2001:db8::1]",
        b"STARTTLS",
        b"VRFY somebody",
    ],
    words: &[
        "MAIL FROM:<", "RCPT TO:<", " SIZE=", " BODY=7BIT", " SMTPUTF8", " RET=FULL", " ENVID=",
        " NOTIFY=NEVER", " ORCPT=rfc822;", " AUTH=", "BDAT ", " LAST", "@b.example>", "\r\n", "+0A",
        "18446744073709551615", "\"", "\\", "xn--", "[IPv6:",
    ],
    rounds: 100_000,
};

fn check(line: &[u8]) {
    let host: Domain = "mx.example.org".parse().expect("a name");
    let everything = everything();
    let parsed = Command::parse(line, &everything, &host);
    match &parsed {
        Ok(command) => {
            if let Some(written) = written(command) {
                assert!(is_one_line(&written));
                let again = Command::parse(&written[..written.len() - 2], &everything, &host);
                assert_eq!(again.as_ref(), Ok(command));
            }
        }
        Err(error) => {
            let mut wire = Vec::new();
            error.reply().write_to(&mut wire);
            let reply = ReplyParser::default()
                .parse(&mut &wire[..])
                .expect("our reply parses");
            assert_eq!(reply.expect("it is whole").code().get() / 100, 5);
            assert!(wire.split_inclusive(|&b| b == b'\n').all(is_one_line));
        }
    }
    // Who offers less never reads a line otherwise.
    if let Ok(command) = Command::parse(line, &Extensions::default(), &host) {
        assert_eq!(parsed.as_ref(), Ok(&command));
    }
}

fn everything() -> Extensions {
    let mut all = Extensions::default().with_auth(Mechanism::Plain);
    all.pipelining = true;
    all.chunking = true;
    all.eight_bit_mime = true;
    all.smtputf8 = true;
    all.dsn = true;
    all.starttls = true;
    all.size_bytes_max = Some(0);
    all
}

fn written(command: &Command<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match command {
        Command::Mail(reverse_path, parameters) => {
            assert_ne!(parameters.body, Some(Body::BinaryMime), "never offered");
            command::write_mail(&mut out, reverse_path, parameters);
        }
        Command::Rcpt(recipient) => command::write_rcpt(&mut out, recipient, true),
        Command::Bdat { octets, last: true } => command::write_bdat_last(&mut out, *octets),
        _ => return None,
    }
    Some(out)
}
