//! Columns back into events: what is asked about; [`super::details`] has the rest of the rows that match.

use std::borrow::Cow;
use std::sync::Arc;

use super::columns::{self, COUNT};
use super::details::Details;
use super::{HAS_DUE, HAS_HEADING, HAS_OUTCOME, Header, Version, micros};
use crate::history::column::{Corrupt, Packed, Reader, Result, Unpacker, entries};
use crate::history::keys;
use crate::history::minutes::{self, Minutes};
use crate::history::query::Query;
use crate::{Event, Status, Tags, Time};

/// Which rows are wanted.
#[derive(Clone, Copy)]
pub(in crate::history) struct Filter<'a> {
    pub(in crate::history) query: &'a Query,
    /// Events from this number on, and below that one.
    pub(in crate::history) seqs: [u64; 2],
}

/// What a block can be found by, and its counts: for an index that is made again.
#[derive(Default)]
pub(in crate::history) struct Keys {
    pub(in crate::history) keys: Vec<u32>,
    pub(in crate::history) minutes: Minutes,
}

/// The events of a block that match, with their numbers, in order.
pub(in crate::history) fn decode(
    header: &Header,
    body: &[u8],
    filter: &Filter<'_>,
    zstd: &mut Unpacker,
) -> Result<Vec<(u64, Event)>> {
    let columns = Packed::parse(body, header.version.columns())?;
    let names = columns.column(columns::NAMES, zstd)?;
    let names = Names::read(&names)?;
    let subjects = SubjectColumns::new(&columns, zstd)?;
    let subjects = subjects.read(&names)?;
    let rows = Rows::read(header, &columns, &subjects, &names, zstd)?;
    let wanted = rows.matching(header, &subjects, &names, filter);
    if wanted.iter().all(|is_wanted| !is_wanted) {
        return Ok(Vec::new());
    }
    let has_heading = |(flags, is_wanted): (&u8, &bool)| *is_wanted && flags & HAS_HEADING != 0;
    let mut flags = rows.statuses.iter().map(|(_, flags)| flags).zip(&wanted);
    let with_headings = flags.any(has_heading);
    let details = Details::new(&columns, with_headings, zstd)?;
    details.events(header, &rows, &subjects, &names, &wanted)
}

/// The keys of a block and its minutes.
pub(in crate::history) fn read_keys(
    version: Version,
    body: &[u8],
    zstd: &mut Unpacker,
) -> Result<Keys> {
    let columns: Columns<'_> = Packed::parse(body, version.columns())?;
    let names = columns.column(columns::NAMES, zstd)?;
    let names = Names::read(&names)?;
    let subjects = SubjectColumns::new(&columns, zstd)?;
    let subjects = subjects.read(&names)?;
    let mut scratch = Vec::new();
    let mut found = Vec::with_capacity(2 * subjects.0.len());
    for subject in &subjects.0 {
        found.push(keys::message(subject.id));
        found.push(keys::recipient(&subject.address(), &mut scratch));
    }
    found.extend(names.tenants.iter().map(|name| keys::tenant(name)));
    found.extend(names.routes.iter().map(|[site, ..]| keys::site(site)));
    let tags = names.tags.iter().flat_map(|tags| tags.iter());
    found.extend(tags.map(|(name, value)| keys::tag(name, value)));
    found.sort_unstable();
    found.dedup();
    let stats = columns.column(columns::MINUTES, zstd)?;
    let minutes = minutes::read(&mut Reader(&stats))?;
    Ok(Keys {
        keys: found,
        minutes,
    })
}

pub(super) type Columns<'a> = Packed<'a, COUNT>;

/// The names that a block's events refer to.
pub(super) struct Names<'a> {
    pub(super) domains: Vec<&'a str>,
    pub(super) tenants: Vec<Arc<str>>,
    pub(super) tags: Vec<Tags>,
    /// Site, host, source.
    pub(super) routes: Vec<[Arc<str>; 3]>,
}

impl<'a> Names<'a> {
    fn read(column: &'a [u8]) -> Result<Self> {
        let mut reader = Reader(column);
        let mut next = || entries(&mut reader);
        let (domains, tenants, tags, routes) = (next()?, next()?, next()?, next()?);
        let routes = routes.into_iter().map(read_route);
        Ok(Self {
            domains: domains.into_iter().map(str_of).collect::<Result<_>>()?,
            tenants: tenants
                .into_iter()
                .map(str_of)
                .map(shared)
                .collect::<Result<_>>()?,
            tags: tags.into_iter().map(read_tags).collect::<Result<_>>()?,
            routes: routes.collect::<Result<_>>()?,
        })
    }
}

