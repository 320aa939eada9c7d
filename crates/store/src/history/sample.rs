//! Events as a relay's history holds them, from a seed: for tests.

use std::sync::Arc;

use smtp::EnhancedStatus;

use super::Position;
use super::block::Record;
use crate::{Event, Heading, MessageId, Outcome, Said, StageTimes, Status, Tags, Time};

/// Bits from a seed (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Some are of the null reverse-path, some have no subject, and some say what those before say.
fn heading(number: u64) -> Heading {
    let from = ["", "shop@example.com", "b\u{fc}ro@example.com"][(number % 3) as usize];
    let subject = match number % 4 {
        0 => String::new(),
        1 => "Caf\u{e9}".to_owned(),
        _ => format!("Order {number} of {}", number % 7),
    };
    Heading {
        from: from.into(),
        subject: subject.into(),
    }
}

/// Makes events in order; every third message is deferred once.
pub(super) struct Sample {
    pub(super) random: Random,
    made: u64,
    open: Vec<Event>,
}

impl Sample {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            made: 0,
            open: Vec::new(),
        }
    }

    /// The next event, whose record lies at `made * 100` in the journal.
    pub(super) fn next(&mut self) -> Record {
        self.made += 1;
        let accept = self.open.len() < 40 && self.random.below(2) == 0 || self.open.is_empty();
        let event = if accept {
            self.accepted()
        } else {
            self.attempted()
        };
        Record {
            position: Position::from_u64(self.made * 100),
            event,
        }
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<Record> {
        (0..count).map(|_| self.next()).collect()
    }

    fn now(&self) -> Time {
        Time::from_micros(1_780_000_000_000_000 + self.made * 997)
    }

    fn accepted(&mut self) -> Event {
        let random = &mut self.random;
        let number = random.below(1_000_000);
        let domain = random.pick(&["example.org", "mail.example", "b\u{fc}cher.example"]);
        let tags: Tags = match random.below(3) {
            0 => Tags::from([]),
            n => Tags::from([("campaign".into(), format!("c{n}").into())]),
        };
        let tenant = random.pick(&["shop", "news"]).into();
        let at = self.now();
        let event = Event {
            at,
            message: MessageId::assemble(at.as_millis() as u64, self.made as u16, 7),
            recipient: 0,
            address: format!("Person.{number}@{domain}").into(),
            tenant,
            tags,
            status: Status::Accepted,
            due_at: Some(at),
            outcome: None,
            heading: (!number.is_multiple_of(8)).then(|| Arc::new(heading(number))),
        };
        self.open.push(event.clone());
        event
    }

    fn attempted(&mut self) -> Event {
        let index = self.random.below(self.open.len() as u64) as usize;
        let mut event = self.open.swap_remove(index);
        event.at = self.now();
        event.heading = None;
        let attempt = event.outcome.as_ref().map_or(1, |it| it.attempt + 1);
        let is_deferred = attempt == 1 && self.random.below(3) == 0;
        event.outcome = Some(Box::new(self.outcome(attempt, is_deferred)));
        (event.status, event.due_at) = if is_deferred {
            (Status::Deferred, Some(event.at + Time::from_secs(300)))
        } else {
            (Status::Delivered, None)
        };
        if is_deferred {
            self.open.push(event.clone());
        }
        event
    }

    fn outcome(&mut self, attempt: u16, is_deferred: bool) -> Outcome {
        let random = &mut self.random;
        let site = random.pick(&["mx.example.org", "mx.example", ""]);
        let said = if is_deferred {
            Said {
                code: 451,
                enhanced: EnhancedStatus::new(4, 7, 1),
                text: format!("greylisted, try again in {} seconds", random.below(600)).into(),
            }
        } else {
            Said {
                code: 250,
                enhanced: EnhancedStatus::new(2, 0, 0),
                text: format!("Ok: queued as 4{:X}", random.bits() >> 20).into(),
            }
        };
        let mut times = StageTimes::default();
        times.0[10] = random.below(100_000) as u32;
        Outcome {
            attempt,
            site: site.into(),
            host: Arc::from(format!("{site}:25")),
            source: "".into(),
            stage: if is_deferred {
                "rcpt".into()
            } else {
                "".into()
            },
            class: if is_deferred { 2 } else { 0xff },
            said,
            times,
        }
    }
}
