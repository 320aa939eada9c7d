//! The `mailrail` binary.
fn main() {}
