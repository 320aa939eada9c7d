//! The edge from outside: sockets on loopback, and a stand-in for the engine that says when a
//! message is durable.
//!
//! Over 500 lines: each is a short dialogue before the same stand-in.

use std::collections::VecDeque;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use engine::Submission;
use smtp::{Address, Domain, Reply};
use store::{MessageId, Priority, Time};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::auth::{Access, ApiKey, PasswordHash, Rules, Scopes, StoredKey, User};

/// A stand-in for the engine.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    begun: Vec<(Submission, Option<Once>)>,
    /// Messages wait to be settled, in the order they began.
    holds: bool,
    waiting: VecDeque<oneshot::Sender<Result<MessageId, Reply>>>,
    refuses_tenant: Option<Reply>,
    refuses_at_once: Option<Reply>,
    ids: u128,
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Settles the message that has waited longest.
    fn settle(&self, result: Result<MessageId, Reply>) {
        let first = self.lock().waiting.pop_front().unwrap();
        first.send(result).unwrap();
    }

    fn begun(&self) -> usize {
        self.lock().begun.len()
    }

    fn content(&self, index: usize) -> String {
        let content = self.lock().begun[index].0.content.as_bytes().to_vec();
        String::from_utf8(content).unwrap()
    }

    async fn has_begun(&self, count: usize) {
        while self.begun() < count {
            tokio::task::yield_now().await;
        }
    }
}

struct Waiting(oneshot::Receiver<Result<MessageId, Reply>>);

impl Future for Waiting {
    type Output = Result<MessageId, Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(Result::unwrap)
    }
}

impl Acceptor for Fake {
    type Pending = Waiting;

    fn now(&self) -> Time {
        Time::from_secs(1_700_000_000)
    }

    fn next_id(&self) -> MessageId {
        let mut state = self.lock();
        state.ids += 1;
        MessageId::from_bits(state.ids)
    }

    fn check_tenant(&self, _: &str) -> Result<(), Reply> {
        self.lock().refuses_tenant.clone().map_or(Ok(()), Err)
    }

    fn check_recipient(&self, _: &str, recipient: &Address) -> Result<(), Reply> {
        match recipient.domain() {
            "nowhere.example" => Err(Reply::fixed(550, Some((5, 7, 1)), "no route")),
            _ => Ok(()),
        }
    }

    fn begin(&self, submission: Submission, once: Option<Once>) -> Result<Waiting, Reply> {
        let mut state = self.lock();
        if let Some(reply) = state.refuses_at_once.clone() {
            return Err(reply);
        }
        let (sender, receiver) = oneshot::channel();
        let id = submission.options.id.unwrap();
        state.begun.push((submission, once));
        match state.holds {
            true => state.waiting.push_back(sender),
            false => sender.send(Ok(id)).unwrap(),
        }
        Ok(Waiting(receiver))
    }
}

/// A client that writes flights and reads replies.
struct Client<S = TcpStream> {
    stream: S,
    read: Vec<u8>,
}

impl Client {
    async fn connect(edge: &Edge<Fake>) -> Self {
        let stream = TcpStream::connect(edge.addresses()[0]).await.unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    async fn ready(edge: &Edge<Fake>) -> Self {
        let mut client = Self::connect(edge).await;
        assert_eq!(client.codes(1).await, [220]);
        assert_eq!(client.say("EHLO app.example\r\n", 1).await, [250]);
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn write(&mut self, flight: &str) {
        self.stream.write_all(flight.as_bytes()).await.unwrap();
    }

    /// Writes `flight` and reads `count` replies, or as many as come before the end.
    async fn say(&mut self, flight: &str, count: usize) -> Vec<u16> {
        self.write(flight).await;
        self.codes(count).await
    }

    async fn codes(&mut self, count: usize) -> Vec<u16> {
        let replies = self.replies(count).await;
        replies
            .iter()
            .map(|reply| reply[..3].parse().unwrap())
            .collect()
    }

    /// The last lines of the next replies.
    async fn replies(&mut self, count: usize) -> Vec<String> {
        let mut replies = Vec::new();
        while replies.len() < count {
            while let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if line[3] == b' ' && replies.len() < count {
                    replies.push(String::from_utf8(line).unwrap().trim_end().to_owned());
                }
            }
            let is_short = replies.len() < count;
            if is_short && !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                break;
            }
        }
        replies
    }

