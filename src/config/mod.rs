//! `mailrail.toml`: the text becomes a checked [`Config`] once, and nothing after it sees a string.
//!
//! [`load`] reports *every* mistake, each with its line; see [`read`] for how. What the engine and
//! the server are told is made from [`Config`] in one place, [`convert`].
//!
//! Invariants: a secret (password, its hash) is in no mistake and in nothing that is shown; each
//! setting has a unit in its value, or needs none; each has a default, or the table around it
//! means nothing without it.

mod convert;
pub(crate) mod listen;
pub(crate) mod policy;
pub(crate) mod read;
pub(crate) mod route;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod tenant;
pub(crate) mod units;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use smtp::Domain;
use toml::de::DeTable;

pub(crate) use read::{Given, Mistake};

use listen::{Listen, Tls};
use policy::{Dkim, Dsn, History, Limits, Log, Retry, Suppression};
use read::{Notes, Origin, Section, Shown};
use route::{Route, Source};
use tenant::Tenant;

/// Largest file that is read, in octets.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Everything that may be set, checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where journal, state and history live.
    pub(crate) data_dir: PathBuf,
    /// Our own name.
    pub(crate) host: Domain,
    /// Folder of templates that messages may name.
    pub(crate) templates: Option<PathBuf>,
    pub(crate) listen: Listen,
    pub(crate) tls: Tls,
    /// In the order of the file; the first that fits is taken.
    pub(crate) routes: Vec<Route>,
    pub(crate) sources: Vec<Source>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) limits: Limits,
    pub(crate) retry: Retry,
    /// Who signs mail from a domain.
    pub(crate) dkim: engine::Signers,
    pub(crate) dsn: Dsn,
    pub(crate) suppression: Suppression,
    pub(crate) history: History,
    pub(crate) log: Log,
    /// Each setting with its value, for `config show`.
    pub(crate) shown: Vec<Shown>,
}

impl Config {
    /// Once it is in force: what may be long, and is asked of it no more.
    pub(crate) fn forget_what_others_have(&mut self) {
        (self.routes, self.shown) = (Vec::new(), Vec::new());
    }
}

/// All that is wrong with a file; at least one thing.
#[derive(Debug)]
pub(crate) struct Mistakes {
    /// The file as it was named; empty where there is none.
    pub(crate) file: String,
    pub(crate) mistakes: Vec<Mistake>,
}

impl std::fmt::Display for Mistakes {
    /// One line each: `FILE:LINE: PATH: what is wrong`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", self.file)?;
            if let Some(line) = mistake.line {
                write!(f, ":{line}")?;
            }
            if !self.file.is_empty() {
                f.write_str(": ")?;
            }
            match mistake.path.as_str() {
                "" => write!(f, "{}", mistake.text)?,
                path => write!(f, "{path}: {}", mistake.text)?,
            }
        }
        Ok(())
    }
}

/// Reads a file, or takes the defaults where there is none.
///
/// * `given`: what flags say, instead of the file.
///
/// # Errors
/// All mistakes.
pub(crate) fn load(path: Option<&Path>, given: Given) -> Result<Config, Mistakes> {
    let file = path.map_or(String::new(), |path| path.display().to_string());
    let text = match path.map(read_file).transpose() {
        Ok(text) => text.unwrap_or_default(),
        Err(text) => {
            let mistake = Mistake {
                line: None,
                path: String::new(),
                text,
            };
            return Err(Mistakes {
                file,
                mistakes: vec![mistake],
            });
        }
    };
    // What a file names is found beside it, wherever the program was started.
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    parse(&text, folder, given).map_err(|mistakes| Mistakes { file, mistakes })
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read.map_err(|error| error.to_string())? as u64 {
        0..=FILE_BYTES_MAX => Ok(text),
        _ => Err(format!("is over {FILE_BYTES_MAX} octets")),
    }
}

/// Checks the text of a file.
///
/// * `folder`: where files with relative paths are looked for.
fn parse(text: &str, folder: &Path, given: Given) -> Result<Config, Vec<Mistake>> {
    let notes = Notes::new(text, given);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        notes.mistake(error.span().as_ref(), "", error.message());
    }
    let config = read(Section::root(&notes, table.get_ref()), folder);
    let (mistakes, shown) = notes.into_parts();
    match mistakes.is_empty() {
        true => Ok(Config { shown, ..config }),
        false => Err(mistakes),
    }
}

/// Reads every section; mistakes are noted on the way.
fn read(mut root: Section<'_>, folder: &Path) -> Config {
    let (data_dir, origin) = default_data_dir();
    let mut data_dir: PathBuf = root.get_with("data_dir", &data_dir, origin);
    if root.has("data_dir") && !root.is_given("data_dir") {
        data_dir = beside(folder, &data_dir);
    }
    let host = toml::Value::String(host_name().to_string()).to_string();
    let host = root.get("host", &host);
    let listen = Listen::read(root.section("listen"));
    let tls = Tls::read(root.section("tls"), folder);
    if tls.identity.is_none() && !listen.smtps.is_empty() {
        root.wrong("listen", "`smtps` needs a certificate and its key in [tls]");
    }
    let templates = root.maybe::<PathBuf>("templates");
    let sources = Source::read_all(&mut root);
    let tenants = Tenant::read_all(&mut root);
    let routes = Route::read_all(&mut root, &sources, &tenants, folder);
    let config = Config {
        data_dir,
        host,
        templates: templates.map(|path| beside(folder, &path)),
        listen,
        tls,
        routes,
        sources,
        tenants,
        limits: Limits::read(root.section("limits")),
        retry: Retry::read(root.section("retry")),
        dkim: Dkim::read_all(&mut root, folder),
        dsn: Dsn::read(root.section("dsn")),
        suppression: Suppression::read(root.section("suppression")),
        history: History::read(root.section("history")),
        log: Log::read(root.section("log")),
        shown: Vec::new(),
    };
    root.end();
    config
}

/// As TOML, and who says so: systemd's folder for us, else one in the working directory.
fn default_data_dir() -> (String, Origin) {
    // systemd gives several, with colons between, where the unit names several.
    let given = std::env::var("STATE_DIRECTORY").ok();
    match given.as_deref().and_then(|dirs| dirs.split(':').next()) {
        None | Some("") => ("\"mailrail-data\"".to_owned(), Origin::Default),
        Some(dir) => {
            let dir = toml::Value::String(dir.to_owned()).to_string();
            (dir, Origin::Given("$STATE_DIRECTORY"))
        }
    }
}

/// What this machine is called, if others could make anything of it.
pub(crate) fn host_name() -> Domain {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().unwrap_or_default();
    let name = name.parse().ok().filter(|name: &Domain| !name.is_literal());
    name.unwrap_or_else(|| "localhost".parse().expect("a domain"))
}

/// A path of the file: absolute, or beside the file.
pub(crate) fn beside(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path)
}
