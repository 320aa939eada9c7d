//! The HTTP edge: mail in, in the shape of Resend's API; questions about it; the operator's levers.
//!
//! ```text
//! connection ─ limits ─ route ─ who may ─ body ─ compose ─ engine ─ JSON
//! ```
//!
//! Every answer that is no success is JSON, made in `problem`. A route and its description in
//! `/openapi.json` are one declaration, so neither is without the other. A message is answered
//! with 200 only once the engine says that it is durable (RFC 5321 §6.1 in spirit).
//!
//! Limits: connections, octets and time of a header section, octets and pace of a body, octets of
//! all bodies together, messages of a batch. Nothing is fetched on a client's behalf.

#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

mod admin;
mod body;
mod caller;
mod compose;
mod emails;
mod events;
mod health;
mod keys;
mod problem;
mod request;
mod routes;
mod send;
mod serve;
mod statistics;
mod suppressions;
mod templates;
mod views;
mod when;

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use tokio::sync::{Semaphore, watch};

use crate::auth::Access;
use crate::metrics::Metrics;
pub use keys::{load as load_keys, make as make_key};
use problem::{Kind, Problem};
pub use serve::{listen, serve};
pub use templates::{Templates, TemplatesError};

/// Ceilings of the HTTP edge.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Octets of one request's body; 64 MiB, for base64 takes a third more than the message.
    pub body_bytes_max: usize,
    /// Octets of all bodies over 64 KiB that are being read and worked on; 256 MiB.
    pub bodies_bytes_max: usize,
    /// The same of the others; 32 MiB.
    pub small_bodies_bytes_max: usize,
    /// Messages of one batch; 1000.
    pub batch_max: usize,
    /// Connections at once; 4096. More wait to be taken.
    pub connections_max: usize,
    /// Octets of a request's header section; 32 KiB.
    pub header_bytes_max: usize,
    /// How long a client may take for a header section, and be idle before it; 30 s.
    pub header_timeout: Duration,
    /// How long a client may pause within a body; 20 s. In all it may take so long and a second for
    /// each 32 KiB.
    pub body_timeout: Duration,
    /// How long a client may leave what it is sent unread before it is cut off; 60 s.
    pub write_timeout: Duration,
    /// A comment on an idle event stream this often, so that nobody between takes it for dead; 15 s.
    pub heartbeat: Duration,
    /// How long events gather before a stream looks again; 50 ms.
    pub gather: Duration,
    /// Event streams at once; 64.
    pub streams_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            bodies_bytes_max: 256 << 20,
            small_bodies_bytes_max: 32 << 20,
            batch_max: 1000,
            connections_max: 4096,
            header_bytes_max: 32 << 10,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            gather: Duration::from_millis(50),
            streams_max: 64,
        }
    }
}

/// What the routes work with. Clones are one.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    access: Access,
    templates: Arc<Templates>,
    metrics: Arc<Metrics>,
    config: Config,
    /// Room for bodies, in KiB.
    body_room: Arc<Semaphore>,
    small_body_room: Arc<Semaphore>,
    /// Turns for work that may take long; one for each core, so that the rest is served meanwhile.
    work_turns: Semaphore,
    stream_room: Arc<Semaphore>,
    /// True once the server is to stop: streams end, `/readyz` says no.
    stopping: watch::Sender<bool>,
}

impl Api {
    /// Routes to this engine for whom `access` lets in.
    #[must_use]
    pub fn new(
        engine: Engine,
        access: Access,
        templates: Arc<Templates>,
        metrics: Arc<Metrics>,
        config: Config,
    ) -> Self {
        Self(Arc::new(Inner {
            engine,
            access,
            templates,
            metrics,
            body_room: Arc::new(Semaphore::new(config.bodies_bytes_max >> 10)),
            small_body_room: Arc::new(Semaphore::new(config.small_bodies_bytes_max >> 10)),
            work_turns: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            stream_room: Arc::new(Semaphore::new(config.streams_max)),
            config,
            stopping: watch::Sender::new(false),
        }))
    }

    fn now(&self) -> jiff::Timestamp {
        views::timestamp(self.0.engine.now())
    }

    /// Does what may wait for the disk or take long where it keeps nobody from being served.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let api = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&api)).await;
        done.unwrap_or_else(|error| Err(Problem::new(Kind::Internal, error.to_string())))
    }

    /// How far ahead mail may be scheduled now.
    fn ahead_max(&self) -> jiff::SignedDuration {
        let ahead_max = self.0.engine.policy().limits.ahead_max;
        jiff::SignedDuration::try_from(ahead_max).unwrap_or(jiff::SignedDuration::MAX)
    }
}