    /// All that comes until the other side closes.
    async fn rest(&mut self) -> String {
        while matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

fn settings() -> Settings {
    Settings::new("mx.example.org".parse::<Domain>().unwrap())
}

fn open_with(settings: Settings, rules: Rules) -> (Edge<Fake>, Fake, Access) {
    let (fake, access) = (Fake::default(), Access::new(rules));
    let edge = Edge::open(
        &[Listen::from(std::net::SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            0,
        )))],
        settings,
        None,
        access.clone(),
        fake.clone(),
    );
    (edge.unwrap(), fake, access)
}

fn open() -> (Edge<Fake>, Fake) {
    let (edge, fake, _) = open_with(settings(), Rules::loopback_only());
    (edge, fake)
}

const MAIL: &str = "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n";
const MESSAGE: &str = "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n\
     Subject: hello\r\nBcc: c@c.example\r\n\r\nHello\r\n..\r\n.\r\n";

#[tokio::test]
async fn a_message_is_traced_completed_and_accepted() {
    let (edge, fake) = open();
    let mut client = Client::ready(&edge).await;
    client.write(MESSAGE).await;
    let replies = client.replies(4).await;
    assert_eq!(
        replies[3],
        "250 2.0.0 Ok: queued as 00000000-0000-0000-0000-000000000001"
    );
    let content = fake.content(0);
    assert_eq!(
        content,
        "Received: from app.example ([127.0.0.1])\r\n\tby mx.example.org with ESMTP id \
         00000000-0000-0000-0000-000000000001;\r\n\tTue, 14 Nov 2023 22:13:20 -0000\r\n\
         Date: Tue, 14 Nov 2023 22:13:20 -0000\r\n\
         Message-ID: <00000000-0000-0000-0000-000000000001@mx.example.org>\r\n\
         Subject: hello\r\n\r\nHello\r\n.\r\n"
    );
    let (submission, once) = fake.lock().begun[0].clone();
    assert_eq!(&*submission.tenant, "default");
    assert_eq!(submission.envelope.recipients().len(), 1);
    assert_eq!(&*submission.options.subject, "hello");
    assert!(once.is_none());
    let seen = edge.watcher().snapshot();
    assert_eq!(
        (seen.messages, seen.recipients, seen.connections_open),
        (1, 1, 1)
    );
    assert_eq!((seen.bytes, seen.content_bytes), (content.len() as u64, 0));
}

#[tokio::test]
async fn what_an_application_asks_for_in_header_fields_is_done() {
    let (edge, fake) = open();
    let mut client = Client::ready(&edge).await;
    let codes = client
        .say(
            &format!(
                "{MAIL}DATA\r\nIdempotency-Key: k\r\nX-Mailrail-Tag: a=b\r\nX-Mailrail-Priority: bulk\r\n\
                 X-Mailrail-Send-At: 1800000000\r\n\r\nx\r\n.\r\n"
            ),
            4,
        )
        .await;
    assert_eq!(codes, [250, 250, 354, 250]);
    let (submission, once) = fake.lock().begun[0].clone();
    assert_eq!(once.unwrap().key, "k");
    assert_eq!(submission.options.priority, Priority::Bulk);
    assert_eq!(
        submission.options.send_at,
        Some(Time::from_secs(1_800_000_000))
    );
    assert_eq!(submission.options.tags.len(), 1);
    assert!(!fake.content(0).contains("Mailrail"));
    let codes = client
        .say(
            &format!("{MAIL}DATA\r\nX-Mailrail-Priority: now\r\n\r\n.\r\n"),
            4,
        )
        .await;
    assert_eq!(codes, [250, 250, 354, 554]);
}

