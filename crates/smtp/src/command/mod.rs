//! Commands (RFC 5321 §4.1): written here, read by [`Command::parse`].

mod parse;

pub use parse::{Command, CommandError};

use std::fmt;
use std::str::FromStr;

use crate::address::ReversePath;
use crate::domain::Domain;
use crate::envelope::{EnvelopeId, Recipient, Ret};
use crate::xtext;

/// Why a text cannot be the argument of EHLO.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the EHLO name {0:?} is neither a host name nor an address literal")]
pub struct ClientNameError(String);

/// What a client calls itself in EHLO: host name or address literal (RFC 5321 §4.1.1.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientName(Domain);

impl ClientName {
    /// As written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl From<Domain> for ClientName {
    fn from(domain: Domain) -> Self {
        Self(domain)
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, ClientNameError> {
        text.parse()
            .map(Self)
            .map_err(|_| ClientNameError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// BODY= (RFC 6152 §2, RFC 3030 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Octets below 128 only.
    SevenBit,
    /// Lines of any octets.
    EightBitMime,
    /// Not divided into lines; BDAT only.
    BinaryMime,
}

impl Body {
    /// As written after `BODY=`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }
}

/// Parameters of MAIL. Each is written only if it is set, so the writer sets what the peer offers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// SIZE=, octets of content (RFC 1870).
    pub size_bytes: Option<u64>,
    /// BODY=.
    pub body: Option<Body>,
    /// SMTPUTF8 (RFC 6531 §3.4).
    pub smtputf8: bool,
    /// RET= (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// ENVID= (RFC 3461 §4.4).
    pub id: Option<EnvelopeId>,
}

/// Appends `MAIL FROM:<…>` with its parameters and CRLF.
pub fn write_mail(out: &mut Vec<u8>, reverse_path: &ReversePath, parameters: &MailParameters) {
    out.extend_from_slice(b"MAIL FROM:<");
    if let Some(address) = reverse_path.address() {
        out.extend_from_slice(address.as_str().as_bytes());
    }
    out.push(b'>');
    if let Some(octets) = parameters.size_bytes {
        out.extend_from_slice(b" SIZE=");
        push_number(out, octets);
    }
    if let Some(body) = parameters.body {
        out.extend_from_slice(b" BODY=");
        out.extend_from_slice(body.name().as_bytes());
    }
    if parameters.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    match parameters.ret {
        None => {}
        Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
        Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
    }
    if let Some(id) = &parameters.id {
        out.extend_from_slice(b" ENVID=");
        xtext::encode(id.as_str(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `RCPT TO:<…>` and CRLF, with the DSN parameters only if `dsn` is offered.
pub fn write_rcpt(out: &mut Vec<u8>, recipient: &Recipient, dsn: bool) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.address.as_str().as_bytes());
    out.push(b'>');
    if dsn {
        if let Some(notify) = recipient.notify {
            out.extend_from_slice(format!(" NOTIFY={notify}").as_bytes());
        }
        if let Some(original) = &recipient.original {
            out.extend_from_slice(b" ORCPT=rfc822;");
            xtext::encode(original.as_str(), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `BDAT n LAST` and CRLF (RFC 3030 §2).
pub fn write_bdat_last(out: &mut Vec<u8>, octets: u64) {
    out.extend_from_slice(b"BDAT ");
    push_number(out, octets);
    out.extend_from_slice(b" LAST\r\n");
}

/// `write!` into a vector costs several times as much, and this runs once a message.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Notify;

    #[test]
    fn mail_and_rcpt_are_written_as_the_rfc_has_them() {
        let mut out = Vec::new();
        let from: ReversePath = "a@b.example".parse().unwrap();
        write_mail(&mut out, &from, &MailParameters::default());
        write_mail(
            &mut out,
            &ReversePath::Null,
            &MailParameters {
                size_bytes: Some(10_240),
                body: Some(Body::EightBitMime),
                smtputf8: true,
                ret: Some(Ret::Headers),
                id: Some(EnvelopeId::new("a+b c").unwrap()),
            },
        );
        let mut recipient: Recipient = "\"x y\"@c.example"
            .parse::<crate::Address>()
            .unwrap()
            .into();
        recipient.notify = Some(Notify::FAILURE);
        recipient.original = Some("x+y@d.example".parse().unwrap());
        write_rcpt(&mut out, &recipient, true);
        write_rcpt(&mut out, &recipient, false);
        write_bdat_last(&mut out, 0);
        write_bdat_last(&mut out, u64::MAX);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "MAIL FROM:<a@b.example>\r\n\
             MAIL FROM:<> SIZE=10240 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+20c\r\n\
             RCPT TO:<\"x y\"@c.example> NOTIFY=FAILURE ORCPT=rfc822;x+2By@d.example\r\n\
             RCPT TO:<\"x y\"@c.example>\r\n\
             BDAT 0 LAST\r\n\
             BDAT 18446744073709551615 LAST\r\n"
        );
    }

    #[test]
    fn an_ehlo_name_cannot_carry_a_line_break() {
        for text in ["", "a b", "a\r\nQUIT", "a\nb", "a\0"] {
            assert!(text.parse::<ClientName>().is_err(), "{text:?}");
        }
        assert_eq!(
            "[127.0.0.1]".parse::<ClientName>().unwrap().as_str(),
            "[127.0.0.1]"
        );
    }
}
