//! How the commands of an operator reach a server: over its HTTP API.
//!
//! On the machine of the server they find it by its data folder: where it listens, and a key that is
//! valid while it runs, for whoever may read that folder may as well read the mail in it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, RequestBuilder};

use crate::exit::{Exit, OrExit, Stop};
use crate::listening::Listening;

/// Octets of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long a server may take to begin an answer.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Where systemd's unit keeps the data.
const UNIT_DATA_DIR: &str = "/var/lib/mailrail";

/// Flags of every command that asks a server.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// The server's API [default: the one that runs on the data folder]
    #[arg(long, value_name = "URL", env = "MAILRAIL_SERVER", global = true)]
    server: Option<String>,

    /// Read the API key from the first line of this file [else $MAILRAIL_KEY, else the data folder's]
    #[arg(long, value_name = "FILE", global = true)]
    key_file: Option<PathBuf>,

    /// The server's data folder [default: mailrail-data, else /var/lib/mailrail]
    #[arg(long, value_name = "DIR", env = "MAILRAIL_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,

    /// Print what the server answers, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A server and the key to it.
pub(crate) struct Api {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    key: Option<String>,
}

impl ServerArgs {
    /// Where there are no flags: what the environment says.
    pub(crate) fn of_environment() -> Self {
        Self {
            server: std::env::var("MAILRAIL_SERVER").ok(),
            data_dir: std::env::var_os("MAILRAIL_DATA_DIR").map(PathBuf::from),
            ..Self::default()
        }
    }

    /// Finds server and key.
    pub(crate) fn api(&self) -> Result<Api, Stop> {
        let local = self.data_dirs().find_map(|dir| {
            let listening = Listening::read(&dir).ok()?;
            Some((dir, listening))
        });
        let local_base = local
            .as_ref()
            .and_then(|(_, listening)| listening.http)
            .map(|address| format!("http://{}", reachable(address)));
        let base = self.server.clone().or_else(|| local_base.clone());
        let base = base.ok_or_else(|| {
            let text = "no server found: is `mailrail serve` running? --server URL or --data-dir DIR \
                        says where";
            Stop::new(Exit::Unavailable, text)
        })?;
        let base = base.trim_end_matches('/').to_owned();
        // The local key goes to the local server only.
        let local_dir = local.filter(|_| local_base.as_ref() == Some(&base));
        Ok(Api {
            agent: agent(&base)?,
            key: self.key(local_dir.as_ref().map(|(dir, _)| dir.as_path()))?,
            base,
        })
    }

    fn data_dirs(&self) -> impl Iterator<Item = PathBuf> {
        match &self.data_dir {
            Some(dir) => vec![dir.clone()],
            None => vec!["mailrail-data".into(), UNIT_DATA_DIR.into()],
        }
        .into_iter()
    }

    fn key(&self, local: Option<&Path>) -> Result<Option<String>, Stop> {
        if let Some(path) = &self.key_file {
            let key = std::fs::read_to_string(path);
            let key = key.or_exit_with(Exit::Usage, format!("--key-file {}", path.display()))?;
            return Ok(key.lines().next().map(|line| line.trim().to_owned()));
        }
        if let Ok(key) = std::env::var("MAILRAIL_KEY") {
            return Ok(Some(key.trim().to_owned()));
        }
        Ok(local.and_then(|dir| crate::listening::read_operator_key(dir).ok()))
    }
}

/// Where to dial what listens: whoever listens everywhere listens on loopback too.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn agent(base: &str) -> Result<Agent, Stop> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        // The key goes to whom it was meant for.
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("mailrail/", env!("CARGO_PKG_VERSION")))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_connect(Some(ANSWER_TIMEOUT));
    if base.starts_with("https://") {
        let roots = rustls_native_certs::load_native_certs().certs;
        let roots = roots
            .iter()
            .map(|root| Certificate::from_der(root).to_owned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots.collect::<Vec<_>>()))
            .unversioned_rustls_crypto_provider(provider);
        config = config.tls_config(tls.build());
    } else if !base.starts_with("http://") {
        let text = format!("--server {base}: it begins with http:// or https://");
        return Err(Stop::new(Exit::Usage, text));
    }
    Ok(config.build().new_agent())
}