#[tokio::test]
async fn the_250_waits_for_the_disk_and_the_next_messages_do_not() {
    let (edge, fake) = open();
    fake.lock().holds = true;
    let mut client = Client::ready(&edge).await;
    let message = format!("RSET\r\n{MAIL}BDAT 8 LAST\r\nA: b\r\n\r\n");
    client.write(&message.repeat(3)).await;
    fake.has_begun(3).await;
    assert_eq!(
        client.codes(3).await,
        [250, 250, 250],
        "RSET, MAIL, RCPT of the first"
    );
    fake.settle(Ok(MessageId::from_bits(7)));
    let replies = client.replies(4).await;
    assert!(replies[0].ends_with("7"), "{replies:?}");
    fake.settle(Err(Reply::fixed(452, Some((4, 3, 1)), "full")));
    assert_eq!(client.codes(4).await, [452, 250, 250, 250]);
    fake.settle(Ok(MessageId::from_bits(9)));
    assert_eq!(client.codes(1).await, [250]);
    let seen = edge.watcher().snapshot();
    assert_eq!((seen.messages, seen.messages_deferred), (2, 1));
}

#[tokio::test]
async fn a_client_that_only_writes_and_closes_gets_all_its_replies() {
    let (edge, fake) = open();
    fake.lock().holds = true;
    let mut client = Client::connect(&edge).await;
    client.write(&format!("EHLO x\r\n{MESSAGE}QUIT\r\n")).await;
    client.stream.shutdown().await.unwrap();
    fake.has_begun(1).await;
    fake.settle(Ok(MessageId::from_bits(1)));
    assert_eq!(client.codes(9).await, [220, 250, 250, 250, 354, 250, 221]);
}

#[tokio::test]
async fn who_is_owed_many_replies_is_not_read_from() {
    let mut settings = settings();
    settings.limits.owed_max = 2;
    let (edge, fake, _) = open_with(settings, Rules::loopback_only());
    fake.lock().holds = true;
    let mut client = Client::ready(&edge).await;
    for count in 1..=2 {
        client.write(&format!("{MAIL}BDAT 2 LAST\r\n\r\n")).await;
        fake.has_begun(count).await;
    }
    client.write(&format!("{MAIL}BDAT 2 LAST\r\n\r\n")).await;
    assert_eq!(client.codes(2).await, [250, 250]);
    assert_eq!(fake.begun(), 2);
    fake.settle(Ok(MessageId::from_bits(1)));
    fake.has_begun(3).await;
}

#[tokio::test]
async fn what_the_engine_says_is_what_the_client_reads() {
    let (edge, fake) = open();
    let mut client = Client::ready(&edge).await;
    fake.lock().refuses_tenant = Some(Reply::fixed(452, Some((4, 3, 1)), "busy"));
    assert_eq!(client.say(MAIL, 2).await, [452, 503]);
    fake.lock().refuses_tenant = None;
    let flight = "MAIL FROM:<>\r\nRCPT TO:<a@nowhere.example>\r\nRCPT TO:<a@b.example>\r\n";
    assert_eq!(client.say(flight, 3).await, [250, 550, 250]);
    fake.lock().refuses_at_once = Some(Reply::fixed(451, Some((4, 3, 0)), "poisoned"));
    assert_eq!(client.say("DATA\r\n.\r\n", 2).await, [354, 451]);
    assert_eq!(client.say("NOOP\r\n", 1).await, [250]);
}

#[tokio::test]
async fn nobody_whom_no_rule_names_sends_anything() {
    let (edge, fake, access) = open_with(settings(), Rules::default());
    let mut client = Client::ready(&edge).await;
    client.write(MAIL).await;
    let replies = client.replies(2).await;
    assert_eq!(replies[0], "550 5.7.1 Relaying denied");
    let key = ApiKey::generate();
    access.put_key(StoredKey::new(&key, "k", "lab".into(), Scopes::SEND, 0));
    client.write("RSET\r\nMAIL FROM:<>\r\n").await;
    assert_eq!(
        client.replies(2).await[1],
        "530 5.7.0 Authentication required"
    );
    assert_eq!(edge.watcher().snapshot().strangers_open, 1);
    let login = |user: &str, password: &str| {
        use base64::Engine as _;
        let text = format!("\0{user}\0{password}");
        format!(
            "AUTH PLAIN {}\r\n",
            base64::engine::general_purpose::STANDARD.encode(text)
        )
    };
    assert_eq!(client.say(&login("u", "wrong"), 1).await, [535]);
    assert_eq!(client.say(&login("u", &key.reveal()), 1).await, [235]);
    assert_eq!(client.say(MESSAGE, 4).await, [250, 250, 354, 250]);
    assert_eq!(&*fake.lock().begun[0].0.tenant, "lab");
    assert!(fake.content(0).contains(" with ESMTPA id "));
    assert!(
        !fake.content(0).contains("lab"),
        "whose it is is nobody else's business"
    );
    assert_eq!(edge.watcher().snapshot().strangers_open, 0);
}

