//! Where to send: `smtp://user@host:587?tls=required`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use smtp::{Domain, Mechanism};

/// Why a text is not a [`Relay`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// Neither `smtp://` nor `smtps://`.
    #[error("a relay begins with smtp:// or smtps://")]
    Scheme,
    /// The host is missing or no host.
    #[error("the relay's host: {0}")]
    Host(#[from] smtp::DomainError),
    /// The port is no number from 1 to 65535.
    #[error("the relay's port is not a number from 1 to 65535")]
    Port,
    /// A `%` escape that is none, or control characters in user or password.
    #[error("the relay's user or password is malformed (escape special characters as %XX)")]
    UserInfo,
    /// A query parameter other than `tls=` and `auth=`.
    #[error("unknown relay option {0:?}; known: tls, auth")]
    Option(String),
    /// `tls=` with another value.
    #[error("unknown tls mode {0:?}; known: none, opportunistic, required, implicit")]
    Tls(String),
    /// `auth=` with another value.
    #[error("unknown auth mechanism {0:?}; known: plain, login, scram-sha-256, xoauth2")]
    Auth(String),
}

/// When and how a connection is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TlsMode {
    /// Never.
    None,
    /// STARTTLS if offered, any certificate; otherwise plaintext. Guards against listeners only.
    Opportunistic,
    /// STARTTLS with a verified certificate, or no mail (RFC 8314's spirit on the old port).
    Required,
    /// TLS from the first octet (RFC 8314 §3), verified.
    Implicit,
}

/// A password or token; it never shows in `Debug`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A server that takes mail from us, and how to speak to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay {
    /// Host name or address literal.
    pub host: Domain,
    /// TCP port.
    pub port: u16,
    /// Encryption. `smtp://` means [`TlsMode::Opportunistic`], or [`TlsMode::Required`] where
    /// there is a user; `smtps://` means [`TlsMode::Implicit`].
    pub tls: TlsMode,
    /// Whom to authenticate as; no AUTH without it.
    pub user: Option<String>,
    /// The password or, for XOAUTH2, the token.
    pub password: Option<Secret>,
    /// The one mechanism to use; `None` takes the strongest that is offered.
    pub mechanism: Option<Mechanism>,
    /// Lower ones are dialed first, as with MX records (RFC 5321 §5.1).
    pub preference: u16,
    /// Share of the connections among relays of equal preference; 0 counts as 1.
    pub weight: u16,
    /// Where `host` is, in order, if that is known already; empty: looked up when dialed.
    pub addresses: Vec<IpAddr>,
}

impl Relay {
    /// A relay without TLS or AUTH, as for tests on loopback.
    #[must_use]
    pub fn plaintext(addr: std::net::SocketAddr) -> Self {
        Self {
            host: Domain::from_ip(addr.ip()),
            port: addr.port(),
            tls: TlsMode::None,
            user: None,
            password: None,
            mechanism: None,
            preference: 0,
            weight: 1,
            addresses: Vec::new(),
        }
    }
}

impl FromStr for Relay {
    type Err = RelayError;

    /// Reads `smtp[s]://[user[:password]@]host[:port][?tls=…&auth=…]`. Ports default to 587 with a
    /// user and 25 without, 465 for `smtps`.
    fn from_str(text: &str) -> Result<Self, RelayError> {
        let (implicit, rest) = match text.split_once("://") {
            Some(("smtp", rest)) => (false, rest),
            Some(("smtps", rest)) => (true, rest),
            _ => return Err(RelayError::Scheme),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, host_port) = match rest.rsplit_once('@') {
            Some((user_info, host_port)) => (Some(user_info), host_port),
            None => (None, rest),
        };
        let (user, password) = read_user_info(user_info)?;
        let (host, port) = split_port(host_port)?;
        let default_tls = match (implicit, &user) {
            (true, _) => TlsMode::Implicit,
            (false, Some(_)) => TlsMode::Required,
            (false, None) => TlsMode::Opportunistic,
        };
        let mut relay = Self {
            host,
            port: 0,
            tls: default_tls,
            user,
            password,
            mechanism: None,
            preference: 0,
            weight: 1,
            addresses: Vec::new(),
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            relay.read_option(option)?;
        }
        relay.port = port.unwrap_or(match (relay.tls, &relay.user) {
            (TlsMode::Implicit, _) => 465,
            (_, Some(_)) => 587,
            (_, None) => 25,
        });
        Ok(relay)
    }
}

