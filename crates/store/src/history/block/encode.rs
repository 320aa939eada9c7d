//! Events into columns.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::columns::{self, COUNT};
use super::{HAS_DUE, HAS_HEADING, HAS_OUTCOME, HEADER_BYTES, Header, Version, micros};
use crate::history::column::{Dictionary, Packer, put_bytes, put_i64, put_u64};
use crate::history::keys;
use crate::history::minutes::{self, MinuteStats, Minutes};
use crate::history::{Position, text};
use crate::{Event, Heading, Outcome, Tags};

/// An event and where the journal has it.
#[derive(Clone, Debug)]
pub(in crate::history) struct Record {
    pub(in crate::history) position: Position,
    pub(in crate::history) event: Event,
}

/// A packed block, and what is remembered of it.
#[derive(Debug)]
pub(in crate::history) struct Encoded {
    /// Header and body.
    pub(in crate::history) bytes: Vec<u8>,
    pub(in crate::history) header: Header,
    /// Sorted hashes of everything it can be found by.
    pub(in crate::history) keys: Vec<u32>,
    pub(in crate::history) minutes: Minutes,
}

/// Packs blocks, one after the other; keeps what it allocates.
pub(in crate::history) struct Encoder {
    packer: Packer,
    columns: [Vec<u8>; COUNT],
    /// The row and number of each subject's first event.
    subjects: FxHashMap<(u128, u32), (u32, u32)>,
    subject_count: u32,
    domains: Dictionary,
    tenants: Dictionary,
    tags: Dictionary,
    routes: Dictionary,
    kinds: Dictionary,
    reverse_paths: Dictionary,
    titles: Dictionary,
    keys: Vec<u32>,
    scratch: Vec<u8>,
    last: Last,
}

/// What numbers are written as differences from.
#[derive(Default)]
struct Last {
    at_us: u64,
    id: u128,
    tenant: Option<(Arc<str>, u32)>,
    tags: Option<(Tags, u32)>,
    route: Option<([Arc<str>; 3], u32)>,
    heading: Option<Arc<Heading>>,
}

impl Encoder {
    pub(in crate::history) fn new(level: i32) -> Self {
        Self {
            packer: Packer::new(level),
            columns: std::array::from_fn(|_| Vec::new()),
            subjects: FxHashMap::default(),
            subject_count: 0,
            domains: Dictionary::default(),
            tenants: Dictionary::default(),
            tags: Dictionary::default(),
            routes: Dictionary::default(),
            kinds: Dictionary::default(),
            reverse_paths: Dictionary::default(),
            titles: Dictionary::default(),
            keys: Vec::new(),
            scratch: Vec::new(),
            last: Last::default(),
        }
    }

    /// Packs records, at least one; the first has this number.
    pub(in crate::history) fn encode(
        &mut self,
        records: &[&Record],
        first_seq: u64,
        era: u32,
        durable_seq: u64,
    ) -> Encoded {
        let mut minutes = MinuteCounter::default();
        let mut at_us = [u64::MAX, 0];
        for (row, record) in records.iter().enumerate() {
            let at = micros(record.event.at);
            at_us = [at_us[0].min(at), at_us[1].max(at)];
            minutes.add(&record.event);
            self.put(records, row);
        }
        let minutes = minutes.finish();
        self.finish_columns(&minutes);
        let mut bytes = vec![0; HEADER_BYTES];
        self.packer.pack(&self.columns, &mut bytes);
        let last = records.last().expect("at least one record");
        let header = Header {
            version: Version::Two,
            body_bytes: (bytes.len() - HEADER_BYTES) as u32,
            rows: records.len() as u32,
            first_seq,
            era,
            last_position: last.position.to_u64(),
            last_recipient: last.event.recipient,
            at_us,
            durable_seq,
            body_crc: crc32c::crc32c(&bytes[HEADER_BYTES..]),
        };
        bytes[..HEADER_BYTES].copy_from_slice(&header.write());
        self.keys.sort_unstable();
        self.keys.dedup();
        let keys = self.keys.clone();
        self.clear();
        Encoded {
            bytes,
            header,
            keys,
            minutes,
        }
    }

    fn clear(&mut self) {
        self.columns.iter_mut().for_each(Vec::clear);
        self.subjects.clear();
        self.subject_count = 0;
        self.keys.clear();
        self.last = Last::default();
    }

