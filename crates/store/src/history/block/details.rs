//! The rest of the events of a block that match: attempts, and what was said.

use std::borrow::Cow;
use std::sync::Arc;

use smtp::EnhancedStatus;

use super::columns;
use super::decode::{Columns, Names, Rows, Subjects};
use super::{HAS_DUE, HAS_HEADING, HAS_OUTCOME, Header};
use crate::history::column::{Corrupt, Reader, Result, Unpacker, entries};
use crate::history::text;
use crate::{Event, Heading, MessageId, Outcome, Said, StageTimes, Time};

/// The columns of attempts, and of what was said.
pub(super) struct Details<'a> {
    due: Cow<'a, [u8]>,
    attempts: Cow<'a, [u8]>,
    kinds: Cow<'a, [u8]>,
    lengths: Cow<'a, [u8]>,
    words: Cow<'a, [u8]>,
    kind_names: Cow<'a, [u8]>,
    times: [Cow<'a, [u8]>; 11],
    /// Those of headings; `None` where no row has one that is wanted.
    headings: Option<[Cow<'a, [u8]>; 5]>,
}

impl<'a> Details<'a> {
    pub(super) fn new(
        columns: &Columns<'a>,
        with_headings: bool,
        zstd: &mut Unpacker,
    ) -> Result<Self> {
        let mut get = |index| columns.column(index, zstd);
        let mut times: [Cow<'a, [u8]>; 11] = std::array::from_fn(|_| Cow::default());
        for (stage, column) in times.iter_mut().enumerate() {
            *column = get(columns::TIMES + stage)?;
        }
        let headings = with_headings.then(|| {
            let mut headings: [Cow<'a, [u8]>; 5] = std::array::from_fn(|_| Cow::default());
            for (index, column) in (columns::HEADING..).zip(&mut headings) {
                *column = get(index)?;
            }
            Ok(headings)
        });
        Ok(Self {
            due: get(columns::DUE)?,
            attempts: get(columns::ATTEMPT)?,
            kinds: get(columns::KIND)?,
            lengths: get(columns::WORD_BYTES)?,
            words: get(columns::WORDS)?,
            kind_names: get(columns::KINDS)?,
            times,
            headings: headings.transpose()?,
        })
    }

    pub(super) fn events(
        &self,
        header: &Header,
        rows: &Rows,
        subjects: &Subjects<'_>,
        names: &Names<'_>,
        wanted: &[bool],
    ) -> Result<Vec<(u64, Event)>> {
        let kinds = entries(&mut Reader(&self.kind_names))?;
        let kinds: Vec<Kind<'_>> = kinds.into_iter().map(Kind::read).collect::<Result<_>>()?;
        let mut due = Reader(&self.due);
        let mut outcomes = Outcomes::new(self, &kinds, &names.routes);
        let mut headings = self.headings.as_ref().map(Headings::new).transpose()?;
        let mut events = Vec::new();
        for (row, is_wanted) in wanted.iter().enumerate() {
            let (status, flags) = rows.statuses[row];
            let at_us = rows.at_us[row];
            let due_at = (flags & HAS_DUE != 0)
                .then(|| due.i64().map(|it| at_us.wrapping_add_signed(it)))
                .transpose()?;
            let outcome = (flags & HAS_OUTCOME != 0)
                .then(|| outcomes.next(rows.routes[row], *is_wanted))
                .transpose()?
                .flatten();
            let heading = match &mut headings {
                Some(headings) if flags & HAS_HEADING != 0 => headings.next(*is_wanted)?,
                _ => None,
            };
            if !is_wanted {
                continue;
            }
            let subject = &subjects.0[rows.subjects[row] as usize];
            let event = Event {
                at: Time::from_micros(at_us),
                message: MessageId::from_bits(subject.id),
                recipient: subject.recipient,
                address: subject.address().into(),
                tenant: Arc::clone(&names.tenants[subject.tenant as usize]),
                tags: Arc::clone(&names.tags[subject.tags as usize]),
                status,
                due_at: due_at.map(Time::from_micros),
                outcome,
                heading,
            };
            events.push((header.first_seq + row as u64, event));
        }
        Ok(events)
    }
}

/// What one kind of reply always says.
struct Kind<'a> {
    code: u16,
    enhanced: Option<EnhancedStatus>,
    class: u8,
    stage: &'a str,
    is_apart: bool,
    template: &'a [u8],
    gaps: usize,
}

impl<'a> Kind<'a> {
    fn read(entry: &'a [u8]) -> Result<Self> {
        let mut reader = Reader(entry);
        let code = reader.number()?;
        let enhanced = match reader.u8()? {
            0 => None,
            class => {
                let (subject, detail) = (reader.number()?, reader.number()?);
                Some(EnhancedStatus::new(class, subject, detail).ok_or(Corrupt)?)
            }
        };
        let (class, stage, is_apart) = (reader.u8()?, reader.text()?, reader.u8()? != 0);
        let template = reader.0;
        let gaps = memchr::memchr_iter(text::GAP, template).count();
        Ok(Self {
            code,
            enhanced,
            class,
            stage,
            is_apart,
            template,
            gaps: if is_apart { gaps } else { 0 },
        })
    }
}

/// Reads outcomes in the order of their rows.
struct Outcomes<'a> {
    attempts: Reader<'a>,
    kinds: Reader<'a>,
    lengths: Reader<'a>,
    words: Reader<'a>,
    times: [Reader<'a>; 11],
    kind_names: &'a [Kind<'a>],
    routes: &'a [[Arc<str>; 3]],
}

impl<'a> Outcomes<'a> {
    fn new(details: &'a Details<'_>, kinds: &'a [Kind<'a>], routes: &'a [[Arc<str>; 3]]) -> Self {
        Self {
            attempts: Reader(&details.attempts),
            kinds: Reader(&details.kinds),
            lengths: Reader(&details.lengths),
            words: Reader(&details.words),
            times: std::array::from_fn(|stage| Reader(&details.times[stage])),
            kind_names: kinds,
            routes,
        }
    }

    /// Passes over one, and makes it if it is wanted.
    fn next(&mut self, route: u32, is_wanted: bool) -> Result<Option<Box<Outcome>>> {
        let attempt = self.attempts.number()?;
        let kind = self
            .kind_names
            .get(self.kinds.number::<usize>()?)
            .ok_or(Corrupt)?;
        let mut times = StageTimes::default();
        for (us, column) in times.0.iter_mut().zip(&mut self.times) {
            *us = column.number()?;
        }
        if !is_wanted {
            for _ in 0..kind.gaps {
                self.words.take(self.lengths.number()?)?;
            }
            return Ok(None);
        }
        let text = text_of(
            kind.template,
            kind.is_apart,
            &mut self.lengths,
            &mut self.words,
        )?;
        let [site, host, source] = &self.routes[route as usize];
        Ok(Some(Box::new(Outcome {
            attempt,
            site: Arc::clone(site),
            host: Arc::clone(host),
            source: Arc::clone(source),
            stage: kind.stage.into(),
            class: kind.class,
            said: Said {
                code: kind.code,
                enhanced: kind.enhanced,
                text,
            },
            times,
        })))
    }
}

