//! The sink from outside: a socket, and what comes back on it.

use std::time::Duration;

use sink::{Action, Rule, Sink, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAIL: &str = "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n";
const TEXT: &str = "Message-ID: <1@a.example>\r\n\r\nHello\r\n.\r\n";

/// A client that writes flights and counts reply codes.
struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Client {
    async fn connect(sink: &Sink) -> Self {
        let socket = TcpStream::connect(sink.addr()).await.unwrap();
        let mut client = Self {
            socket,
            read: Vec::new(),
        };
        assert_eq!(client.codes(1).await, [220]);
        assert_eq!(client.say("EHLO me\r\n", 1).await, [250]);
        client
    }

    /// Writes `flight` and reads `count` replies, or as many as come before the end.
    async fn say(&mut self, flight: &str, count: usize) -> Vec<u16> {
        self.socket.write_all(flight.as_bytes()).await.unwrap();
        self.codes(count).await
    }

    async fn codes(&mut self, count: usize) -> Vec<u16> {
        let mut codes = Vec::new();
        while codes.len() < count {
            while let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if line[3] == b' ' {
                    codes.push(String::from_utf8_lossy(&line[..3]).parse().unwrap());
                }
            }
            if codes.len() < count && !matches!(self.socket.read_buf(&mut self.read).await, Ok(1..))
            {
                break;
            }
        }
        codes
    }

    /// One whole message.
    async fn send(&mut self) -> Vec<u16> {
        let mut codes = self.say(MAIL, 3).await;
        if codes.last() == Some(&354) {
            codes.extend(self.say(TEXT, 1).await);
        }
        codes
    }

    /// Whether the sink has closed.
    async fn is_closed(&mut self) -> bool {
        self.socket.read_buf(&mut self.read).await.unwrap_or(0) == 0
    }
}

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

#[tokio::test]
async fn what_was_taken_is_counted_and_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let jsonl = dir.path().join("records");
    let sink = Sink::builder()
        .keep_content()
        .keep_jsonl(&jsonl)
        .keep_maildir(dir.path().join("mail"))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.send().await, [250, 250, 354, 250]);
    assert_eq!(client.send().await, [250, 250, 354, 250]);

    let records = sink.records();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].from, "a@a.example");
    assert_eq!(records[0].to, ["b@b.example"]);
    assert_eq!(records[0].message_id.as_deref(), Some("1@a.example"));
    let content = records[0].content.as_ref().unwrap();
    assert_eq!(&content[..], &TEXT.as_bytes()[..TEXT.len() - 3]);
    let lines = std::fs::read_to_string(jsonl).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.contains(&records[0].sha256));
    let mail = std::fs::read_dir(dir.path().join("mail/new")).unwrap();
    assert_eq!(mail.count(), 2);

    let report = sink.shutdown().await;
    assert_eq!(
        (report.messages, report.recipients, report.connections),
        (2, 2, 1)
    );
    let duplicates = report.duplicates.unwrap();
    assert_eq!((duplicates.by_content, duplicates.by_message_id), (1, 1));
}

#[tokio::test]
async fn a_rule_answers_whom_it_concerns() {
    let sink = Sink::builder()
        .rule(rule(
            "at = \"rcpt\", domain = \"full.example\", reply = \"452 4.2.2 Full\"",
        ))
        .rule(rule(
            "at = \"mail\", address = \"bad@a.example\", reply = \"550 5.7.1 No\"",
        ))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.say("MAIL FROM:<bad@a.example>\r\n", 1).await, [550]);
    let flight = "MAIL FROM:<a@a.example>\r\nRCPT TO:<x@full.example>\r\nRCPT TO:<x@b.example>\r\n";
    assert_eq!(client.say(flight, 3).await, [250, 452, 250]);
    assert_eq!(sink.shutdown().await.refused, 2);
}

#[tokio::test]
async fn a_lost_reply_leaves_a_record() {
    let sink = Sink::builder()
        .keep_records()
        .rule(Rule::new(Stage::Final, Action::LoseReply).times(1))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.send().await, [250, 250, 354]);
    assert!(client.is_closed().await);
    let mut again = Client::connect(&sink).await;
    assert_eq!(again.send().await, [250, 250, 354, 250]);
    let lost: Vec<_> = sink.records().iter().map(|it| it.reply_lost).collect();
    assert_eq!(lost, [true, false]);
}

