//! Reading commands (RFC 5321 §4.1.1, §4.1.2), strictly where it matters and leniently where it is free.
//!
//! Strict: a line with a control character or broken UTF-8 is no command; a path stands in angle
//! brackets; a parameter that was not offered is refused, and none may come twice. Lenient: case,
//! spaces after the colon of `MAIL FROM:` and at the end of the line, and any visible text as the
//! EHLO name (§4.1.4: a server must not refuse mail for it). Source routes are read and dropped
//! (§3.6.1), `<Postmaster>` means the server's own (§4.1.1.3). `AUTH=` is checked and dropped
//! (RFC 4954 §5 lets a server ignore it), as is an `ORCPT=` that is not an rfc822 address.

use memchr::{memchr, memchr2};

use super::{Body, MailParameters};
use crate::address::{Address, AddressError, ReversePath};
use crate::domain::Domain;
use crate::envelope::{EnvelopeId, Notify, Recipient, Ret};
use crate::extension::Extensions;
use crate::reply::Reply;
use crate::xtext;

/// A command as it was read; text that the server only looks at is borrowed from the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// EHLO and the client's name as it wrote it.
    Ehlo(&'a str),
    /// HELO, likewise.
    Helo(&'a str),
    /// RFC 3207.
    StartTls,
    /// RFC 4954: the mechanism's name and the initial response, still base64.
    Auth(&'a str, Option<&'a str>),
    /// MAIL FROM.
    Mail(ReversePath, MailParameters),
    /// RCPT TO.
    Rcpt(Recipient),
    /// DATA.
    Data,
    /// RFC 3030: octets that follow the line, and whether they are the last.
    Bdat {
        /// Octets of this chunk.
        octets: u64,
        /// Whether LAST was there.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP, whatever its argument.
    Noop,
    /// VRFY and its argument.
    Vrfy(&'a str),
    /// EXPN and its argument.
    Expn(&'a str),
    /// HELP, whatever its argument.
    Help,
    /// QUIT.
    Quit,
}

/// Why a line is not a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A control character, or octets that are not UTF-8.
    #[error("the line has a control character or is not UTF-8")]
    Characters,
    /// No verb that we know.
    #[error("command not recognized")]
    Verb,
    /// A request of HTTP: somebody makes a browser speak to us, and the commands stand in its body.
    #[error("this is SMTP")]
    Foreign,
    /// A command of an extension that was not offered.
    #[error("{0} is not offered here")]
    NotOffered(&'static str),
    /// The arguments are not as the grammar has them.
    #[error("usage: {0}")]
    Usage(&'static str),
    /// What stands after `MAIL FROM:`.
    #[error("reverse-path: {0}")]
    ReversePath(AddressError),
    /// What stands after `RCPT TO:`.
    #[error("forward-path: {0}")]
    ForwardPath(AddressError),
    /// A parameter that is unknown or was not offered.
    #[error("parameter {0:?} is not recognized")]
    Parameter(String),
    /// A parameter whose value is malformed.
    #[error("the value of {0} is malformed")]
    Value(&'static str),
    /// A parameter that was there before.
    #[error("{0} is given twice")]
    Repeated(&'static str),
    /// BDAT whose number cannot be read: nobody knows where the next command begins.
    #[error("usage: BDAT octets [LAST]")]
    Chunk,
}

impl CommandError {
    /// What the client is told.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self {
            Self::Characters => (500, (5, 5, 2)),
            Self::Verb | Self::Foreign => (500, (5, 5, 1)),
            Self::NotOffered(_) => (502, (5, 5, 1)),
            Self::Usage(_) | Self::Value(_) | Self::Repeated(_) | Self::Chunk => (501, (5, 5, 4)),
            Self::ReversePath(_) => (501, (5, 1, 7)),
            Self::ForwardPath(_) => (501, (5, 1, 3)),
            Self::Parameter(_) => (555, (5, 5, 4)),
        };
        Reply::fixed(code, Some(enhanced), &self.to_string())
    }

    /// Whether the place of the next command is lost, or what follows is not the client's own, so
    /// that the connection must end.
    #[must_use]
    pub fn desynchronizes(&self) -> bool {
        matches!(self, Self::Chunk | Self::Foreign)
    }
}

impl<'a> Command<'a> {
    /// Reads one line, without its CRLF.
    ///
    /// * `offered`: parameters and commands of other extensions are refused.
    /// * `host`: the server's own name, where `<Postmaster>` is.
    ///
    /// # Errors
    /// The first thing that is wrong with the line.
    pub fn parse(
        line: &'a [u8],
        offered: &Extensions,
        host: &Domain,
    ) -> Result<Self, CommandError> {
        let mut verb: Option<[u8; 4]> = line.first_chunk().copied();
        if let Some(verb) = &mut verb {
            verb.make_ascii_uppercase();
        }
        let ends_word = matches!(line.get(4), None | Some(b' '));
        // BDAT before all else: whatever is wrong with the line, octets follow it.
        if verb == Some(*b"BDAT") && ends_word {
            return bdat(&line[4..]).ok_or(CommandError::Chunk);
        }
        let text = visible(line)?;
        match verb {
            Some(verb) if ends_word => {
                let arguments = text.get(5..).unwrap_or("").trim_start_matches(' ');
                by_verb(&verb, arguments, offered, host)
            }
            _ => by_long_verb(text, offered),
        }
    }
}

fn by_long_verb<'a>(text: &str, offered: &Extensions) -> Result<Command<'a>, CommandError> {
    let (word, arguments) = text.split_once(' ').unwrap_or((text, ""));
    if !word.eq_ignore_ascii_case("STARTTLS") {
        return Err(unknown_verb(text));
    }
    match arguments {
        _ if !offered.starttls => Err(CommandError::NotOffered("STARTTLS")),
        "" => Ok(Command::StartTls),
        _ => Err(CommandError::Usage("STARTTLS")),
    }
}

/// A request line of HTTP, or behind one that was too long to be looked at the field that each
/// request has.
fn unknown_verb(line: &str) -> CommandError {
    let is_request = line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0");
    let is_host = line
        .get(..5)
        .is_some_and(|name| name.eq_ignore_ascii_case("Host:"));
    match is_request || is_host {
        true => CommandError::Foreign,
        false => CommandError::Verb,
    }
}

fn by_verb<'a>(
    verb: &[u8; 4],
    arguments: &'a str,
    offered: &Extensions,
    host: &Domain,
) -> Result<Command<'a>, CommandError> {
    let bare = |command, usage| match arguments {
        "" => Ok(command),
        _ => Err(CommandError::Usage(usage)),
    };
    let name = |usage| match arguments {
        "" => Err(CommandError::Usage(usage)),
        name => Ok(name.split(' ').next().unwrap_or(name)),
    };
    match verb {
        b"MAIL" => mail(arguments, offered),
        b"RCPT" => rcpt(arguments, offered, host),
        b"DATA" => bare(Command::Data, "DATA"),
        b"RSET" => bare(Command::Rset, "RSET"),
        b"QUIT" => bare(Command::Quit, "QUIT"),
        b"EHLO" => name("EHLO name").map(Command::Ehlo),
        b"HELO" => name("HELO name").map(Command::Helo),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy(arguments)),
        b"EXPN" => Ok(Command::Expn(arguments)),
        b"AUTH" => auth(arguments),
        _ => Err(unknown_verb(arguments)),
    }
}

/// The line as text, if every character of it is visible or a space.
fn visible(line: &[u8]) -> Result<&str, CommandError> {
    let mut plain = true;
    for b in line {
        plain &= matches!(b, b' '..=b'~');
    }
    let text = std::str::from_utf8(line).map_err(|_| CommandError::Characters)?;
    if !plain && text.chars().any(char::is_control) {
        return Err(CommandError::Characters);
    }
    Ok(text.trim_end_matches(' '))
}

fn bdat(arguments: &[u8]) -> Option<Command<'static>> {
    let arguments = std::str::from_utf8(arguments).ok()?;
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    let octets = number(words.next()?)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words
        .next()
        .is_none()
        .then_some(Command::Bdat { octets, last })
}

fn auth(arguments: &str) -> Result<Command<'_>, CommandError> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth(mechanism, initial)),
        _ => Err(CommandError::Usage("AUTH mechanism [initial-response]")),
    }
}

