//! The other side: real SMTP machines in bad weather, and a book of what each of them did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use flow::rng::Rng;
use smtp::Reply;
use smtp::server::{Answer, Event, Profile, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::net::End;
use crate::trace::Trace;

/// How a host behaves at the moment, beside how it is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    Fair,
    /// 421 and 4.7.x of rate, anywhere.
    Busy,
    /// 4yz, and a few 5yz, anywhere.
    Sick,
    /// Hangs up in the middle.
    Flaky,
    /// Takes content and hangs up without a word.
    Deaf,
    /// Thinks for seconds, now and then for longer than anybody waits.
    Slow,
    /// Speaks an octet at a time.
    Dripping,
    /// Turns connections away.
    Unwelcoming,
}

impl Weather {
    pub(crate) const BAD: [Self; 7] = [
        Self::Busy,
        Self::Sick,
        Self::Flaky,
        Self::Deaf,
        Self::Slow,
        Self::Dripping,
        Self::Unwelcoming,
    ];
}

/// A message that a host took.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) at: Instant,
    /// The engine's life that sent it.
    /// When the engine wrote the last of it: what a cut line holds back comes long after.
    pub(crate) written: Instant,
    pub(crate) life: u32,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) content: Vec<u8>,
    /// When the engine had read all of the last reply.
    pub(crate) heard: Arc<OnceLock<Instant>>,
}

/// A recipient that a host was asked to take, or that a refused content was for.
#[derive(Debug)]
pub(crate) struct Try {
    /// When the engine wrote it.
    pub(crate) written: Instant,
    pub(crate) life: u32,
    pub(crate) address: String,
    /// What was said; 0 for nothing.
    pub(crate) code: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) commits: Vec<Commit>,
    /// At RCPT.
    pub(crate) tries: Vec<Try>,
    /// At DATA, or at the end of content.
    pub(crate) refusals: Vec<Try>,
}

impl Book {
    /// Messages that a life has tried at a domain since then.
    pub(crate) fn jobs_since(&self, life: u32, since: Instant) -> usize {
        let tries = self
            .tries
            .iter()
            .filter(|one| one.life == life && one.written > since);
        let jobs = tries.map(|one| {
            let (local, domain) = one.address.rsplit_once('@').unwrap();
            let message = local.rsplit('.').next().unwrap();
            // A notice goes to who sent the message.
            (message.to_owned(), domain.to_owned())
        });
        jobs.collect::<BTreeSet<_>>().len()
    }
}

/// All hosts; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Peers(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    trace: Trace,
    rng: Rng,
    weather: BTreeMap<IpAddr, Weather>,
    book: Book,
}

impl Peers {
    pub(crate) fn new(trace: Trace, rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            trace,
            rng,
            weather: BTreeMap::new(),
            book: Book::default(),
        })))
    }

    pub(crate) fn set_weather(&self, ip: IpAddr, weather: Weather) {
        let mut shared = self.lock();
        shared.trace.note(format_args!("{ip} is {weather:?}"));
        shared.weather.insert(ip, weather);
    }

    /// Serves a host's connections.
    pub(crate) fn serve(
        &self,
        ip: IpAddr,
        profile: Profile,
        mut accepted: mpsc::UnboundedReceiver<End>,
    ) {
        let (peers, profile) = (self.clone(), Arc::new(profile));
        self.set_weather(ip, Weather::Fair);
        tokio::spawn(async move {
            while let Some(end) = accepted.recv().await {
                let session = Session {
                    peers: peers.clone(),
                    ip,
                    rng: peers.lock().rng.fork(),
                    written: end.written,
                    life: end.life,
                    delay: Duration::ZERO,
                    from: String::new(),
                    to: Vec::new(),
                    content: Vec::new(),
                };
                tokio::spawn(session.serve(end, Server::new(Arc::clone(&profile), false)));
            }
        });
    }

    pub(crate) fn book<T>(&self, read: impl FnOnce(&Book) -> T) -> T {
        read(&self.lock().book)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Connect,
    Hello,
    Mail,
    Rcpt,
    Data,
    End,
}

