//! Flags that say how to reach a relay; `send` and `bench` share them.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use client::{Cause, Pool, PoolBuilder, Relay, Secret, Stage, TlsMode};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::exit::{Exit, Stop};
use crate::mistakes::Mistakes;

/// Longest password file that is read, in bytes.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// Certificate chain and key of our own.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Encryption and credentials.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Relay")]
pub(crate) struct RelayArgs {
    /// Encryption: none, opportunistic, required (STARTTLS, verified) or implicit (as on port 465)
    #[arg(long, value_name = "MODE")]
    tls: Option<String>,

    /// Trust the certificate authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show this certificate chain (PEM) to a relay that asks for one
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// Take any certificate: encrypted, but nobody knows to whom
    #[arg(long)]
    insecure: bool,

    /// Read the password from the first line of this file [else $MAILRAIL_PASSWORD, else a prompt]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Let the password go over a connection without encryption
    #[arg(long)]
    allow_plaintext_auth: bool,

    /// What to call ourselves in EHLO [default: [127.0.0.1]]
    #[arg(long, value_name = "NAME")]
    ehlo_name: Option<String>,
}

impl RelayArgs {
    /// Reads the URLs, at least one, and these flags; `None` where a mistake was noted.
    pub(crate) fn pool_builder(
        &self,
        flag: &str,
        urls: &[String],
        mistakes: &mut Mistakes,
    ) -> Option<PoolBuilder> {
        let roots = self.ca.as_deref().map(|path| {
            let roots = read_certificates(path);
            mistakes.take(&format!("--ca {}", path.display()), roots)
        });
        let identity = self.identity(mistakes);
        let ehlo_name = mistakes.parse("--ehlo-name", self.ehlo_name.as_deref());
        let relays = urls.iter().map(|url| self.relay(flag, url, mistakes));
        let relays: Vec<_> = relays.collect();
        let mut relays = relays.into_iter();
        let mut builder = Pool::builder(relays.next()??);
        for relay in relays {
            builder = builder.relay(relay?);
        }
        if let Some(roots) = roots {
            builder = builder.roots(roots?);
        }
        if let Some((chain, key)) = identity {
            builder = builder.identity(chain, key);
        }
        if let Some(name) = ehlo_name {
            builder = builder.ehlo_name(name);
        }
        if self.insecure {
            builder = builder.accept_any_certificate();
        }
        if self.allow_plaintext_auth {
            builder = builder.allow_plaintext_auth();
        }
        Some(builder)
    }

    fn identity(&self, mistakes: &mut Mistakes) -> Option<Identity> {
        let (chain, key) = (self.client_cert.as_deref()?, self.client_key.as_deref()?);
        let chain = mistakes.take("--client-cert", read_certificates(chain));
        let key = mistakes.take("--client-key", PrivateKeyDer::from_pem_file(key));
        chain.zip(key)
    }

    fn relay(&self, flag: &str, url: &str, mistakes: &mut Mistakes) -> Option<Relay> {
        let mut relay: Relay = mistakes.take(flag, url.parse())?;
        if let Some(mode) = &self.tls {
            relay.tls = mistakes.take("--tls", read_tls_mode(mode))?;
        }
        if relay.password.is_some() {
            mistakes.add(format_args!(
                "{flag}: there is a password in the URL, where every user of this machine can read \
                 it (ps) and the shell keeps it in its history; set MAILRAIL_PASSWORD, use \
                 --password-file, or be asked for it"
            ));
            return None;
        }
        // Nobody types a password only to be told of other mistakes.
        if relay.user.is_some() && mistakes.is_empty() {
            let password = self.read_password(&relay);
            relay.password = Some(Secret::new(mistakes.take("password", password)?));
        }
        Some(relay)
    }

    fn read_password(&self, relay: &Relay) -> Result<String, String> {
        if let Some(path) = &self.password_file {
            return read_password_file(path)
                .map_err(|error| format!("{}: {error}", path.display()));
        }
        if let Ok(password) = std::env::var("MAILRAIL_PASSWORD") {
            return Ok(password);
        }
        let user = relay.user.as_deref().unwrap_or_default();
        if !std::io::stdin().is_terminal() {
            return Err(format!(
                "there is none for {user}: set MAILRAIL_PASSWORD or use --password-file"
            ));
        }
        rpassword::prompt_password(format!("Password of {user} at {relay}: "))
            .map_err(|error| error.to_string())
    }
}

fn read_tls_mode(text: &str) -> Result<TlsMode, String> {
    match text {
        "none" => Ok(TlsMode::None),
        "opportunistic" => Ok(TlsMode::Opportunistic),
        "required" => Ok(TlsMode::Required),
        "implicit" => Ok(TlsMode::Implicit),
        other => Err(format!(
            "unknown mode {other:?}; known: none, opportunistic, required, implicit"
        )),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

fn read_password_file(path: &Path) -> Result<String, String> {
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

/// Makes one connection ready before anything is sent, and says in plain words why it cannot.
pub(crate) async fn check(pool: &Pool) -> Result<(), Stop> {
    let Err(failure) = pool.check().await else {
        return Ok(());
    };
    let (exit, words) = match (failure.stage, &failure.cause) {
        (Stage::Auth, Cause::Local(_)) => (Exit::Unavailable, "there is no way to log in"),
        (Stage::Auth, _) => (Exit::NoPermission, "the relay refused the login"),
        (Stage::Tls | Stage::StartTls, _) => (
            Exit::Unavailable,
            "the relay cannot be reached securely (--ca FILE trusts an authority of your own)",
        ),
        _ => (Exit::Unavailable, "the relay cannot be reached"),
    };
    Err(Stop::new(
        exit,
        format_args!("{words}: {failure}; nothing was sent"),
    ))
}