#[tokio::test]
async fn who_guesses_passwords_is_shown_out_and_then_not_heard() {
    let mut limited = settings();
    limited.limits.auth_failures_max = 4;
    let rules = Rules {
        users: vec![User {
            name: "u".into(),
            tenant: "t".into(),
            password: PasswordHash::make_cheap("secret"),
        }],
        ..Rules::default()
    };
    let (edge, _, _) = open_with(limited, rules);
    let wrong = "AUTH PLAIN AHUAcA==\r\n";
    let mut client = Client::ready(&edge).await;
    assert_eq!(client.say(&wrong.repeat(3), 4).await, [535, 535, 421]);
    let mut client = Client::ready(&edge).await;
    assert_eq!(client.say(&wrong.repeat(2), 3).await, [535, 421]);
    let mut client = Client::ready(&edge).await;
    let right = "AUTH LOGIN\r\ndQ==\r\nc2VjcmV0\r\n";
    assert_eq!(client.say(right, 3).await, [334, 334, 421]);
    edge.pass(Duration::from_secs(60));
    let mut client = Client::ready(&edge).await;
    assert_eq!(client.say(right, 3).await, [334, 334, 235]);
    let other = "AUTH PLAIN eAB1AHNlY3JldA==\r\n";
    let mut client = Client::ready(&edge).await;
    assert_eq!(
        client.say(other, 1).await,
        [535],
        "u acts for itself, not for x"
    );
}

#[tokio::test]
async fn each_client_has_its_share_of_connections() {
    let mut limited = settings();
    limited.limits.stranger_connections_max = 2;
    limited.limits.connections_max = 3;
    let (edge, _, access) = open_with(limited, Rules::default());
    let first = Client::ready(&edge).await;
    let _second = Client::ready(&edge).await;
    let mut third = Client::connect(&edge).await;
    assert_eq!(
        third.rest().await,
        "421 4.7.0 Too many connections from you, try again later\r\n"
    );
    drop(first);
    while edge.watcher().snapshot().connections_open > 1 {
        tokio::task::yield_now().await;
    }
    let _third = Client::ready(&edge).await;
    access.replace_rules(Rules::loopback_only());
    let _fourth = Client::ready(&edge).await;
    let mut fifth = Client::connect(&edge).await;
    assert_eq!(
        fifth.rest().await,
        "421 4.3.2 Too many connections, try again later\r\n"
    );
    assert_eq!(edge.watcher().snapshot().connections_refused, 2);
}

