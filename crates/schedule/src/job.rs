//! What is scheduled, and what is told back about it.

use std::time::Duration;

use flow::Time;
use flow::retry::GiveUpReason;

/// A site, as long as the schedule knows it: see [`crate::Schedule::forget_idle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SiteId(pub u32);

/// A tenant; good for the life of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TenantId(pub u32);

/// Where a job stands in the schedule: good as long as it waits. Afterwards it may come to name
/// another job, which the key tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(pub(crate) u32);

impl Handle {
    /// No job's.
    pub const NONE: Self = Self(crate::slab::NIL);
}

/// How many priorities there are; 0 goes first.
pub const PRIORITIES: usize = 3;

/// One transaction that waits to be made: a message for some of its recipients at one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Job {
    /// The caller's own; handed back as it came.
    pub key: u64,
    /// Where to.
    pub site: SiteId,
    /// Whose.
    pub tenant: TenantId,
    /// 0 (high), 1, 2 (bulk); more counts as 2.
    pub priority: u8,
    /// Recipients; what a tenant's share is counted in. 0 counts as 1.
    pub cost: u16,
    /// Attempts made.
    pub attempts: u16,
    /// How often it was put back since it was last inserted. The schedule counts.
    pub refusals: u8,
    /// Not before.
    pub due_at: Time,
    /// Not after: from then on it comes out as expired, wherever it waits.
    pub expires_at: Time,
    /// When it was granted. The schedule fills it in; leave it as it was granted until the job is settled.
    pub granted_at: Time,
}

/// How a grant ended, as far as it concerns the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// The site took the message.
    Delivered {
        /// From the grant to the final reply; without the making of a connection.
        rtt: Duration,
    },
    /// The site answered, 4yz or 5yz, about a recipient or the message. Says nothing against the site.
    Refused,
    /// The site spoke of rate or load within a session: 421, 4.7.x about the rate, 452 4.3.1. Slows its pace.
    RateRefused,
    /// The site did not take one more connection: 421 or the like in place of a greeting. Cuts its window to
    /// what was in flight beside it; counts for the breaker only if that was nothing.
    ConnectionRefused,
    /// No connection: refused, unreachable, timed out.
    ConnectFailed,
    /// Connected, but no session: greeting, EHLO, TLS or AUTH failed for now.
    HandshakeFailed,
    /// The connection was lost in the middle.
    Lost,
    /// It was not tried after all. Says nothing.
    Withdrawn,
}

impl Feedback {
    /// What several recipients' attempts in one transaction say together: a word of rate counts
    /// more than what went well, and that more than a refusal.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.weight() > self.weight() {
            other
        } else {
            self
        }
    }

    fn weight(self) -> u8 {
        match self {
            Self::Withdrawn => 0,
            Self::Lost => 1,
            Self::ConnectFailed => 2,
            Self::HandshakeFailed => 3,
            Self::ConnectionRefused => 4,
            Self::Refused => 5,
            Self::Delivered { .. } => 6,
            Self::RateRefused => 7,
        }
    }
}

/// What to do with a job whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Insert it again with this `due_at`.
    At(Time),
    /// Leave it at this failure.
    GiveUp(GiveUpReason),
    /// There is no time for another try before it expires.
    Expired,
}

/// What became of a job that was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a spent job was not taken back"]
pub enum PutBack {
    /// It waits at the head of its site's ready jobs.
    Kept(Handle),
    /// It was refused as often as [`crate::Config::put_backs_max`] allows. The schedule did not take it: count an
    /// attempt, ask [`crate::Schedule::retry_at`] with `Throttled`, and insert it again.
    Spent,
}
