//! An application that hands in mail by SMTP and by HTTP and repeats what was not acknowledged, under the
//! same idempotency key, so that nothing is taken twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Concurrency, Pool, Relay};
use flow::backoff::Backoff;
use flow::retry::RetryPolicy;
use serde_json::{Value, json};
use smtp::{Address, Content, Envelope};
use tokio::task::JoinSet;

use crate::cmd::api::Api;
use crate::exit::{Exit, OrExit, Stop};

/// Connections by SMTP, and requests by HTTP at once.
const CONNECTIONS: usize = 20;
const REQUESTS: usize = 2;
/// Messages of one request by HTTP, at most.
const BATCH: usize = 50;
/// Before what was refused is repeated.
const PAUSE: Duration = Duration::from_millis(50);
const FROM: &str = "demo@mailrail.example";
const TEXT: &str = "The quick brown fox jumps over the lazy dog.";

/// What is to be handed in, and what was acknowledged.
pub(super) struct Outbox(Mutex<State>);

struct State {
    by_smtp: VecDeque<usize>,
    by_http: VecDeque<Range<usize>>,
    /// When each was acknowledged, by its number.
    acknowledged: Vec<Option<Instant>>,
    acknowledged_count: u64,
}

impl Outbox {
    /// Half of `messages` go by SMTP, half by HTTP.
    pub(super) fn new(messages: usize) -> Self {
        let half = messages / 2;
        let by_http = (half..messages)
            .step_by(BATCH)
            .map(|first| first..messages.min(first + BATCH));
        Self(Mutex::new(State {
            by_smtp: (0..half).collect(),
            by_http: by_http.collect(),
            acknowledged: vec![None; messages],
            acknowledged_count: 0,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn acknowledged_count(&self) -> u64 {
        self.lock().acknowledged_count
    }

    /// When each was acknowledged, by its number.
    pub(super) fn acknowledged(&self) -> Vec<Option<Instant>> {
        self.lock().acknowledged.clone()
    }

    fn acknowledge(&self, numbers: Range<usize>) {
        let mut state = self.lock();
        state.acknowledged_count += numbers.len() as u64;
        state.acknowledged[numbers].fill(Some(Instant::now()));
    }
}

/// Hands in what is left, until `end` ends.
pub(super) async fn run<T>(
    outbox: &Arc<Outbox>,
    smtp: SocketAddr,
    api: &Arc<Api>,
    end: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    let pool = Pool::builder(Relay::plaintext(smtp))
        .concurrency(Concurrency::Fixed(CONNECTIONS))
        .retry(RetryPolicy::new(1, Backoff::SEND))
        .build()
        .or_exit(Exit::Usage)?;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(by_smtp(Arc::clone(outbox), pool.clone()));
    }
    for _ in 0..REQUESTS {
        tasks.spawn(by_http(Arc::clone(outbox), Arc::clone(api)));
    }
    let ended = end.await;
    // All have put back what they held when this returns.
    tasks.shutdown().await;
    ended
}

/// What a task took out of the outbox; goes back unless it was acknowledged.
struct Taken<'o> {
    outbox: &'o Outbox,
    numbers: Range<usize>,
    put_back: fn(&mut State, Range<usize>),
}

impl Taken<'_> {
    fn acknowledged(mut self) {
        self.outbox.acknowledge(std::mem::take(&mut self.numbers));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.numbers);
        if !numbers.is_empty() {
            (self.put_back)(&mut self.outbox.lock(), numbers);
        }
    }
}

async fn by_smtp(outbox: Arc<Outbox>, pool: Pool) {
    loop {
        let Some(number) = outbox.lock().by_smtp.pop_front() else {
            return;
        };
        let taken = Taken {
            outbox: &outbox,
            numbers: number..number + 1,
            put_back: |state, numbers| state.by_smtp.push_back(numbers.start),
        };
        let (envelope, content) = message(number);
        if pool.send(envelope, content).await.is_accepted() {
            taken.acknowledged();
        } else {
            drop(taken);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn by_http(outbox: Arc<Outbox>, api: Arc<Api>) {
    loop {
        let Some(numbers) = outbox.lock().by_http.pop_front() else {
            return;
        };
        let taken = Taken {
            outbox: &outbox,
            numbers: numbers.clone(),
            put_back: |state, numbers| state.by_http.push_back(numbers),
        };
        let api = Arc::clone(&api);
        let posting = tokio::task::spawn_blocking(move || {
            let (key, batch) = (format!("demo/{}", numbers.start), batch(numbers.clone()));
            let answer = api.post_once("/emails/batch", &batch, &key).ok()?;
            (answer["data"].as_array()?.len() == numbers.len()).then_some(())
        });
        if let Ok(Some(())) = posting.await {
            taken.acknowledged();
        } else {
            drop(taken);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whom message `number` goes to.
pub(super) fn address(number: usize) -> String {
    format!("person{number}@engine.example")
}

fn message(number: usize) -> (Envelope, Content) {
    let from: Address = FROM.parse().expect("a valid address");
    let to: Address = address(number).parse().expect("a valid address");
    let text = format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: Hello\r\nIdempotency-Key: demo/{number}\r\n\r\n{TEXT}\r\n"
    );
    let content = Content::new(text).expect("canonical content");
    (Envelope::single(from, to), content)
}

fn batch(numbers: Range<usize>) -> Value {
    let email =
        |number| json!({"from": FROM, "to": address(number), "subject": "Hello", "text": TEXT});
    numbers.map(email).collect()
}
