//! The pool.

use std::sync::Arc;

use smtp::{Content, Envelope};

use crate::config::{BuildError, PoolBuilder};
use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::relay::Relay;
use crate::report::{PoolStats, Report, Timings};

/// Warm connections to one relay or several. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Pool {
    _builder: Arc<PoolBuilder>,
}

impl Pool {
    /// Settings for a pool; [`PoolBuilder::build`] makes it.
    #[must_use]
    pub fn builder(relay: Relay) -> PoolBuilder {
        PoolBuilder::new(relay)
    }

    /// Sends one message and says what became of each recipient.
    ///
    /// # Cancel safety
    /// Dropping the future never harms a connection. A message still waiting is not sent; one
    /// already on the wire goes on, and whether it arrives is not told.
    #[expect(clippy::unused_async, reason = "not joined to the wire yet")]
    pub async fn send(&self, envelope: impl Into<Arc<Envelope>>, content: Content) -> Report {
        let (envelope, _) = (envelope.into(), content);
        let failure = Failure {
            stage: Stage::Queue,
            scope: Scope::Connection,
            kind: Kind::Transient,
            endpoint: None,
            cause: Cause::PoolClosed,
        };
        let results = envelope
            .recipients()
            .iter()
            .map(|_| Err(failure.clone()))
            .collect();
        Report {
            results,
            timings: Timings::default(),
            attempts: 0,
        }
    }

    /// Makes one connection ready, so that an unreachable relay, a refused certificate or a wrong
    /// password is known before the first message.
    ///
    /// # Errors
    /// What `send` would say of every message.
    #[expect(clippy::unused_async, reason = "not joined to the wire yet")]
    pub async fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// What it has done and holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        PoolStats::default()
    }

    /// Lets what is on the wire finish, says QUIT on every connection and waits for their end.
    /// Messages that still wait get [`Cause::PoolClosed`].
    #[expect(clippy::unused_async, reason = "not joined to the wire yet")]
    pub async fn close(&self) {}
}

impl PoolBuilder {
    /// Checks the settings and makes the pool. Connections are opened when there is work, or at
    /// once where `min_idle` is set; then a tokio runtime must be running.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Pool, BuildError> {
        Ok(Pool {
            _builder: Arc::new(self),
        })
    }
}
