#!/usr/bin/env bash
# usage: scripts/setup.sh build|test
#
# Installs what a build or the tests need and this machine lacks: Debian packages (as root), a Python
# environment in .venv, Node packages in tests/node, and in .tools what tests/tools.sh fetches.
# Does nothing where all is there; says plainly what is missing where it cannot install it.
set -euo pipefail
cd "$(dirname "$0")/.."
for_what=${1:?usage: scripts/setup.sh build|test}

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null; }

# Each line of output is a Debian package that is missing.
missing_packages() {
    has cc || printf 'gcc\nlibc6-dev\n'
    [ "$for_what" = build ] && return
    if [ -e tests/node/package.json ]; then
        has node || echo nodejs
        has npm || echo npm
    fi
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -eq 0 ] && return
    local install="apt-get install -y --no-install-recommends ${missing[*]}"
    has apt-get || fail "these are missing, and there is no apt-get to install them: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "these are missing; as root, run: apt-get update && $install"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null || fail "apt-get update failed; these are missing: ${missing[*]}"
    $install -q >/dev/null || fail "apt-get could not install ${missing[*]}"
}

check_rust() {
    local want have
    want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    has cargo || fail "cargo is missing: install Rust $want or newer"
    have=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
        fail "Rust $want or newer is needed; this is $have"
    [ "$for_what" = build ] && return
    local part
    for part in rustfmt clippy; do
        cargo "${part/rust/}" --version >/dev/null 2>&1 || rustup component add "$part" ||
            fail "the Rust component $part is missing, and rustup could not add it"
    done
}

# A stamp is a copy of the list that was installed: another list means to install again.
python_packages() {
    local list=tests/requirements.txt stamp=.venv/requirements.txt
    cmp -s "$list" "$stamp" && return
    say "installing Python packages in .venv"
    python3 -m venv --clear .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -r "$list" ||
        fail "pip could not install $list"
    cp "$list" "$stamp"
}

node_packages() {
    local list=tests/node/package-lock.json stamp=tests/node/node_modules/package-lock.json
    [ -e "$list" ] || return 0
    cmp -s "$list" "$stamp" && return
    say "installing Node packages in tests/node"
    npm ci --prefix tests/node --no-audit --no-fund --loglevel=error >&2 || fail "npm could not install $list"
    cp "$list" "$stamp"
}

check_rust
install_packages
if [ "$for_what" = test ]; then
    python_packages
    node_packages
    [ ! -x tests/tools.sh ] || tests/tools.sh >&2
fi