impl Relay {
    fn read_option(&mut self, option: &str) -> Result<(), RelayError> {
        match option.split_once('=') {
            Some(("tls", "none")) => self.tls = TlsMode::None,
            Some(("tls", "opportunistic")) => self.tls = TlsMode::Opportunistic,
            Some(("tls", "required")) => self.tls = TlsMode::Required,
            Some(("tls", "implicit")) => self.tls = TlsMode::Implicit,
            Some(("tls", other)) => return Err(RelayError::Tls(other.to_owned())),
            Some(("auth", name)) => {
                let mechanism = Mechanism::parse(name);
                self.mechanism = Some(mechanism.ok_or_else(|| RelayError::Auth(name.to_owned()))?);
            }
            _ => {
                let name = option.split('=').next().unwrap_or_default();
                return Err(RelayError::Option(name.to_owned()));
            }
        }
        Ok(())
    }
}

fn read_user_info(user_info: Option<&str>) -> Result<(Option<String>, Option<Secret>), RelayError> {
    let Some(user_info) = user_info else {
        return Ok((None, None));
    };
    let (user, password) = match user_info.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user_info, None),
    };
    let user = unescape(user)?;
    if user.is_empty() {
        return Err(RelayError::UserInfo);
    }
    Ok((
        Some(user),
        password.map(unescape).transpose()?.map(Secret::new),
    ))
}

/// Reads `%XX`; refuses control characters, which no mechanism can carry.
fn unescape(text: &str) -> Result<String, RelayError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b == b'%' {
            let pair = rest
                .get(..2)
                .and_then(|pair| std::str::from_utf8(pair).ok());
            let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            bytes.push(value.ok_or(RelayError::UserInfo)?);
            rest = &rest[2..];
        } else {
            bytes.push(b);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| RelayError::UserInfo)?;
    if text.chars().any(char::is_control) {
        Err(RelayError::UserInfo)
    } else {
        Ok(text)
    }
}

/// Takes `host`, `host:port`, `[::1]:port` or `127.0.0.1:port` apart.
fn split_port(text: &str) -> Result<(Domain, Option<u16>), RelayError> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = match bare.parse() {
        Ok(ip) => Domain::from_ip(ip),
        Err(_) => host.parse()?,
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port @ 1..)) => Some(port),
        Some(_) => return Err(RelayError::Port),
    };
    Ok((host, port))
}

impl fmt::Display for Relay {
    /// `host:port`, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.ip() {
            Some(ip) => write!(f, "{}", std::net::SocketAddr::new(ip, self.port)),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(text: &str) -> Relay {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_says_host_port_tls_and_user() {
        for (text, shown, tls, user) in [
            (
                "smtp://relay.example",
                "relay.example:25",
                TlsMode::Opportunistic,
                None,
            ),
            (
                "smtp://u@relay.example",
                "relay.example:587",
                TlsMode::Required,
                Some("u"),
            ),
            (
                "smtps://u@relay.example/",
                "relay.example:465",
                TlsMode::Implicit,
                Some("u"),
            ),
            (
                "smtp://127.0.0.1:2525",
                "127.0.0.1:2525",
                TlsMode::Opportunistic,
                None,
            ),
            (
                "smtp://[::1]:2525?tls=none",
                "[::1]:2525",
                TlsMode::None,
                None,
            ),
            (
                "smtp://[192.0.2.1]",
                "192.0.2.1:25",
                TlsMode::Opportunistic,
                None,
            ),
            (
                "smtp://a%40b:p%3Aw@h:1?tls=opportunistic&auth=login",
                "h:1",
                TlsMode::Opportunistic,
                Some("a@b"),
            ),
        ] {
            let relay = relay(text);
            assert_eq!(relay.to_string(), shown, "{text}");
            assert_eq!((relay.tls, relay.user.as_deref()), (tls, user), "{text}");
        }
        assert_eq!(relay("smtp://a:p%3Aw@h").password.unwrap().expose(), "p:w");
    }

    #[test]
    fn what_is_no_relay_is_refused_with_its_reason() {
        for (text, want) in [
            ("relay.example", "a relay begins"),
            ("http://relay.example", "a relay begins"),
            ("smtp://", "host"),
            ("smtp://h:0", "port"),
            ("smtp://h:x", "port"),
            ("smtp://u%0d%0a@h", "user"),
            ("smtp://u%zz@h", "user"),
            ("smtp://@h", "user"),
            ("smtp://h?tls=maybe", "tls mode"),
            ("smtp://h?auth=ntlm", "auth mechanism"),
            ("smtp://h?colour=red", "colour"),
            ("smtp://h\r\nQUIT", "host"),
        ] {
            let error = text.parse::<Relay>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let relay = relay("smtp://user:hunter2@h");
        assert!(!format!("{relay:?} {relay}").contains("hunter2"));
    }
}
