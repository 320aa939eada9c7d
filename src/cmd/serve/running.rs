//! A server that runs: what is open, and how it changes.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use server::auth::{Access, ApiKey, Scopes, StoredKey};
use server::http::{Api, Templates};
use server::metrics::Metrics;
use server::smtp::Edge;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::config::tenant::DEFAULT;
use crate::exit::{Exit, OrExit, Stop};
use crate::listening::{self, Listening};
use crate::out;

/// Engine and edges, open.
pub(super) struct Running {
    config: Config,
    engine: Engine,
    access: Access,
    templates: Arc<Templates>,
    smtp: Edge<Engine>,
    http: Http,
    listening: Listening,
}

/// The HTTP edge and how to end it.
struct Http {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// How often a full disk is asked whether it has room for what commands need.
const TRACES_EVERY: Duration = Duration::from_secs(5);

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl Running {
    /// Opens the data folder, then the edges, and says where they listen.
    ///
    /// * `salvage`: gives up what is damaged in the data folder.
    pub(super) async fn start(
        config: Config,
        file: Option<PathBuf>,
        salvage: bool,
    ) -> Result<Self, Stop> {
        let data_dir = config.data_dir.clone();
        make_private(&data_dir).or_exit_with(Exit::Unavailable, data_dir.display())?;
        let mut engine = config.engine().or_exit(Exit::Config)?;
        engine.salvage = salvage;
        let engine = open(engine).await?;
        let access = Access::new(config.rules());
        server::http::load_keys(&engine, &access);
        let templates = Templates::load(config.templates.as_deref()).or_exit(Exit::Config)?;
        let templates = Arc::new(templates);
        let smtp = Edge::open(
            &config.smtp_listen(),
            config.smtp_settings(),
            config.tls.identity.as_ref(),
            access.clone(),
            engine.clone(),
        )
        .or_exit(Exit::Unavailable)?;
        let mut metrics = Metrics::new(&engine);
        metrics.watch(smtp.watcher());
        let metrics = Arc::new(metrics);
        tokio::spawn(follow(Arc::clone(&metrics), engine.clone()));
        let api = Api::new(
            engine.clone(),
            access.clone(),
            Arc::clone(&templates),
            metrics,
            config.http_config(),
        );
        let (http, http_address) = Http::open(&config, api).await?;
        let (clear, encrypted) = smtp.addresses().split_at(config.listen.smtp.len());
        let listening = Listening {
            pid: std::process::id(),
            smtp: clear.to_vec(),
            smtps: encrypted.to_vec(),
            http: Some(http_address),
        };
        let mut running = Self {
            config,
            engine,
            access,
            templates,
            smtp,
            http,
            listening,
        };
        running
            .leave_traces(&data_dir)
            .or_exit_with(Exit::Unavailable, data_dir.display())?;
        running.announce(file.as_deref()).await?;
        running.config.forget_what_others_have();
        Ok(running)
    }

    /// For commands on this machine: where we are, and a key that ends with us. On a full disk they
    /// wait for room, and not the mail that would make it.
    fn leave_traces(&self, data_dir: &Path) -> std::io::Result<()> {
        let key = ApiKey::generate();
        let scopes = Scopes::ADMIN.and(Scopes::SEND).and(Scopes::READ);
        let name = "whoever reads the data folder, while this server runs";
        let now_ms = u64::try_from(self.engine.now().as_millis()).unwrap_or(u64::MAX);
        self.access
            .put_key(StoredKey::new(&key, name, DEFAULT.into(), scopes, now_ms));
        let (listening, data_dir) = (self.listening.clone(), data_dir.to_owned());
        let write = move || {
            listening::write_operator_key(&data_dir, &key.reveal())?;
            listening.write(&data_dir)
        };
        match write() {
            Err(error) if is_full(&error) => {
                tracing::warn!(
                    "the disk is full: commands on this machine do not find this server yet"
                );
                tokio::spawn(async move {
                    while write().is_err() {
                        tokio::time::sleep(TRACES_EVERY).await;
                    }
                });
                Ok(())
            }
            written => written,
        }
    }

    /// What a newcomer wants to know, and scripts wait for.
    async fn announce(&self, file: Option<&Path>) -> Result<(), Stop> {
        let file = file.map_or("none, all defaults".to_owned(), |file| {
            file.display().to_string()
        });
        out::line(format_args!("mailrail {}", env!("CARGO_PKG_VERSION")));
        out::line(format_args!("configuration: {file}"));
        out::line(format_args!("data: {}", self.config.data_dir.display()));
        let Listening {
            smtp, smtps, http, ..
        } = &self.listening;
        for (scheme, addresses) in [("smtp", smtp), ("smtps", smtps)] {
            for address in addresses {
                out::line(format_args!("listening on {scheme}://{address}"));
            }
        }
        if let Some(address) = http {
            out::line(format_args!("listening on http://{address}"));
        }
        if self.config.routes.is_empty() {
            tracing::warn!("there is no [[route]]: every recipient is refused with 550 5.7.1");
            out::line(
                "no route: mail is refused until mailrail.toml says where it goes, such as\n  \
                 [[route]]\n  domain = \"*\"\n  via = \"smtp://relay.example:587\"",
            );
        }
        if let Some(key) = self.first_key().await? {
            out::line(format_args!("API key, shown this once: {key}"));
        }
        out::line("ready");
        Ok(())
    }

    /// Made where there is none yet but the one that ends with us, and nobody keeps what we say.
    async fn first_key(&self) -> Result<Option<String>, Stop> {
        if self.access.keys().len() > 1 {
            return Ok(None);
        }
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            tracing::info!("there is no API key yet: `mailrail key create NAME` makes one");
            return Ok(None);
        }
        let scopes = Scopes::SEND.and(Scopes::READ);
        let made =
            server::http::make_key(&self.engine, &self.access, "first", DEFAULT.into(), scopes);
        let key = made
            .await
            .or_exit_with(Exit::Temporary, "cannot keep a first API key")?;
        Ok(Some(key.reveal()))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// One line for systemd's status.
    pub(super) fn summary(&self) -> String {
        let addresses = |addresses: &[SocketAddr]| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            addresses.join(" ")
        };
        let http = self.listening.http.map(|address| address.to_string());
        format!(
            "SMTP on {}, HTTP on {}, {} routes",
            addresses(self.smtp.addresses()),
            http.unwrap_or_default(),
            self.config.routes.len()
        )
    }

