//! What no input may break, as functions from arbitrary bytes to nothing or a panic.
//!
//! The same functions run in two ways: `src/bin/smoke.rs` feeds each a fixed number of seeded
//! mutations of its examples on stable Rust, as part of `make test`; `src/bin/libfuzzer.rs` lets
//! libFuzzer look for inputs (`make fuzz`). An input that breaks something becomes an example of its
//! target, and a test of the crate that it broke.

mod addresses;
mod bytes;
mod client;
mod commands;
mod composing;
mod content;
mod dialogue;
mod eml;
mod handshake;
mod history;
mod intake;
pub mod mutate;
mod recovery;
mod replies;
mod server;
mod spool;

/// One function that must bear any input.
#[derive(Debug)]
pub struct Target {
    /// What it is called on command lines.
    pub name: &'static str,
    /// Panics if the input breaks what must hold.
    pub check: fn(&[u8]),
    /// Inputs to begin with: typical ones, and ones that broke something once.
    pub examples: &'static [&'static [u8]],
    /// What mutations insert, beside single octets.
    pub words: &'static [&'static str],
    /// Mutations in the short run: a few seconds' worth.
    pub rounds: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    commands::TARGET,
    replies::TARGET,
    addresses::TARGET,
    content::TARGET,
    server::TARGET,
    client::TARGET,
    dialogue::TARGET,
    handshake::TARGET,
    eml::TARGET,
    intake::TARGET,
    composing::TARGET,
    spool::TARGET,
    history::TARGET,
    recovery::TARGET,
];
