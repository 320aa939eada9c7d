//! `[[route]]` and `[[source]]`: where mail goes, and from which address it leaves.

use std::io::Read;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use client::{Relay, Secret, TlsMode, Wire};
use flow::rate::RateLimit;
use rustls_pki_types::CertificateDer;
use smtp::{ClientName, Domain};
use toml::de::DeValue;

use super::beside;
use super::listen::certificates;
use super::read::{Section, Setting};
use super::settings::{OneOrMany, Word, read_word};
use super::tenant::Tenant;

/// Longest password file that is read, in octets.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// Which recipients a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// `*`: all that no other route is for.
    Any,
    /// `*.example.org`: every name below, not the name itself.
    Below(Domain),
    /// One domain.
    Exactly(Domain),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let domain = |text: &str| text.parse::<Domain>().map_err(|error| error.to_string());
        match text.strip_prefix("*.") {
            None if text == "*" => Ok(Self::Any),
            None => domain(text).map(Self::Exactly),
            Some(above) => domain(above).map(Self::Below),
        }
    }
}

impl Setting for Pattern {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let parsed = text.parse();
        parsed.map_err(|error| format!("{text:?}: {error} (write \"*\", \"x.org\" or \"*.x.org\")"))
    }
}

/// What happens to a recipient whose final reply was lost: delivered or not, nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Sends again: at worst it arrives twice.
    Retry,
    /// Waits for the operator's word.
    Hold,
}

impl Word for Unknown {
    const WORDS: &'static [(&'static str, Self)] = &[("retry", Self::Retry), ("hold", Self::Hold)];
}

impl Setting for Unknown {
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
    Mx { tls: TlsMode, allow_loopback: bool },
    /// These, by weight; the others where one does not answer.
    Relays(Vec<Weighted>),
}

/// One of several relays.
#[derive(Debug, Clone)]
pub(crate) struct Weighted {
    pub(crate) relay: Relay,
    pub(crate) weight: NonZeroU16,
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) domains: Vec<Pattern>,
    /// For this tenant's mail only.
    pub(crate) tenant: Option<String>,
    pub(crate) hops: Hops,
    /// Names of [`Source`]s; the system chooses where there is none.
    pub(crate) sources: Vec<String>,
    /// Most connections to one site.
    pub(crate) connections_max: NonZeroU32,
    /// Most messages to one site.
    pub(crate) rate: Option<RateLimit>,
    pub(crate) wire: Wire,
    pub(crate) unknown: Unknown,
    /// Authorities to trust instead of the system's.
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
    /// Credentials may go over a connection without encryption.
    pub(crate) plaintext_auth: bool,
}

