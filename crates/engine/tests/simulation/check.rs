//! The account of a storm: what was handed in, what the hosts took and refused, and what the engine
//! says of it must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::Engine;
use store::history::Order;
use store::{Event, Query, Status, Time};
use tokio::time::Instant;

use crate::peer::{Book, Commit, Try};
use crate::plan::Planned;
use crate::storm::{Seen, Storm};
use crate::world::SYNC_MAX;

/// How long after it was heard a delivery may still be forgotten by a crash.
const FORGETFUL: Duration = Duration::from_millis(2 * SYNC_MAX.as_millis() as u64 + 20);
/// Whoever has so long to live once the weather is fair is delivered.
const RECOVERY: Duration = Duration::from_secs(1200);
/// How long after its age limit a message may still be written: it was granted before.
const GRACE: Duration = Duration::from_secs(200);

/// All of it, the oldest first.
pub(crate) fn history(engine: &Engine) -> Vec<Event> {
    let mut query = Query {
        order: Order::Oldest,
        limit: 1000,
        ..Query::default()
    };
    let mut events = Vec::new();
    loop {
        let page = engine.events(&query).expect("history can be asked");
        events.extend(page.events);
        query.cursor = Some(page.cursor);
        if !page.more {
            return events;
        }
    }
}

/// Notes everything that is wrong.
pub(crate) fn account(storm: &Storm, events: &[Event]) {
    let seen = storm.seen.lock().unwrap();
    storm.peers.book(|book| {
        let mut account = Account {
            storm,
            seen: &seen,
            book,
            events: BTreeMap::new(),
            wrong: Vec::new(),
        };
        for event in events {
            account
                .events
                .entry(&*event.address)
                .or_default()
                .push(event);
        }
        account.commits();
        for planned in &storm.plan.messages {
            account.message(planned);
        }
        account.notices();
        for wrong in account.wrong {
            storm.trace.wrong(wrong);
        }
    });
}

struct Account<'a> {
    storm: &'a Storm,
    seen: &'a Seen,
    book: &'a Book,
    /// Of each recipient, in order.
    events: BTreeMap<&'a str, Vec<&'a Event>>,
    wrong: Vec<String>,
}

impl<'a> Account<'a> {
    fn events(&self, address: &str) -> &[&'a Event] {
        self.events.get(address).map_or(&[], Vec::as_slice)
    }