#[tokio::test]
async fn the_silent_and_the_slow_are_cut() {
    let (edge, fake) = open();
    let silent = |seconds| {
        (
            Duration::from_secs(seconds),
            "Nothing came in time, closing",
        )
    };
    for (said, replies, (time, text)) in [
        ("", 0, silent(301)),
        ("NOO", 0, silent(301)),
        ("NOOP\r\n", 1, silent(301)),
        (
            "MAIL FROM:<>\r\n",
            1,
            (Duration::from_secs(301), "Too slow, closing"),
        ),
    ] {
        let mut client = Client::ready(&edge).await;
        assert_eq!(client.say(said, replies).await.len(), replies);
        edge.pass(time);
        assert_eq!(
            client.rest().await,
            format!("421 4.4.2 {text}\r\n"),
            "{said:?}"
        );
    }
    // A little content at a time is not enough.
    let mut client = Client::ready(&edge).await;
    assert_eq!(
        client.say(&format!("{MAIL}DATA\r\n"), 3).await,
        [250, 250, 354]
    );
    let mut seconds = 0;
    while edge.watcher().snapshot().connections_timed_out < 5 {
        client.stream.write_all(b"x\r\n").await.ok();
        edge.pass(Duration::from_secs(1));
        tokio::task::yield_now().await;
        seconds += 1;
        assert!(seconds < 1000);
    }
    assert!(seconds >= 120, "{seconds}");
    assert_eq!(client.rest().await, "421 4.4.2 Too slow, closing\r\n");
    // Who waits for our disk is not slow.
    fake.lock().holds = true;
    let mut client = Client::ready(&edge).await;
    client.write(MESSAGE).await;
    fake.has_begun(1).await;
    edge.pass(Duration::from_secs(900));
    fake.settle(Ok(MessageId::from_bits(1)));
    assert_eq!(client.codes(4).await, [250, 250, 354, 250]);
}

#[tokio::test]
async fn a_stranger_has_less_time() {
    let (edge, _, _) = open_with(settings(), Rules::default());
    let mut client = Client::ready(&edge).await;
    edge.pass(Duration::from_secs(40));
    assert_eq!(client.say("NOOP\r\n", 1).await, [250]);
    edge.pass(Duration::from_secs(21));
    assert!(client.rest().await.starts_with("421 4.4.2 "));
}

