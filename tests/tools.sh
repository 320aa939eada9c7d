#!/bin/sh
# Fetches what the tests against real mail programs need, and says plainly what is missing:
#
#   .tools/postfix, .tools/exim, .tools/swaks   Debian's packages, unpacked and not installed (the
#                                               first two exclude each other as packages), each with
#                                               the libraries that this machine lacks
#   tests/node/node_modules                     nodemailer, by `npm ci`
#
# Run it as often as you like: what is there is left alone. It needs apt-get, dpkg, node, npm and
# python3, and the network only for what is not there yet. It installs nothing into the system.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "tests/tools.sh: $*" >&2
    exit 1
}

need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "$program is missing (install it, then run this again)"
    done
}

# unpack FOLDER PACKAGE...: the packages and those libraries of theirs that are not installed
unpack() {
    folder=$PWD/.tools/$1
    shift
    [ -e "$folder/.complete" ] && return
    need apt-get dpkg
    rm -rf "$folder"
    mkdir -p "$folder/.debs"
    if ! apt-cache show "$@" >/dev/null 2>&1; then
        apt-get update -qq >&2 || fail "the lists of packages cannot be fetched: run apt-get update as root"
    fi
    libraries=$(apt-get install --simulate --no-install-recommends "$@" 2>/dev/null |
        sed -nE 's/^Inst ((lib|perl)[^ ]+) .*/\1/p')
    # shellcheck disable=SC2086 # one word a library
    (cd "$folder/.debs" && apt-get -o APT::Sandbox::User=root download -qq "$@" $libraries >&2) ||
        fail "cannot download $* $libraries: are Debian's package sources set up?"
    for package in "$folder"/.debs/*.deb; do
        dpkg -x "$package" "$folder"
    done
    rm -rf "$folder/.debs"
    : >"$folder/.complete"
}

unpack postfix postfix
unpack exim exim4-daemon-light libnss-wrapper
unpack swaks swaks libnet-ssleay-perl

need python3 node npm
if [ ! -e tests/node/node_modules/.package-lock.json ] ||
    [ tests/node/package-lock.json -nt tests/node/node_modules/.package-lock.json ]; then
    (cd tests/node && npm ci --silent --no-audit --no-fund >&2) || fail "npm ci failed in tests/node"
    touch tests/node/node_modules/.package-lock.json
fi