/// What headings say: the titles that a block has, and where in its columns the next one stands.
struct Headings<'a> {
    from: Reader<'a>,
    titles: Reader<'a>,
    lengths: Reader<'a>,
    words: Reader<'a>,
    from_names: Vec<Arc<str>>,
    title_names: Vec<Title<'a>>,
    last: Option<Last<'a>>,
}

/// A subject without the words in its gaps.
#[derive(Clone, Copy)]
struct Title<'a> {
    is_apart: bool,
    template: &'a [u8],
    gaps: usize,
}

/// The newest heading: as it stands there, and made once it was asked for.
struct Last<'a> {
    from: usize,
    title: Title<'a>,
    lengths: Reader<'a>,
    words: Reader<'a>,
    made: Option<Arc<Heading>>,
}

impl<'a> Headings<'a> {
    fn new(columns: &'a [Cow<'_, [u8]>; 5]) -> Result<Self> {
        let [from, titles, lengths, words, names] = columns.each_ref().map(|it| Reader(it));
        let mut names = names;
        let from_names = entries(&mut names)?.into_iter().map(|name| {
            let name = std::str::from_utf8(name).map_err(|_| Corrupt)?;
            Ok(Arc::from(name))
        });
        let from_names = from_names.collect::<Result<_>>()?;
        let title_names = entries(&mut names)?.into_iter().map(Title::read);
        Ok(Self {
            from,
            titles,
            lengths,
            words,
            from_names,
            title_names: title_names.collect::<Result<_>>()?,
            last: None,
        })
    }

    /// Passes over one, and makes it if it is wanted.
    fn next(&mut self, is_wanted: bool) -> Result<Option<Arc<Heading>>> {
        if let Some(from) = self.from.number::<usize>()?.checked_sub(1) {
            let title = self.titles.number::<usize>()?;
            let title = *self.title_names.get(title).ok_or(Corrupt)?;
            self.last = Some(Last {
                from,
                title,
                lengths: self.lengths,
                words: self.words,
                made: None,
            });
            for _ in 0..title.gaps {
                self.words.take(self.lengths.number()?)?;
            }
        }
        let last = self.last.as_mut().ok_or(Corrupt)?;
        if is_wanted && last.made.is_none() {
            let from = self.from_names.get(last.from).ok_or(Corrupt)?;
            last.made = Some(Arc::new(Heading {
                from: Arc::clone(from),
                subject: last.subject()?,
            }));
        }
        Ok(last.made.as_ref().filter(|_| is_wanted).map(Arc::clone))
    }
}

impl<'a> Title<'a> {
    fn read(entry: &'a [u8]) -> Result<Self> {
        let (is_apart, template) = entry.split_first().ok_or(Corrupt)?;
        let is_apart = *is_apart != 0;
        let gaps = memchr::memchr_iter(text::GAP, template).count();
        Ok(Self {
            is_apart,
            template,
            gaps: if is_apart { gaps } else { 0 },
        })
    }
}

impl Last<'_> {
    fn subject(&self) -> Result<Box<str>> {
        let (mut lengths, mut words) = (self.lengths, self.words);
        let title = self.title;
        text_of(title.template, title.is_apart, &mut lengths, &mut words)
    }
}

/// A text from its template and the next words.
fn text_of(
    template: &[u8],
    is_apart: bool,
    lengths: &mut Reader<'_>,
    words: &mut Reader<'_>,
) -> Result<Box<str>> {
    let mut out = Vec::with_capacity(template.len());
    if is_apart {
        text::join(template, &mut out, || words.take(lengths.number()?))?;
    } else {
        out.extend_from_slice(template);
    }
    let text = String::from_utf8(out).map_err(|_| Corrupt)?;
    Ok(text.into())
}
