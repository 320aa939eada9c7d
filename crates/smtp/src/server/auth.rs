//! The exchanges of AUTH PLAIN (RFC 4616) and AUTH LOGIN. Whether the credentials are good is the
//! caller's to say.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::replies;

/// What a client offers as proof of who it is.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// On whose behalf it wants to act, if it says so (PLAIN's authorization identity).
    pub acting_as: Option<String>,
    /// Who it is.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    /// Without the password: it does not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("acting_as", &self.acting_as)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Where an exchange stands: what the next line will be.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword(String),
}

/// What comes of one line.
pub(super) enum Progress {
    /// Say this and wait for the next line.
    Ask(&'static [u8], Exchange),
    /// The exchange is over without credentials: say this.
    Failed(&'static [u8]),
    Done(Credentials),
}

impl Exchange {
    /// Begins with AUTH's own arguments; `None` for a mechanism that is not served.
    pub(super) fn begin(mechanism: &str, initial: Option<&str>) -> Option<Progress> {
        let (exchange, question) = if mechanism.eq_ignore_ascii_case("PLAIN") {
            (Self::Plain, replies::AUTH_CONTINUE)
        } else if mechanism.eq_ignore_ascii_case("LOGIN") {
            (Self::LoginUser, replies::LOGIN_USER)
        } else {
            return None;
        };
        Some(match initial {
            None => Progress::Ask(question, exchange),
            // RFC 4954 §4: a single "=" is an initial response of no octets.
            Some("=") => exchange.answer(b""),
            Some(initial) => exchange.answer(initial.as_bytes()),
        })
    }

    /// Takes one line of the client's, without its CRLF.
    pub(super) fn answer(self, line: &[u8]) -> Progress {
        if line == b"*" {
            return Progress::Failed(replies::AUTH_CANCELLED);
        }
        let Ok(answer) = STANDARD.decode(line) else {
            return Progress::Failed(replies::BAD_BASE64);
        };
        let Ok(answer) = String::from_utf8(answer) else {
            return Progress::Failed(replies::BAD_CREDENTIALS);
        };
        match self {
            Self::LoginUser => Progress::Ask(replies::LOGIN_PASSWORD, Self::LoginPassword(answer)),
            Self::LoginPassword(user) => Progress::Done(Credentials {
                acting_as: None,
                user,
                password: answer,
            }),
            Self::Plain => {
                plain(&answer).map_or(Progress::Failed(replies::BAD_CREDENTIALS), Progress::Done)
            }
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`.
fn plain(answer: &str) -> Option<Credentials> {
    let mut parts = answer.split('\0');
    let (acting_as, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || user.is_empty() {
        return None;
    }
    Some(Credentials {
        acting_as: (!acting_as.is_empty()).then(|| acting_as.to_owned()),
        user: user.to_owned(),
        password: password.to_owned(),
    })
}
