//! Our client and our server, with each other, octets in flight cut and delayed at will: what the
//! client calls sent is what the server took, under the right reverse-path, to the right recipients.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use smtp::client::{End, Handshake, HandshakeConfig, Mode, Session, Settled, StartTls};
use smtp::server::{Answer, Event, Profile, Server, ServerConfig, Step};
use smtp::{Address, Content, Envelope, Recipient, Reply};

use crate::Target;
use crate::bytes::find;

pub(crate) const TARGET: Target = Target {
    name: "dialogue",
    check,
    examples: &[
        b"\x00\x05\x00\x05\x08\x05\x10\x05\x18\x05\x20\x05\x38\x06\x05",
        b"\x01\x05\x10\x05\x00\x05\x30\x05\x20\x05\x00\x06\x05",
        b"\x02\x05\x10\x02\x03\x04\x00\x05\x10\x05\x38\xfa\x1b\x0c\x05\x20\x05\x06",
        b"\x03\x05\x00\x10\x08\x05\x18\x00\x20\x0a\x0b\x0c\x05\x01\x00\x00\x05\x06\x05",
        b"\x03\x05\x00\x00\x28\x00\x05\x05",
        b"\x02\x05\x38\x02\xfb\x0c\x07",
        b"\x06\x05\x00\x05\x10\x05\x00\x05",
    ],
    words: &[
        "\0\x05",
        "\x10\x05",
        "\x18",
        "\x20\x05",
        "\x28",
        "\x02\x03\x04",
        "\x05",
        "\x38\x0a\x0b",
        "\x01\x05",
    ],
    rounds: 8_000,
};

const NOW: Duration = Duration::ZERO;
/// Steps of one input; more of them show nothing new.
const STEPS_MAX: usize = 200;

/// The first octet is mode and extensions. Of each other, three bits say what happens, the rest how
/// much of it.
fn check(input: &[u8]) {
    let Some((&first, script)) = input.split_first() else {
        return;
    };
    let mut dialogue = Dialogue::new(first);
    for &step in script.iter().take(STEPS_MAX) {
        let amount = match step >> 3 {
            31 => usize::MAX,
            few => usize::from(few) * 3 + 1,
        };
        match step & 7 {
            ask @ 0..=1 => dialogue.begin(step >> 3 & 7, ask == 1),
            2 => drop(dialogue.client_writes(amount)),
            3 => drop(dialogue.server_hears(amount)),
            4 => drop(dialogue.client_hears(amount)),
            5 => dialogue.come_to_rest(),
            6 => dialogue.session.quit(),
            _ => dialogue.cut(),
        }
    }
    dialogue.come_to_rest();
    dialogue.check();
}

/// What was begun, and what the server took.
#[derive(Debug, PartialEq, Eq)]
struct Mail {
    reverse_path: String,
    recipients: Vec<String>,
    content: Vec<u8>,
}

struct Dialogue {
    session: Session,
    begun: Vec<Mail>,
    settled: Vec<Settled>,
    to_server: VecDeque<u8>,
    peer: Peer,
    is_cut: bool,
}

/// The server and what it knows.
struct Peer {
    server: Server,
    unread: Vec<u8>,
    to_client: VecDeque<u8>,
    open: Mail,
    taken: Vec<Mail>,
    is_closed: bool,
}

