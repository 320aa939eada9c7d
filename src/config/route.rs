//! `[[route]]` and `[[source]]`: where mail goes, and from which address it leaves.

use std::io::Read;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Relay, Secret, TlsMode, Wire};
use engine::route::{Pattern, UnknownPolicy};
use flow::rate::RateLimit;
use smtp::ClientName;
use toml::de::DeValue;

use super::beside;
use super::read::{Section, Setting};
use super::settings::{OneOrMany, Word, read_word};
use super::tenant::Tenant;

/// Where a relay's password is if no setting says where; `send` and `sendmail` look there too.
const PASSWORD_ENV: &str = "MAILRAIL_PASSWORD";
/// Longest password file that is read, in octets.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

impl Setting for Pattern {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let parsed = text.parse();
        parsed.map_err(|error| format!("{text:?}: {error} (write \"*\", \"x.org\" or \"*.x.org\")"))
    }
}

impl Word for UnknownPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[("retry", Self::Retry), ("hold", Self::Hold)];
}

impl Setting for UnknownPolicy {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        read_word(value)
    }
}

impl Setting for TlsMode {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        read_word(value)
    }
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub(crate) enum Hops {
    /// The recipients' own mail exchangers (RFC 5321 §5.1).
    Mx(TlsMode),
    /// These: the lowest preference that answers, by weight.
    Relays(Vec<Relay>),
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Unique: operators name the site of a relay by it.
    pub(crate) name: String,
    pub(crate) domains: Vec<Pattern>,
    /// For this tenant's mail only.
    pub(crate) tenant: Option<String>,
    pub(crate) hops: Hops,
    /// Names of [`Source`]s; the system chooses where there is none.
    pub(crate) sources: Vec<String>,
    /// Most connections to one site.
    pub(crate) connections_max: NonZeroU16,
    pub(crate) messages_per_connection_max: NonZeroU32,
    /// Most messages to one site.
    pub(crate) rate: Option<RateLimit>,
    pub(crate) wire: Wire,
    pub(crate) unknown: UnknownPolicy,
    /// MX records may lead to this machine.
    pub(crate) allow_loopback: bool,
    /// Of mail exchangers.
    pub(crate) port: NonZeroU16,
    /// Given up after so long, in place of `[retry]`'s.
    pub(crate) max_age: Option<Duration>,
}

impl Route {
    /// The list, and what of it does not go together.
    pub(super) fn read_all(
        root: &mut Section<'_>,
        sources: &[Source],
        tenants: &[Tenant],
        folder: &Path,
    ) -> Vec<Self> {
        let mut routes: Vec<Self> = Vec::new();
        for mut section in root.list("route") {
            let known = Known { sources, tenants };
            if let Some(mut route) = Self::read(&mut section, &known, folder) {
                route.check(&section);
                if let Some(other) = route.hidden_by(&routes) {
                    let text = format!("never used: route {other:?} comes before it");
                    section.wrong("domain", text);
                }
                route.name_apart_from(&section, &routes);
                routes.push(route);
            }
            section.end();
        }
        routes
    }

    fn read(section: &mut Section<'_>, known: &Known<'_>, folder: &Path) -> Option<Self> {
        let name: Option<String> = section.maybe("name");
        let domains = section.must::<OneOrMany<Pattern>>("domain");
        let tenant: Option<String> = section.maybe("tenant");
        let hops = read_hops(section, folder);
        let sources: Vec<String> = section.get("sources", "[]");
        known.check(section, &sources, tenant.as_deref());
        let connections_max = section.get("connections_max", "20");
        let messages_per_connection_max = section.get("messages_per_connection_max", "1000");
        let rate = section.maybe("rate");
        let wire = section.get("wire", default_wire(hops.as_ref()));
        let unknown = section.get("unknown", "\"retry\"");
        let allow_loopback = section.get("allow_loopback", "false");
        let port = section.get("port", "25");
        let max_age = section.maybe("max_age");
        let (OneOrMany(domains), hops) = domains.zip(hops)?;
        Some(Self {
            name: name.unwrap_or_default(),
            domains,
            tenant,
            hops,
            sources,
            connections_max,
            messages_per_connection_max,
            rate,
            wire,
            unknown,
            allow_loopback,
            port,
            max_age,
        })
    }

