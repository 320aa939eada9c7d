//! Whole client sessions against arbitrary replies: each transaction is settled exactly once,
//! success only for content that was written whole, and nothing is written that was not meant.

use std::io::IoSlice;
use std::time::Duration;

use smtp::client::{
    End, Handshake, HandshakeConfig, Mode, Session, Settled, StartTls, TransactionStage,
};
use smtp::{Address, Content, Envelope, Notify, Recipient, ReversePath};

use crate::Target;
use crate::bytes::find;

pub(crate) const TARGET: Target = Target {
    name: "client",
    check,
    examples: &[
        b"\x00\xff\x01\x04250 a\r\n\x04250 b\r\n\x04354 c\r\n\x04250 d\r\n\x02\x04550 no\r\n\x01\x04",
        b"\x01\xff\x02\x04250 a\r\n250 b\r\n550 c\r\n354 d\r\n\x04250 e\r\n\x06\x04221 f\r\n",
        b"\x02\xff\x01\x04250 a\r\n250 b\r\n354 c\r\n\x04\x02\x04250 d\r\n250 e\r\n250 f\r\n550 g\r\n250 h\r\n354 i\r\n",
        b"\x03\xff\x01\x02\x01\x04250 a\r\n250 b\r\n250 c\r\n250 d\r\n250 e\r\n550 f\r\n550 g\r\n554 h\r\n\x07",
        b"\x02\xff\x02\x04250 a\r\n550 b\r\n550 c\r\n354 d\r\n\x04554 e\r\n\x03\x04421 f\r\n",
        b"\x03\xff\x03\x01\x05\x05250-a\r\n250 b\r\n\x04450 c\r\n",
        b"\x02\x03\x01\x04\xff\r\n",
    ],
    words: &[
        "250 ok\r\n", "354 go\r\n", "550 5.1.1 no\r\n", "451 later\r\n", "421 bye\r\n", "250-more\r\n", "\r\n",
        "\x01", "\x02", "\x03", "\x04", "\x05", "\x06", "\x01\x04", "\x04250 a\r\n", "250 a\r\n250 b\r\n354 c\r\n",
    ],
    rounds: 4_000,
};

const NOW: Duration = Duration::ZERO;

/// The first octet is the mode, the second what the server offers. Of the rest, 1 to 3 begin a
/// transaction, 4 writes all there is, 5 a little, 6 quits, 7 ends; the others are what the server
/// says.
fn check(input: &[u8]) {
    let Some((&[mode, offers], script)) = input.split_first_chunk::<2>() else {
        return;
    };
    let whole = played(mode, offers, script, usize::MAX);
    let split = played(mode, offers, script, 1);
    assert_eq!(split.log, whole.log);
    assert_eq!(split.written, whole.written);
}

fn played(mode: u8, offers: u8, script: &[u8], piece_len: usize) -> Driver {
    let mut driver = Driver::new(session(mode, offers));
    let mut rest = script;
    while let Some(&first) = rest.first() {
        let said = rest
            .iter()
            .position(|b| (1..=7).contains(b))
            .unwrap_or(rest.len());
        if said == 0 {
            driver.order(first);
            rest = &rest[1..];
        } else {
            let (bytes, tail) = rest.split_at(said);
            bytes.chunks(piece_len).for_each(|piece| driver.hear(piece));
            rest = tail;
        }
    }
    driver.order(7);
    driver.check_end();
    driver
}

fn session(mode: u8, offers: u8) -> Session {
    let mut handshake = Handshake::new(HandshakeConfig {
        name: "client.example".parse().expect("a name"),
        starttls: StartTls::Never,
        is_encrypted: false,
        credentials: None,
        mechanism: None,
        allow_plaintext_auth: false,
        nonce: [7; 18],
    });
    let mut ehlo = String::from("220 hello\r\n250-host\r\n");
    let keywords = [
        "PIPELINING",
        "CHUNKING",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "SIZE 300",
        "LIMITS RCPTMAX=1",
    ];
    for (bit, keyword) in keywords.iter().enumerate() {
        // The last bit limits recipients where it is not set.
        if (offers >> bit & 1 == 1) != (bit == 6) {
            ehlo += &format!("250-{keyword}\r\n");
        }
    }
    ehlo += "250 HELP\r\n";
    handshake.receive(ehlo.as_bytes()).expect("a good start");
    handshake
        .into_session(match mode % 4 {
            0 => Mode::Lockstep,
            1 => Mode::Pipelined,
            2 => Mode::Overlapped,
            _ => Mode::Windowed {
                transactions_max: 3,
                bytes_max: 400,
            },
        })
        .expect("the handshake is done")
}

