//! Every example runs to its end against a server of its own.

use std::path::Path;
use std::process::Command;

#[test]
fn every_example_runs_and_says_what_it_did() {
    let built = Path::new(env!("CARGO_BIN_EXE_mailrail"))
        .parent()
        .unwrap()
        .join("examples");
    for (name, says) in [
        ("one_mail", "sent in"),
        ("engine", "someone@example.net: delivered"),
        ("pool_under_load", "messages/s"),
        ("attachments", "[Ok("),
        ("per_recipient", "nobody@example.net: will never work"),
    ] {
        let output = Command::new(built.join(name))
            .output()
            .unwrap_or_else(|error| {
                panic!("{name}: {error}; build it with `cargo build --examples`")
            });
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(says),
            "{name}: {output:?}"
        );
    }
}