enum Verdict {
    Accept,
    Refuse(&'static str),
    HangUp,
}

#[derive(PartialEq, Eq)]
enum Next {
    Read,
    Close,
    Vanish,
}

/// From `250 2.0.0 Ok`.
fn reply(text: &str) -> Reply {
    let mut words = text.splitn(3, ' ');
    let code = words.next().unwrap().parse().unwrap();
    let digits = words
        .next()
        .unwrap()
        .split('.')
        .map(|digits| digits.parse().unwrap());
    let digits: Vec<u16> = digits.collect();
    let status = (digits[0] as u8, digits[1], digits[2]);
    Reply::fixed(code, Some(status), words.next().unwrap())
}

/// One connection.
struct Session {
    peers: Peers,
    ip: IpAddr,
    rng: Rng,
    /// When the client wrote what is looked at.
    written: Instant,
    life: u32,
    /// How long it thinks before it answers.
    delay: Duration,
    from: String,
    to: Vec<String>,
    content: Vec<u8>,
}

impl Session {
    async fn serve(mut self, mut end: End, mut server: Server) {
        let mut unread = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let next = self.work(&mut server, &mut unread, &end);
            let output = std::mem::take(server.output());
            if next == Next::Vanish && self.rng.chance(0.5) {
                return;
            }
            if self.say(&mut end, &output).await.is_err() || next != Next::Read {
                return;
            }
            let read = match end.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            self.written = end.written;
            unread.extend_from_slice(&buffer[..read]);
        }
    }

