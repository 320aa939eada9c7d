#!/usr/bin/env bash
# usage: scripts/fuzz.sh SECONDS [TARGET…]
#
# Lets libFuzzer look for inputs that break something, for so many seconds a target. Needs nightly Rust
# and a C++ compiler. What it finds stays in fuzz/corpus; what breaks something is named and kept in
# fuzz/artifacts, and `smoke --one TARGET FILE` repeats it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET…]}
shift

cargo +nightly --version >/dev/null 2>&1 || { echo "nightly Rust is missing: rustup toolchain install nightly" >&2; exit 1; }
command -v c++ >/dev/null || { echo "a C++ compiler is missing: apt-get install g++" >&2; exit 1; }

# What cargo-fuzz would pass, but for the sanitizers: there is no unsafe code here.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for kind in inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$kind"
done
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$coverage cargo +nightly build --locked --release --features libfuzzer --bin libfuzzer --target "$host"
binary=${CARGO_TARGET_DIR:-target}/$host/release/libfuzzer

cargo run -q --locked --bin smoke -- --corpus corpus
[ $# -gt 0 ] || set -- $(basename -as .dict corpus/*.dict)
broken=()
for target in "$@"; do
    mkdir -p "artifacts/$target"
    log=artifacts/$target.log
    if MAILRAIL_FUZZ_TARGET=$target "$binary" "corpus/$target" -dict="corpus/$target.dict" \
        -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 >"$log" 2>&1; then
        echo "$target: $(grep '^Done' "$log")"
    else
        broken+=("$target")
        echo "$target: broken"
        grep -vE '^#|^INFO|^\\[0-9]' "$log" | tail -n 40
    fi
done
[ ${#broken[@]} -eq 0 ] || { echo "broken: ${broken[*]}"; exit 1; }