struct Begun {
    id: u64,
    recipients: usize,
    content: Content,
    settled: Option<Settled>,
}

struct Driver {
    session: Session,
    begun: Vec<Begun>,
    /// All that was written.
    written: Vec<u8>,
    /// All that the server said.
    heard: Vec<u8>,
    log: Vec<String>,
}

impl Driver {
    fn new(session: Session) -> Self {
        Self {
            session,
            begun: Vec::new(),
            written: Vec::new(),
            heard: Vec::new(),
            log: Vec::new(),
        }
    }

    fn order(&mut self, octet: u8) {
        match octet {
            kind @ 1..=3 => self.begin(kind),
            4 => while self.write(usize::MAX) {},
            5 => drop(self.write(7)),
            6 => self.session.quit(),
            _ => self.session.end(),
        }
        self.settle();
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let before = self.session.awaits().map(|(stage, _)| stage);
        let result = self.session.receive(bytes, NOW);
        let after = self.session.awaits().map(|(stage, _)| stage);
        if bytes.len() == 1 && before == Some(TransactionStage::Data) && after > before {
            // 354: content or a lone dot, even where nobody is left to send it to.
            assert!(self.pending().ends_with(b".\r\n"));
        }
        self.settle();
        if let Err(error) = result {
            assert!(self.session.is_over());
            self.log.push(error.to_string());
        }
    }

    fn begin(&mut self, kind: u8) {
        let number = self.begun.len();
        let (recipients, text): (&[&str], _) = match kind {
            1 => (
                &["r@y.example"],
                format!("Subject: m{number}\r\n\r\n.x\r\n..\r\n"),
            ),
            2 => (
                &["r@y.example", "\"a b\"@z.example"],
                format!("Subject: m{number}\r\n\r\n{}\r\n", "x".repeat(150)),
            ),
            _ => (
                &["j\u{f6}rg@y.example"],
                format!("Subject: m{number}\r\n\r\n\u{e9}\r\n.\r\n"),
            ),
        };
        let content = Content::new(text).expect("canonical");
        let recipients: Vec<Recipient> = recipients.iter().map(|text| recipient(text)).collect();
        let count = recipients.len();
        let reverse_path: ReversePath = "s@x.example".parse().expect("an address");
        let envelope = Envelope::new(reverse_path, recipients).expect("there are recipients");
        let may = self.session.may_begin(content.len());
        match self
            .session
            .begin(&envelope, content.clone(), kind == 3, NOW)
        {
            Ok(id) => {
                assert!(may && !self.session.is_over());
                assert!(self.begun.iter().all(|begun| begun.id != id));
                self.begun.push(Begun {
                    id,
                    recipients: count,
                    content,
                    settled: None,
                });
            }
            Err(error) => self.log.push(error.to_string()),
        }
    }

    /// Writes at most so many octets; `false` if there was nothing to write.
    fn write(&mut self, octets_max: usize) -> bool {
        let mut bytes = self.pending();
        assert_eq!(bytes.is_empty(), !self.session.has_output());
        bytes.truncate(octets_max);
        self.session.advance(bytes.len(), NOW);
        self.written.extend_from_slice(&bytes);
        !bytes.is_empty()
    }

