//! Who may send what to whom, now: retry wheel, site queues, windows, paces, fairness.
//!
//! Pure: no clock, socket, thread or source of randomness. The caller passes `now` and a seed, hands in jobs, asks for what may go, and tells
//! how it went:
//!
//! ```text
//! insert ──► retry wheel ──due──► site queue ──poll: limits, fairness──► grant ──► settle
//!                ▲                    ▲                                              │
//!                └─── insert(retry_at) ─── put_back (rate refused: costs no attempt) ┘
//! ```
//!
//! | Question | Where |
//! |---|---|
//! | When is it due again? | [`Schedule::retry_at`]: curve by class, jitter, budget |
//! | May this site have one more? | suspension, breaker, window, pressure, rate, learned pace: [`Limit`] |
//! | Whose turn is it there? | priorities, then deficit round robin over tenants |
//! | May this tenant send? | [`TenantPolicy`]; at the front door: [`Admission`] |
//! | What was learned? | [`Schedule::export_learned`] |
//!
//! Invariants: a job comes out exactly once (granted, expired or removed); never before its `due_at`; never granted from its `expires_at` on;
//! no rate is exceeded over any span. Limits: four billion jobs, a timer's grain of about a millisecond, and one thread: an engine runs several schedules, each
//! with its own sites.

mod admission;
mod flows;
mod job;
mod learned;
mod policy;
mod poll;
mod schedule;
mod site;
mod slab;
mod tenant;
mod view;
mod wheel;

pub use admission::{Admission, Quota, Refusal};
pub use flow::Time;
pub use job::{Feedback, Handle, Job, PRIORITIES, PutBack, Retry, SiteId, TenantId};
pub use learned::Learned;
pub use policy::{Budget, Config, RETRY, SitePolicy, TenantPolicy, WindowPolicy};
pub use schedule::Schedule;
pub use site::Limit;
pub use view::{SiteView, TenantView, Totals};

/// Bytes that a waiting job takes in the schedule's memory.
pub const JOB_BYTES: usize = slab::NODE_BYTES;

#[cfg(test)]
mod tests;
