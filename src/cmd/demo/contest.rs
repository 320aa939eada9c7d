//! The same messages in five ways, each removing what slows the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Concurrency, Pool, Relay, Wire};
use indicatif::ProgressBar;
use sink::Sink;
use smtp::{Address, Content, Envelope};

use crate::cmd::wire;
use crate::exit::{Exit, OrExit, Stop};
use crate::load::{self, Latency, Load};
use crate::out;

/// A way that takes longer is cut off; its rate is known by then.
const LAP_MAX: Duration = Duration::from_secs(12);
/// Octets of a message.
const SIZE: usize = 4096;
/// Connections of every way but the first.
const CONNECTIONS: usize = 10;
/// Messages unanswered on a connection in the last way.
const WINDOW: u8 = 8;
/// Between two looks at how far a way has come.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// One way to send.
pub(crate) struct Way {
    pub(crate) letter: char,
    pub(crate) name: &'static str,
    /// What it does on the wire.
    pub(crate) does: &'static str,
    /// What is slow about it.
    pub(crate) slow: &'static str,
    /// What the next way does about that.
    pub(crate) remedy: &'static str,
    wire: Wire,
    connections: usize,
    messages_per_connection: u32,
}

const WAYS: [Way; 5] = [
    Way {
        letter: 'a',
        name: "one connection each",
        does: "For each message: connect, wait for the greeting, EHLO, MAIL, RCPT, DATA, the content, QUIT. \
               Then the next. It is what a script does, and most applications.",
        slow: "Every step waits a whole round trip for its reply, half of them only to get to know a \
               server that was known a moment ago, and while one message waits, no other moves.",
        remedy: "Keep connections open and use several at once: a pool.",
        wire: Wire::Lockstep,
        connections: 1,
        messages_per_connection: 1,
    },
    Way {
        letter: 'b',
        name: "a pool, in lockstep",
        does: "Ten connections stay open and share the messages. On each, one command waits for one reply: \
               MAIL, RCPT, DATA, content. Most libraries with a pool are here.",
        slow: "Four round trips a message, in which the connection carries a few hundred octets and is idle.",
        remedy: "Say what can be said together in one flight: PIPELINING (RFC 2920).",
        wire: Wire::Lockstep,
        connections: CONNECTIONS,
        messages_per_connection: 0,
    },
    Way {
        letter: 'c',
        name: "pipelined",
        does: "MAIL, RCPT and DATA travel together, then the content. The best known servers send like this.",
        slow: "Two round trips a message: one to be allowed to speak, one to be believed.",
        remedy: "Put the next message's MAIL, RCPT and DATA right behind this one's content: RFC 2920 §3.1 \
                 lets content stand first in a group.",
        wire: Wire::Pipelined,
        connections: CONNECTIONS,
        messages_per_connection: 0,
    },
    Way {
        letter: 'd',
        name: "overlapped",
        does: "Each flight ends one message and begins the next. It works with Postfix and Exim as they come, \
               and is what mailrail does unless told otherwise.",
        slow: "One round trip a message, and only one message at a time on each connection.",
        remedy: "Send whole messages with BDAT (RFC 3030) and do not wait for each to be answered: a window.",
        wire: Wire::Overlapped,
        connections: CONNECTIONS,
        messages_per_connection: 0,
    },
    Way {
        letter: 'e',
        name: "windowed",
        does: "Up to eight whole messages are on their way on each connection; replies are counted off in order. \
               For a relay of your own, with --window.",
        slow: "Nothing waits for the network any more. What is left is the server's own work, and a cut \
               connection leaves up to eight messages unknown instead of one.",
        remedy: "",
        wire: Wire::Windowed(WINDOW),
        connections: CONNECTIONS,
        messages_per_connection: 0,
    },
];

/// How one way went.
pub(crate) struct Lap {
    pub(crate) way: &'static Way,
    pub(crate) sent: u64,
    pub(crate) elapsed: Duration,
    /// Cut off at [`LAP_MAX`].
    pub(crate) is_cut: bool,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Mean of each stage.
    pub(crate) stages_ms: Vec<(&'static str, f64)>,
    pub(crate) connections_opened: u64,
    /// Seconds since the start, messages taken until then.
    pub(crate) samples: Vec<(f64, u64)>,
}

impl Lap {
    /// For tables and charts.
    pub(crate) fn title(&self) -> String {
        format!("({}) {}", self.way.letter, self.way.name)
    }

