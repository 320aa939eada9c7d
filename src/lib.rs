//! mailrail: owns mail until it is delivered, over pooled, pipelined, TLS-resumed SMTP connections.
//!
//! This is the façade: [`engine`] makes mail durable and delivers it, [`store`] keeps it and its
//! history; [`client`] sends without an engine, [`message`] composes and signs, [`smtp`] is the language
//! and [`flow`] the arithmetic of rates and retries; [`sink`] is a server to test against.

pub use {client, engine, flow, message, sink, smtp, store};
