//! Tidiness as a test: what reviewers would otherwise have to look for by hand.
//!
//! Each rule over files is a row of [`RULES`] with an example that it must object to, so a rule that
//! no longer sees anything fails. A rule reads lines, not syntax: it is meant to be quick and plain,
//! and an author who wants to get around it can.
//!
//! Over 500 lines: one rule after the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a source file that are not tests.
const LINES_MAX: usize = 800;
/// Lines of a file of tests.
const TEST_LINES_MAX: usize = 1500;
const ARCHITECTURE_LINES_MAX: usize = 200;

/// Which of our crates each of them may use; tests may use any.
const IMPORTS: &[(&str, &[&str])] = &[
    (
        "mailrail",
        &[
            "client", "engine", "flow", "message", "server", "sink", "smtp", "store",
        ],
    ),
    ("server", &["engine", "message", "smtp", "store"]),
    (
        "engine",
        &["client", "flow", "message", "schedule", "smtp", "store"],
    ),
    ("store", &["journal", "smtp"]),
    ("schedule", &["flow", "smtp"]),
    ("journal", &[]),
    ("client", &["flow", "smtp"]),
    ("message", &["smtp"]),
    ("sink", &["flow", "smtp"]),
    ("flow", &[]),
    ("smtp", &[]),
];

/// Libraries that only some of our crates may use: `(library, users)`.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("anyhow", &["mailrail"]),
    ("clap", &["mailrail"]),
    ("tokio", &["mailrail", "client", "engine", "server", "sink"]),
    ("socket2", &["client", "server", "sink"]),
    ("tokio-rustls", &["client", "server", "sink"]),
    ("axum", &["server"]),
    ("hickory-resolver", &["engine"]),
    ("parquet", &["mailrail"]),
    ("openssl", &[]),
    ("native-tls", &[]),
];

struct Rule {
    name: &'static str,
    /// What is wrong with this file.
    check: fn(&File) -> Vec<String>,
    /// `(path, text)` to which the rule must object.
    bad: (&'static str, &'static str),
    /// The like, to which it must not.
    good: (&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        name: "a file is short enough to read",
        check: size,
        bad: ("ARCHITECTURE.md", include_str!("../LICENSE-APACHE")),
        good: ("src/tests.rs", include_str!("../LICENSE-APACHE")),
    },
    Rule {
        name: "a file says what it is for",
        check: module_doc,
        bad: ("src/a.rs", "use std::fmt;\n"),
        good: ("src/a.rs", "//! What it is for.\n"),
    },
    Rule {
        name: "nothing is left half done",
        check: |file| {
            banned(
                file.is_code(),
                file,
                &["todo!(", "unimplemented!(", "dbg!(", "TODO", "FIXME"],
            )
        },
        bad: ("src/a.rs", "    // TODO: later\n"),
        good: ("src/a.rs", "    // not yet: later\n"),
    },
    Rule {
        name: "one word for one thing: content, reverse-path",
        check: glossary,
        bad: (
            "crates/smtp/src/a.rs",
            "    pub fn sender(&self) -> &ReversePath {\n",
        ),
        good: (
            "crates/smtp/src/a.rs",
            "    pub fn reverse_path(&self) -> &ReversePath {\n",
        ),
    },
    Rule {
        name: "no path of one machine, no host of a registry",
        check: |file| banned(file.path != "Cargo.lock", file, MACHINES),
        bad: ("scripts/a.sh", "cd /root/mailrail\n"),
        good: ("scripts/a.sh", "cd \"$(dirname \"$0\")\"\n"),
    },
    Rule {
        name: "smtp, flow and schedule do no I/O and know no clock",
        check: |file| {
            banned(
                file.is_in(&["crates/smtp/src", "crates/flow/src", "crates/schedule/src"]),
                file,
                IMPURE,
            )
        },
        bad: ("crates/flow/src/a.rs", "    let now = Instant::now();\n"),
        good: ("crates/client/src/a.rs", "    let now = Instant::now();\n"),
    },
    Rule {
        name: "only client dials",
        check: |file| {
            banned(
                !file.is_in(&["crates/client"]),
                file,
                &["TcpStream::connect", "TcpSocket::new"],
            )
        },
        bad: (
            "crates/sink/src/a.rs",
            "    TcpStream::connect(addr).await?;\n",
        ),
        good: (
            "crates/client/src/a.rs",
            "    TcpStream::connect(addr).await?;\n",
        ),
    },
    Rule {
        name: "only server and sink listen",
        check: |file| {
            banned(
                !file.is_in(&["crates/sink", "crates/server"]),
                file,
                &["TcpListener::bind", "TcpListener::from_std"],
            )
        },
        bad: (
            "src/cmd/a.rs",
            "    let listener = TcpListener::bind(addr)?;\n",
        ),
        good: (
            "crates/sink/src/a.rs",
            "    let listener = TcpListener::bind(addr)?;\n",
        ),
    },
    Rule {
        name: "only journal syncs files",
        // A run record is text, appended to in a place the user names: no journal, and as durable.
        check: |file| {
            banned(
                !file.is_in(&["crates/journal", "src/cmd/send/record.rs"]),
                file,
                &[".sync_data(", ".sync_all(", "fdatasync(", "fsync("],
            )
        },
        bad: ("crates/store/src/a.rs", "    file.sync_data()?;\n"),
        good: ("crates/journal/src/a.rs", "    file.sync_data()?;\n"),
    },
    Rule {
        name: "no mutable statics: two engines run in one process",
        check: statics,
        bad: ("src/a.rs", "static COUNT: AtomicU64 = AtomicU64::new(0);\n"),
        good: ("src/a.rs", "static NAMES: [&str; 2] = [\"a\", \"b\"];\n"),
    },
    Rule {
        name: "links between documents lead somewhere",
        check: links,
        bad: ("docs/a.md", "as [the guide](guide/no-such.md#part) says\n"),
        good: (
            "docs/a.md",
            "under [a licence](../LICENSE-MIT) of [theirs](https://x.example)\n",
        ),
    },
];

