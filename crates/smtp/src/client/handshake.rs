//! From the greeting to a [`Session`]: greeting → EHLO → (STARTTLS → EHLO) → (AUTH).

use crate::command::ClientName;
use crate::extension::{Extensions, Mechanism};
use crate::reply::{Reply, ReplyError, ReplyParser, Severity};

use super::auth::{self, Credentials, Exchange, ExchangeError};
use super::mode::Mode;
use super::session::Session;

/// What to do about STARTTLS (RFC 3207).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartTls {
    /// Do not ask, even if it is offered. Also for connections that are TLS from their start.
    Never,
    /// Ask if it is offered; go on in plaintext if it is not.
    IfOffered,
    /// Ask, or fail.
    Required,
}

/// What a handshake needs to know.
#[derive(Clone, Debug)]
pub struct HandshakeConfig {
    /// For EHLO.
    pub name: ClientName,
    /// Whether to encrypt.
    pub starttls: StartTls,
    /// The connection is TLS from its start.
    pub is_encrypted: bool,
    /// For AUTH; none is tried without them.
    pub credentials: Option<Credentials>,
    /// The one mechanism to use; otherwise the strongest that takes a password.
    pub mechanism: Option<Mechanism>,
    /// Lets AUTH go over plaintext.
    pub allow_plaintext_auth: bool,
    /// Random, for SCRAM.
    pub nonce: [u8; 18],
}

/// The step of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum HandshakeStage {
    /// Waiting for the server's first reply.
    Greeting,
    /// EHLO, or HELO after it was refused.
    Ehlo,
    /// STARTTLS, until its 220.
    StartTls,
    /// The driver is in the TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// Done.
    Ready,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The server said no.
    #[error("the server replied {0}")]
    Refused(Reply),
    /// Not a reply.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply too many, or one without meaning at its place.
    #[error("the server sent a reply that makes no sense here: {0}")]
    Nonsense(Reply),
    /// STARTTLS is required and not offered.
    #[error("the server does not offer STARTTLS")]
    NoStartTls,
    /// Bytes after STARTTLS's 220: somebody puts words into the server's mouth.
    #[error("plaintext came after the server's leave to start TLS")]
    PlaintextAfterStartTls,
    /// There are credentials, and AUTH would go over plaintext.
    #[error("the connection is not encrypted, so the password is not sent over it")]
    PlaintextAuth,
    /// None of the mechanisms that we may use is offered.
    #[error("the server offers no authentication that can be used")]
    NoMechanism,
    /// The server's side of the exchange.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

/// What the driver does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Write [`Handshake::output`], read, [`Handshake::receive`].
    Talk,
    /// Do the TLS handshake, then [`Handshake::tls_done`].
    StartTls,
    /// [`Handshake::into_session`].
    Ready,
}

/// A connection that is not yet ready for mail.
#[derive(Debug)]
pub struct Handshake {
    config: HandshakeConfig,
    stage: HandshakeStage,
    parser: ReplyParser,
    output: Vec<u8>,
    extensions: Extensions,
    said_helo: bool,
    exchange: Option<Exchange>,
}