impl Api {
    /// The server that runs on this data folder, with the folder's own key, whatever the environment says.
    pub(crate) fn of_data_dir(dir: &Path) -> Result<Self, Stop> {
        let unreadable = || format!("no server runs on {}", dir.display());
        let listening = Listening::read(dir).or_exit_with(Exit::Unavailable, unreadable())?;
        let key = crate::listening::read_operator_key(dir);
        let address = listening.http.map(reachable);
        let address = address.ok_or_else(|| Stop::new(Exit::Unavailable, unreadable()))?;
        let base = format!("http://{address}");
        Ok(Self {
            agent: agent(&base)?,
            base,
            key: Some(key.or_exit_with(Exit::Unavailable, unreadable())?),
        })
    }

    /// GET of what is not JSON.
    pub(crate) fn text(&self, path: &str) -> Result<String, Stop> {
        let mut answer = self.ask(path, &[])?;
        answer
            .body_mut()
            .read_to_string()
            .or_exit_with(Exit::Temporary, "the answer broke off")
    }

    /// POST that may be repeated under the same idempotency key.
    pub(crate) fn post_once(&self, path: &str, body: &Value, key: &str) -> Result<Value, Stop> {
        let request = self.with_key(self.agent.post(self.url(path)), &[]);
        let request = request.header("Idempotency-Key", key);
        self.checked(request.send_json(body)).and_then(read_json)
    }

    /// GET.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Stop> {
        self.ask(path, query).and_then(read_json)
    }

    /// POST with a body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Stop> {
        let request = self.with_key(self.agent.post(self.url(path)), &[]);
        self.checked(request.send_json(body)).and_then(read_json)
    }

    /// DELETE.
    pub(crate) fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Stop> {
        let request = self.with_key(self.agent.delete(self.url(path)), query);
        self.checked(request.call()).and_then(read_json)
    }

    /// The events of an endless stream (`text/event-stream`), each with its name and its data.
    pub(crate) fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut each: impl FnMut(&str, &str) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let body = self.ask(path, query)?.into_body().into_reader();
        let mut name = String::new();
        for line in BufReader::new(body).lines() {
            let line = line.or_exit_with(Exit::Temporary, "the stream broke off")?;
            match line.split_once(": ") {
                Some(("event", event)) => event.clone_into(&mut name),
                Some(("data", data)) => each(&name, data)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Response<Body>, Stop> {
        let request = self.with_key(self.agent.get(self.url(path)), query);
        self.checked(request.call())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn with_key<B>(&self, request: RequestBuilder<B>, query: &[(&str, &str)]) -> RequestBuilder<B> {
        let request = request.query_pairs(query.iter().copied());
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    /// An answer that says yes, or in the server's words why not.
    fn checked(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Stop> {
        let answer = answer.map_err(|error| {
            let text = format!("{}: {error} (is `mailrail serve` running?)", self.base);
            Stop::new(Exit::Unavailable, text)
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = read_json(answer).ok();
        let said = said.as_ref().and_then(|said| said["message"].as_str());
        let said = said.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given"));
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                " (--key-file FILE or MAILRAIL_KEY gives a key)"
            }
            _ => "",
        };
        Err(Stop::new(exit_of(status), format!("{said}{hint}")))
    }
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NoPermission,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Exit::Temporary,
        status if status.is_server_error() => Exit::Temporary,
        _ => Exit::Data,
    }
}

fn read_json(answer: Response<Body>) -> Result<Value, Stop> {
    let body = answer
        .into_body()
        .into_with_config()
        .limit(ANSWER_BYTES_MAX);
    body.read_json()
        .or_exit_with(Exit::Temporary, "what the server answered is not JSON")
}

/// A path segment with everything escaped that could end it.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(octet.into());
            }
            octet => escaped.push_str(&format!("%{octet:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_a_segment_is_escaped() {
        assert_eq!(segment("a@b.example"), "a%40b.example");
        assert_eq!(segment("../x?y#z"), "..%2Fx%3Fy%23z");
    }
}