    fn planned(&self, address: &str) -> Option<&'a Planned> {
        self.storm.plan.messages.iter().find(|planned| {
            let mut recipients = planned.envelope.recipients().iter();
            recipients.any(|recipient| recipient.address.as_str() == address)
        })
    }

    /// What the hosts took is what was handed in.
    fn commits(&mut self) {
        for commit in &self.book.commits {
            let Some(first) = commit.to.first() else {
                self.wrong
                    .push(format!("content for nobody, from {}", commit.from));
                continue;
            };
            if self.events(first).is_empty() {
                let wrong = format!("{first} was delivered to, and history does not know it");
                self.wrong.push(wrong);
            }
            let Some(planned) = self.planned(first) else {
                // A notice, if anything.
                if !commit.from.is_empty() || !first.ends_with("@app.example") {
                    let wrong = format!("{first} got mail from {} that nobody sent", commit.from);
                    self.wrong.push(wrong);
                }
                continue;
            };
            let from = planned.envelope.reverse_path().address();
            if commit.from != from.map(ToString::to_string).unwrap_or_default() {
                self.wrong
                    .push(format!("{first} got mail from {}", commit.from));
            }
            if planned.content.as_bytes() != commit.content {
                self.wrong
                    .push(format!("{first} got other content than was sent"));
            }
            for address in &commit.to {
                let same = self.planned(address).map(|planned| planned.number);
                if same != Some(planned.number) {
                    self.wrong
                        .push(format!("{first} and {address} in one envelope"));
                }
            }
        }
    }

    fn message(&mut self, planned: &Planned) {
        let ack = self.seen.acks[planned.number];
        let mut ids = BTreeSet::new();
        for (index, recipient) in planned.envelope.recipients().iter().enumerate() {
            let address = recipient.address.as_str();
            let events = self.events(address).to_vec();
            ids.extend(events.iter().map(|event| event.message));
            let terminal = events.iter().filter(|event| event.status.is_terminal());
            let terminal: Vec<&Event> = terminal.copied().collect();
            match terminal[..] {
                [] if ack.is_none() && events.is_empty() => {}
                [end] => self.recipient(planned, index, address, end),
                _ => self
                    .wrong
                    .push(format!("{address} has {} ends", terminal.len())),
            }
            if events
                .first()
                .is_some_and(|event| event.status != Status::Accepted)
            {
                self.wrong.push(format!("{address} was never accepted"));
            }
            if events
                .last()
                .is_some_and(|event| !event.status.is_terminal())
            {
                self.wrong
                    .push(format!("the end of {address} is not its last event"));
            }
            self.tries(planned, address);
        }
        if ids.len() > 1 {
            self.wrong
                .push(format!("message {} became {ids:?}", planned.number));
        }
        if ack.is_some_and(|id| !ids.contains(&id)) {
            self.wrong.push(format!(
                "message {} has another id than was said",
                planned.number
            ));
        }
    }

    /// How it ended has its reason, and so has every copy but one.
    fn recipient(&mut self, planned: &Planned, index: usize, address: &str, end: &Event) {
        let mut commits: Vec<&Commit> = self
            .book
            .commits
            .iter()
            .filter(|commit| commit.to.iter().any(|to| to == address))
            .collect();
        commits.sort_by_key(|commit| commit.written);
        let is_refused = |one: &&Try| one.address == address && one.code >= 500;
        let is_gone = address.ends_with("@gone.example");
        let kept = match end.status {
            Status::Delivered => {
                if commits.is_empty() {
                    self.wrong
                        .push(format!("{address} is delivered, and nobody took it"));
                }
                1
            }
            Status::Bounced => {
                let mut refused = self.book.tries.iter().chain(&self.book.refusals);
                if !is_gone && !refused.any(|one| is_refused(&one)) {
                    self.wrong
                        .push(format!("{address} bounced, and nobody refused it"));
                }
                0
            }
            Status::Expired => {
                self.expired(address, end);
                0
            }
            Status::Suppressed if planned.suppressed == Some(index) => 0,
            Status::Canceled if self.seen.canceled.contains_key(&planned.number) => {
                self.canceled(planned, address);
                0
            }
            status => {
                self.wrong.push(format!("{address} is {}", status.name()));
                0
            }
        };
        let extra = commits.len().saturating_sub(kept);
        for commit in &commits[..extra] {
            if !self.is_excused(commit) {
                let wrong = format!("{address} got a copy for no reason");
                self.wrong.push(wrong);
            }
        }
    }

    /// Whether the engine cannot know that this was delivered.
    fn is_excused(&self, commit: &Commit) -> bool {
        let Some(&heard) = commit.heard.get() else {
            return true;
        };
        self.is_in_gap(commit.at, heard)
    }

    /// Whether something of this time may be forgotten by the end of a life.
    fn is_in_gap(&self, begin: Instant, end: Instant) -> bool {
        let mut gaps = self.seen.gaps.iter();
        gaps.any(|(from, until)| begin <= *until && end + FORGETFUL >= *from)
    }

    /// Whether this failed once, was told so, and was forgotten before it was durable: a notice comes before
    /// what it speaks of, so what is tried again may arrive after all.
    fn is_failure_forgotten(&self, address: &str) -> bool {
        let mut told = self.seen.told.iter();
        told.any(|told| {
            let event = &told.event;
            let has_failed = matches!(event.status, Status::Bounced | Status::Expired);
            has_failed && *event.address == *address && self.is_in_gap(told.at, told.at)
        })
    }

    /// Once it is known to be taken back, nobody is tried any more.
    fn canceled(&mut self, planned: &Planned, address: &str) {
        let known = self.seen.canceled[&planned.number];
        let mut tries = self.book.tries.iter();
        let is_late = |one: &Try| known.is_some_and(|known| one.written > known);
        if tries.any(|one| one.address == address && is_late(one)) {
            self.wrong
                .push(format!("{address} was canceled, and tried after that"));
        }
    }

    fn expired(&mut self, address: &str, end: &Event) {
        let Some(limit) = self.expires_at(address) else {
            return;
        };
        let is_doomed = address.starts_with("full.");
        let last = self.seen.grounds.last().unwrap();
        let healed = last.time(self.seen.healed.unwrap());
        if !is_doomed && healed + RECOVERY < limit {
            self.wrong
                .push(format!("{address} expired though it could be delivered"));
        }
        // One last try before the end may have been the last that there was time for.
        if end.at + Duration::from_secs(60) < limit {
            self.wrong.push(format!(
                "{address} expired at {:?}, before {limit:?}",
                end.at
            ));
        }
    }

    /// In the engine's time.
    fn expires_at(&self, address: &str) -> Option<Time> {
        let accepted = self.events(address).first()?;
        let planned = self.planned(address)?;
        Some(accepted.due_at? + planned.max_age)
    }

    /// Nobody was tried before the time, after it, or again without a word.
    fn tries(&mut self, planned: &Planned, address: &str) {
        let tries = self.book.tries.iter().filter(|one| one.address == address);
        for one in tries {
            let now = self.seen.grounds[one.life as usize].time(one.written);
            if planned.suppressed.is_some_and(|index| {
                planned.envelope.recipients()[index].address.as_str() == address
            }) {
                self.wrong
                    .push(format!("{address} is suppressed, and was tried"));
            }
            if let Some(due) = self.due(address, one)
                && now + Duration::from_millis(2) < due
            {
                self.wrong.push(format!(
                    "{address} was tried at {now:?}, and due at {due:?}"
                ));
            }
            if self
                .expires_at(address)
                .is_some_and(|limit| now > limit + GRACE)
            {
                self.wrong
                    .push(format!("{address} was tried at {now:?}, after its end"));
            }
            let mut lost = self.book.commits.iter().filter(|commit| {
                let is_before = commit.life == one.life && commit.written < one.written;
                is_before && commit.to.iter().any(|to| to == address)
            });
            if lost.any(|it| !self.was_told(address, one.life, it.written, one.written)) {
                self.wrong
                    .push(format!("{address} was sent again without a word"));
            }
        }
    }

    /// Whether that life said something of the recipient in between.
    fn was_told(&self, address: &str, life: u32, from: Instant, until: Instant) -> bool {
        let mut told = self.seen.told.iter();
        told.any(|told| {
            let is_then = told.life == life && told.at >= from && told.at <= until;
            is_then && *told.event.address == *address
        })
    }

    /// When the recipient was due, as far as the life that tried it could know.
    fn due(&self, address: &str, one: &Try) -> Option<Time> {
        let retried = self
            .seen
            .retried
            .iter()
            .rev()
            .find(|at| **at <= one.written);
        let told = self.seen.told.iter().rev();
        let mut known =
            told.filter(|told| *told.event.address == *address && told.at < one.written);
        let last = known.find(|told| told.life == one.life || self.is_kept(&told.event));
        match last {
            Some(last) if retried.is_none_or(|at| *at < last.at) => last.event.due_at,
            None if retried.is_none() => self.events(address).first()?.due_at,
            _ => None,
        }
    }

    /// Whether an event is in history, and so was durable.
    fn is_kept(&self, event: &Event) -> bool {
        let mut kept = self.events(&event.address).iter();
        let at = event.at.as_micros();
        kept.any(|kept| kept.status == event.status && kept.at.as_micros() == at)
    }

    /// Whoever sent what failed is told, and nobody else.
    fn notices(&mut self) {
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        for commit in self
            .book
            .commits
            .iter()
            .filter(|commit| commit.from.is_empty())
        {
            for to in commit.to.iter().filter(|to| to.ends_with("@app.example")) {
                let text = String::from_utf8_lossy(&commit.content).into_owned();
                told.entry(to.clone()).or_default().push_str(&text);
            }
        }
        for planned in &self.storm.plan.messages {
            let from = planned.envelope.reverse_path().address();
            let from = from.map(ToString::to_string);
            let text = from.as_ref().and_then(|from| told.remove(from));
            let text = text.unwrap_or_default();
            for recipient in planned.envelope.recipients() {
                let address = recipient.address.as_str();
                let last = self.events(address).last().map(|event| event.status);
                let has_failed = matches!(last, Some(Status::Bounced | Status::Expired));
                let is_due = has_failed && planned.envelope.reverse_path().address().is_some();
                let is_unwanted =
                    |one: &Try| Some(&one.address) == from.as_ref() && one.code >= 500;
                let mut refusals = self.book.tries.iter().chain(&self.book.refusals);
                let is_due = is_due && !refusals.any(is_unwanted);
                let is_told = text.contains(&format!("rfc822; {address}"));
                if is_due && !is_told {
                    self.wrong
                        .push(format!("nobody was told that {address} failed"));
                }
                if is_told && !has_failed && !self.is_failure_forgotten(address) {
                    self.wrong
                        .push(format!("somebody was told that {address} failed"));
                }
            }
        }
        for to in told.keys() {
            self.wrong
                .push(format!("a notice went to {to}, who sent nothing"));
        }
    }
}