const MACHINES: &[&str] = &[
    "/root/",
    "/home/",
    "/Users/",
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "deb.debian.org",
    "proxy.golang.org",
];

const IMPURE: &[&str] = &[
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::env",
    "getrandom",
    "RandomState",
];

#[derive(Debug)]
struct File {
    /// From the root of the repository.
    path: String,
    text: String,
}

impl File {
    fn new((path, text): (&str, &str)) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_code(&self) -> bool {
        [".rs", ".py", ".sh", ".js", ".go"]
            .iter()
            .any(|ending| self.path.ends_with(ending))
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| {
            matches!(
                part,
                "tests" | "tests.rs" | "benches" | "examples" | "bench"
            )
        })
    }

    /// Numbered lines of code, up to the module of tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut lines = self.text.lines().enumerate().peekable();
        std::iter::from_fn(move || {
            let (index, line) = lines.next()?;
            let then = lines.peek().map_or("", |(_, line)| line);
            let is_test = line == "#[cfg(test)]" && then.starts_with("mod ");
            (!is_test).then_some((index + 1, line))
        })
    }
}

fn size(file: &File) -> Vec<String> {
    let most = match file.path.as_str() {
        "ARCHITECTURE.md" => ARCHITECTURE_LINES_MAX,
        path if !path.ends_with(".rs") => return Vec::new(),
        _ if file.is_test() => TEST_LINES_MAX,
        _ => LINES_MAX,
    };
    let lines = if file.is_rust() {
        file.code().count()
    } else {
        file.text.lines().count()
    };
    let complaint = format!("{}: {lines} lines, {most} at most", file.path);
    if lines > most {
        vec![complaint]
    } else {
        Vec::new()
    }
}

fn module_doc(file: &File) -> Vec<String> {
    if !file.is_rust() || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}: begin with a module doc, //!", file.path)]
}