impl Dialogue {
    fn new(first: u8) -> Self {
        let mut config = ServerConfig::new("mx.example.org".parse().expect("a name"));
        config.offers.pipelining = first & 4 == 0;
        config.offers.chunking = first & 8 == 0;
        config.limits.errors_max = u32::MAX;
        let mut peer = Peer {
            server: Server::new(Arc::new(Profile::new(config)), false),
            unread: Vec::new(),
            to_client: VecDeque::new(),
            open: Mail::new(),
            taken: Vec::new(),
            is_closed: false,
        };
        peer.hear(b"EHLO client.example\r\n");
        let mut handshake = Handshake::new(HandshakeConfig {
            name: "client.example".parse().expect("a name"),
            starttls: StartTls::Never,
            is_encrypted: false,
            credentials: None,
            mechanism: None,
            allow_plaintext_auth: false,
            nonce: [7; 18],
        });
        let greeting: Vec<u8> = peer.to_client.drain(..).collect();
        handshake.receive(&greeting).expect("a good start");
        let session = handshake.into_session(match first & 3 {
            0 => Mode::Lockstep,
            1 => Mode::Pipelined,
            2 => Mode::Overlapped,
            _ => Mode::Windowed {
                transactions_max: 4,
                bytes_max: 2000,
            },
        });
        Self {
            session: session.expect("the handshake is done"),
            begun: Vec::new(),
            settled: Vec::new(),
            to_server: VecDeque::new(),
            peer,
            is_cut: false,
        }
    }

    fn begin(&mut self, kind: u8, ask_first: bool) {
        let number = self.begun.len();
        let recipients: &[&str] = match kind {
            1 => &["a@y.example", "no@y.example", "b@y.example"],
            2 => &["no@y.example", "no@z.example"],
            5 => &["a@y.example", "bye@y.example"],
            6 => &["drop@y.example", "a@y.example"],
            _ => &["a@y.example"],
        };
        let reverse_path = if kind == 3 {
            "no@x.example".to_owned()
        } else {
            format!("m{number}@x.example")
        };
        let body = match kind {
            4 => "refuse\r\n".to_owned(),
            7 => ".\r\n..\r\nRSET\r\n".repeat(30),
            _ => ".\r\n".to_owned(),
        };
        let content = Content::new(format!("Subject: {number}\r\n\r\n{body}")).expect("canonical");
        let envelope = Envelope::new(
            reverse_path.parse::<Address>().expect("an address"),
            recipients
                .iter()
                .map(|text| Recipient::from(text.parse::<Address>().expect("an address")))
                .collect(),
        );
        let envelope = envelope.expect("there are recipients");
        if self.session.may_begin(content.len()) {
            let begun = self
                .session
                .begin(&envelope, content.clone(), ask_first, NOW);
            let id = begun.expect("the server takes anything");
            assert_eq!(id, number as u64 + 1);
            self.begun.push(Mail {
                reverse_path,
                recipients: recipients.iter().map(|&text| text.to_owned()).collect(),
                content: content.as_bytes().to_vec(),
            });
        }
    }

    /// Whether anything was moved, as for the others.
    fn client_writes(&mut self, octets_max: usize) -> bool {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = self.session.slices(&mut slices);
        let mut bytes: Vec<u8> = slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        bytes.truncate(octets_max);
        self.session.advance(bytes.len(), NOW);
        self.to_server.extend(&bytes);
        !bytes.is_empty()
    }

    fn server_hears(&mut self, octets_max: usize) -> bool {
        let count = octets_max.min(self.to_server.len());
        let bytes: Vec<u8> = self.to_server.drain(..count).collect();
        self.peer.hear(&bytes);
        count > 0
    }

    fn client_hears(&mut self, octets_max: usize) -> bool {
        let count = octets_max.min(self.peer.to_client.len());
        let bytes: Vec<u8> = self.peer.to_client.drain(..count).collect();
        self.session
            .receive(&bytes, NOW)
            .expect("the server says only what makes sense");
        if self.peer.is_closed && self.peer.to_client.is_empty() {
            self.session.end();
        }
        self.settled
            .extend(std::iter::from_fn(|| self.session.settled()));
        count > 0
    }

    fn come_to_rest(&mut self) {
        loop {
            let wrote = self.client_writes(usize::MAX);
            let heard = self.server_hears(usize::MAX);
            if !(wrote | heard | self.client_hears(usize::MAX)) {
                break;
            }
        }
        assert_eq!(
            self.session.open_transactions(),
            0,
            "both wait for each other"
        );
    }