#[tokio::test]
async fn a_drain_lets_transactions_end_and_tells_everybody() {
    let (edge, fake) = open();
    fake.lock().holds = true;
    let mut idle = Client::ready(&edge).await;
    let mut busy = Client::ready(&edge).await;
    let mut owed = Client::ready(&edge).await;
    assert_eq!(busy.say(MAIL, 2).await, [250, 250]);
    owed.write(MESSAGE).await;
    fake.has_begun(1).await;
    let draining = tokio::spawn(edge.drain(Duration::from_secs(60)));
    let shutting_down = "421 4.3.2 Shutting down, try again later\r\n";
    assert_eq!(idle.rest().await, shutting_down);
    fake.settle(Ok(MessageId::from_bits(1)));
    assert_eq!(owed.codes(4).await, [250, 250, 354, 250]);
    assert_eq!(owed.rest().await, shutting_down);
    let flight = format!("BDAT 2 LAST\r\n\r\nRSET\r\n{MAIL}");
    busy.write(&flight).await;
    fake.has_begun(2).await;
    fake.settle(Ok(MessageId::from_bits(2)));
    assert_eq!(busy.codes(9).await, [250, 250, 421]);
    draining.await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_when_its_grace_does() {
    let (edge, fake) = open();
    fake.lock().holds = true;
    let mut busy = Client::ready(&edge).await;
    let mut owed = Client::ready(&edge).await;
    assert_eq!(busy.say(MAIL, 2).await, [250, 250]);
    owed.write(MESSAGE).await;
    fake.has_begun(1).await;
    edge.drain(Duration::ZERO).await;
    assert_eq!(
        busy.rest().await,
        "421 4.3.2 Shutting down, try again later\r\n"
    );
    assert!(
        !owed.rest().await.contains("queued"),
        "what is not durable is not ours"
    );
}

#[tokio::test]
async fn content_under_way_is_bounded_over_all_connections() {
    let mut limited = settings();
    limited.limits.content_bytes_max = 100_000;
    let (edge, fake, _) = open_with(limited, Rules::loopback_only());
    let line = "x".repeat(998) + "\r\n";
    let mut big = Client::ready(&edge).await;
    let codes = big
        .say(&format!("{MAIL}DATA\r\n\r\n{}.\r\n", line.repeat(150)), 4)
        .await;
    assert_eq!(codes, [250, 250, 354, 452]);
    let mut first = Client::ready(&edge).await;
    first.say(&format!("{MAIL}DATA\r\n"), 3).await;
    first.write(&format!("\r\n{}", line.repeat(60))).await;
    while edge.watcher().snapshot().content_bytes < 60_000 {
        tokio::task::yield_now().await;
    }
    let codes = big
        .say(&format!("{MAIL}DATA\r\n\r\n{}.\r\n", line.repeat(60)), 4)
        .await;
    assert_eq!(codes, [250, 250, 354, 452]);
    assert_eq!(first.say(".\r\n", 1).await, [250]);
    let codes = big
        .say(&format!("{MAIL}DATA\r\n\r\n{}.\r\n", line.repeat(60)), 4)
        .await;
    assert_eq!(codes, [250, 250, 354, 250]);
    assert_eq!(
        (fake.begun(), edge.watcher().snapshot().content_bytes),
        (2, 0)
    );
}

#[tokio::test]
async fn a_header_section_that_never_ends_is_refused() {
    let mut limited = settings();
    limited.limits.header_bytes_max = 1000;
    let (edge, fake, _) = open_with(limited, Rules::loopback_only());
    let mut client = Client::ready(&edge).await;
    let field = "X-Field: x\r\n";
    for (times, end, code) in [
        (50, "\r\n", 250),
        (100, "\r\n", 552),
        (100, "", 552),
        (50, "", 250),
    ] {
        let content = field.repeat(times) + end;
        let codes = client
            .say(&format!("{MAIL}DATA\r\n{content}.\r\n"), 4)
            .await;
        assert_eq!(codes, [250, 250, 354, code], "{times} {end:?}");
    }
    let received = "Received: x\r\n".repeat(101);
    let (edge, ..) = open_with(settings(), Rules::loopback_only());
    let mut client = Client::ready(&edge).await;
    let codes = client
        .say(&format!("{MAIL}DATA\r\n{received}\r\n.\r\n"), 4)
        .await;
    assert_eq!(codes, [250, 250, 354, 554]);
    assert_eq!(fake.begun(), 2);
}

#[tokio::test]
async fn nothing_is_smuggled() {
    let (edge, fake) = open();
    let hidden = "MAIL FROM:<evil@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n\r\nevil\r\n.\r\n";
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\n\n.\n\n",
        "\r\n\0.\r\n",
        "\r\n.\r\r\n",
    ] {
        let mut client = Client::ready(&edge).await;
        let flight = format!("{MAIL}DATA\r\nSubject: x\r\n\r\nx{end}{hidden}QUIT\r\n");
        let codes = client.say(&flight, 9).await;
        assert_eq!(codes, [250, 250, 354, 554, 221], "{end:?}");
    }
    assert_eq!(fake.begun(), 0);
    let mut client = Client::ready(&edge).await;
    let flight = format!("{MAIL}DATA\r\nSubject: x\r\n\r\n..\r\n...\r\n.\r\n");
    assert_eq!(client.say(&flight, 4).await, [250, 250, 354, 250]);
    assert!(fake.content(0).ends_with("\r\n\r\n.\r\n..\r\n"));
}

#[tokio::test]
async fn any_split_of_a_flight_comes_to_the_same() {
    let (edge, fake) = open();
    let flight =
        format!("{MESSAGE}RSET\r\n{MAIL}BDAT 12\r\nSubject: x\r\nBDAT 5 LAST\r\n\r\ny\r\n");
    let whole = {
        let mut client = Client::ready(&edge).await;
        client.say(&flight, 9).await
    };
    for step in [1, 2, 3, 7, 50] {
        let mut client = Client::ready(&edge).await;
        for piece in flight.as_bytes().chunks(step) {
            client.stream.write_all(piece).await.unwrap();
            client.stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(client.codes(9).await, whole);
    }
    let strip = |index: usize| {
        let content = fake.content(index);
        content.split_once("Subject").unwrap().1.to_owned()
    };
    for index in 2..fake.begun() {
        assert_eq!(strip(index), strip(index % 2));
    }
    assert_eq!(fake.begun(), 12);
}

#[test]
fn an_idle_connection_takes_little_memory() {
    fn future_bytes<F>(_: fn(connection::Connection<Fake>, bool) -> F) -> usize {
        size_of::<F>()
    }
    let bytes = future_bytes(connection::Connection::<Fake>::serve);
    assert!(bytes < 2560, "{bytes} octets of task for each connection");
}

mod peers;
mod tls;