/// Objects to words in lines that are not a test's. Comments count only for words of any file.
fn banned(applies: bool, file: &File, words: &[&str]) -> Vec<String> {
    if !applies || file.is_test() {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in file.code() {
        for word in words.iter().filter(|word| line.contains(**word)) {
            complaints.push(format!("{}:{number}: {word}", file.path));
        }
    }
    complaints
}

fn glossary(file: &File) -> Vec<String> {
    let mut complaints = banned(
        file.is_in(&["crates", "src"]),
        file,
        &["payload", "Payload"],
    );
    if file.is_in(&["crates/smtp/src"]) {
        let public = |line: &str| line.trim_start().starts_with("pub ");
        let named = |line: &str| line.to_lowercase().contains("sender");
        let lines = file.code().filter(|(_, line)| public(line) && named(line));
        complaints.extend(lines.map(|(number, _)| format!("{}:{number}: sender", file.path)));
    }
    complaints
}

fn statics(file: &File) -> Vec<String> {
    const CELLS: &[&str] = &["Atomic", "Mutex", "RwLock", "Cell", "OnceLock"];
    let mutable = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.starts_with("static mut ")
            || line.starts_with("thread_local!")
            || line.starts_with("static ") && CELLS.iter().any(|cell| line.contains(cell))
    };
    file.code()
        .filter(|(_, line)| file.is_rust() && !file.is_test() && mutable(line))
        .map(|(number, line)| format!("{}:{number}: {line}", file.path))
        .collect()
}

fn links(file: &File) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = root().join(&file.path).parent().unwrap().to_owned();
    let leads_nowhere = |link: &&str| {
        let path = link.split('#').next().unwrap_or_default();
        !path.is_empty() && !link.contains(':') && !folder.join(path).exists()
    };
    file.text
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .filter(leads_nowhere)
        .map(|link| format!("{}: {link}", file.path))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the repository, as far as it is ours.
fn files() -> Vec<File> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let (name, is_folder) = (entry.file_name(), entry.file_type().unwrap().is_dir());
            if !is_ours(name.to_str().unwrap()) {
                continue;
            }
            if is_folder {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
                files.push(File::new((path.to_str().unwrap(), &text)));
            }
        }
    }
    files
}

/// Not version control's, not built, not installed, not measured here.
fn is_ours(name: &str) -> bool {
    let is_hidden = name.starts_with('.') && ![".ci", ".config", ".gitignore"].contains(&name);
    let theirs = [
        "target",
        "node_modules",
        "__pycache__",
        "out",
        "corpus",
        "artifacts",
        "shared",
    ];
    !is_hidden && !theirs.contains(&name)
}

#[test]
fn every_rule_objects_to_what_it_forbids_and_to_nothing_like_it() {
    for rule in RULES {
        let complaints = (rule.check)(&File::new(rule.bad));
        assert!(
            !complaints.is_empty(),
            "{} lets {:?} pass",
            rule.name,
            rule.bad.0
        );
        let complaints = (rule.check)(&File::new(rule.good));
        assert!(complaints.is_empty(), "{}: {complaints:?}", rule.name);
    }
}

#[test]
fn a_long_source_file_is_too_long_and_its_tests_do_not_count() {
    let lines = "//!\n".repeat(LINES_MAX);
    let tests = format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    assert!(size(&File::new(("src/a.rs", &tests))).is_empty());
    assert_eq!(
        size(&File::new(("src/a.rs", &format!("{lines}//!\n")))).len(),
        1
    );
}

#[test]
fn every_file_keeps_the_rules() {
    let files = files();
    assert!(files.len() > 50, "the walk found {} files", files.len());
    let mut complaints = Vec::new();
    for rule in RULES {
        // This file names what it forbids.
        let others = files.iter().filter(|file| file.path != file!());
        complaints.extend(
            others
                .flat_map(rule.check)
                .map(|what| format!("{what} ({})", rule.name)),
        );
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What cargo knows of the workspace and of all that is built into it on this kind of machine.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().unwrap()
}

/// `(user, used, is ours)`, without what only tests use.
fn dependencies(metadata: &Value) -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    for package in packages(metadata)
        .iter()
        .filter(|package| package["source"].is_null())
    {
        for used in package["dependencies"].as_array().unwrap() {
            if used["kind"] != "dev" {
                let is_ours = used["source"].is_null();
                found.push((short(&package["name"]), short(&used["name"]), is_ours));
            }
        }
    }
    found
}

fn short(name: &Value) -> String {
    name.as_str()
        .unwrap()
        .trim_start_matches("mailrail-")
        .to_owned()
}