    /// What is to be said of a lap that was cut off.
    pub(crate) fn cut_words(&self, messages: u64) -> Option<String> {
        self.is_cut.then(|| {
            let whole_s = messages as f64 / self.rate().max(1e-9);
            format!(
                "{} sent, then cut off; all {messages} would have taken {whole_s:.0} s",
                self.sent
            )
        })
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Round trips that a connection spent on a message.
    pub(crate) fn round_trips(&self, rtt: Duration) -> f64 {
        let connection_time = self.elapsed.as_secs_f64() * self.way.connections as f64;
        connection_time / self.sent.max(1) as f64 / rtt.as_secs_f64().max(1e-9)
    }
}

/// Sends `messages` in each way to a sink of its own, `rtt` away.
pub(crate) async fn run(messages: u64, rtt: Duration) -> Result<Vec<Lap>, Stop> {
    let mut laps = Vec::new();
    for way in &WAYS {
        // A sink each, so that no way profits from the one before.
        let sink = Sink::builder().rtt(rtt).threads(1).start().await;
        let sink = sink.or_exit(Exit::Temporary)?;
        let lap = run_lap(way, &sink, messages).await?;
        let cut = lap.cut_words(messages).map(|words| format!(" ({words})"));
        let (title, rate) = (lap.title(), lap.rate());
        out::line(format_args!(
            "  {title}: {rate:.0} messages/s{}",
            cut.unwrap_or_default()
        ));
        laps.push(lap);
        sink.shutdown().await;
    }
    Ok(laps)
}

async fn run_lap(way: &'static Way, sink: &Sink, messages: u64) -> Result<Lap, Stop> {
    let pool = Pool::builder(Relay::plaintext(sink.addr()))
        .wire(way.wire)
        .concurrency(Concurrency::Fixed(way.connections))
        .messages_per_connection(way.messages_per_connection)
        .build()
        .or_exit(Exit::Usage)?;
    // The first way has no pool: one message at a time.
    let tasks = match way.connections {
        1 => 1,
        connections => wire::in_flight_max(way.wire, connections),
    };
    let load = Load {
        tasks,
        threads: 1,
        messages_max: messages,
        duration_max: Some(LAP_MAX),
        rate: None,
        latency: Latency::OnWire,
    };
    let (envelope, content) = message();
    let stop = Arc::new(AtomicBool::new(false));
    let running = load::run(&pool, Arc::new(envelope), content, load, Arc::clone(&stop));
    let (report, samples) = sampled(running, sink, way).await;
    let stats = pool.stats();
    pool.close().await;
    if stop.load(Ordering::Relaxed) {
        let failure = report.tally.first_failure.unwrap_or_default();
        return Err(Stop::new(Exit::Temporary, failure));
    }
    Ok(Lap {
        way,
        sent: report.tally.sent,
        elapsed: report.elapsed,
        is_cut: report.tally.sent < messages,
        p50_ms: report.tally.latency_ms(50.0),
        p99_ms: report.tally.latency_ms(99.0),
        stages_ms: report.tally.stages_ms(),
        connections_opened: stats.connections_opened,
        samples,
    })
}

/// Looks now and then how many messages the sink has taken, while something runs; shows it where
/// there is a terminal.
async fn sampled<T>(
    running: impl Future<Output = T>,
    sink: &Sink,
    way: &Way,
) -> (T, Vec<(f64, u64)>) {
    let started = Instant::now();
    let spinner = ProgressBar::new_spinner();
    let mut samples = vec![(0.0, 0)];
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    let mut running = std::pin::pin!(running);
    let done = loop {
        let done = tokio::select! {
            done = &mut running => Some(done),
            _ = ticks.tick() => None,
        };
        let taken = sink.report().messages;
        samples.push((started.elapsed().as_secs_f64(), taken));
        spinner.set_message(format!("({}) {}: {taken} taken", way.letter, way.name));
        spinner.tick();
        if let Some(done) = done {
            break done;
        }
    };
    spinner.finish_and_clear();
    (done, samples)
}

fn message() -> (Envelope, Content) {
    let from: Address = "demo@mailrail.example".parse().expect("a valid address");
    let to: Address = "you@mailrail.example".parse().expect("a valid address");
    let mut text = format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: Hello\r\n\r\n");
    while text.len() < SIZE {
        text.push_str("The quick brown fox jumps over the lazy dog.\r\n");
    }
    let content = Content::new(text).expect("canonical content");
    (Envelope::single(from, to), content)
}
