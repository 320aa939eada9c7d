#!/usr/bin/env bash
# usage: scripts/test.sh
#
# Sets up, then checks everything that CI checks, step by step. Goes on after a step that fails, so that
# one run shows all; the closing table says how long each took and which failed.
set -uo pipefail
cd "$(dirname "$0")/.."

table=() failed=()
step() {
    local name=$1 start=$SECONDS result=ok
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || { result=FAILED; failed+=("$name"); }
    table+=("$(printf '%-10s %5d s  %s' "$name" $((SECONDS - start)) "$result")")
}
has() { command -v "$1" >/dev/null; }

format() {
    cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check
}
lint() {
    cargo clippy --locked --workspace --all-targets -- -D warnings &&
        cargo clippy --locked --manifest-path fuzz/Cargo.toml -- -D warnings
}

tests=(cargo test --locked --workspace --lib --bins --tests --examples)
has cargo-nextest && tests=(cargo nextest run --locked --workspace)

step setup scripts/setup.sh test
step format format
step clippy lint
step tests "${tests[@]}"
step doctests cargo test --locked --workspace --doc
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
# The allow-list of licences is checked without cargo-deny too: tests/tidy.rs.
has cargo-deny && step deny cargo deny --locked check licenses bans sources
step fuzz cargo run --locked --manifest-path fuzz/Cargo.toml --bin smoke

printf '\n'
printf '%s\n' "${table[@]}"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
