//! mailrail: hands mail to relays over pooled, pipelined, TLS-resumed SMTP connections.
//!
//! This is the façade: [`client`] sends, [`message`] composes and signs, [`smtp`] is the language
//! and [`flow`] the arithmetic of rates and retries; [`sink`] is a server to test against.

pub use {client, flow, message, sink, smtp};