    async fn say(&mut self, end: &mut End, output: &[u8]) -> std::io::Result<()> {
        let delay = std::mem::take(&mut self.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let weather = self.weather();
        if weather != Weather::Dripping || output.len() > 200 {
            return end.write_all(output).await;
        }
        for octets in output.chunks(1 + self.rng.up_to(15) as usize) {
            end.write_all(octets).await?;
            tokio::time::sleep(self.rng.duration_up_to(Duration::from_millis(400))).await;
        }
        Ok(())
    }

    /// Steps the machine over what has come.
    fn work(&mut self, server: &mut Server, unread: &mut Vec<u8>, end: &End) -> Next {
        let input = std::mem::take(unread);
        let mut rest = &input[..];
        let next = loop {
            let step = server.step(rest);
            rest = &rest[step.consumed..];
            let (stage, answer) = match step.event {
                Event::More => break Next::Read,
                Event::Closed => break Next::Close,
                Event::Reset | Event::Refused(_) => continue,
                Event::Content(octets) => {
                    self.content.extend_from_slice(octets);
                    continue;
                }
                Event::Connect(answer) => (Stage::Connect, answer),
                Event::Hello { answer, .. } => (Stage::Hello, answer),
                Event::Mail {
                    reverse_path,
                    answer,
                    ..
                } => {
                    let from = reverse_path.address();
                    self.from = from.map(ToString::to_string).unwrap_or_default();
                    self.to.clear();
                    self.content.clear();
                    (Stage::Mail, answer)
                }
                Event::Rcpt { recipient, answer } => {
                    self.to.push(recipient.address.to_string());
                    (Stage::Rcpt, answer)
                }
                Event::Data(answer) => (Stage::Data, answer),
                Event::End { answer, .. } => (Stage::End, answer),
                Event::StartTls(_) | Event::Auth { .. } => unreachable!("neither is offered"),
            };
            if self.answer(stage, answer, end) {
                break Next::Vanish;
            }
        };
        unread.extend_from_slice(rest);
        next
    }

    /// Whether it hangs up.
    fn answer(&mut self, stage: Stage, mut answer: Answer<'_>, end: &End) -> bool {
        let verdict = self.judge(stage);
        let code = match &verdict {
            Verdict::Accept => 250,
            Verdict::Refuse(reply) => reply[..3].parse().unwrap(),
            Verdict::HangUp => 0,
        };
        self.write_down(stage, code);
        match verdict {
            Verdict::Accept if stage == Stage::End => {
                let heard = self.commit();
                if self.weather() == Weather::Deaf && self.rng.chance(0.6) {
                    answer.hang_up();
                    return true;
                }
                let reply = reply("250 2.0.0 Ok");
                let mut wire = Vec::new();
                reply.write_to(&mut wire);
                let before = answer.earlier_output().len();
                answer.accept_saying(&reply);
                end.mark(before + wire.len(), heard);
            }
            Verdict::Accept => answer.accept(),
            Verdict::Refuse(reply) => {
                if stage == Stage::Rcpt {
                    self.to.pop();
                }
                answer.reject(&self::reply(reply));
            }
            Verdict::HangUp => {
                answer.hang_up();
                return true;
            }
        }
        false
    }

    fn write_down(&self, stage: Stage, code: u16) {
        let addresses = match stage {
            Stage::Rcpt => &self.to[self.to.len() - 1..],
            Stage::Data | Stage::End if code >= 400 => &self.to[..],
            _ => return,
        };
        let mut shared = self.peers.lock();
        let Shared { trace, book, .. } = &mut *shared;
        for address in addresses {
            trace.note(format_args!("{} says {code} of {address}", self.ip));
            let one = Try {
                written: self.written,
                life: self.life,
                address: address.clone(),
                code,
            };
            match stage {
                Stage::Rcpt => book.tries.push(one),
                _ => book.refusals.push(one),
            }
        }
    }

    fn commit(&mut self) -> Arc<OnceLock<Instant>> {
        let heard = Arc::new(OnceLock::new());
        self.peers.lock().book.commits.push(Commit {
            at: Instant::now(),
            written: self.written,
            life: self.life,
            from: self.from.clone(),
            to: std::mem::take(&mut self.to),
            content: std::mem::take(&mut self.content),
            heard: Arc::clone(&heard),
        });
        heard
    }

    fn weather(&self) -> Weather {
        self.peers.lock().weather[&self.ip]
    }

    fn judge(&mut self, stage: Stage) -> Verdict {
        if let Some(reply) = self.own_rule(stage) {
            return Verdict::Refuse(reply);
        }
        let weather = self.weather();
        let rng = &mut self.rng;
        match weather {
            Weather::Fair | Weather::Dripping | Weather::Deaf => Verdict::Accept,
            Weather::Busy if rng.chance(0.3) => Verdict::Refuse(match rng.up_to(2) {
                0 => "421 4.3.2 too many connections",
                1 if stage != Stage::Connect => "451 4.7.1 rate limit exceeded, slow down",
                _ => "450 4.7.0 you are too fast",
            }),
            Weather::Sick if stage != Stage::Hello && rng.chance(0.25) => {
                Verdict::Refuse(match rng.up_to(9) {
                    0 if stage >= Stage::Rcpt => "554 5.7.1 not here",
                    1 if stage == Stage::Rcpt => "450 4.7.1 greylisted, come again",
                    2 | 3 if stage == Stage::Rcpt => "452 4.2.2 mailbox full",
                    4 => "421 4.3.0 going down",
                    _ => "451 4.3.0 not now",
                })
            }
            Weather::Flaky if rng.chance(0.15) => Verdict::HangUp,
            Weather::Slow => {
                let longest = if rng.chance(0.05) { 90 } else { 4 };
                self.delay += rng.duration_up_to(Duration::from_secs(longest));
                Verdict::Accept
            }
            Weather::Unwelcoming if stage == Stage::Connect => match rng.up_to(2) {
                0 => Verdict::Refuse("554 5.7.1 we do not know you"),
                1 => Verdict::Refuse("421 4.3.2 closed for now"),
                _ => Verdict::HangUp,
            },
            _ => Verdict::Accept,
        }
    }

    /// What holds for a recipient or a content in any weather.
    fn own_rule(&self, stage: Stage) -> Option<&'static str> {
        match stage {
            Stage::Rcpt => {
                let address = self.to.last()?;
                let of_it = |book: &Book| {
                    let tries = book.tries.iter();
                    tries.filter(|one| one.address == *address).count()
                };
                match address.split('.').next()? {
                    "no" => Some("550 5.1.1 no such user"),
                    "full" => Some("452 4.2.2 mailbox full"),
                    "late" => (self.peers.book(of_it) < 2).then_some("450 4.2.0 not yet"),
                    _ => None,
                }
            }
            // A notice may return what was refused.
            Stage::End if !self.from.is_empty() => {
                let is_junk = self.content.windows(4).any(|octets| octets == b"JUNK");
                is_junk.then_some("554 5.6.0 we do not want this")
            }
            _ => None,
        }
    }
}
