//! The engine itself: what edges and embedders hold.

use std::sync::Arc;
use std::time::Duration;

use smtp::Address;
use store::{MessageId, Time};

use crate::accept::{AcceptError, Accepted, Pending};
use crate::config::Config;
use crate::idempotency::{Claim, ClaimError, Fingerprint, InFlight, table_key};
use crate::submission::Submission;
use crate::views::{
    Filter, Followed, Health, MessageView, QueueLine, SiteView, Stats, Suppression,
};

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it, it is damaged, or it cannot be written.
    #[error("the data folder {path}: {reason}")]
    Data {
        /// The folder.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting that cannot be used.
    #[error("{0}")]
    Config(String),
}

/// A running engine. Cheap to clone; all clones are one engine, which stops when the last goes.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
}

struct Core {
    config: Config,
    claims: InFlight,
}

impl Engine {
    /// Opens the data folder, takes up what is unsettled, and begins to deliver. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[allow(clippy::unused_async)]
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Ok(Self {
            core: Arc::new(Core {
                config,
                claims: InFlight::default(),
            }),
        })
    }

    /// The engine's clock: time since the Unix epoch, never running backwards within a process.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::ZERO
    }

    /// An id for a message that is to be accepted, to be made known before it is.
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        MessageId::from_bits(0)
    }

    /// Takes a message; returns once it is durable.
    ///
    /// # Errors
    /// See [`AcceptError`]; nothing was kept then.
    pub async fn accept(&self, submission: Submission) -> Result<Accepted, AcceptError> {
        self.begin_accept(submission)?.await
    }

    /// Puts a message into the commit group being filled. Several that begin together share one
    /// sync; each is accepted only when its [`Pending`] says so.
    ///
    /// # Errors
    /// What is known at once; see [`AcceptError`].
    pub fn begin_accept(&self, _submission: Submission) -> Result<Pending, AcceptError> {
        let _ = &self.core.config;
        Err(AcceptError::Draining)
    }

    /// Whether a route leads to this recipient for this tenant; for an edge to refuse at RCPT.
    ///
    /// # Errors
    /// [`AcceptError::NoRoute`].
    pub fn check_recipient(&self, _tenant: &str, _recipient: &Address) -> Result<(), AcceptError> {
        Ok(())
    }

    /// Whether mail of this tenant would be taken now; for an edge to refuse early, at MAIL.
    ///
    /// # Errors
    /// Pressure, rate, quota, suspension.
    pub fn check_tenant(&self, _tenant: &str) -> Result<(), AcceptError> {
        Ok(())
    }

    /// Claims an idempotency key for a request that makes `messages` messages; the request
    /// then accepts each under its id, whether the key was new or not, and drops the claim.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub async fn claim(
        &self,
        tenant: &str,
        key: &str,
        _fingerprint: Fingerprint,
        messages: usize,
    ) -> Result<Claim, ClaimError> {
        let table_key = table_key(tenant, key)?;
        let held = self.core.claims.hold(&table_key);
        self.durable().await?;
        Ok(Claim {
            ids: (0..messages).map(|_| self.next_id()).collect(),
            is_repeated: false,
            _held: held.ok_or(ClaimError::InFlight)?,
        })
    }

    /// A message and each recipient's state, from the spool while it lives, then from history.
    #[must_use]
    pub fn status(&self, _id: MessageId) -> Option<MessageView> {
        None
    }

    /// Every event from now on. A follower that falls far behind loses the oldest and is told so.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower {
            receiver: tokio::sync::broadcast::channel(1).1,
        }
    }

    /// Waiting mail by site and tenant.
    #[must_use]
    pub fn queue(&self, _filter: &Filter) -> Vec<QueueLine> {
        Vec::new()
    }

    /// Every site that has mail or is remembered.
    #[must_use]
    pub fn sites(&self) -> Vec<SiteView> {
        Vec::new()
    }

    /// One site.
    #[must_use]
    pub fn site(&self, _name: &str) -> Option<SiteView> {
        None
    }

    /// Stops deliveries to a site, or of a tenant, or both as the filter says, until `resume`.
    /// Survives a restart. Only `site` and `tenant` of the filter count.
    ///
    /// # Errors
    /// [`AcceptError::Poisoned`] where it could not be made durable.
    pub async fn suspend(&self, _filter: &Filter) -> Result<(), AcceptError> {
        self.durable().await
    }

    /// Takes a suspension back.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn resume(&self, _filter: &Filter) -> Result<(), AcceptError> {
        self.durable().await
    }

    /// Makes what waits due now; held recipients too. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn retry(&self, _filter: &Filter) -> Result<u64, AcceptError> {
        self.durable().await.map(|()| 0)
    }

    /// Takes back what is not on the wire and not settled. Says how many recipients.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn cancel(&self, _filter: &Filter) -> Result<u64, AcceptError> {
        self.durable().await.map(|()| 0)
    }

    /// Moves a scheduled message to another time. `None`: no such message, or it is past that.
    ///
    /// # Errors
    /// As for `suspend`; `TooFarAhead`.
    pub async fn reschedule(
        &self,
        _id: MessageId,
        _send_at: Time,
    ) -> Result<Option<()>, AcceptError> {
        self.durable().await.map(Some)
    }

    /// The suppression list of a tenant: addresses that get no mail of it, in order.
    #[must_use]
    pub fn suppressions(&self, _tenant: &str) -> Vec<Suppression> {
        Vec::new()
    }

    /// Puts an address on a tenant's suppression list. Durable when it returns.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn suppress(
        &self,
        _tenant: &str,
        _address: &Address,
        _reason: &str,
    ) -> Result<(), AcceptError> {
        self.durable().await
    }

    /// Takes an address off; says whether it was there.
    ///
    /// # Errors
    /// As for `suspend`.
    pub async fn unsuppress(&self, _tenant: &str, _address: &Address) -> Result<bool, AcceptError> {
        self.durable().await.map(|()| false)
    }

    /// How the engine is.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            refusing: None,
            window_factor: 1.0,
            pressures: Vec::new(),
            cpu_share: 0.0,
            memory_bytes: 0,
            memory_bytes_max: None,
            disk_free_bytes: 0,
            journal_sync: Duration::ZERO,
            recovering: false,
            draining: false,
        }
    }

    /// Counters and levels.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Accepts nothing more, lets what is on the wire end within `grace`, writes what was learned,
    /// and closes the journal. What waits is kept for the next start.
    pub async fn drain(&self, _grace: Duration) {
        let _ = self.durable().await;
    }

    #[allow(clippy::unused_async)]
    async fn durable(&self) -> Result<(), AcceptError> {
        Ok(())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Follower {
    receiver: tokio::sync::broadcast::Receiver<Followed>,
}

/// The follower was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed(pub u64);

impl Follower {
    /// The next event; `None` when the engine has stopped.
    ///
    /// # Errors
    /// [`Missed`]: so many events were lost to this follower; it goes on with the next.
    pub async fn next(&mut self) -> Result<Option<Followed>, Missed> {
        use tokio::sync::broadcast::error::RecvError;
        match self.receiver.recv().await {
            Ok(followed) => Ok(Some(followed)),
            Err(RecvError::Closed) => Ok(None),
            Err(RecvError::Lagged(events)) => Err(Missed(events)),
        }
    }
}