fn mail<'a>(arguments: &str, offered: &Extensions) -> Result<Command<'a>, CommandError> {
    let (path, rest) = path(arguments, "FROM:")
        .map_err(|_| CommandError::Usage("MAIL FROM:<reverse-path> [parameters]"))?;
    let reverse_path = match path {
        "" => ReversePath::Null,
        path => ReversePath::Address(mailbox(path).map_err(CommandError::ReversePath)?),
    };
    let mut parameters = MailParameters::default();
    let mut auth = None;
    for word in words(rest)? {
        let (key, value) = key_value(word);
        match (known(key, MAIL_PARAMETERS), value) {
            (Some("SIZE"), value) if offered.size_bytes_max.is_some() => {
                once(&mut parameters.size_bytes, "SIZE", value.and_then(number))?;
            }
            (Some("BODY"), value) if offered.eight_bit_mime => {
                once(&mut parameters.body, "BODY", value.and_then(body))?;
            }
            (Some("SMTPUTF8"), None) if offered.smtputf8 => parameters.smtputf8 = true,
            (Some("RET"), value) if offered.dsn => {
                once(&mut parameters.ret, "RET", value.and_then(ret))?;
            }
            (Some("ENVID"), value) if offered.dsn => {
                once(&mut parameters.id, "ENVID", value.and_then(envelope_id))?;
            }
            (Some("AUTH"), value) if offered.offers_any_auth() => {
                let value = value.and_then(|value| xtext::decode(value.as_bytes()));
                once(&mut auth, "AUTH", value)?;
            }
            _ => return Err(unknown(key)),
        }
    }
    Ok(Command::Mail(reverse_path, parameters))
}

