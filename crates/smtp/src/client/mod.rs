//! The client's side of a connection, in the order it happens.
//!
//! [`Handshake`] goes from the greeting to a session that may send mail; it alone can make a
//! [`Session`], so mail before EHLO, or AUTH after mail, does not compile. [`Session`] carries
//! transactions in one of four [`Mode`]s and says [`Settled`] once for each.

mod auth;
mod handshake;
mod mode;
mod session;
mod settled;
mod transaction;
mod writing;

pub use auth::{Credentials, CredentialsError};
pub use handshake::{Handshake, HandshakeConfig, HandshakeError, HandshakeStage, StartTls, Step};
pub use mode::{BeginError, Mode, ProtocolError};
pub use session::Session;
pub use settled::{End, Marks, Settled, TransactionStage};
