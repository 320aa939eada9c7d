//! A scripted SMTP server: it takes mail as fast as it can, or as badly as it is told to.
//!
//! Tests, the demo and the benchmarks run it in-process on `127.0.0.1:0`; `mailrail sink` runs it
//! alone. One task serves one connection: read once, step the machine until the octets are used
//! up, write the replies once. Content that nobody keeps is scanned and nothing else.
//!
//! The link delay is a property of the link: octets become readable one round trip after they
//! came, so that a flight shares it. It lies wholly on the way in, which a client cannot tell from
//! half of it each way. A TCP connect is answered by the kernel and cannot be delayed; the
//! greeting is, so that connecting and being greeted takes one round trip instead of two.

mod builder;
mod clock;
mod connection;
mod greylist;
mod link;
mod listen;
mod maildir;
mod record;
pub mod script;
mod session;
mod stats;
mod stream;
mod tls;

pub use builder::{Builder, StartError, TlsMode};
pub use listen::Sink;
pub use record::{Duplicates, Record};
pub use script::{Action, Rule, Script, ScriptError, Stage};
pub use stats::Report;
pub use tls::{Identity, IdentityError};
