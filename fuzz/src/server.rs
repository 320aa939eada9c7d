//! Whole server sessions: any split of the octets gives the same, and no message is taken that is
//! not canonical or that ended where it did not end.

use std::sync::Arc;

use smtp::server::{Answer, Event, Profile, Server, ServerConfig, ServerLimits, Step};
use smtp::{Content, Mechanism, Reply, ReplyLimits, ReplyParser};

use crate::Target;
use crate::bytes::{find, is_canonical, is_one_line, pieces, unstuffed};

pub(crate) const TARGET: Target = Target {
    name: "server",
    check,
    examples: &[
        b"\x00\x00\x05EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n\
          A: b\r\n\r\n..c\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<no@d.example>\r\nDATA\r\nQUIT\r\n",
        b"\x00\x02\x01EHLO me\r\nMAIL FROM:<a@b.example> SIZE=6\r\nRCPT TO:<c@d.example>\r\nBDAT 6\r\nA: b\r\n\
          BDAT 3 LAST\r\nx\r\nMAIL FROM:<a@b.example>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
        b"\x02\x01\x00EHLO me\r\nAUTH PLAIN\r\nAHUAcA==\r\nAUTH LOGIN\r\ndQ==\r\ncA==\r\nVRFY x\r\nHELP\r\n",
        b"\x05\x00\x00HELO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n\n.\n\r\n.\r\n",
        b"\x08\x00\x00EHLO me\r\nSTARTTLS\r\nEHLO me\r\nMAIL FROM:<>\r\n",
        b"\x18\x00\x00EHLO me\r\nSTARTTLS\r\nEHLO me\r\nMAIL FROM:<bye@b.example>\r\n",
    ],
    words: &[
        "EHLO me\r\n", "MAIL FROM:<a@b.example>\r\n", "RCPT TO:<c@d.example>\r\n", "RCPT TO:<no@d.example>\r\n",
        "RCPT TO:<drop@d.example>\r\n", "RCPT TO:<bye@d.example>\r\n", "DATA\r\n", "BDAT 5\r\n", "BDAT 3 LAST\r\n",
        "BDAT 0 LAST\r\n", "RSET\r\n", "NOOP\r\n", ".\r\n", "\r\n.\r\n", "\n.\n", "\r\n.\r", "..\r\n", "QUIT\r\n",
        "STARTTLS\r\n", "AUTH LOGIN\r\n", "*\r\n", "refuse",
    ],
    rounds: 8_000,
};

const SMALL: u8 = 1;
const AUTH: u8 = 2;
const SIZE: u8 = 4;
const STARTTLS: u8 = 8;

/// The first octet chooses what the server offers, the next two how its input is split.
fn check(input: &[u8]) {
    let Some((&[offers, first, second], bytes)) = input.split_first_chunk::<3>() else {
        return;
    };
    let whole = played(offers, [bytes].into_iter());
    let split = played(offers, pieces(bytes, &[first, second]));
    // What stands behind STARTTLS in one piece is an attack, and a command when it comes later.
    if offers & STARTTLS == 0 {
        assert_eq!(split.log, whole.log);
        assert_eq!(split.wire, whole.wire);
        assert_eq!(split.unread, whole.unread);
        let octets = played(offers, pieces(bytes, &[0]));
        assert_eq!(octets.log, whole.log);
        assert_eq!(octets.wire, whole.wire);
    }
}

fn profile(offers: u8) -> Profile {
    let mut config = ServerConfig::new("mx.example.org".parse().expect("a name"));
    config.offers.starttls = offers & STARTTLS != 0;
    config.auth_in_clear = offers & 16 == 0;
    if offers & AUTH != 0 {
        let offers = config.offers.with_auth(Mechanism::Plain);
        config.offers = offers.with_auth(Mechanism::Login);
    }
    if offers & SIZE != 0 {
        config.offers.size_bytes_max = Some(40);
    }
    if offers & SMALL != 0 {
        config.limits = ServerLimits {
            command_line_bytes_max: 60,
            auth_line_bytes_max: 80,
            text_line_bytes_max: 50,
            recipients_max: 2,
            transactions_max: Some(3),
            errors_max: 4,
        };
    }
    Profile::new(config)
}

fn played<'a>(offers: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Driver {
    let profile = Arc::new(profile(offers));
    let mut driver = Driver {
        unread_max: profile.buffer_bytes_min(),
        server: Server::new(profile, false),
        unread: Vec::new(),
        log: Vec::new(),
        wire: Vec::new(),
        transaction: Transaction::None,
    };
    driver.feed(b"");
    pieces.for_each(|piece| driver.feed(piece));
    driver.check_replies();
    driver
}

/// What the caller is told of a transaction, kept beside the machine to hold it to the order.
enum Transaction {
    None,
    Open {
        recipients: u32,
    },
    /// `raw`: what came over the wire for DATA.
    Content {
        raw: Option<Vec<u8>>,
        content: Vec<u8>,
    },
}

struct Driver {
    server: Server,
    unread: Vec<u8>,
    unread_max: usize,
    log: Vec<String>,
    /// All replies.
    wire: Vec<u8>,
    transaction: Transaction,
}