    /// An earlier route that takes all of its mail: the first that fits is taken.
    fn hidden_by<'r>(&self, earlier: &'r [Self]) -> Option<&'r str> {
        let mut hidden_by = None;
        for domain in &self.domains {
            let takes = |other: &&Self| {
                let is_for_us = other.tenant.is_none() || other.tenant == self.tenant;
                let takes = |pattern: &Pattern| *pattern == Pattern::All || pattern == domain;
                is_for_us && other.domains.iter().any(takes)
            };
            hidden_by = Some(earlier.iter().find(takes)?.name.as_str());
        }
        hidden_by
    }

    /// Without a name of its own it has its first relay's, or `mx`, and a number where that is taken.
    fn name_apart_from(&mut self, section: &Section<'_>, others: &[Self]) {
        let is_taken = |name: &str| others.iter().any(|other| other.name == name);
        if !self.name.is_empty() {
            if is_taken(&self.name) {
                let text = format_args!("there are two routes {:?}", self.name).to_string();
                section.wrong("name", text);
            }
            return;
        }
        let plain = match &self.hops {
            Hops::Relays(relays) => relays.first().map(|relay| relay.host.to_string()),
            Hops::Mx(_) => Some("mx".to_owned()),
        };
        let plain = plain.unwrap_or_default();
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        self.name = names.find(|name| !is_taken(name)).unwrap_or(plain);
    }

    fn check(&self, section: &Section<'_>) {
        if matches!(self.hops, Hops::Mx(_)) && matches!(self.wire, Wire::Windowed(_)) {
            let text = "windowed is for a relay that is known to be sound, not for strangers (mx)";
            section.wrong("wire", text);
        }
    }
}

/// What a route may name.
struct Known<'k> {
    sources: &'k [Source],
    tenants: &'k [Tenant],
}

impl Known<'_> {
    fn check(&self, section: &Section<'_>, sources: &[String], tenant: Option<&str>) {
        for name in sources {
            if !self.sources.iter().any(|source| source.name == *name) {
                section.wrong("sources", format_args!("there is no [[source]] {name:?}"));
            }
        }
        let is_known = |name: &str| self.tenants.iter().any(|tenant| tenant.name == name);
        if let Some(name) = tenant.filter(|name| *name != "default" && !is_known(name)) {
            section.wrong("tenant", format_args!("there is no [[tenant]] {name:?}"));
        }
    }
}

/// A relay is known to whoever wrote its name here, and is trusted with a window; a stranger is not.
fn default_wire(hops: Option<&Hops>) -> &'static str {
    match hops {
        Some(Hops::Mx(_)) => "\"overlapped\"",
        Some(Hops::Relays(_)) | None => "\"windowed:8\"",
    }
}

/// `via` or `mx`, exactly one, with what belongs to it.
fn read_hops(section: &mut Section<'_>, folder: &Path) -> Option<Hops> {
    let mx = section.get("mx", "false");
    let tls = section.maybe::<TlsMode>("tls");
    let password = Password::read(section);
    let has_via = section.has("via");
    let relays = read_via(section);
    match (mx, has_via) {
        (true, true) => section.wrong("mx", "a route has either `via` or `mx = true`, not both"),
        (false, false) => {
            let text =
                "nothing says where it leads: via = \"smtp://relay.example:587\" or mx = true";
            section.wrong("", text);
        }
        (true, false) => {
            if password.is_given() {
                section.wrong("", "a password is for `via`; mail exchangers ask for none");
            }
            return Some(Hops::Mx(tls.unwrap_or(TlsMode::Opportunistic)));
        }
        (false, true) => {
            if tls.is_some() {
                section.wrong(
                    "tls",
                    "is for `mx`; for a relay write it into `via`: ?tls=required",
                );
            }
            let Some(relays) = relays else {
                password.check(section, folder);
                return None;
            };
            return Some(Hops::Relays(finish(section, relays, &password, folder)));
        }
    }
    None
}

/// A relay of a route, before its password is known.
struct Unlocked {
    relay: Relay,
    password: Password,
}

/// `via = "…"`, `via = ["…", "…"]` or tables: `[{ relay = "…", weight = 3 }, …]`.
fn read_via(section: &mut Section<'_>) -> Option<Vec<Unlocked>> {
    if !section.holds_tables("via") {
        let relays = section.maybe::<OneOrMany<Relay>>("via")?;
        let unlocked = |relay| Unlocked {
            relay,
            password: Password::default(),
        };
        return Some(relays.0.into_iter().map(unlocked).collect());
    }
    let mut relays = Vec::new();
    for mut section in section.list("via") {
        let relay = section.must::<Relay>("relay");
        let weight: NonZeroU16 = section.get("weight", "1");
        let preference = section.get("preference", "0");
        let password = Password::read(&mut section);
        relays.extend(relay.map(|relay| Unlocked {
            relay: Relay {
                weight: weight.get(),
                preference,
                ..relay
            },
            password,
        }));
        section.end();
    }
    Some(relays)
}