#[tokio::test]
async fn connections_are_cut_at_any_stage() {
    for (stage, replies) in [
        (Stage::Mail, 0),
        (Stage::Rcpt, 1),
        (Stage::Data, 2),
        (Stage::Content, 3),
        (Stage::Final, 3),
    ] {
        for action in [Action::Drop, Action::Reset] {
            let sink = Sink::builder()
                .keep_records()
                .rule(Rule::new(stage, action))
                .start()
                .await
                .unwrap();
            let mut client = Client::connect(&sink).await;
            assert_eq!(client.send().await.len(), replies, "{stage:?}");
            assert!(client.is_closed().await);
            assert_eq!(sink.records().len(), 0);
        }
    }
}

#[tokio::test]
async fn greylisting_takes_a_triplet_that_comes_again() {
    let sink = Sink::builder()
        .greylist(Duration::from_nanos(1))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    let triplet = "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nRSET\r\n";
    assert_eq!(client.say(triplet, 3).await, [250, 451, 250]);
    assert_eq!(client.say(triplet, 3).await, [250, 250, 250]);
}

#[tokio::test]
async fn above_the_limits_it_says_421() {
    let sink = Sink::builder()
        .connections_max(1)
        .messages_per_connection_max(1)
        .start()
        .await
        .unwrap();
    let mut first = Client::connect(&sink).await;
    let socket = TcpStream::connect(sink.addr()).await.unwrap();
    let mut second = Client {
        socket,
        read: Vec::new(),
    };
    assert_eq!(second.codes(1).await, [421]);
    assert!(second.is_closed().await);
    assert_eq!(first.send().await, [250, 250, 354, 250]);
    assert_eq!(first.say("MAIL FROM:<>\r\n", 1).await, [421]);
    assert!(first.is_closed().await);
}

#[tokio::test]
async fn above_the_rate_mail_is_refused_for_now() {
    let refusal = smtp::Reply::fixed(451, Some((4, 7, 1)), "Slow down");
    let sink = Sink::builder()
        .rate("1/hour".parse().unwrap(), refusal)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.send().await, [250, 250, 354, 250]);
    assert_eq!(client.say("MAIL FROM:<>\r\n", 1).await, [451]);
}

#[tokio::test]
async fn without_auth_there_is_no_mail_for_users_only() {
    // A rule that only waits lets nobody in.
    let sink = Sink::builder()
        .user("u", "p")
        .rule(Rule::new(Stage::Auth, Action::Continue))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.say("MAIL FROM:<>\r\n", 1).await, [530]);
    assert_eq!(client.say("AUTH PLAIN AHUAeA==\r\n", 1).await, [535]);
    assert_eq!(client.say("AUTH PLAIN AHUAcA==\r\n", 1).await, [235]);
    assert_eq!(client.say("MAIL FROM:<>\r\n", 1).await, [250]);
}

#[tokio::test]
async fn threads_of_its_own_serve_too() {
    let sink = Sink::builder().threads(2).start().await.unwrap();
    for _ in 0..4 {
        let mut client = Client::connect(&sink).await;
        assert_eq!(client.send().await, [250, 250, 354, 250]);
    }
    assert_eq!(sink.shutdown().await.messages, 4);
}

#[tokio::test]
async fn a_link_delays_each_flight_by_its_round_trip_at_least() {
    let rtt = Duration::from_millis(5);
    let sink = Sink::builder()
        .rtt(rtt)
        .bandwidth(1_000_000)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    let start = std::time::Instant::now();
    assert_eq!(client.send().await, [250, 250, 354, 250]);
    // Two flights, each at most half a millisecond early.
    assert!(start.elapsed() >= 2 * rtt - Duration::from_millis(1));
}

#[tokio::test]
async fn a_tarpit_holds_back_its_own_reply_only() {
    let hour = Duration::from_secs(3600);
    let sink = Sink::builder()
        .rule(Rule::new(Stage::Rcpt, Action::Continue).delay(hour))
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&sink).await;
    let flight = "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\n";
    assert_eq!(client.say(flight, 1).await, [250]);
    sink.shutdown().await;
    assert!(client.is_closed().await);
}