    /// What is to be written, or a good part of it.
    fn pending(&self) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = self.session.slices(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    /// How often the content was written, as DATA has it or as BDAT has it, up to its end.
    fn times_written(&self, begun: &Begun) -> usize {
        let mut stuffed = begun.content.stuffed().collect::<Vec<_>>().concat();
        stuffed.extend_from_slice(b".\r\n");
        let head = format!("BDAT {} LAST\r\n", begun.content.len());
        let plain = [head.as_bytes(), begun.content.as_bytes()].concat();
        count(&self.written, &stuffed) + count(&self.written, &plain)
    }

    fn settle(&mut self) {
        let heard_421 = find(&self.heard, b"421").is_some();
        while let Some(settled) = self.session.settled() {
            self.log.push(format!("{settled:?}"));
            let at = self.begun.iter().position(|begun| begun.id == settled.id);
            let at = at.expect("only what was begun is settled");
            let begun = &self.begun[at];
            assert_eq!(begun.settled, None, "settled twice");
            let is_written = self.times_written(begun) == 1;
            match &settled.end {
                End::Final(reply) => {
                    assert!(is_written || !reply.code().is_completed(), "{settled:?}")
                }
                End::Unknown => assert!(is_written, "{settled:?}"),
                // After 421 the server says that it has done nothing of what follows.
                End::NotSent => assert!(!is_written || heard_421, "{settled:?}"),
                End::AllRefused => assert_eq!(settled.refused.len(), begun.recipients),
                End::Refused(_, reply) => assert!(!reply.code().is_completed(), "{settled:?}"),
            }
            let indexes: Vec<usize> = settled.refused.iter().map(|(index, _)| *index).collect();
            assert!(
                indexes.is_sorted_by(|a, b| a < b) && indexes.iter().all(|&i| i < begun.recipients)
            );
            self.begun[at].settled = Some(settled);
        }
        let open = self.begun.len()
            - self
                .begun
                .iter()
                .filter_map(|begun| begun.settled.as_ref())
                .count();
        assert_eq!(open, self.session.open_transactions());
        assert!(open > 0 || self.session.awaits().is_none());
        if self.session.is_over() {
            assert!(open == 0 && !self.session.has_output() && !self.session.may_begin(1));
        }
    }

    fn check_end(&self) {
        assert!(self.session.is_over());
        assert!(self.begun.iter().all(|begun| begun.settled.is_some()));
        assert!(
            self.begun
                .iter()
                .all(|begun| self.times_written(begun) <= 1)
        );
        self.check_written();
    }

    /// Takes the stream apart: whole commands of ours, and contents of ours where they may stand.
    fn check_written(&self) {
        let (mut rest, mut may_come) = (&self.written[..], false);
        while let Some(end) = find(rest, b"\r\n") {
            let line = &rest[..end + 2];
            if may_come && let Some(len) = self.content_len(rest) {
                rest = &rest[len..];
                may_come = false;
                continue;
            }
            assert!(is_ours(line, may_come), "{}", line.escape_ascii());
            may_come = line.starts_with(b"DATA") || line.starts_with(b"BDAT");
            rest = &rest[line.len()..];
        }
    }

    /// Octets of the content at the front of `rest`, or of what there is of it.
    fn content_len(&self, rest: &[u8]) -> Option<usize> {
        self.begun.iter().find_map(|begun| {
            let mut stuffed = begun.content.stuffed().collect::<Vec<_>>().concat();
            stuffed.extend_from_slice(b".\r\n");
            [&stuffed[..], begun.content.as_bytes()]
                .into_iter()
                .find(|form| rest.starts_with(form) || form.starts_with(rest))
                .map(|form| form.len().min(rest.len()))
        })
    }
}

fn recipient(text: &str) -> Recipient {
    let address: Address = text.parse().expect("an address");
    let mut recipient = Recipient::from(address.clone());
    recipient.notify = Some(Notify::FAILURE);
    recipient.original = Some(address);
    recipient
}

fn is_ours(line: &[u8], after_data: bool) -> bool {
    let starts = |start: &str| line.starts_with(start.as_bytes());
    match line {
        b"RSET\r\n" | b"DATA\r\n" | b"QUIT\r\n" => true,
        b".\r\n" => after_data,
        _ => starts("MAIL FROM:<s@x.example>") || starts("RCPT TO:<") || starts("BDAT "),
    }
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    memchr::memmem::find_iter(haystack, needle).count()
}
