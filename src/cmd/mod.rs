//! The commands, one module each: flags, checked settings, and what is done with them.

pub(crate) mod api;
pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod dkim;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod levers;
pub(crate) mod list;
pub(crate) mod queue;
pub(crate) mod relay;
pub(crate) mod send;
pub(crate) mod sendmail;
pub(crate) mod serve;
pub(crate) mod sink;
pub(crate) mod sites;
pub(crate) mod statistics;
pub(crate) mod status;
pub(crate) mod suppress;
pub(crate) mod wire;
