//! `mailrail send`, the real binary against a real sink.

mod support;

#[path = "e2e_send/bad_input.rs"]
mod bad_input;
#[path = "e2e_send/crash.rs"]
mod crash;
#[path = "e2e_send/mailing.rs"]
mod mailing;
#[path = "e2e_send/single.rs"]
mod single;
