//! The pool: what callers hold.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use flow::rate::Gcra;
use flow::rng::Rng;
use smtp::client::Credentials;
use smtp::{Content, Domain, Envelope};
use tokio::sync::oneshot;

use crate::config::{BuildError, Concurrency, PoolBuilder};
use crate::connection::QUIT_MAX;
use crate::dial::Dialer;
use crate::dispatch::{Dispatch, DispatchConfig};
use crate::endpoint::Endpoints;
use crate::failure::Failure;
use crate::relay::{Relay, TlsMode};
use crate::report::{PoolStats, Report};
use crate::sending::{Recall, Sending};
use crate::shared::{Config, Retries, Shared, gone};
use crate::tls::TlsClients;

/// The rate may run behind by this much and catch up, since a timer fires late.
const RATE_SLACK: Duration = Duration::from_millis(5);

/// Warm connections to one relay or several. Cheap to clone; all clones share the connections,
/// which close when the last clone is dropped.
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// Closes the pool when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.start_closing();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Settings for a pool; [`PoolBuilder::build`] makes it.
    #[must_use]
    pub fn builder(relay: Relay) -> PoolBuilder {
        PoolBuilder::new(relay)
    }

    /// Sends one message and says what became of each recipient. More recipients than a server
    /// takes at once travel in several transactions.
    ///
    /// # Cancel safety
    /// Dropping the future never harms a connection. A message still waiting is not sent; one
    /// already on the wire goes on, and whether it arrives is not told.
    pub async fn send(&self, envelope: impl Into<Arc<Envelope>>, content: Content) -> Report {
        let (envelope, original) = (envelope.into(), content.clone());
        let shared = &self.handle.shared;
        let wait_max = shared.config.wait_max;
        let first = self.send_recalling(Arc::clone(&envelope), content, wait_max, original.clone());
        let report = first.await;
        match &shared.retries {
            // Boxed, as all rare paths here are: a future is as large as its largest path.
            Some(retries) => {
                Box::pin(shared.send_again(&envelope, original, retries, report)).await
            }
            None => report,
        }
    }

    /// Sends one message once, whatever the policy of retries, for a caller that has its content
    /// elsewhere, too, as on a disk: here it leaves memory when it is written. What was written and
    /// cannot have been taken, as behind a 421, is recalled and sent by another connection. The
    /// message is in the queue when this returns.
    ///
    /// * `wait_max`: for a connection, where that is less than [`PoolBuilder::wait_max`]; then it fails
    ///   with [`Cause::Deadline`](crate::Cause::Deadline).
    ///
    /// # Cancel safety
    /// That of [`Pool::send`].
    pub fn send_recalling<'a, R: Recall + 'a>(
        &self,
        envelope: Arc<Envelope>,
        content: Content,
        wait_max: Duration,
        original: R,
    ) -> Sending<'a, R> {
        let shared = Arc::clone(&self.handle.shared);
        let deadline = shared.now() + wait_max.min(shared.config.wait_max);
        Sending::begin(shared, envelope, content, deadline, original)
    }

    /// Makes one connection ready, so that an unreachable relay, a refused certificate or a wrong
    /// password is known before the first message.
    ///
    /// # Errors
    /// What `send` would say of every message.
    pub async fn check(&self) -> Result<(), Failure> {
        let (told, hears) = oneshot::channel();
        let shared = &self.handle.shared;
        let now = shared.now();
        shared.decide(now, |dispatch| dispatch.check(told, now));
        hears.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Opens the connections that `min_idle` asks for, without waiting for them. [`Pool::send`]
    /// does so too; this lets it happen before the first message.
    pub fn warm_up(&self) {
        self.handle.shared.warm_up();
    }

    /// From now on `host` is dialed at these addresses, and open connections stay. For a caller
    /// that resolves names itself, as one that reads MX records does.
    pub fn set_addresses(&self, host: &Domain, port: u16, addresses: &[IpAddr]) {
        self.handle.shared.set_addresses(host, port, addresses);
    }

    /// What it has done and holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.handle.shared.dispatch().stats()
    }

    /// Lets what is on the wire finish, says QUIT on every connection and waits for their end.
    /// Messages that still wait get [`Cause::PoolClosed`](crate::Cause::PoolClosed).
    pub async fn close(&self) {
        let shared = &self.handle.shared;
        shared.start_closing();
        loop {
            let ended = shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if shared.dispatch().stats.connections_open == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl PoolBuilder {
    /// Checks the settings and makes the pool. Connections are opened when there is work.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Pool, BuildError> {
        let credentials = self
            .relays
            .iter()
            .map(credentials)
            .collect::<Result<Vec<_>, _>>()?;
        let checks = |relay: &Relay| matches!(relay.tls, TlsMode::Required | TlsMode::Implicit);
        let needs_roots = self.relays.iter().any(checks) && !self.tls.accept_any_certificate;
        let dispatch = Dispatch::new(DispatchConfig {
            cap: self.concurrency.cap(),
            min_idle: self.min_idle,
            window: self.wire.window(),
            is_adaptive: matches!(self.concurrency, Concurrency::Auto { .. }),
            rate: self
                .rate
                .map(|rate| Gcra::with_burst(rate, 1 + rate.count_in(RATE_SLACK))),
        });
        let mut rng = Rng::new(self.retry_seed);
        let endpoints = Endpoints::new(self.relays, credentials, rng.fork());
        let tls = match self.tls_context {
            Some(context) => context.0,
            None => Arc::new(TlsClients::new(&self.tls, needs_roots)?),
        };
        let dialer = Dialer {
            tls,
            timeouts: Arc::clone(&self.timeouts),
            ehlo_name: self.ehlo_name,
            allow_plaintext_auth: self.allow_plaintext_auth,
            local_ip: self.local_ip,
            network: self.network,
        };
        let config = Config {
            wire: self.wire,
            messages_per_connection: self.messages_per_connection,
            age_max: self.age_max,
            idle_max: self.idle_max,
            wait_max: self.wait_max,
            tick: self.timeouts.shortest().min(self.idle_max).min(QUIT_MAX),
        };
        let retries = self
            .retry
            .map(|policy| Box::new(Retries::new(*policy, rng)));
        let budget = self.budget;
        let shared = Arc::new_cyclic(|pool| {
            let member = budget.map(|budget| budget.join(Weak::clone(pool)));
            Shared::new(config, dialer, endpoints, dispatch, retries, member)
        });
        Ok(Pool {
            handle: Arc::new(Handle { shared }),
        })
    }
}

fn credentials(relay: &Relay) -> Result<Option<Credentials>, BuildError> {
    let Some(user) = &relay.user else {
        return Ok(None);
    };
    let password = relay
        .password
        .as_ref()
        .ok_or_else(|| BuildError::NoPassword(relay.to_string()))?;
    Credentials::new(user, password.expose())
        .map(Some)
        .map_err(|_| BuildError::Credentials(relay.to_string()))
}
