//! A pooled, pipelined, TLS-resumed SMTP client.
//!
//! [`Pool`] keeps warm connections to one relay or several, sends each message in as few round
//! trips as the relay allows, and gives one result per recipient. It needs a tokio runtime.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use client::{Pool, Relay};
//! use smtp::{Content, Envelope};
//!
//! let pool = Pool::builder("smtp://relay.example:587".parse::<Relay>()?).build()?;
//! let envelope = Envelope::single("me@example.org".parse::<smtp::Address>()?, "you@example.net".parse::<smtp::Address>()?);
//! let content = Content::from_text(b"Subject: hello\n\nHello.\n")?;
//! let report = pool.send(envelope, content).await;
//! for result in &report.results {
//!     match result {
//!         Ok(accepted) => println!("sent: {}", accepted.reply),
//!         Err(failure) => println!("not sent: {failure}"),
//!     }
//! }
//! pool.close().await;
//! # Ok(()) }
//! ```

mod budget;
mod config;
mod connection;
mod cpu;
mod dial;
mod dispatch;
mod endpoint;
mod failure;
mod job;
mod near;
mod network;
mod pool;
mod relay;
mod report;
mod sending;
mod shared;
mod stream;
mod tls;

pub use budget::Budget;
pub use config::{BuildError, Concurrency, PoolBuilder, Timeouts, Wire};
pub use failure::{Cause, Failure, Kind, Scope, Stage};
pub use network::{Link, Network};
pub use pool::Pool;
pub use relay::{Relay, RelayError, Secret, TlsMode};
pub use report::{Accepted, PoolStats, Report, Timings};
pub use sending::{Recall, Sending};
pub use tls::TlsContext;
