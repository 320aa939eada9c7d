//! Files that write down what is done to them, so that a life can be lived once and cut anywhere.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use journal::{File, Files, Journal, MemoryFiles, Position, files};

/// What happened, in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create(String),
    Open(String),
    Rename(String, String),
    Remove(String),
    SyncFolder,
    /// Files are numbered as they were created or opened.
    /// What, from where on.
    Write(usize, u64, Vec<u8>),
    Sync(usize),
    Allocate(usize, u64),
    Truncate(usize, u64),
    /// A record was appended; nothing of it is written yet.
    Appended {
        id: u64,
        at: Position,
        length: usize,
    },
    /// Who waited for it was told that it is durable.
    Acknowledged(u64),
    /// Who waited for it was told that it was not taken.
    Refused(u64),
    /// The journal says that all before is durable.
    Durable(Position),
    /// Segments before this one may go.
    Removing(u32),
}

/// The events so far; clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    pub(crate) fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A disk that is written about; clones are the same one.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) files: MemoryFiles,
    pub(crate) log: Log,
    /// Asked at each call how far it claims to be durable.
    pub(crate) watched: Arc<Mutex<Option<Journal>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    opened: usize,
    durable: Position,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            files: MemoryFiles::new(),
            log: Log::default(),
            watched: Arc::default(),
            state: Arc::default(),
        }
    }

    /// To be called before each call: a claim must hold as soon as it is made.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        if let Some(journal) = &*self.watched.lock().unwrap() {
            let durable = journal.durable();
            if durable != state.durable {
                state.durable = durable;
                self.log.push(Event::Durable(durable));
            }
        }
        state
    }

    fn file(&self, file: Arc<dyn File>, event: Event) -> Arc<dyn File> {
        let mut state = self.look();
        self.log.push(event);
        let number = state.opened;
        state.opened += 1;
        let recorder = self.clone();
        Arc::new(Recorded {
            recorder,
            file,
            number,
        })
    }

    fn did<T>(&self, result: io::Result<T>, event: impl FnOnce(&T) -> Event) -> io::Result<T> {
        if let Ok(value) = &result {
            self.log.push(event(value));
        }
        result
    }
}

impl Files for Recorder {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.files.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.files.open(name)?;
        Ok(self.file(file, Event::Open(name.to_owned())))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.files.create(name)?;
        Ok(self.file(file, Event::Create(name.to_owned())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let _state = self.look();
        let renamed = self.files.rename(from, to);
        self.did(renamed, |()| Event::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let _state = self.look();
        let removed = self.files.remove(name);
        self.did(removed, |()| Event::Remove(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let _state = self.look();
        self.did(self.files.sync_dir(), |()| Event::SyncFolder)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.files.free_bytes()
    }

    fn name(&self) -> String {
        self.files.name()
    }
}

struct Recorded {
    recorder: Recorder,
    file: Arc<dyn File>,
    number: usize,
}

impl File for Recorded {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let _state = self.recorder.look();
        let written = self.file.write_at(offset, pieces);
        self.recorder.did(written, |written| {
            let mut bytes = Vec::new();
            for piece in pieces {
                bytes.extend_from_slice(piece);
            }
            bytes.truncate(*written);
            Event::Write(self.number, offset, bytes)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let _state = self.recorder.look();
        let synced = self.file.sync();
        self.recorder.did(synced, |()| Event::Sync(self.number))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let _state = self.recorder.look();
        let allocated = self.file.allocate(bytes);
        self.recorder
            .did(allocated, |()| Event::Allocate(self.number, bytes))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let _state = self.recorder.look();
        let truncated = self.file.truncate(bytes);
        self.recorder
            .did(truncated, |()| Event::Truncate(self.number, bytes))
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

/// Does to a disk what was written down.
#[derive(Default)]
pub(crate) struct Player {
    pub(crate) files: MemoryFiles,
    /// With the name that each has now.
    open: Vec<(String, Arc<dyn File>)>,
}

impl Player {
    pub(crate) fn play(&mut self, event: &Event) {
        self.try_to(event)
            .expect("it worked when it was written down");
    }

    fn try_to(&mut self, event: &Event) -> io::Result<()> {
        let files = &self.files;
        let file = |number: &usize| &*self.open[*number].1;
        match event {
            Event::Create(name) => self.open.push((name.clone(), files.create(name)?)),
            Event::Open(name) => self.open.push((name.clone(), files.open(name)?)),
            Event::Rename(from, to) => {
                files.rename(from, to)?;
                for (name, _) in &mut self.open {
                    if name == from {
                        name.clone_from(to);
                    }
                }
            }
            Event::Remove(name) => files.remove(name)?,
            Event::SyncFolder => files.sync_dir()?,
            Event::Write(number, offset, bytes) => {
                files::write_all_at(file(number), *offset, &[bytes])?;
            }
            Event::Sync(number) => file(number).sync()?,
            Event::Allocate(number, bytes) => file(number).allocate(*bytes)?,
            Event::Truncate(number, bytes) => file(number).truncate(*bytes)?,
            _ => {}
        }
        Ok(())
    }

    /// The disk in the middle of a write: so much of it is done.
    pub(crate) fn after_part(&self, number: usize, offset: u64, part: &[u8]) -> MemoryFiles {
        let files = self.files.copy();
        let file = files.open(&self.open[number].0).expect("it has a name");
        files::write_all_at(&*file, offset, &[part]).expect("there is room");
        files
    }
}
