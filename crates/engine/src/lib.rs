//! The engine: takes messages, owns them until every recipient is settled, and says what became
//! of each.
//!
//! ```text
//! accept ─ spool (durable) ─ resolve ─ schedule ─ deliver ─ dispose ─ record
//!                                         └────────── retry ─────────┘
//! ```
//!
//! Invariants: no [`Accepted`] before the journal's sync; exactly one terminal event for each
//! recipient; a crash may duplicate what was on the wire, it never loses; a null reverse-path
//! never causes a notice; what is older than its `max_age` expires wherever it waits.

pub mod accept;
pub mod config;
pub mod deliver;
pub mod dispose;
pub mod dsn;
pub mod idempotency;
pub mod route;
pub mod signing;
pub mod statistics;
pub mod submission;
pub mod views;

mod admin;
mod aside;
mod asked;
mod batches;
mod clock;
mod core;
mod counters;
mod delays;
mod delivery;
mod engine;
mod expiry;
mod failed;
mod fate;
mod gate;
mod grant;
mod held;
mod intake;
mod jobs;
mod learned;
mod lifecycle;
mod machine;
mod meant;
mod notices;
mod pressure;
mod queue;
mod reload;
mod state;
mod suppressions;
mod world;

pub use accept::{AcceptError, Accepted, Pending};
pub use config::{Config, Limits, Policy, Tenant};
pub use engine::{Engine, Follower, Missed, OpenError, PulseError};
pub use idempotency::{Claim, ClaimError, Fingerprint};
pub use signing::Signers;
pub use submission::{Options, Submission};
pub use world::World;