impl Route {
    /// The list, and what of it does not go together.
    pub(super) fn read_all(
        root: &mut Section<'_>,
        sources: &[Source],
        tenants: &[Tenant],
        folder: &Path,
    ) -> Vec<Self> {
        let mut seen: Vec<(Pattern, Option<String>)> = Vec::new();
        let mut routes = Vec::new();
        for section in root.list("route") {
            let check = |section: &Section<'_>, route: &Self| {
                route.check(section, sources, tenants);
                for domain in &route.domains {
                    let key = (domain.clone(), route.tenant.clone());
                    if seen.contains(&key) {
                        section.wrong("domain", "another route is for the same domain");
                    }
                    seen.push(key);
                }
            };
            routes.extend(Self::read(section, folder, check));
        }
        routes
    }

    fn read(
        mut section: Section<'_>,
        folder: &Path,
        check: impl FnOnce(&Section<'_>, &Self),
    ) -> Option<Self> {
        let domains = section.must::<OneOrMany<Pattern>>("domain");
        let tenant = section.maybe("tenant");
        let hops = read_hops(&mut section, folder);
        let sources = section.get("sources", "[]");
        let connections_max = section.get("connections_max", "50");
        let rate = section.maybe("rate");
        let wire = section.get("wire", "\"overlapped\"");
        let unknown = section.get("unknown", "\"retry\"");
        let plaintext_auth = section.get("plaintext_auth", "false");
        let roots = section.maybe("authorities").and_then(|path: PathBuf| {
            let read = certificates(&beside(folder, &path));
            read.map_err(|error| section.wrong("authorities", error))
                .ok()
        });
        let route = domains.zip(hops).map(|(OneOrMany(domains), hops)| Self {
            domains,
            tenant,
            hops,
            sources,
            connections_max,
            rate,
            wire,
            unknown,
            roots,
            plaintext_auth,
        });
        if let Some(route) = &route {
            check(&section, route);
        }
        section.end();
        route
    }

    fn check(&self, section: &Section<'_>, sources: &[Source], tenants: &[Tenant]) {
        for name in &self.sources {
            if !sources.iter().any(|source| source.name == *name) {
                section.wrong("sources", format_args!("there is no [[source]] {name:?}"));
            }
        }
        if let Some(name) = &self.tenant {
            let is_known = name == "default" || tenants.iter().any(|tenant| tenant.name == *name);
            if !is_known {
                section.wrong("tenant", format_args!("there is no [[tenant]] {name:?}"));
            }
        }
        if matches!(self.hops, Hops::Mx { .. }) && matches!(self.wire, Wire::Windowed(_)) {
            let text = "windowed is for a relay that is known to be sound, not for strangers (mx)";
            section.wrong("wire", text);
        }
    }
}

/// `via` or `mx`, exactly one, with what belongs to it.
fn read_hops(section: &mut Section<'_>, folder: &Path) -> Option<Hops> {
    let mx = section.get("mx", "false");
    let tls = section.maybe::<TlsMode>("tls");
    let allow_loopback = section.get("allow_loopback", "false");
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
            let tls = tls.unwrap_or(TlsMode::Opportunistic);
            return Some(Hops::Mx {
                tls,
                allow_loopback,
            });
        }
        (false, true) => {
            if tls.is_some() {
                section.wrong(
                    "tls",
                    "is for `mx`; for a relay write it into `via`: ?tls=required",
                );
            }
            return Some(Hops::Relays(finish(section, relays?, &password, folder)));
        }
    }
    None
}

/// A relay of a route, before its password is known.
struct Unlocked {
    relay: Relay,
    weight: NonZeroU16,
    password: Password,
}

/// `via = "…"`, `via = ["…", "…"]` or `via = [{ relay = "…", weight = 3 }, …]`.
fn read_via(section: &mut Section<'_>) -> Option<Vec<Unlocked>> {
    if !section.holds_tables("via") {
        let relays = section.maybe::<OneOrMany<Relay>>("via")?;
        let unlocked = |relay| Unlocked {
            relay,
            weight: NonZeroU16::MIN,
            password: Password::default(),
        };
        return Some(relays.0.into_iter().map(unlocked).collect());
    }
    let mut relays = Vec::new();
    for mut section in section.list("via") {
        let relay = section.must("relay");
        let weight = section.get("weight", "1");
        let password = Password::read(&mut section);
        relays.extend(relay.map(|relay| Unlocked {
            relay,
            weight,
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
) -> Vec<Weighted> {
    let mut finished = Vec::new();
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
                    format_args!("where is the password of {user}? password_file or password_env"),
                ),
                Err(error) => section.wrong(error.0, error.1),
            }
        }
        finished.push(Weighted {
            relay: unlocked.relay,
            weight: unlocked.weight,
        });
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

    /// The secret; an error names the setting.
    fn fetch(&self, folder: &Path) -> Result<Option<Secret>, (&'static str, String)> {
        if let Some(path) = &self.file {
            let path = beside(folder, path);
            let read = first_line(&path);
            return read
                .map(|line| Some(Secret::new(line)))
                .map_err(|error| ("password_file", format!("{}: {error}", path.display())));
        }
        let Some(name) = &self.env else {
            return Ok(None);
        };
        match std::env::var(name) {
            Ok(password) if !password.is_empty() => Ok(Some(Secret::new(password))),
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
