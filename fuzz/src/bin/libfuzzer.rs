//! All targets under libFuzzer, one at a time: `MAILRAIL_FUZZ_TARGET` names it. See scripts/fuzz.sh.

#![no_main]

use std::sync::LazyLock;

use mailrail_fuzz::{TARGETS, Target};

static CHOSEN: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("MAILRAIL_FUZZ_TARGET").expect("MAILRAIL_FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (CHOSEN.check)(input));