impl Handshake {
    /// The server speaks first.
    #[must_use]
    pub fn new(config: HandshakeConfig) -> Self {
        Self {
            config,
            stage: HandshakeStage::Greeting,
            parser: ReplyParser::default(),
            output: Vec::new(),
            extensions: Extensions::default(),
            said_helo: false,
            exchange: None,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn stage(&self) -> HandshakeStage {
        self.stage
    }

    /// What the driver does next.
    #[must_use]
    pub fn step(&self) -> Step {
        match self.stage {
            HandshakeStage::Tls => Step::StartTls,
            HandshakeStage::Ready => Step::Ready,
            _ => Step::Talk,
        }
    }

    /// Takes what is to be written now; empty if it is the server's turn.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// The connection is of no use afterwards.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), HandshakeError> {
        while !bytes.is_empty() {
            if self.stage == HandshakeStage::Tls {
                return Err(HandshakeError::PlaintextAfterStartTls);
            }
            let Some(reply) = self.parser.parse(&mut bytes)? else {
                break;
            };
            self.on_reply(reply)?;
        }
        if self.stage == HandshakeStage::Tls && !self.parser.is_empty() {
            return Err(HandshakeError::PlaintextAfterStartTls);
        }
        Ok(())
    }

    /// TLS is up: all that the server said before is forgotten (RFC 3207 §4.2).
    pub fn tls_done(&mut self) {
        if self.stage == HandshakeStage::Tls {
            self.config.is_encrypted = true;
            self.config.starttls = StartTls::Never;
            self.extensions = Extensions::default();
            self.said_helo = false;
            self.say_ehlo();
        }
    }

    /// A session in the mode wanted, or the best below it that the server offers; `None` unless
    /// [`Step::Ready`].
    #[must_use]
    pub fn into_session(self, mode: Mode) -> Option<Session> {
        let is_ready = self.stage == HandshakeStage::Ready && self.parser.is_empty();
        is_ready.then(|| Session::new(mode, self.extensions))
    }

    fn on_reply(&mut self, reply: Reply) -> Result<(), HandshakeError> {
        match (self.stage, reply.code().severity()) {
            (HandshakeStage::Greeting, Severity::Completed) => self.say_ehlo(),
            (HandshakeStage::Ehlo, Severity::Completed) => {
                if !self.said_helo {
                    self.extensions = Extensions::from_reply(&reply);
                }
                self.after_ehlo()?;
            }
            // RFC 5321 §3.2: a server that does not know EHLO.
            (HandshakeStage::Ehlo, Severity::Permanent) if !self.said_helo => {
                self.said_helo = true;
                self.say("HELO ");
            }
            (HandshakeStage::StartTls, Severity::Completed) => self.stage = HandshakeStage::Tls,
            (HandshakeStage::StartTls, Severity::Transient | Severity::Permanent)
                if self.config.starttls == StartTls::IfOffered && reply.code().get() != 421 =>
            {
                self.authenticate()?;
            }
            (HandshakeStage::Auth, Severity::Intermediate) => {
                let exchange = self.exchange.as_mut().ok_or(ExchangeError::Challenge)?;
                exchange.answer(reply.text(), &mut self.output)?;
            }
            (HandshakeStage::Auth, Severity::Completed) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.finish(reply.text())?;
                }
                self.stage = HandshakeStage::Ready;
            }
            (HandshakeStage::Tls | HandshakeStage::Ready, _) | (_, Severity::Intermediate) => {
                return Err(HandshakeError::Nonsense(reply));
            }
            (_, Severity::Transient | Severity::Permanent) => {
                return Err(HandshakeError::Refused(reply));
            }
        }
        Ok(())
    }

    fn say_ehlo(&mut self) {
        self.stage = HandshakeStage::Ehlo;
        self.say("EHLO ");
    }

    fn say(&mut self, verb: &str) {
        self.output.extend_from_slice(verb.as_bytes());
        self.output
            .extend_from_slice(self.config.name.as_str().as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn after_ehlo(&mut self) -> Result<(), HandshakeError> {
        match self.config.starttls {
            StartTls::Required if !self.extensions.starttls => Err(HandshakeError::NoStartTls),
            StartTls::Required | StartTls::IfOffered if self.extensions.starttls => {
                self.stage = HandshakeStage::StartTls;
                self.output.extend_from_slice(b"STARTTLS\r\n");
                Ok(())
            }
            _ => self.authenticate(),
        }
    }

    fn authenticate(&mut self) -> Result<(), HandshakeError> {
        let Some(credentials) = self.config.credentials.clone() else {
            self.stage = HandshakeStage::Ready;
            return Ok(());
        };
        self.stage = HandshakeStage::Auth;
        if !self.config.is_encrypted && !self.config.allow_plaintext_auth {
            return Err(HandshakeError::PlaintextAuth);
        }
        let mechanism = auth::choose(&self.extensions, self.config.mechanism)
            .ok_or(HandshakeError::NoMechanism)?;
        let mut exchange = Exchange::new(mechanism, credentials, self.config.nonce);
        exchange.command(&mut self.output);
        self.exchange = Some(exchange);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(starttls: StartTls) -> HandshakeConfig {
        HandshakeConfig {
            name: "client.example".parse().unwrap(),
            starttls,
            is_encrypted: false,
            credentials: None,
            mechanism: None,
            allow_plaintext_auth: false,
            nonce: [7; 18],
        }
    }

    /// Plays `(server says, client must answer)`; gives the machine or its error.
    fn play(config: HandshakeConfig, script: &[(&str, &str)]) -> Result<Handshake, HandshakeError> {
        let mut handshake = Handshake::new(config);
        for (server, client) in script {
            handshake.receive(server.as_bytes())?;
            if handshake.step() == Step::StartTls {
                handshake.tls_done();
            }
            assert_eq!(
                String::from_utf8(handshake.output()).unwrap(),
                *client,
                "{server}"
            );
        }
        Ok(handshake)
    }

    const EHLO: &str = "EHLO client.example\r\n";

    #[test]
    fn greeting_then_ehlo_makes_a_session() {
        let handshake = play(
            config(StartTls::IfOffered),
            &[
                ("220 hello\r\n", EHLO),
                ("250-host\r\n250 PIPELINING\r\n", ""),
            ],
        );
        let session = handshake.unwrap().into_session(Mode::Overlapped).unwrap();
        assert_eq!(session.mode(), Mode::Overlapped);
    }

    #[test]
    fn helo_follows_a_refused_ehlo() {
        let handshake = play(
            config(StartTls::Never),
            &[
                ("220 hello\r\n", EHLO),
                ("502 what\r\n", "HELO client.example\r\n"),
                ("250 host\r\n", ""),
            ],
        );
        let session = handshake.unwrap().into_session(Mode::Overlapped).unwrap();
        assert_eq!(session.mode(), Mode::Lockstep);
    }

    #[test]
    fn after_starttls_capabilities_are_asked_anew() {
        let handshake = play(
            config(StartTls::Required),
            &[
                ("220 hello\r\n", EHLO),
                (
                    "250-host\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
                    "STARTTLS\r\n",
                ),
                ("220 go\r\n", EHLO),
                ("250 host\r\n", ""),
            ],
        );
        assert!(
            !handshake
                .unwrap()
                .into_session(Mode::Pipelined)
                .unwrap()
                .extensions()
                .pipelining
        );
    }

    #[test]
    fn bytes_after_starttls_220_are_an_attack() {
        for injected in ["220 go\r\n250 injected\r\n", "220 go\r\n2"] {
            let error = play(
                config(StartTls::Required),
                &[
                    ("220 hello\r\n", EHLO),
                    ("250-host\r\n250 STARTTLS\r\n", "STARTTLS\r\n"),
                    (injected, ""),
                ],
            );
            assert_eq!(error.unwrap_err(), HandshakeError::PlaintextAfterStartTls);
        }
    }

    #[test]
    fn required_tls_is_never_given_up() {
        let error = play(
            config(StartTls::Required),
            &[("220 hello\r\n", EHLO), ("250 host\r\n", "")],
        );
        assert_eq!(error.unwrap_err(), HandshakeError::NoStartTls);
        let error = play(
            config(StartTls::Required),
            &[
                ("220 hello\r\n", EHLO),
                ("250-host\r\n250 STARTTLS\r\n", "STARTTLS\r\n"),
                ("454 later\r\n", ""),
            ],
        );
        assert!(matches!(error, Err(HandshakeError::Refused(_))));
    }

    #[test]
    fn opportunistic_tls_goes_on_without() {
        let handshake = play(
            config(StartTls::IfOffered),
            &[
                ("220 hello\r\n", EHLO),
                ("250-host\r\n250 STARTTLS\r\n", "STARTTLS\r\n"),
                ("454 later\r\n", ""),
            ],
        );
        assert_eq!(handshake.unwrap().step(), Step::Ready);
    }

    #[test]
    fn a_password_is_not_sent_in_the_clear_unless_allowed() {
        let mut config = config(StartTls::IfOffered);
        config.credentials = Some(Credentials::new("user", "pencil").unwrap());
        let script = [
            ("220 hello\r\n", EHLO),
            (
                "250-host\r\n250 AUTH PLAIN\r\n",
                "AUTH PLAIN AHVzZXIAcGVuY2ls\r\n",
            ),
            ("235 ok\r\n", ""),
        ];
        assert_eq!(
            play(config.clone(), &script).unwrap_err(),
            HandshakeError::PlaintextAuth
        );
        config.allow_plaintext_auth = true;
        assert_eq!(play(config.clone(), &script).unwrap().step(), Step::Ready);
        config.mechanism = Some(Mechanism::XOAuth2);
        assert_eq!(
            play(config, &script).unwrap_err(),
            HandshakeError::NoMechanism
        );
    }

    #[test]
    fn refusals_and_replies_too_many_end_it() {
        let error = play(config(StartTls::Never), &[("554 no\r\n", "")]).unwrap_err();
        assert!(matches!(error, HandshakeError::Refused(_)));
        let error = play(
            config(StartTls::Never),
            &[("220 hello\r\n", EHLO), ("250 host\r\n250 again\r\n", "")],
        );
        assert!(matches!(error, Err(HandshakeError::Nonsense(_))));
        let error = play(config(StartTls::Never), &[("354 go\r\n", "")]).unwrap_err();
        assert!(matches!(error, HandshakeError::Nonsense(_)));
    }
}
