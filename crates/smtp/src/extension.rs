//! Service extensions announced in the reply to EHLO (RFC 5321 §4.1.1.1).

use crate::reply::Reply;

/// A SASL mechanism we speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Never standardized, still common.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// OAuth 2 bearer tokens, as large providers have it.
    XOAuth2,
}

impl Mechanism {
    /// Every mechanism, weakest last among those that take a password.
    pub const ALL: [Self; 4] = [Self::ScramSha256, Self::Plain, Self::Login, Self::XOAuth2];

    /// As written after AUTH.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::XOAuth2 => "XOAUTH2",
        }
    }

    /// Reads a name; case does not matter.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| name.eq_ignore_ascii_case(mechanism.name()))
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a server offers. `Default` offers nothing, as after HELO.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030: BDAT.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870: `Some(0)` announces no fixed limit; otherwise octets.
    pub size_bytes_max: Option<u64>,
    /// RFC 9422.
    pub limits: Limits,
    /// RFC 4954: set of bits, see [`Extensions::offers_auth`].
    auth: u8,
}

/// RFC 9422 LIMITS: what one connection or transaction may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// RCPTMAX: RCPT commands in a transaction.
    pub recipients_max: Option<u32>,
    /// MAILMAX: transactions in a session.
    pub transactions_max: Option<u32>,
    /// RCPTDOMAINMAX: recipient domains in a transaction.
    pub recipient_domains_max: Option<u32>,
}

impl Extensions {
    /// Reads the reply to EHLO; its first line is the server's name and greeting. Unknown
    /// keywords and malformed parameters are passed over.
    #[must_use]
    pub fn from_reply(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in reply.text().split('\n').skip(1) {
            extensions.read(line);
        }
        extensions
    }

    /// Whether AUTH with this mechanism is offered.
    #[must_use]
    pub fn offers_auth(&self, mechanism: Mechanism) -> bool {
        self.auth & mechanism.bit() != 0
    }

    /// Offers AUTH with this mechanism.
    #[must_use]
    pub fn with_auth(mut self, mechanism: Mechanism) -> Self {
        self.auth |= mechanism.bit();
        self
    }

    /// Offers no AUTH at all, as a server does before the connection is encrypted.
    #[must_use]
    pub fn without_auth(mut self) -> Self {
        self.auth = 0;
        self
    }

    /// Whether any AUTH is offered.
    #[must_use]
    pub fn offers_any_auth(&self) -> bool {
        self.auth != 0
    }

    fn read(&mut self, line: &str) {
        // "AUTH=LOGIN" is how some old servers write it.
        let old_auth = line
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("AUTH="));
        let line = line.replacen('=', " ", usize::from(old_auth));
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "SIZE" => {
                self.size_bytes_max = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
            }
            "LIMITS" => words.for_each(|word| self.limits.read(word)),
            "AUTH" => {
                self.auth |= words
                    .filter_map(Mechanism::parse)
                    .fold(0, |set, m| set | m.bit());
            }
            _ => {}
        }
    }

    /// The lines that announce this, for the server's reply to EHLO; LF between them.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let mut lines = Vec::new();
        let flags = [
            (self.pipelining, "PIPELINING"),
            (self.chunking, "CHUNKING"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.dsn, "DSN"),
            (self.starttls, "STARTTLS"),
        ];
        lines.extend(
            flags
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, name)| (*name).to_owned()),
        );
        match self.size_bytes_max {
            None => {}
            Some(0) => lines.push("SIZE".into()),
            Some(octets) => lines.push(format!("SIZE {octets}")),
        }
        if self.offers_any_auth() {
            let offered = Mechanism::ALL.into_iter().filter(|&m| self.offers_auth(m));
            lines.push(offered.fold("AUTH".into(), |line, m| line + " " + m.name()));
        }
        if self.limits != Limits::default() {
            lines.push(format!("LIMITS{}", self.limits));
        }
        lines.join("\n")
    }
}

impl Limits {
    fn read(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else {
            return;
        };
        let Ok(value @ 1..) = value.parse::<u32>() else {
            return;
        };
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.recipients_max = Some(value),
            "MAILMAX" => self.transactions_max = Some(value),
            "RCPTDOMAINMAX" => self.recipient_domains_max = Some(value),
            _ => {}
        }
    }
}

impl std::fmt::Display for Limits {
    /// ` NAME=value` for each that is set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in [
            ("RCPTMAX", self.recipients_max),
            ("MAILMAX", self.transactions_max),
            ("RCPTDOMAINMAX", self.recipient_domains_max),
        ] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Extensions {
        Extensions::from_reply(&Reply::fixed(
            250,
            None,
            &format!("host greets you\n{lines}"),
        ))
    }

    #[test]
    fn what_is_announced_is_read_back() {
        let all = Extensions {
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            dsn: true,
            starttls: true,
            size_bytes_max: Some(10_240_000),
            limits: Limits {
                recipients_max: Some(100),
                transactions_max: Some(20),
                recipient_domains_max: Some(1),
            },
            auth: 0,
        };
        for extensions in [
            Extensions::default(),
            all.clone(),
            all.with_auth(Mechanism::Plain)
                .with_auth(Mechanism::ScramSha256),
        ] {
            assert_eq!(read(&extensions.to_lines()), extensions);
        }
    }

    #[test]
    fn odd_lines_are_read_or_passed_over() {
        let got = read(
            "size\nauth=login plain\nX-UNKNOWN a b\n\nLIMITS RCPTMAX=0 MAILMAX=x FOO RCPTDOMAINMAX=3\npipelining",
        );
        assert_eq!(got.size_bytes_max, Some(0));
        assert!(got.offers_auth(Mechanism::Login) && got.offers_auth(Mechanism::Plain));
        assert!(!got.offers_auth(Mechanism::ScramSha256));
        assert!(got.pipelining);
        assert_eq!(
            got.limits,
            Limits {
                recipient_domains_max: Some(3),
                ..Limits::default()
            }
        );
        assert_eq!(read("AUTH=\u{e9}"), Extensions::default());
        assert_eq!(read("\u{e9}\u{e9}\u{e9}"), Extensions::default());
    }

    #[test]
    fn the_name_line_is_no_keyword() {
        assert_eq!(
            Extensions::from_reply(&Reply::fixed(250, None, "PIPELINING")),
            Extensions::default()
        );
    }
}
