//! The edges: how messages come in, and how the engine is asked and told things.

mod accepting;
pub mod auth;
pub mod http;
pub mod metrics;
pub mod smtp;