fn str_of(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Corrupt)
}

fn shared(text: Result<&str>) -> Result<Arc<str>> {
    text.map(Into::into)
}

fn read_tags(entry: &[u8]) -> Result<Tags> {
    let mut reader = Reader(entry);
    let mut tags = Vec::new();
    while !reader.is_empty() {
        tags.push((reader.text()?.into(), reader.text()?.into()));
    }
    Ok(tags.into())
}

fn read_route(entry: &[u8]) -> Result<[Arc<str>; 3]> {
    let mut reader = Reader(entry);
    let mut name = || reader.text().map(Arc::from);
    Ok([name()?, name()?, name()?])
}

/// Whom a block's events are about.
pub(super) struct Subjects<'a>(pub(super) Vec<Subject<'a>>);

pub(super) struct Subject<'a> {
    pub(super) id: u128,
    pub(super) recipient: u32,
    pub(super) local: &'a str,
    /// `None` where there is no `@`.
    pub(super) domain: Option<&'a str>,
    pub(super) tenant: u32,
    pub(super) tags: u32,
}

/// The columns of [`Subjects`], unpacked.
struct SubjectColumns<'a>([Cow<'a, [u8]>; 9]);

impl<'a> SubjectColumns<'a> {
    fn new(columns: &Columns<'a>, zstd: &mut Unpacker) -> Result<Self> {
        let mut unpacked: [Cow<'a, [u8]>; 9] = std::array::from_fn(|_| Cow::default());
        for (index, column) in (columns::ID_MS..=columns::TAGS).zip(&mut unpacked) {
            *column = columns.column(index, zstd)?;
        }
        Ok(Self(unpacked))
    }

    fn read<'b>(&'b self, names: &Names<'b>) -> Result<Subjects<'b>> {
        let [ms, count, rest, others @ ..] = &self.0;
        let [recipients, lengths, locals, domains, tenants, tags] = others;
        let mut ids = Ids::new(ms, count, rest);
        let mut locals = Reader(locals);
        let [
            mut recipients,
            mut lengths,
            mut domains,
            mut tenants,
            mut tags,
        ] = [recipients, lengths, domains, tenants, tags].map(|column| Reader(column));
        let mut subjects = Vec::new();
        while !recipients.is_empty() {
            let domain = match domains.number::<usize>()?.checked_sub(1) {
                None => None,
                Some(domain) => Some(*names.domains.get(domain).ok_or(Corrupt)?),
            };
            subjects.push(Subject {
                id: ids.next()?,
                recipient: recipients.number()?,
                local: str_of(locals.take(lengths.number()?)?)?,
                domain,
                tenant: below(tenants.number()?, names.tenants.len())?,
                tags: below(tags.number()?, names.tags.len())?,
            });
        }
        Ok(Subjects(subjects))
    }
}

impl Subject<'_> {
    fn has_address(&self, address: &str) -> bool {
        match (address.rsplit_once('@'), self.domain) {
            (Some((local, domain)), Some(own)) => {
                local.eq_ignore_ascii_case(self.local) && domain.eq_ignore_ascii_case(own)
            }
            (None, None) => address.eq_ignore_ascii_case(self.local),
            _ => false,
        }
    }

    pub(super) fn address(&self) -> String {
        let Some(domain) = self.domain else {
            return self.local.to_owned();
        };
        let mut address = String::with_capacity(self.local.len() + 1 + domain.len());
        address.push_str(self.local);
        address.push('@');
        address.push_str(domain);
        address
    }
}

fn below(number: u32, count: usize) -> Result<u32> {
    if (number as usize) < count {
        Ok(number)
    } else {
        Err(Corrupt)
    }
}

struct Ids<'a> {
    ms: Reader<'a>,
    count: Reader<'a>,
    rest: Reader<'a>,
    /// Milliseconds, the 16 bits after them, and the last 64.
    last: (u64, u64, u64),
}

impl<'a> Ids<'a> {
    fn new(ms: &'a [u8], count: &'a [u8], rest: &'a [u8]) -> Self {
        Self {
            ms: Reader(ms),
            count: Reader(count),
            rest: Reader(rest),
            last: (0, 0, 0),
        }
    }