fn rcpt<'a>(
    arguments: &str,
    offered: &Extensions,
    host: &Domain,
) -> Result<Command<'a>, CommandError> {
    let (path, rest) = path(arguments, "TO:")
        .map_err(|_| CommandError::Usage("RCPT TO:<forward-path> [parameters]"))?;
    let address = if path.eq_ignore_ascii_case("postmaster") {
        Address::new(path, host)
    } else {
        mailbox(path)
    };
    let mut recipient = Recipient::from(address.map_err(CommandError::ForwardPath)?);
    let mut original = None;
    for word in words(rest)? {
        let (key, value) = key_value(word);
        match known(key, RCPT_PARAMETERS) {
            Some("NOTIFY") if offered.dsn => {
                let value = value.and_then(Notify::parse);
                once(&mut recipient.notify, "NOTIFY", value)?;
            }
            Some("ORCPT") if offered.dsn => {
                once(&mut original, "ORCPT", value.and_then(original_recipient))?;
            }
            _ => return Err(unknown(key)),
        }
    }
    recipient.original = original.flatten();
    Ok(Command::Rcpt(recipient))
}

const MAIL_PARAMETERS: &[&str] = &["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"];
const RCPT_PARAMETERS: &[&str] = &["NOTIFY", "ORCPT"];

/// Shortened, and without what a client that does not speak SMTPUTF8 could not read back.
fn unknown(key: &str) -> CommandError {
    let ascii = key.chars().map(|c| if c.is_ascii() { c } else { '?' });
    CommandError::Parameter(ascii.take(64).collect())
}

fn known(key: &str, names: &[&'static str]) -> Option<&'static str> {
    names
        .iter()
        .copied()
        .find(|name| key.eq_ignore_ascii_case(name))
}

fn key_value(word: &str) -> (&str, Option<&str>) {
    match memchr(b'=', word.as_bytes()) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

fn once<T>(slot: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), CommandError> {
    if slot.is_some() {
        return Err(CommandError::Repeated(name));
    }
    *slot = Some(value.ok_or(CommandError::Value(name))?);
    Ok(())
}

/// Digits only: `u64::from_str` would take a plus sign too.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// BINARYMIME is no value here: it is never offered.
fn body(value: &str) -> Option<Body> {
    [Body::SevenBit, Body::EightBitMime]
        .into_iter()
        .find(|body| value.eq_ignore_ascii_case(body.name()))
}

fn ret(value: &str) -> Option<Ret> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Some(Ret::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Some(Ret::Headers),
        _ => None,
    }
}

fn envelope_id(value: &str) -> Option<EnvelopeId> {
    EnvelopeId::new(&xtext::decode(value.as_bytes())?).ok()
}

/// `Some(None)` for one that is well-formed but no rfc822 address.
fn original_recipient(value: &str) -> Option<Option<Address>> {
    let (kind, address) = value.split_once(';')?;
    if kind.is_empty() {
        return None;
    }
    if !kind.eq_ignore_ascii_case("rfc822") {
        return Some(None);
    }
    Some(xtext::decode(address.as_bytes())?.parse().ok())
}

/// Takes `FROM:` or `TO:` and a path off the front; gives what stood between its brackets, and
/// what follows them.
fn path<'a>(arguments: &'a str, keyword: &str) -> Result<(&'a str, &'a str), ()> {
    let (head, rest) = arguments.split_at_checked(keyword.len()).ok_or(())?;
    let inner = rest.trim_start_matches(' ').strip_prefix('<').ok_or(())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return Err(());
    }
    let end = path_end(inner.as_bytes()).ok_or(())?;
    Ok((&inner[..end], &inner[end + 1..]))
}

/// The first `>` outside quotes.
fn path_end(inner: &[u8]) -> Option<usize> {
    let end = memchr2(b'>', b'"', inner)?;
    if inner[end] == b'>' {
        return Some(end);
    }
    let (mut quoted, mut escaped) = (false, false);
    inner.iter().position(|&b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return true,
            _ => {}
        }
        false
    })
}

/// A mailbox, less the source route in front of it.
fn mailbox(path: &str) -> Result<Address, AddressError> {
    let Some(route) = path.strip_prefix('@') else {
        return path.parse();
    };
    // A literal in a route may have colons; what follows the route's colon has none before its @.
    let (route, mailbox) = route.split_once(':').ok_or(AddressError::NoAt)?;
    for (index, hop) in route.split(',').enumerate() {
        let hop = match index {
            0 => hop,
            _ => hop.strip_prefix('@').ok_or(AddressError::NoAt)?,
        };
        hop.parse::<Domain>()?;
    }
    mailbox.parse()
}

/// Parameters are divided from the path and from each other by spaces.
fn words(rest: &str) -> Result<impl Iterator<Item = &str>, CommandError> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(CommandError::Usage("a space stands after the path"));
    }
    let mut rest = rest;
    Ok(std::iter::from_fn(move || {
        rest = rest.trim_start_matches(' ');
        let end = memchr(b' ', rest.as_bytes()).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        (!word.is_empty()).then_some(word)
    }))
}

#[cfg(test)]
mod tests;
