//! The SMTP language, sans-I/O: bytes in, bytes out. No socket, no clock, no randomness of its own.
//!
//! The types say only what is valid: an [`Address`] parses and prints back to itself, an [`Envelope`]
//! has at least one recipient, [`Content`] is canonical from the moment it exists. The two machines,
//! [`client`] and [`server`], own no socket: their driver moves the bytes and tells them what arrived.
//!
//! Injection is impossible by construction: no constructor here lets CR, LF or NUL into anything
//! that is written on a command line.

pub mod address;
pub mod client;
pub mod command;
pub mod content;
pub mod domain;
pub mod envelope;
pub mod extension;
pub mod reply;
pub mod server;
pub mod status;
mod xtext;

pub use address::{Address, AddressError, ReversePath};
pub use command::{ClientName, ClientNameError, Command, CommandError};
pub use content::{Content, ContentError, Flaw};
pub use domain::{Domain, DomainError};
pub use envelope::{Envelope, EnvelopeError, EnvelopeId, Notify, Recipient, Ret};
pub use extension::{Extensions, Mechanism};
pub use reply::{Reply, ReplyCode, ReplyError, ReplyLimits, ReplyParser};
pub use status::EnhancedStatus;
