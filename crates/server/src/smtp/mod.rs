//! SMTP in: submission and relaying for known clients (RFC 5321, RFC 6409).
//!
//! ```text
//! edge ── accepts ──▶ connection ── steps smtp::server ──▶ session ── gathers ──▶ Acceptor::begin
//!                         ▲  └── reply in its place, once durable ◀── Pending ──────────┘
//!                       roster (deadlines, drain)
//! ```
//!
//! * `edge`: listening, settings that change, draining.
//! * `connection`: the driver of one connection: one read and one write a round.
//! * `session`: who the client is and what it may.
//! * `gather` and `header`: content into one buffer, its header section rewritten on the way.
//! * `clients`, `roster`: what each client takes up, and how long.
//!
//! Invariants: no 250 before the message is durable, and replies leave in the order of their
//! commands; nobody whom no rule of [`crate::auth`] names sends anything; content that leaves here
//! is canonical; every wait has an end and every buffer a bound.
//!
//! Not here: XCLIENT and PROXY are not offered; VRFY and EXPN say nothing (RFC 5321 §7.3).

mod acceptor;
mod clients;
mod config;
mod connection;
mod counters;
mod edge;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod header;
mod roster;
mod session;
mod stream;
mod tls;

pub use acceptor::{Acceptor, EnginePending, Once};
pub use config::{Limits, Listen, Settings};
pub use counters::Snapshot;
pub use edge::{Edge, ListenError, Watcher};
pub use header::ADDED_BYTES_MAX;
pub use tls::{Identity, IdentityError};

#[cfg(test)]
mod tests;
