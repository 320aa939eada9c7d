//! The commands, one module each: flags, checked settings, and what is done with them.

pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod dkim;
pub(crate) mod events;
pub(crate) mod relay;
pub(crate) mod send;
pub(crate) mod sink;
pub(crate) mod wire;