/// Gives each relay with a user its own password, or the route's.
fn finish(
    section: &Section<'_>,
    relays: Vec<Unlocked>,
    password: &Password,
    folder: &Path,
) -> Vec<Relay> {
    let mut finished = Vec::new();
    if relays.iter().all(|unlocked| unlocked.relay.user.is_none()) && password.is_given() {
        password.check(section, folder);
        section.wrong("via", "there is a password and no user: smtp://USER@…");
    }
    for mut unlocked in relays {
        if let Some(user) = unlocked.relay.user.as_deref() {
            let place = match unlocked.password.is_given() {
                true => &unlocked.password,
                false => password,
            };
            match place.fetch(folder) {
                Ok(Some(secret)) => unlocked.relay.password = Some(secret),
                Ok(None) => section.wrong(
                    "via",
                    format_args!(
                        "where is the password of {user}? password_file, password_env or \
                         ${PASSWORD_ENV}"
                    ),
                ),
                Err(error) => section.wrong(error.0, error.1),
            }
        }
        finished.push(unlocked.relay);
    }
    finished
}

impl Setting for Relay {
    /// The text is not repeated: there may be a password in it.
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or("a relay such as \"smtp://user@relay.example:587\" is meant")?;
        let relay: Self = text
            .parse()
            .map_err(|error: client::RelayError| error.to_string())?;
        match relay.password {
            None => Ok(relay),
            Some(_) => Err(
                "there is a password in it, where everybody who reads the file has it; use \
                 password_file or password_env"
                    .to_owned(),
            ),
        }
    }
}

/// Where the password of a relay is.
#[derive(Debug, Default)]
struct Password {
    file: Option<PathBuf>,
    env: Option<String>,
}

impl Password {
    fn read(section: &mut Section<'_>) -> Self {
        let password = Self {
            file: section.maybe("password_file"),
            env: section.maybe("password_env"),
        };
        if password.file.is_some() && password.env.is_some() {
            section.wrong(
                "password_env",
                "there is a password_file too; one of them is enough",
            );
        }
        password
    }

    fn is_given(&self) -> bool {
        self.file.is_some() || self.env.is_some()
    }

    /// Notes what is wrong with it, where nobody needs the secret.
    fn check(&self, section: &Section<'_>, folder: &Path) {
        if let Err((setting, text)) = self.fetch(folder) {
            section.wrong(setting, text);
        }
    }

    /// The secret; an error names the setting.
    fn fetch(&self, folder: &Path) -> Result<Option<Secret>, (&'static str, String)> {
        if let Some(path) = &self.file {
            let path = beside(folder, path);
            let read = first_line(&path);
            return read
                .map(|line| Some(Secret::new(line)))
                .map_err(|error| ("password_file", format!("{}: {error}", path.display())));
        }
        let name = self.env.as_deref().unwrap_or(PASSWORD_ENV);
        match std::env::var(name) {
            Ok(password) if !password.is_empty() => Ok(Some(Secret::new(password))),
            _ if self.env.is_none() => Ok(None),
            _ => Err(("password_env", format!("the environment has no {name}"))),
        }
    }
}

fn first_line(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("its first line is empty".to_owned()),
    }
}

/// One `[[source]]`: an address to dial from, and the name that goes with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    /// Ours where there is none.
    pub(crate) ehlo_name: Option<ClientName>,
    /// Its share of the mail among a route's sources.
    pub(crate) weight: NonZeroU16,
}

impl Source {
    pub(super) fn read_all(root: &mut Section<'_>) -> Vec<Self> {
        let mut sources: Vec<Self> = Vec::new();
        for mut section in root.list("source") {
            let (name, ip) = (section.must::<String>("name"), section.must("ip"));
            let ehlo_name = section.maybe("ehlo_name");
            let weight = section.get("weight", "1");
            if let Some((name, ip)) = name.zip(ip) {
                if sources.iter().any(|source| source.name == name) {
                    section.wrong("name", format_args!("there are two sources {name:?}"));
                }
                sources.push(Self {
                    name,
                    ip,
                    ehlo_name,
                    weight,
                });
            }
            section.end();
        }
        sources
    }
}