impl Driver {
    fn feed(&mut self, piece: &[u8]) {
        self.unread.extend_from_slice(piece);
        let input = std::mem::take(&mut self.unread);
        let mut rest = &input[..];
        loop {
            if self.server.awaits_handshake() {
                self.server.encrypted();
            }
            let Step { consumed, event } = self.server.step(rest);
            let (used, unused) = rest.split_at(consumed);
            if let Transaction::Content { raw: Some(raw), .. } = &mut self.transaction {
                raw.extend_from_slice(used);
            }
            let goes_on = heard(&mut self.log, &mut self.transaction, used, event);
            self.wire.append(self.server.output());
            rest = unused;
            if !goes_on {
                break;
            }
        }
        assert!(
            rest.len() < self.unread_max.max(1),
            "{} octets are left unread",
            rest.len()
        );
        self.unread = rest.to_vec();
    }

    fn check_replies(&self) {
        let limits = ReplyLimits {
            line_bytes_max: 512,
            lines_max: 20,
        };
        let (mut parser, mut rest) = (ReplyParser::new(limits), &self.wire[..]);
        while !rest.is_empty() {
            parser
                .parse(&mut rest)
                .expect("what a server says are replies");
        }
        assert!(parser.is_empty(), "half a reply");
        assert!(self.wire.split_inclusive(|&b| b == b'\n').all(is_one_line));
    }
}

/// Takes one event; `false` where the input is used up or nothing more is read.
fn heard(log: &mut Vec<String>, open: &mut Transaction, used: &[u8], event: Event<'_, '_>) -> bool {
    let seen = match event {
        Event::More | Event::Closed => return false,
        Event::Connect(answer) => {
            answer.accept();
            return true;
        }
        Event::Hello {
            name,
            extended,
            answer,
        } => {
            *open = Transaction::None;
            let seen = format!("hello {extended} {name}");
            decide(answer, name);
            seen
        }
        Event::StartTls(answer) => {
            *open = Transaction::None;
            answer.accept();
            "starttls".into()
        }
        Event::Auth {
            credentials,
            answer,
        } => {
            let seen = format!("auth {} {}", credentials.user, credentials.password);
            decide(answer, &credentials.user);
            seen
        }
        Event::Mail {
            reverse_path,
            parameters,
            answer,
        } => {
            assert!(matches!(open, Transaction::None), "MAIL in a transaction");
            let text = reverse_path
                .address()
                .map_or("", |address| address.local_part());
            if decide(answer, text) {
                *open = Transaction::Open { recipients: 0 };
            }
            format!("mail {reverse_path} {parameters:?}")
        }
        Event::Rcpt { recipient, answer } => {
            let Transaction::Open { recipients } = open else {
                panic!("RCPT outside a transaction");
            };
            *recipients += u32::from(decide(answer, recipient.address.local_part()));
            format!("rcpt {recipient:?}")
        }
        Event::Data(answer) => {
            assert!(
                matches!(open, Transaction::Open { recipients: 1.. }),
                "nobody to send to"
            );
            answer.accept();
            *open = Transaction::Content {
                raw: is_data(used).then(Vec::new),
                content: Vec::new(),
            };
            "data".into()
        }
        Event::Content(text) => {
            let Transaction::Content { content, .. } = open else {
                panic!("content outside DATA and BDAT");
            };
            content.extend_from_slice(text);
            return true;
        }
        Event::End { octets, answer } => {
            let content = ended(open, true);
            assert_eq!(octets, content.len() as u64);
            decide(
                answer,
                if find(&content, b"refuse").is_some() {
                    "no"
                } else {
                    ""
                },
            );
            format!("end {}", content.escape_ascii())
        }
        Event::Refused(refusal) => {
            ended(open, false);
            format!("refused {refusal:?}")
        }
        Event::Reset => {
            assert!(!matches!(open, Transaction::None), "RSET of nothing");
            *open = Transaction::None;
            "reset".into()
        }
    };
    log.push(seen);
    true
}

/// Answers as the text says; gives whether that was a yes.
fn decide(answer: Answer<'_>, text: &str) -> bool {
    match text {
        "no" => answer.reject(&Reply::fixed(550, Some((5, 1, 1)), "no\nand no again")),
        "bye" => answer.reject(&Reply::fixed(421, Some((4, 3, 2)), "bye")),
        "gone" => answer.hang_up(),
        "drop" => drop(answer),
        _ => {
            answer.accept();
            return true;
        }
    }
    false
}

/// Whether the last line of what was consumed is DATA, not BDAT.
fn is_data(used: &[u8]) -> bool {
    let lines = used
        .strip_suffix(b"\r\n")
        .expect("a command ends with CRLF");
    let start = lines
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    lines[start..].to_ascii_uppercase().starts_with(b"DATA")
}

/// Checks content that has ended against what came over the wire.
fn ended(open: &mut Transaction, taken: bool) -> Vec<u8> {
    let Transaction::Content { raw, content } = std::mem::replace(open, Transaction::None) else {
        panic!("the end of no content");
    };
    if taken {
        assert!(
            is_canonical(&content, false),
            "not canonical: {}",
            content.escape_ascii()
        );
    }
    if let Some(raw) = raw {
        let text = raw
            .strip_suffix(b".\r\n")
            .expect("only a line of one dot ends content");
        assert!(text.is_empty() || text.ends_with(b"\r\n"));
        assert!(!text.starts_with(b".\r\n"), "the end was passed over");
        assert!(
            find(text, b"\r\n.\r\n").is_none(),
            "the end was passed over"
        );
        if taken {
            assert_eq!(unstuffed(text), content);
            assert!(content.is_empty() || Content::new(content.clone()).is_ok());
        }
    }
    content
}