    /// Takes over what may change while connections are open; says what may not.
    pub(super) fn reload(&mut self, config: Config) {
        if let Err(error) = self.templates.reload(config.templates.as_deref()) {
            tracing::error!(%error, "the templates were not reloaded");
        }
        if let Err(error) = self.engine.reload(config.engine_routes(), config.policy()) {
            tracing::error!(%error, "the configuration was not reloaded");
            return;
        }
        self.access.replace_rules(config.rules());
        self.smtp
            .reload(config.smtp_settings(), config.tls.identity.as_ref());
        for name in needs_start(&self.config, &config) {
            tracing::warn!(setting = name, "changes with the next start only");
        }
        tracing::info!(
            routes = config.routes.len(),
            "the configuration was reloaded"
        );
        self.config = config;
        self.config.forget_what_others_have();
    }

    /// Lets what is on the wire end while the edges still answer; then as [`drain`](Self::drain).
    pub(super) async fn end(self) {
        self.engine.drain(self.config.limits.drain_max).await;
        self.drain().await;
    }

    /// Takes nothing more, lets what is on the wire end, and closes the data folder.
    pub(super) async fn drain(self) {
        let grace = self.config.limits.drain_max;
        tracing::info!(grace_s = grace.as_secs(), "draining");
        let _ = self.http.stop.send(());
        let (_, _) = tokio::join!(self.smtp.drain(grace), self.http.serving);
        self.engine.drain(grace).await;
        listening::remove(&self.config.data_dir);
        tracing::info!("drained");
    }
}

/// Opens the engine, or says what there is to be done.
async fn open(config: engine::Config) -> Result<Engine, Stop> {
    match Engine::open(config).await {
        Err(error @ engine::OpenError::Damaged { .. }) => Err(error).or_exit_with(
            Exit::Unavailable,
            "mail in the data folder is damaged; nothing was changed. Mend the disk, copy the folder, \
             then `mailrail serve --salvage` gives up what is damaged and serves the rest",
        ),
        opened => opened.or_exit(Exit::Unavailable),
    }
}

/// Settings that differ and are read at the start only.
fn needs_start(old: &Config, new: &Config) -> impl Iterator<Item = &'static str> {
    [
        ("data_dir", old.data_dir == new.data_dir),
        ("host", old.host == new.host),
        ("listen.smtp", old.listen.smtp == new.listen.smtp),
        ("listen.smtps", old.listen.smtps == new.listen.smtps),
        ("listen.http", old.listen.http == new.listen.http),
        ("history", old.history == new.history),
        (
            "limits.message_max, over HTTP",
            old.limits.message_max == new.limits.message_max,
        ),
        (
            "tls.authorities",
            old.tls.authorities == new.tls.authorities,
        ),
        ("log", old.log == new.log),
    ]
    .into_iter()
    .filter_map(|(name, is_same)| (!is_same).then_some(name))
}

/// Until the engine ends.
async fn follow(metrics: Arc<Metrics>, engine: Engine) {
    metrics.follow(&engine).await;
}

/// There is mail in it, which is nobody else's business.
fn make_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)
}

impl Http {
    /// Listens and serves until it is stopped.
    async fn open(config: &Config, api: Api) -> Result<(Self, SocketAddr), Stop> {
        let address = config.listen.http;
        let words = format!("cannot listen on {address}");
        let listener = server::http::listen(address).await;
        let listener = listener.or_exit_with(Exit::Unavailable, &words)?;
        let address = listener
            .local_addr()
            .or_exit_with(Exit::Unavailable, words)?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = server::http::serve(listener, api, stopped, config.limits.drain_max);
        let serving = tokio::spawn(serving);
        Ok((Self { stop, serving }, address))
    }
}
