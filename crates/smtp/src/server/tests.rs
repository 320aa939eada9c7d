use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A driver that accepts everything and remembers what it saw.
struct Driver {
    server: Server,
    buffer: Vec<u8>,
    log: Vec<String>,
    content: Vec<u8>,
}

impl Driver {
    fn new(config: ServerConfig) -> Self {
        let mut driver = Self {
            server: Server::new(Arc::new(Profile::new(config)), false),
            buffer: Vec::new(),
            log: Vec::new(),
            content: Vec::new(),
        };
        driver.feed(b"");
        driver
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.buffer);
        let mut rest = &input[..];
        loop {
            let step = self.server.step(rest);
            rest = &rest[step.consumed..];
            let seen = match step.event {
                Event::More => break,
                Event::Closed => {
                    rest = &[];
                    break;
                }
                Event::Connect(answer) => {
                    answer.accept();
                    continue;
                }
                Event::Hello { name, answer, .. } => {
                    answer.accept();
                    format!("hello {name}")
                }
                Event::StartTls(answer) => {
                    answer.accept();
                    "starttls".into()
                }
                Event::Auth {
                    credentials,
                    answer,
                } => {
                    answer.accept();
                    format!("auth {} {}", credentials.user, credentials.password)
                }
                Event::Mail {
                    reverse_path,
                    answer,
                    ..
                } => {
                    answer.accept();
                    format!("mail {reverse_path}")
                }
                Event::Rcpt { recipient, answer } => {
                    let address = recipient.address.to_string();
                    match address.starts_with("no") {
                        true => answer.reject(&Reply::fixed(550, Some((5, 1, 1)), "No")),
                        false => answer.accept(),
                    }
                    format!("rcpt {address}")
                }
                Event::Data(answer) => {
                    answer.accept();
                    self.content.clear();
                    "data".into()
                }
                Event::Content(text) => {
                    self.content.extend_from_slice(text);
                    continue;
                }
                Event::End { octets, answer } => {
                    answer.accept();
                    assert_eq!(octets, self.content.len() as u64);
                    format!("end {:?}", String::from_utf8_lossy(&self.content))
                }
                Event::Refused(refusal) => format!("refused {refusal:?}"),
                Event::Reset => "reset".into(),
            };
            self.log.push(seen);
        }
        self.buffer = rest.to_vec();
    }

    fn replies(&mut self) -> String {
        let output = std::mem::take(self.server.output());
        String::from_utf8(output).unwrap()
    }

    /// The codes of the replies since the last call, one a reply.
    fn codes(&mut self) -> Vec<u16> {
        self.replies()
            .lines()
            .filter(|line| line.as_bytes().get(3) == Some(&b' '))
            .map(|line| line[..3].parse().unwrap())
            .collect()
    }
}

fn config() -> ServerConfig {
    ServerConfig::new("mx.example.org".parse().unwrap())
}

fn ready() -> Driver {
    let mut driver = Driver::new(config());
    driver.feed(b"EHLO me\r\n");
    driver.replies();
    driver.log.clear();
    driver
}

const MAIL: &str = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n";

/// Feeds `input` behind EHLO and compares reply codes and what the caller saw.
#[track_caller]
fn check(input: &str, codes: &[u16], log: &[&str]) {
    let mut driver = ready();
    driver.feed(input.as_bytes());
    assert_eq!(driver.codes(), codes, "{input:?}");
    assert_eq!(driver.log, log, "{input:?}");
}

#[test]
fn a_pipelined_flight_is_answered_in_one_output() {
    let mut driver = ready();
    driver.feed(format!("{MAIL}DATA\r\n").as_bytes());
    assert_eq!(
        driver.replies(),
        "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CRLF>.<CRLF>\r\n"
    );
    driver.feed(format!("A: b\r\n\r\n..c\r\n.\r\nRSET\r\n{MAIL}DATA\r\n").as_bytes());
    assert_eq!(driver.codes(), [250, 250, 250, 250, 354]);
    assert_eq!(driver.log[3], "end \"A: b\\r\\n\\r\\n.c\\r\\n\"");
}

#[test]
fn windowed_chunks_are_answered_in_order() {
    let one = format!("{MAIL}BDAT 6 LAST\r\nA: b\r\n");
    let flight = format!("{one}RSET\r\n{one}RSET\r\n{MAIL}BDAT 3\r\n.\r\nBDAT 3 LAST\r\nx\r\n");
    let mut driver = ready();
    driver.feed(flight.as_bytes());
    assert_eq!(
        driver.codes(),
        [250, 250, 250, 250, 250, 250, 250, 250, 250, 250, 250, 250]
    );
}

#[test]
fn ehlo_announces_what_is_offered() {
    let mut driver = Driver::new(config());
    assert_eq!(driver.replies(), "220 mx.example.org ESMTP\r\n");
    driver.feed(b"EHLO me\r\n");
    assert_eq!(
        driver.replies(),
        "250-mx.example.org\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n\
         250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-SIZE\r\n\
         250 LIMITS RCPTMAX=1000\r\n"
    );
}

proptest! {
    #[test]
    fn any_split_gives_the_same(cuts in prop::collection::vec(0usize..600, 0..20)) {
        let flight = format!(
            "EHLO me\r\n{MAIL}DATA\r\nA: b\r\n\r\n..c\r\n.d\r\n\r\n.\r\nRSET\r\n{MAIL}\
             BDAT 6\r\nA: b\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\nBDAT 4 LAST\r\nRSETQUIT\r\n"
        );
        let mut whole = Driver::new(config());
        whole.feed(flight.as_bytes());
        let mut split = Driver::new(config());
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(flight.len())).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts.into_iter().chain([flight.len()]) {
            split.feed(&flight.as_bytes()[from..cut]);
            from = cut;
        }
        prop_assert_eq!(split.replies(), whole.replies());
        prop_assert_eq!(split.log, whole.log);
    }
}
