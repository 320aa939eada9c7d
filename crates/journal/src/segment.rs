//! The set of segments: making them ready, finding them, removing them.
//!
//! A segment gets its number as its name only when it is whole: a file is made (or a spare taken),
//! room for all of it is reserved, the header written and synced, then it is renamed and the folder
//! synced. One segment is always made ready ahead, so that a full disk is met before it matters.
//! Removed segments become spares: overwriting a file in place costs half as much to sync as
//! growing one (ADR 50).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::files::{self, File, Files};
use crate::frame::{Salt, SegmentHeader};

const ENDING: &str = ".journal";
/// No journal gets that far; higher ones are not ours.
const NUMBER_MAX: u32 = u32::MAX - (1 << 20);
const SPARE: &str = "spare-";
/// How many removed segments are kept to be used again.
const SPARES_MAX: usize = 2;

pub(crate) fn name(number: u32) -> String {
    format!("{number:010}{ENDING}")
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(ENDING)?;
    let is_plain = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_plain.then(|| digits.parse().ok()).flatten();
    number.filter(|number| (1..=NUMBER_MAX).contains(number))
}

/// One segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Segments are numbered from 1 in the order of appending.
    pub number: u32,
    /// What it takes in the folder, room reserved in it included.
    pub bytes: u64,
}

/// Why a segment could not be made or removed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing is lost: try again when there is room, or less to do.
    ForNow(io::Error),
    /// A sync failed: nothing may be trusted any more.
    ForGood(io::Error),
}

pub(crate) struct Segments {
    pub(crate) files: Arc<dyn Files>,
    segment_bytes: u64,
    pub(crate) secret: u64,
    open: RwLock<BTreeMap<u32, Arc<dyn File>>>,
    /// Names of spares. Held while the folder is changed.
    spares: Mutex<Vec<String>>,
    /// How many there are: to ask waits for no disk.
    spares_count: AtomicU64,
    pub(crate) reused: AtomicU64,
}

impl Segments {
    pub(crate) fn new(files: Arc<dyn Files>, segment_bytes: u64, secret: u64) -> Self {
        Self {
            files,
            segment_bytes,
            secret,
            open: RwLock::default(),
            spares: Mutex::default(),
            spares_count: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    pub(crate) fn salt(&self, number: u32) -> Salt {
        Salt::new(self.secret, number)
    }

    /// Numbers of segments, ascending, and spares.
    pub(crate) fn list(files: &dyn Files) -> io::Result<(Vec<u32>, Vec<String>)> {
        let names = files.list()?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let is_spare = |name: &String| name.starts_with(SPARE);
        Ok((numbers, names.into_iter().filter(is_spare).collect()))
    }

    /// Takes over what the last run left for use again.
    pub(crate) fn adopt_spares(&self, names: Vec<String>) -> io::Result<()> {
        let mut spares = self.spares();
        for name in names {
            if spares.len() < SPARES_MAX {
                spares.push(name);
            } else {
                self.files.remove(&name)?;
            }
        }
        self.count(&spares);
        Ok(())
    }

    fn spares(&self) -> MutexGuard<'_, Vec<String>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, spares: &[String]) {
        let count = spares.len() as u64;
        self.spares_count.store(count, Ordering::Relaxed);
    }

    pub(crate) fn insert(&self, number: u32, file: Arc<dyn File>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, file);
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<dyn File>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).cloned()
    }

    pub(crate) fn last(&self) -> Option<u32> {
        self.numbers().last().copied()
    }

    pub(crate) fn numbers(&self) -> Vec<u32> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.keys().copied().collect()
    }

    pub(crate) fn all(&self) -> Vec<Segment> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let segment = |(number, file): (&u32, &Arc<dyn File>)| Segment {
            number: *number,
            bytes: file.bytes().unwrap_or(self.segment_bytes),
        };
        open.iter().map(segment).collect()
    }

    /// What all files of the journal take.
    pub(crate) fn used_bytes(&self) -> u64 {
        let spares = self.spares_count.load(Ordering::Relaxed) * self.segment_bytes;
        let segments = self.all();
        spares + segments.iter().map(|segment| segment.bytes).sum::<u64>()
    }

    /// The segment of this number, made if there is none yet.
    pub(crate) fn ready(&self, number: u32) -> Result<Arc<dyn File>, Failure> {
        let mut spares = self.spares();
        if let Some(file) = self.get(number) {
            return Ok(file);
        }
        let (spare, is_new) = match spares.pop() {
            Some(name) => (name, false),
            None => (format!("{SPARE}{number:010}"), true),
        };
        let made = self.make(number, &spare, is_new);
        match &made {
            Ok(file) => {
                self.reused.fetch_add(u64::from(!is_new), Ordering::Relaxed);
                self.insert(number, Arc::clone(file));
            }
            Err(Failure::ForNow(_)) if is_new => {
                // As if it had not been tried; should this fail, the next opening finds it.
                let _ = self.files.remove(&spare);
            }
            Err(_) => spares.push(spare),
        }
        self.count(&spares);
        made
    }

    fn make(&self, number: u32, spare: &str, is_new: bool) -> Result<Arc<dyn File>, Failure> {
        let file = if is_new {
            self.files.create(spare)
        } else {
            self.files.open(spare)
        };
        let file = file.map_err(Failure::ForNow)?;
        let header = SegmentHeader {
            number,
            secret: self.secret,
        };
        let prepared = (|| {
            if file.bytes()? > self.segment_bytes {
                file.truncate(self.segment_bytes)?;
            }
            file.allocate(self.segment_bytes)?;
            files::write_all_at(&*file, 0, &[&header.page()])
        })();
        prepared.map_err(Failure::ForNow)?;
        file.sync().map_err(Failure::ForGood)?;
        self.files
            .rename(spare, &name(number))
            .map_err(Failure::ForNow)?;
        self.files.sync_dir().map_err(Failure::ForGood)?;
        Ok(file)
    }

    /// Removes segments below this number, the oldest first, each durably before the next: what a
    /// crash leaves is always without a gap. The last one stays, for it holds the numbering.
    pub(crate) fn remove_before(&self, number: u32) -> Result<(), Failure> {
        let number = number.min(self.last().unwrap_or_default());
        for oldest in self
            .numbers()
            .into_iter()
            .take_while(|oldest| *oldest < number)
        {
            let mut spares = self.spares();
            if self.get(oldest).is_none() {
                // Another caller was faster.
                continue;
            }
            let spare = (spares.len() < SPARES_MAX).then(|| format!("{SPARE}{oldest:010}"));
            match &spare {
                Some(spare) => self.files.rename(&name(oldest), spare),
                None => self.files.remove(&name(oldest)),
            }
            .map_err(Failure::ForNow)?;
            self.files.sync_dir().map_err(Failure::ForGood)?;
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            open.remove(&oldest);
            spares.extend(spare);
            self.count(&spares);
        }
        Ok(())
    }
}