    /// The connection breaks: what is under way to either side is lost.
    fn cut(&mut self) {
        self.is_cut = true;
        self.to_server.clear();
        self.peer.to_client.clear();
        self.peer.is_closed = true;
        self.client_hears(0);
    }

    fn check(&self) {
        assert_eq!(self.settled.len(), self.begun.len());
        let mut taken = self.peer.taken.iter().peekable();
        for settled in &self.settled {
            let mail = &self.begun[settled.id as usize - 1];
            let refused = |index: &usize| settled.refused.iter().any(|(at, _)| at == index);
            let kept = mail
                .recipients
                .iter()
                .enumerate()
                .filter(|(index, _)| !refused(index));
            let recipients: Vec<String> = kept.map(|(_, text)| text.clone()).collect();
            let was_taken = taken.next_if(|taken| taken.content == mail.content);
            match &settled.end {
                End::Final(reply) if reply.code().is_completed() => {
                    let was_taken =
                        was_taken.unwrap_or_else(|| panic!("{settled:?} was not taken"));
                    assert_eq!(
                        (&was_taken.reverse_path, &was_taken.recipients),
                        (&mail.reverse_path, &recipients)
                    );
                }
                End::Unknown => assert!(self.is_cut || self.peer.is_closed),
                _ => assert_eq!(was_taken, None, "{settled:?}"),
            }
        }
        assert_eq!(taken.next(), None, "taken and not settled so");
    }
}

impl Mail {
    fn new() -> Self {
        Self {
            reverse_path: String::new(),
            recipients: Vec::new(),
            content: Vec::new(),
        }
    }
}

impl Peer {
    fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.unread);
        let mut rest = &input[..];
        loop {
            let Step { consumed, event } = self.server.step(rest);
            rest = &rest[consumed..];
            let goes_on = heard(&mut self.open, &mut self.taken, event);
            if !self.is_closed {
                self.to_client.extend(self.server.output().drain(..));
            }
            match goes_on {
                Heard::Something => {}
                Heard::Nothing => break,
                Heard::Closed => {
                    self.is_closed = true;
                    break;
                }
            }
        }
        self.unread = rest.to_vec();
    }
}

enum Heard {
    Something,
    Nothing,
    Closed,
}

fn heard(open: &mut Mail, taken: &mut Vec<Mail>, event: Event<'_, '_>) -> Heard {
    match event {
        Event::More => return Heard::Nothing,
        Event::Closed => return Heard::Closed,
        Event::Connect(answer) | Event::Hello { answer, .. } | Event::Data(answer) => {
            answer.accept()
        }
        Event::Mail {
            reverse_path,
            answer,
            ..
        } => {
            let address = reverse_path.address().expect("never null here");
            if decide(answer, address.local_part()) {
                *open = Mail {
                    reverse_path: address.to_string(),
                    ..Mail::new()
                };
            }
        }
        Event::Rcpt { recipient, answer } => {
            if decide(answer, recipient.address.local_part()) {
                open.recipients.push(recipient.address.to_string());
            }
        }
        Event::Content(text) => open.content.extend_from_slice(text),
        Event::End { answer, .. } => {
            let mail = std::mem::replace(open, Mail::new());
            if decide(
                answer,
                if find(&mail.content, b"refuse").is_some() {
                    "no"
                } else {
                    ""
                },
            ) {
                taken.push(mail);
            }
        }
        Event::Refused(refusal) => panic!("our content is canonical: {refusal}"),
        Event::Reset => *open = Mail::new(),
        Event::StartTls(_) | Event::Auth { .. } => panic!("the client never asks for it here"),
    }
    Heard::Something
}

/// Answers as a local part says; gives whether that was a yes.
fn decide(answer: Answer<'_>, text: &str) -> bool {
    match text {
        "no" => answer.reject(&Reply::fixed(550, Some((5, 7, 1)), "no")),
        "bye" => answer.reject(&Reply::fixed(421, Some((4, 3, 2)), "bye")),
        "drop" => drop(answer),
        _ => {
            answer.accept();
            return true;
        }
    }
    false
}
