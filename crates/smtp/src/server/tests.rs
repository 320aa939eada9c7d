//! The server session: dialogues, splits, smuggling, limits.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::extension::Mechanism;

/// A driver that accepts everything and remembers what it saw.
struct Driver {
    server: Server,
    buffer: Vec<u8>,
    log: Vec<String>,
    content: Vec<u8>,
    /// `Some` to give the last reply of each message later.
    places: Option<Vec<Place>>,
}

impl Driver {
    fn new(config: ServerConfig) -> Self {
        let mut driver = Self {
            places: None,
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
                    match &mut self.places {
                        None => answer.accept(),
                        Some(places) => places.push(answer.later()),
                    }
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

/// Looks like the end of content to one server or another, and is none.
const FALSE_ENDS: [&str; 14] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r\n.\r",
    "\r.\r\n",
    "\n.\r",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\n\n.\n\n",
    "\r\n.\x00\n",
    "\n\r.\n\r",
];

#[test]
fn a_false_end_never_makes_two_messages() {
    for end in FALSE_ENDS {
        let smuggled = format!("A: b\r\n\r\nx{end}{MAIL}DATA\r\nsmuggled\r\n");
        let mut driver = ready();
        driver.feed(format!("{MAIL}DATA\r\n{smuggled}.\r\nNOOP\r\n").as_bytes());
        assert_eq!(driver.codes(), [250, 250, 354, 554, 250], "DATA {end:?}");
        assert!(driver.log[3].starts_with("refused"), "{:?}", driver.log);
        assert_eq!(driver.log.len(), 4);

        let mut driver = ready();
        let octets = smuggled.len();
        driver.feed(format!("{MAIL}BDAT {octets} LAST\r\n{smuggled}NOOP\r\n").as_bytes());
        assert_eq!(driver.codes(), [250, 250, 554, 250], "BDAT {end:?}");
        assert_eq!(driver.log.len(), 4);
    }
}

#[test]
fn content_is_refused_for_what_is_wrong_with_it() {
    let long = format!("{}\r\n", "x".repeat(999));
    for (text, refusal) in [
        ("a\rb\r\n", "refused BareCr"),
        ("a\nb\r\n", "refused BareLf"),
        ("a\0b\r\n", "refused Nul"),
        (&long, "refused LineTooLong"),
    ] {
        let mut driver = ready();
        driver.feed(format!("{MAIL}DATA\r\n{text}.\r\n").as_bytes());
        assert_eq!(driver.codes(), [250, 250, 354, 554], "{text:?}");
        assert_eq!(driver.log[3], refusal);
    }
    let longest = &long[1..];
    check(
        &format!("{MAIL}DATA\r\n{longest}.\r\n"),
        &[250, 250, 354, 250],
        &[
            "mail <a@example.org>",
            "rcpt b@example.org",
            "data",
            &format!("end {longest:?}"),
        ],
    );
}

#[test]
fn lines_are_measured_across_reads() {
    for (line_bytes, code) in [(50, 250), (998, 250), (999, 554)] {
        let lines = format!("{}\r\n", "x".repeat(line_bytes)).repeat(30);
        let mut driver = ready();
        driver.feed(format!("{MAIL}DATA\r\n").as_bytes());
        for piece in lines.as_bytes().chunks(7) {
            driver.feed(piece);
        }
        driver.feed(b".\r\n");
        assert_eq!(driver.codes(), [250, 250, 354, code], "{line_bytes}");
    }
}

#[test]
fn a_carriage_return_is_bare_where_the_last_chunk_ends() {
    check(
        &format!("{MAIL}BDAT 2\r\na\rBDAT 1 LAST\r\n\nRSET\r\n{MAIL}BDAT 2 LAST\r\na\r"),
        &[250, 250, 250, 250, 250, 250, 250, 554],
        &[
            "mail <a@example.org>",
            "rcpt b@example.org",
            "data",
            "end \"a\\r\\n\"",
            "mail <a@example.org>",
            "rcpt b@example.org",
            "data",
            "refused BareCr",
        ],
    );
}

#[test]
fn a_refused_chunk_is_passed_over_to_the_octet() {
    // No transaction at all, in three phases.
    let mut driver = Driver::new(config());
    driver.feed(b"BDAT 6 LAST\r\nQUIT\r\nEHLO me\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    assert_eq!(driver.codes(), [220, 503, 250, 503, 250]);
    // No recipient, a refused recipient.
    for rcpt in ["", "RCPT TO:<no@example.org>\r\n"] {
        let mut driver = ready();
        let flight = format!("MAIL FROM:<>\r\n{rcpt}BDAT 6 LAST\r\nQUIT\r\nRSET\r\nNOOP\r\n");
        driver.feed(flight.as_bytes());
        assert_eq!(
            driver.codes()[1 + usize::from(!rcpt.is_empty())..],
            [554, 250, 250]
        );
    }
}

#[test]
fn after_a_refused_chunk_only_rset_helps() {
    let mut server = Server::new(Arc::new(Profile::new(config())), false);
    let flight =
        format!("EHLO me\r\n{MAIL}BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\nDATA\r\nRSET\r\n{MAIL}");
    let mut rest = flight.as_bytes();
    loop {
        let step = server.step(rest);
        rest = &rest[step.consumed..];
        match step.event {
            Event::Data(answer) => answer.reject(&Reply::fixed(452, Some((4, 3, 1)), "Full")),
            Event::Connect(answer)
            | Event::Hello { answer, .. }
            | Event::Mail { answer, .. }
            | Event::Rcpt { answer, .. } => answer.accept(),
            Event::Reset => {}
            Event::More => break,
            other => panic!("{other:?}"),
        }
    }
    let output = String::from_utf8(server.output().clone()).unwrap();
    let codes: Vec<_> = output
        .lines()
        .filter(|line| line.as_bytes()[3] == b' ')
        .map(|line| &line[..3])
        .collect();
    assert_eq!(
        codes,
        [
            "220", "250", "250", "250", "452", "503", "503", "250", "250", "250"
        ]
    );
}

#[test]
fn what_was_pipelined_behind_a_refusal_is_no_error() {
    let mut driver = ready();
    let refused = "RSET\r\nMAIL FROM:<>\r\nRCPT TO:<no@example.org>\r\nDATA\r\n";
    let orphans = "RSET\r\nRCPT TO:<b@example.org>\r\nDATA\r\nBDAT 1 LAST\r\nx";
    driver.feed(refused.repeat(50).as_bytes());
    driver.feed(orphans.repeat(50).as_bytes());
    assert_eq!(driver.codes().len(), 400);
    driver.feed(b"NOOP\r\n");
    assert_eq!(driver.codes(), [250]);
}

#[test]
fn data_and_bdat_do_not_mix() {
    check(
        &format!("{MAIL}BDAT 3\r\na\r\nDATA\r\nRCPT TO:<c@example.org>\r\nBDAT 0 LAST\r\n"),
        &[250, 250, 250, 503, 503, 250],
        &[
            "mail <a@example.org>",
            "rcpt b@example.org",
            "data",
            "end \"a\\r\\n\"",
        ],
    );
}

#[test]
fn a_chunk_of_unknown_length_ends_the_connection() {
    for line in [
        "BDAT",
        "BDAT x LAST",
        "BDAT 99999999999999999999 LAST",
        "BDAT -1",
        "BDAT 1 2",
    ] {
        check(&format!("{line}\r\nRSET\r\n"), &[501], &[]);
    }
}

#[test]
fn commands_out_of_order_are_refused() {
    for (input, codes) in [
        ("RCPT TO:<b@example.org>\r\n", &[503][..]),
        ("DATA\r\n", &[503]),
        ("MAIL FROM:<>\r\nDATA\r\n", &[250, 554]),
        ("MAIL FROM:<>\r\nMAIL FROM:<>\r\n", &[250, 503]),
        ("STARTTLS\r\n", &[502]),
        ("AUTH PLAIN AA==\r\n", &[504]),
        ("FOO\r\n\r\n", &[500, 500]),
        (
            "VRFY a\r\nEXPN b\r\nHELP\r\nNOOP x\r\n",
            &[252, 502, 214, 250],
        ),
        ("QUIT\r\nNOOP\r\n", &[221]),
        ("NOOP\n", &[500]),
        ("MAIL FROM:<\u{e9}@example.org>\r\n", &[553]),
        (
            "MAIL FROM:<\u{e9}@example.org> SMTPUTF8\r\nRCPT TO:<\u{e9}@example.org>\r\n",
            &[250, 250],
        ),
        (
            "MAIL FROM:<>\r\nRCPT TO:<\u{e9}@example.org>\r\n",
            &[250, 553],
        ),
    ] {
        let mut driver = ready();
        driver.feed(input.as_bytes());
        assert_eq!(driver.codes(), codes, "{input:?}");
    }
    let mut driver = Driver::new(config());
    driver.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\nRSET\r\nHELO me\r\n");
    assert_eq!(driver.codes(), [220, 503, 503, 503, 250, 250]);
}

#[test]
fn each_limit_has_its_reply() {
    let mut limited = config();
    limited.offers.size_bytes_max = Some(10);
    limited.limits = ServerLimits {
        command_line_bytes_max: 40,
        recipients_max: 1,
        transactions_max: Some(3),
        errors_max: 3,
        ..ServerLimits::default()
    };
    let mut driver = Driver::new(limited);
    driver.feed(b"EHLO me\r\n");
    assert!(driver.replies().contains("LIMITS RCPTMAX=1 MAILMAX=3"));
    driver.feed(b"MAIL FROM:<> SIZE=11\r\nMAIL FROM:<> SIZE=10\r\n");
    assert_eq!(driver.codes(), [552, 250]);
    driver.feed(b"RCPT TO:<b@c.org>\r\nRCPT TO:<c@c.org>\r\nDATA\r\n");
    assert_eq!(driver.codes(), [250, 452, 354]);
    driver.feed(b"12345678\r\n9\r\n.\r\n");
    assert_eq!(driver.codes(), [552]);
    driver.feed(b"MAIL FROM:<>\r\nRCPT TO:<b@c.org>\r\nBDAT 13 LAST\r\n12345678\r\n9\r\n");
    assert_eq!(driver.codes(), [250, 250, 552]);
    driver.feed(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n");
    assert_eq!(driver.codes(), [250, 250, 421]);

    let mut driver = Driver::new(ServerConfig {
        limits: ServerLimits {
            command_line_bytes_max: 40,
            errors_max: 3,
            ..ServerLimits::default()
        },
        ..config()
    });
    let fits = format!("NOOP {}\r\n", "x".repeat(33));
    driver.feed(fits.as_bytes());
    driver.feed(format!("NOOP {}\r\nNOOP\r\n", "x".repeat(10_000)).as_bytes());
    assert_eq!(driver.codes(), [220, 250, 500, 250]);
    driver.feed(b"a\r\nb\r\nc\r\nNOOP\r\n");
    assert_eq!(driver.codes(), [500, 500, 421]);
}

#[test]
fn rfc3207_what_was_said_before_tls_is_forgotten() {
    let mut config = config();
    config.offers.starttls = true;
    config.offers = config.offers.with_auth(Mechanism::Plain);
    let mut driver = Driver::new(config.clone());
    driver.feed(b"EHLO me\r\n");
    let clear = driver.replies();
    assert!(
        clear.contains("STARTTLS") && !clear.contains("AUTH"),
        "{clear}"
    );
    driver.feed(b"AUTH PLAIN AHUAcA==\r\n");
    assert_eq!(driver.codes(), [538]);
    driver.feed(b"STARTTLS\r\n");
    assert_eq!(driver.codes(), [220]);
    assert!(driver.server.awaits_handshake());
    driver.server.encrypted();
    driver.feed(b"MAIL FROM:<>\r\nEHLO me\r\n");
    let encrypted = driver.replies();
    assert!(encrypted.starts_with("503"), "{encrypted}");
    assert!(encrypted.contains("AUTH PLAIN") && !encrypted.contains("STARTTLS"));
    driver.feed(b"STARTTLS\r\nAUTH PLAIN AHUAcA==\r\n");
    assert_eq!(driver.codes(), [502, 235]);

    // Nor does an AUTH from before count.
    config.auth_in_clear = true;
    let mut driver = Driver::new(config.clone());
    driver.feed(b"EHLO me\r\nAUTH PLAIN AHUAcA==\r\nAUTH PLAIN AHUAcA==\r\nSTARTTLS\r\n");
    driver.server.encrypted();
    driver.feed(b"EHLO me\r\nAUTH PLAIN AHUAcA==\r\n");
    assert_eq!(driver.codes(), [220, 250, 235, 503, 220, 250, 235]);

    let mut injected = Driver::new(config);
    injected.feed(b"EHLO me\r\nSTARTTLS\r\nMAIL FROM:<>\r\n");
    assert_eq!(injected.codes(), [220, 250, 554]);
    injected.feed(b"EHLO me\r\n");
    assert_eq!(injected.codes(), []);
}

#[test]
fn credentials_are_read_in_each_way_to_give_them() {
    let mut config = config();
    config.auth_in_clear = true;
    config.offers = config
        .offers
        .with_auth(Mechanism::Plain)
        .with_auth(Mechanism::Login)
        .with_auth(Mechanism::ScramSha256);
    for (input, codes, log) in [
        ("AUTH PLAIN AHUAcA==\r\n", &[235][..], Some("auth u p")),
        ("AUTH PLAIN\r\nAHUAcA==\r\n", &[334, 235], Some("auth u p")),
        (
            "AUTH LOGIN\r\ndQ==\r\ncA==\r\n",
            &[334, 334, 235],
            Some("auth u p"),
        ),
        ("AUTH login dQ==\r\ncA==\r\n", &[334, 235], Some("auth u p")),
        ("AUTH LOGIN\r\n*\r\n", &[334, 501], None),
        ("AUTH PLAIN !\r\n", &[501], None),
        ("AUTH PLAIN AHUA\r\n", &[235], Some("auth u ")),
        ("AUTH PLAIN dQ==\r\n", &[501], None),
        ("AUTH PLAIN =\r\n", &[501], None),
        ("AUTH SCRAM-SHA-256\r\n", &[504], None),
        ("AUTH PLAIN\r\nAHUAcA==\n", &[334, 500], None),
        (
            "AUTH PLAIN AHUAcA==\r\nAUTH PLAIN AHUAcA==\r\n",
            &[235, 503],
            Some("auth u p"),
        ),
        ("MAIL FROM:<>\r\nAUTH PLAIN AHUAcA==\r\n", &[250, 503], None),
    ] {
        let mut driver = Driver::new(config.clone());
        driver.feed(b"EHLO me\r\n");
        driver.replies();
        driver.feed(input.as_bytes());
        assert_eq!(driver.codes(), codes, "{input:?}");
        let auth: Vec<_> = driver
            .log
            .iter()
            .filter(|it| it.starts_with("auth"))
            .collect();
        assert_eq!(auth, log.iter().collect::<Vec<_>>(), "{input:?}");
    }
}

/// Settles what the driver owes, one after the other, in the order that `picks` chooses.
fn settle(driver: &mut Driver, picks: &[usize]) {
    let mut picks = picks.iter().cycle();
    while let Some(places) = driver.places.as_mut().filter(|places| !places.is_empty()) {
        let place = places.swap_remove(picks.next().unwrap_or(&0) % places.len());
        driver
            .server
            .fill(place, &Reply::fixed(250, Some((2, 0, 0)), "Ok"));
    }
}

#[test]
fn a_reply_that_is_owed_holds_up_those_behind_it_and_no_command() {
    let mut driver = ready();
    driver.places = Some(Vec::new());
    let message = format!("{MAIL}BDAT 3 LAST\r\nx\r\n");
    driver.feed(format!("{message}RSET\r\n{message}QUIT\r\n").as_bytes());
    assert_eq!(driver.log.len(), 8);
    assert_eq!((driver.codes(), driver.server.owed()), (vec![250, 250], 2));
    let (first, second) = {
        let mut places = driver.places.take().unwrap().into_iter();
        (places.next().unwrap(), places.next().unwrap())
    };
    let full = Reply::fixed(452, Some((4, 3, 1)), "Full");
    driver.server.fill(second, &full);
    assert_eq!(driver.codes(), []);
    driver.server.fill(first, &Reply::fixed(250, None, "Ok"));
    assert_eq!(driver.codes(), [250, 250, 250, 250, 452, 221]);
    assert_eq!(driver.server.owed(), 0);
}

#[test]
fn what_is_held_up_does_not_grow_with_what_was_let_go() {
    let mut driver = ready();
    driver.places = Some(Vec::new());
    let message = format!("{MAIL}BDAT 3 LAST\r\nx\r\n");
    for round in 0..5_000 {
        driver.feed(message.as_bytes());
        if round > 0 {
            let place = driver.places.as_mut().unwrap().remove(0);
            driver.server.fill(place, &Reply::fixed(250, None, "Ok"));
            assert_eq!(driver.codes(), [250, 250, 250]);
        } else {
            assert_eq!(driver.codes(), [250, 250]);
        }
        assert!(driver.server.outbox.held_bytes() < 16 * 1024);
    }
}

#[test]
fn an_answer_that_is_dropped_refuses_for_now() {
    let mut server = Server::new(Arc::new(Profile::new(config())), false);
    drop(server.step(b""));
    assert_eq!(server.output(), replies::NOT_ANSWERED);
}

#[test]
fn who_is_turned_away_may_only_quit() {
    let mut server = Server::new(Arc::new(Profile::new(config())), false);
    match server.step(b"").event {
        Event::Connect(answer) => answer.reject(&Reply::fixed(554, None, "No")),
        other => panic!("{other:?}"),
    }
    let input = b"EHLO me\r\nBDAT 6\r\nQUIT\r\nQUIT\r\n";
    assert!(matches!(server.step(input).event, Event::Closed));
    let output = String::from_utf8(server.output().clone()).unwrap();
    let codes: Vec<_> = output.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["554", "503", "503", "221"]);
}

/// Feeds a fresh driver `input`, cut where `cuts` say.
fn fed(input: &[u8], cuts: &[usize]) -> Driver {
    let mut driver = Driver::new(config());
    let mut cuts: Vec<_> = cuts.iter().map(|&cut| cut.min(input.len())).collect();
    cuts.sort_unstable();
    let mut from = 0;
    for cut in cuts.into_iter().chain([input.len()]) {
        driver.feed(&input[from..cut]);
        from = cut;
    }
    driver
}

/// What content is once dot-stuffing is undone, and whether it may be taken; by the book, octet by octet.
fn by_the_book(wire: &str) -> Option<String> {
    let end = match wire.strip_prefix(".\r\n") {
        Some(_) => 0,
        None => wire.find("\r\n.\r\n")? + 2,
    };
    let text = &wire[..end];
    let torn = text.replace("\r\n", "");
    if torn.contains(['\r', '\n', '\0']) {
        return None;
    }
    let lines = text.split_inclusive("\r\n");
    Some(
        lines
            .map(|line| line.strip_prefix('.').unwrap_or(line))
            .collect(),
    )
}

proptest! {
    #[test]
    fn replies_given_later_in_any_order_leave_in_order(
        words in prop::collection::vec(prop::sample::select(&[
            "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 3 LAST\r\nx\r\n", "RSET\r\n", "NOOP\r\n",
            "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nx\r\n.\r\n", "BDAT 2\r\nx\n", "EHLO me\r\n",
        ][..]), 0..30),
        picks in prop::collection::vec(0usize..30, 1..10),
        pause in 1usize..400,
    ) {
        let flight = words.concat();
        let (mut at_once, mut later) = (ready(), ready());
        at_once.feed(flight.as_bytes());
        later.places = Some(Vec::new());
        let mut replies = String::new();
        for piece in flight.as_bytes().chunks(pause) {
            later.feed(piece);
            replies += &later.replies();
            settle(&mut later, &picks);
            replies += &later.replies();
        }
        prop_assert_eq!(replies, at_once.replies());
        prop_assert_eq!(later.log, at_once.log);
    }

    #[test]
    fn any_split_of_a_good_session_gives_the_same(cuts in prop::collection::vec(0usize..600, 0..20)) {
        let flight = format!(
            "EHLO me\r\n{MAIL}DATA\r\nA: b\r\n\r\n..c\r\n.d\r\n\r\n.\r\nRSET\r\n{MAIL}\
             BDAT 6\r\nA: b\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\nBDAT 4 LAST\r\nRSETQUIT\r\n"
        );
        let (mut whole, mut split) = (fed(flight.as_bytes(), &[]), fed(flight.as_bytes(), &cuts));
        prop_assert_eq!(split.replies(), whole.replies());
        prop_assert_eq!(split.log, whole.log);
    }

    #[test]
    fn any_split_of_any_session_gives_the_same(
        words in prop::collection::vec(prop::sample::select(&[
            "EHLO me\r\n", "MAIL FROM:<a@b.example>\r\n", "RCPT TO:<a@b.example>\r\n",
            "RCPT TO:<no@b.example>\r\n", "DATA\r\n", "BDAT 5\r\n", "BDAT 3 LAST\r\n", "RSET\r\n",
            "NOOP\r\n", ".\r\n", ".", "\r", "\n", "\r\n", "\0", "x", "..\r\n", "QUIT\r\n",
        ][..]), 0..40),
        cuts in prop::collection::vec(0usize..300, 0..12),
    ) {
        let flight = ["EHLO me\r\n", MAIL, &words.concat()].concat();
        let (mut whole, mut split) = (fed(flight.as_bytes(), &[]), fed(flight.as_bytes(), &cuts));
        prop_assert_eq!(split.replies(), whole.replies());
        prop_assert_eq!(split.log, whole.log);
        prop_assert_eq!(split.buffer, whole.buffer);
    }

    #[test]
    fn content_is_what_the_book_says(
        words in prop::collection::vec(prop::sample::select(&[
            "\r\n", "\r\n", "\r\n.", "x", ".", "\r", "\n", "\0", "\r\n..", "xyz\r\n",
        ][..]), 0..12),
        cuts in prop::collection::vec(0usize..120, 0..12),
    ) {
        // The end is certain, and nothing in front of it can be one.
        let wire = words.concat() + "\r\n.\r\n";
        let wire = &wire[..wire.find("\r\n.\r\n").unwrap() + 5];
        let wire = if wire.starts_with(".\r\n") { ".\r\n" } else { wire };
        let flight = format!("EHLO me\r\n{MAIL}DATA\r\n{wire}");
        let driver = fed(flight.as_bytes(), &cuts);
        match by_the_book(wire) {
            Some(content) => prop_assert_eq!(&driver.log[4], &format!("end {content:?}")),
            None => prop_assert!(driver.log[4].starts_with("refused"), "{:?}", driver.log),
        }
        prop_assert_eq!(driver.log.len(), 5);
    }
}