    fn finish_columns(&mut self, all: &Minutes) {
        let names = &mut self.columns[columns::NAMES];
        for dictionary in [
            &mut self.domains,
            &mut self.tenants,
            &mut self.tags,
            &mut self.routes,
        ] {
            dictionary.finish(names);
        }
        self.kinds.finish(&mut self.columns[columns::KINDS]);
        let titles = &mut self.columns[columns::TITLES];
        self.reverse_paths.finish(titles);
        self.titles.finish(titles);
        minutes::write(all, &mut self.columns[columns::MINUTES]);
    }

    fn put(&mut self, records: &[&Record], row: usize) {
        let event = &records[row].event;
        let at_us = micros(event.at);
        self.difference(columns::AT, at_us, self.last.at_us);
        self.last.at_us = at_us;
        self.put_subject(records, row);
        let mut status = event.status as u8;
        if let Some(due_at) = event.due_at {
            status |= HAS_DUE;
            self.difference(columns::DUE, micros(due_at), at_us);
        }
        if let Some(outcome) = &event.outcome {
            status |= HAS_OUTCOME;
            self.put_outcome(outcome);
        }
        if let Some(heading) = &event.heading {
            status |= HAS_HEADING;
            self.put_heading(heading);
        }
        self.columns[columns::STATUS].push(status);
    }

    /// The recipients of a message come together: what it is stands there once.
    fn put_heading(&mut self, heading: &Arc<Heading>) {
        if let Some(last) = &self.last.heading
            && (Arc::ptr_eq(last, heading) || last == heading)
        {
            return self.number(columns::HEADING, 0u32);
        }
        self.last.heading = Some(Arc::clone(heading));
        let (from, _) = self.reverse_paths.number(heading.from.as_bytes());
        self.number(columns::HEADING, 1 + u64::from(from));
        self.scratch.clear();
        self.scratch.push(0);
        let words = [columns::TITLE_WORD_BYTES, columns::TITLE_WORDS];
        let is_apart = self.put_apart(&heading.subject, words);
        self.scratch[0] = is_apart.into();
        let (title, _) = self.titles.number(&self.scratch);
        self.number(columns::TITLE, title);
    }

    /// Appends a text's template to `scratch`, and its words to these columns (lengths, octets); says
    /// whether it was taken apart.
    fn put_apart(&mut self, text: &str, words: [usize; 2]) -> bool {
        let columns = self.columns.get_disjoint_mut(words);
        let [lengths, words] = columns.expect("two columns");
        text::split(text, &mut self.scratch, |word| {
            put_u64(lengths, word.len() as u64);
            words.extend_from_slice(word);
        })
    }

    fn difference(&mut self, column: usize, value: u64, from: u64) {
        let difference = value.wrapping_sub(from).cast_signed();
        put_i64(&mut self.columns[column], difference);
    }

    fn number(&mut self, column: usize, value: impl Into<u64>) {
        put_u64(&mut self.columns[column], value.into());
    }

    fn put_subject(&mut self, records: &[&Record], row: usize) {
        let event = &records[row].event;
        let next = self.subject_count;
        let key = (event.message.bits(), event.recipient);
        let known = self.subjects.get(&key);
        let known = known.filter(|(row, _)| is_same(&records[*row as usize].event, event));
        if let Some((_, number)) = known {
            let back = next - number;
            return self.number(columns::SUBJECT, back);
        }
        self.number(columns::SUBJECT, 0u32);
        self.subjects.insert(key, (row as u32, next));
        self.subject_count += 1;
        self.put_id(key.0);
        self.number(columns::RECIPIENT, event.recipient);
        self.put_address(&event.address);
        let tenant = self.tenant(&event.tenant);
        self.number(columns::TENANT, tenant);
        let tags = self.tag_set(&event.tags);
        self.number(columns::TAGS, tags);
    }

    fn put_id(&mut self, id: u128) {
        let last = std::mem::replace(&mut self.last.id, id);
        self.difference(columns::ID_MS, (id >> 80) as u64, (last >> 80) as u64);
        let [count, last_count] = [id, last].map(|id| u64::from((id >> 64) as u16));
        self.difference(columns::ID_COUNT, count, last_count);
        let rest = id as u64;
        let out = &mut self.columns[columns::ID_REST];
        if rest == last as u64 {
            out.push(0);
        } else {
            out.push(1);
            out.extend_from_slice(&rest.to_le_bytes());
        }
        self.keys.push(keys::message(id));
    }