    fn next(&mut self) -> Result<u128> {
        let (ms, count, rest) = &mut self.last;
        *ms = ms.wrapping_add_signed(self.ms.i64()?);
        *count = count.wrapping_add_signed(self.count.i64()?);
        match self.rest.u8()? {
            0 => {}
            1 => *rest = u64::from_le_bytes(self.rest.array()?),
            _ => return Err(Corrupt),
        }
        if *ms >> 48 != 0 || *count >> 16 != 0 {
            return Err(Corrupt);
        }
        Ok(u128::from(*ms) << 80 | u128::from(*count) << 64 | u128::from(*rest))
    }
}

/// What every row has.
pub(super) struct Rows {
    pub(super) at_us: Vec<u64>,
    pub(super) subjects: Vec<u32>,
    pub(super) statuses: Vec<(Status, u8)>,
    /// `u32::MAX` where there was no attempt.
    pub(super) routes: Vec<u32>,
}

impl Rows {
    fn read(
        header: &Header,
        columns: &Columns<'_>,
        subjects: &Subjects<'_>,
        names: &Names<'_>,
        zstd: &mut Unpacker,
    ) -> Result<Self> {
        let count = header.rows as usize;
        let at = columns.column(columns::AT, zstd)?;
        let refs = columns.column(columns::SUBJECT, zstd)?;
        let statuses = columns.column(columns::STATUS, zstd)?;
        let routes = columns.column(columns::ROUTE, zstd)?;
        if statuses.len() != count {
            return Err(Corrupt);
        }
        let (mut at, mut refs, mut routes) = (Reader(&at), Reader(&refs), Reader(&routes));
        let mut rows = Self {
            at_us: Vec::with_capacity(count),
            subjects: Vec::with_capacity(count),
            statuses: Vec::with_capacity(count),
            routes: Vec::with_capacity(count),
        };
        let (mut at_us, mut next) = (0u64, 0u32);
        for status in statuses.iter() {
            at_us = at_us.wrapping_add_signed(at.i64()?);
            rows.at_us.push(at_us);
            let back: u32 = refs.number()?;
            let subject = next.checked_sub(back).ok_or(Corrupt)?;
            next += u32::from(back == 0);
            rows.subjects.push(below(subject, subjects.0.len())?);
            let flags = status & (HAS_OUTCOME | HAS_DUE | HAS_HEADING);
            let status = Status::from_number(status & !flags).ok_or(Corrupt)?;
            rows.statuses.push((status, flags));
            rows.routes.push(if flags & HAS_OUTCOME == 0 {
                u32::MAX
            } else {
                below(routes.number()?, names.routes.len())?
            });
        }
        Ok(rows)
    }

    /// Of each row, whether it is wanted.
    fn matching(
        &self,
        header: &Header,
        subjects: &Subjects<'_>,
        names: &Names<'_>,
        filter: &Filter<'_>,
    ) -> Vec<bool> {
        let query = filter.query;
        let subjects: Vec<bool> = subjects
            .0
            .iter()
            .map(|it| is_about(query, it, names))
            .collect();
        let is_at =
            |[site, ..]: &[Arc<str>; 3]| query.site.as_deref().is_none_or(|it| *it == **site);
        let routes: Vec<bool> = names.routes.iter().map(is_at).collect();
        let [from, to] = [query.from, query.to];
        let rows = 0..self.at_us.len();
        let is_wanted = |row: usize| {
            let seq = header.first_seq + row as u64;
            let at = Time::from_micros(self.at_us[row]);
            let route = routes.get(self.routes[row] as usize);
            subjects[self.subjects[row] as usize]
                && (filter.seqs[0]..filter.seqs[1]).contains(&seq)
                && query
                    .status
                    .is_none_or(|status| status == self.statuses[row].0)
                && from.is_none_or(|from| from <= at)
                && to.is_none_or(|to| at < to)
                && *route.unwrap_or(&query.site.is_none())
        };
        rows.map(is_wanted).collect()
    }
}

fn is_about(query: &Query, subject: &Subject<'_>, names: &Names<'_>) -> bool {
    let tenant = &names.tenants[subject.tenant as usize];
    let tags = &names.tags[subject.tags as usize];
    query.message.is_none_or(|id| id.bits() == subject.id)
        && (query.recipient.as_deref()).is_none_or(|it| subject.has_address(it))
        && query.tenant.as_deref().is_none_or(|it| *it == **tenant)
        && query.tag.as_ref().is_none_or(|tag| tags.contains(tag))
}

/// The time range of a query against that of a block.
pub(in crate::history) fn is_within(query: &Query, at_us: [u64; 2]) -> bool {
    query.from.is_none_or(|from| micros(from) <= at_us[1])
        && query.to.is_none_or(|to| at_us[0] <= micros(to))
}
