//! Addresses, domains, mailboxes: what parses prints, and what is printed parses back to the same.

use message::Mailbox;
use smtp::command::{self, MailParameters};
use smtp::{
    Address, ClientName, Command, Domain, EnvelopeId, Extensions, Notify, Recipient, ReversePath,
};

use crate::Target;
use crate::bytes::is_one_line;

pub(crate) const TARGET: Target = Target {
    name: "addresses",
    check,
    examples: &[
        b"A.b+c@EXAMPLE.org",
        b"\"a \\\" b\"@example.org",
        "j\u{f6}rg@b\u{fc}cher.example".as_bytes(),
        b"post@[192.0.2.7]",
        b"a@[IPv6:2001:db8::1]",
        b"a@[x-tag:text]",
        b"a@[x-tag:>\"]",
        b"a@xn--bcher-kva.example",
        b"\"Lee, \\\"A\\\"\" <a@example.org>",
        b"SUCCESS,FAILURE,DELAY",
    ],
    words: &[
        "@", "\"", "\\", "[IPv6:", "]", "xn--", "example", ".", "\u{e9}", "\u{3002}", "\u{ad}",
        "\u{200d}", "\u{ff20}", "\r\n", "<", "> ", "NEVER", "\u{1e9e}", "\u{85}", "\u{2028}",
    ],
    rounds: 60_000,
};

fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(address) = text.parse::<Address>() {
        check_address(&address);
    }
    if let Ok(domain) = text.parse::<Domain>() {
        check_domain(&domain);
        if let Ok(address) = Address::new("a b", &domain) {
            check_address(&address);
        }
        assert_eq!(
            text.parse::<ClientName>().map(|name| name.to_string()),
            Ok(domain.to_string())
        );
    }
    if let Ok(path) = text.parse::<ReversePath>() {
        assert_eq!(
            path.to_string().trim_matches(['<', '>']),
            path.address().map_or("", Address::as_str)
        );
    }
    let domain = "example.org".parse().expect("a name");
    if let Ok(address) = Address::new(&text, &domain) {
        check_address(&address);
        // What is meant is kept, whichever way it is spelled.
        let spelled = format!(
            "\"{}\"@example.org",
            text.replace('\\', "\\\\").replace('"', "\\\"")
        );
        assert_eq!(spelled.parse(), Ok(address));
    }
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        check_address(mailbox.address());
    }
    if let Some(notify) = Notify::parse(&text) {
        assert_eq!(Notify::parse(&notify.to_string()), Some(notify));
    }
    if let Ok(id) = EnvelopeId::new(&text) {
        let parameters = MailParameters {
            id: Some(id),
            ..MailParameters::default()
        };
        check_mail(&ReversePath::Null, &parameters);
    }
}

fn check_domain(domain: &Domain) {
    let text = domain.as_str();
    assert!(!text.is_empty() && text.len() <= Domain::LEN_MAX);
    assert!(text.bytes().all(|b| b.is_ascii_graphic()));
    assert_eq!(text.parse::<Domain>().as_ref(), Ok(domain));
    assert_eq!(domain.is_literal(), text.starts_with('['));
    if let Some(ip) = domain.ip() {
        assert_eq!(&Domain::from_ip(ip), domain);
    }
}

fn check_address(address: &Address) {
    let text = address.as_str();
    assert!(text.len() <= Address::LEN_MAX && address.local_part().len() <= Address::LOCAL_LEN_MAX);
    assert!(!text.chars().any(char::is_control));
    assert_eq!(
        text,
        format!("{}@{}", address.local_part(), address.domain())
    );
    assert_eq!(text.parse::<Address>().as_ref(), Ok(address));
    check_domain(
        &address
            .domain()
            .parse()
            .expect("the domain of an address is one"),
    );
    check_mail(&address.clone().into(), &MailParameters::default());

    let mut recipient = Recipient::from(address.clone());
    recipient.original = Some(address.clone());
    let mut line = Vec::new();
    command::write_rcpt(&mut line, &recipient, true);
    assert!(is_one_line(&line));
    assert_eq!(parse(&line), Command::Rcpt(recipient));
}

fn check_mail(reverse_path: &ReversePath, parameters: &MailParameters) {
    let mut line = Vec::new();
    command::write_mail(&mut line, reverse_path, parameters);
    assert!(is_one_line(&line));
    assert_eq!(
        parse(&line),
        Command::Mail(reverse_path.clone(), parameters.clone())
    );
}

fn parse(line: &[u8]) -> Command<'_> {
    let mut offered = Extensions::default();
    offered.dsn = true;
    let host = "mx.example.org".parse().expect("a name");
    Command::parse(&line[..line.len() - 2], &offered, &host).expect("what we write, we read")
}