    fn put_address(&mut self, address: &str) {
        let (local, domain) = match address.rsplit_once('@') {
            Some((local, domain)) => (local, 1 + self.domains.number(domain.as_bytes()).0),
            None => (address, 0),
        };
        self.number(columns::LOCAL_BYTES, local.len() as u64);
        self.columns[columns::LOCAL].extend_from_slice(local.as_bytes());
        self.number(columns::DOMAIN, domain);
        self.keys.push(keys::recipient(address, &mut self.scratch));
    }

    fn tenant(&mut self, tenant: &Arc<str>) -> u32 {
        match &self.last.tenant {
            Some((last, number)) if Arc::ptr_eq(last, tenant) => *number,
            _ => {
                let (number, is_new) = self.tenants.number(tenant.as_bytes());
                if is_new {
                    self.keys.push(keys::tenant(tenant));
                }
                self.last.tenant = Some((Arc::clone(tenant), number));
                number
            }
        }
    }

    fn tag_set(&mut self, tags: &Tags) -> u32 {
        match &self.last.tags {
            Some((last, number)) if Arc::ptr_eq(last, tags) => *number,
            _ => {
                self.scratch.clear();
                for (name, value) in tags.iter() {
                    put_bytes(&mut self.scratch, name.as_bytes());
                    put_bytes(&mut self.scratch, value.as_bytes());
                }
                let (number, is_new) = self.tags.number(&self.scratch);
                if is_new {
                    let keys = tags.iter().map(|(name, value)| keys::tag(name, value));
                    self.keys.extend(keys);
                }
                self.last.tags = Some((Arc::clone(tags), number));
                number
            }
        }
    }

    fn put_outcome(&mut self, outcome: &Outcome) {
        let route = self.route([&outcome.site, &outcome.host, &outcome.source]);
        self.number(columns::ROUTE, route);
        self.number(columns::ATTEMPT, outcome.attempt);
        self.put_said(outcome);
        for (stage, us) in outcome.times.0.into_iter().enumerate() {
            self.number(columns::TIMES + stage, us);
        }
    }

    fn route(&mut self, names: [&Arc<str>; 3]) -> u32 {
        let is_same = |last: &[Arc<str>; 3]| {
            let mut pairs = last.iter().zip(names);
            pairs.all(|(last, name)| Arc::ptr_eq(last, name))
        };
        match &self.last.route {
            Some((last, number)) if is_same(last) => *number,
            _ => {
                self.scratch.clear();
                for name in names {
                    put_bytes(&mut self.scratch, name.as_bytes());
                }
                let (number, is_new) = self.routes.number(&self.scratch);
                if is_new {
                    self.keys.push(keys::site(names[0]));
                }
                self.last.route = Some((names.map(Arc::clone), number));
                number
            }
        }
    }

    fn put_said(&mut self, outcome: &Outcome) {
        let said = &outcome.said;
        let kind = &mut self.scratch;
        kind.clear();
        put_u64(kind, said.code.into());
        match said.enhanced {
            None => kind.push(0),
            Some(status) => {
                kind.push(status.class());
                put_u64(kind, status.subject().into());
                put_u64(kind, status.detail().into());
            }
        }
        kind.push(outcome.class);
        put_bytes(kind, outcome.stage.as_bytes());
        let apart = kind.len();
        kind.push(0);
        let is_apart = self.put_apart(&said.text, [columns::WORD_BYTES, columns::WORDS]);
        self.scratch[apart] = is_apart.into();
        let (number, _) = self.kinds.number(&self.scratch);
        self.number(columns::KIND, number);
    }
}

/// Whether two events of the same recipient say the same of it.
fn is_same(one: &Event, other: &Event) -> bool {
    (Arc::ptr_eq(&one.tags, &other.tags) || one.tags == other.tags)
        && one.address == other.address
        && one.tenant == other.tenant
}

/// Counts minutes; most events belong to that of the one before.
#[derive(Default)]
struct MinuteCounter {
    done: Minutes,
    current: Option<MinuteStats>,
}

impl MinuteCounter {
    fn add(&mut self, event: &Event) {
        let minute = minutes::start_of(event.at);
        if self.current.as_ref().is_none_or(|it| it.minute != minute) {
            self.put_by();
            let stats = self.done.remove(&minute);
            self.current = Some(stats.unwrap_or_else(|| MinuteStats::new(minute)));
        }
        self.current.as_mut().expect("just made").add(event);
    }

    fn put_by(&mut self) {
        if let Some(stats) = self.current.take() {
            self.done.insert(stats.minute, stats);
        }
    }

    fn finish(mut self) -> Minutes {
        self.put_by();
        self.done
    }
}