fn may_use(user: &str, used: &str, is_ours: bool) -> bool {
    let users = |table: &[(&str, &[&str])], key: &str, value: &str| {
        table
            .iter()
            .find(|row| row.0 == key)
            .map(|row| row.1.contains(&value))
    };
    if is_ours {
        users(IMPORTS, user, used).unwrap_or(false)
    } else {
        users(ONLY_IN, used, user).unwrap_or(true)
    }
}

#[test]
fn crates_use_only_what_is_below_them() {
    let metadata = metadata();
    let found = dependencies(&metadata);
    assert!(
        found
            .iter()
            .any(|(user, used, _)| user == "mailrail" && used == "client")
    );
    for (user, used, is_ours) in &found {
        assert!(may_use(user, used, *is_ours), "{user} may not use {used}");
    }
    for package in packages(&metadata)
        .iter()
        .filter(|package| package["source"].is_null())
    {
        let name = short(&package["name"]);
        assert!(
            IMPORTS.iter().any(|row| row.0 == name),
            "{name} is not in the table"
        );
    }

    assert!(!may_use("smtp", "flow", true));
    assert!(!may_use("flow", "tokio", false));
    assert!(may_use("client", "tokio", false));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace_which_forbid_unsafe_code() {
    let manifest = |folder: &Path| -> toml::Table {
        let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        text.parse().unwrap()
    };
    let workspace = manifest(root());
    let unsafe_code = &workspace["workspace"]["lints"]["rust"]["unsafe_code"];
    assert_eq!(unsafe_code.as_str(), Some("forbid"));

    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let mut folders: Vec<PathBuf> = crates.map(|entry| entry.unwrap().path()).collect();
    folders.push(root().to_owned());
    for folder in folders {
        let lints = manifest(&folder).get("lints").cloned();
        let workspace = lints
            .as_ref()
            .and_then(|lints| lints.get("workspace")?.as_bool());
        assert_eq!(
            workspace,
            Some(true),
            "{}: [lints] workspace = true",
            folder.display()
        );
    }
}

/// An SPDX expression, also in the old form with a slash for OR.
struct Licence<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
    allowed: &'a [String],
}

impl<'a> Licence<'a> {
    fn is_allowed(expression: &str, allowed: &'a [String]) -> bool {
        let spaced = expression
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let words = words.into_iter().peekable();
        Licence { words, allowed }.any()
    }

    fn any(&mut self) -> bool {
        let mut holds = self.all();
        while self.words.next_if_eq(&"OR").is_some() {
            holds |= self.all();
        }
        holds
    }

    fn all(&mut self) -> bool {
        let mut holds = self.one();
        while self.words.next_if_eq(&"AND").is_some() {
            holds &= self.one();
        }
        holds
    }

    fn one(&mut self) -> bool {
        let Some(word) = self.words.next() else {
            return false;
        };
        if word == "(" {
            let holds = self.any();
            return self.words.next() == Some(")") && holds;
        }
        let mut name = word.to_owned();
        if self.words.next_if_eq(&"WITH").is_some() {
            name = format!("{name} WITH {}", self.words.next().unwrap_or_default());
        }
        self.allowed.contains(&name)
    }
}

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: toml::Table = text.parse().unwrap();
    let allowed = deny["licenses"]["allow"].as_array().unwrap();
    let allowed: Vec<String> = allowed
        .iter()
        .map(|name| name.as_str().unwrap().into())
        .collect();

    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let built: std::collections::HashSet<&str> = nodes
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    for package in packages(&metadata) {
        if built.contains(package["id"].as_str().unwrap()) {
            let licence = package["license"].as_str().unwrap_or("none");
            let ok = Licence::is_allowed(licence, &allowed);
            assert!(ok, "{}: {licence}", package["name"]);
        }
    }

    for (expression, holds) in [
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("GPL-3.0 WITH LLVM-exception", false),
        ("none", false),
        ("", false),
    ] {
        assert_eq!(
            Licence::is_allowed(expression, &allowed),
            holds,
            "{expression}"
        );
    }
}

#[test]
fn the_image_is_built_with_all_that_the_build_reads() {
    let context =
        std::fs::read_to_string(root().join("packaging/Dockerfile.dockerignore")).unwrap();
    for needed in ["!.cargo", "!Cargo.*", "!crates", "!src"] {
        assert!(context.lines().any(|line| line == needed), "{needed}");
    }
}
