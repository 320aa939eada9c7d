#!/bin/sh
# Fetches the mail programs that the tests speak with, and says plainly what is missing: Debian's
# packages of Postfix, Exim and swaks, unpacked in .tools and not installed (the first two exclude
# each other as packages), each with the libraries that this machine lacks.
#
# Run it as often as you like: what is there is left alone. It needs apt-get and dpkg, and the network
# only for what is not there yet. It changes nothing in the system.
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

# download PACKAGE...: into this folder, with those libraries that they need and that are not installed
download() {
    libraries=$(apt-get install --simulate --no-install-recommends "$@" |
        sed -nE 's/^Inst ((lib|perl)[^ ]+) .*/\1/p')
    # shellcheck disable=SC2086 # one word a library
    apt-get -o APT::Sandbox::User=root download -qq "$@" $libraries
}

# unpack FOLDER PACKAGE...: whatever was there by halves is replaced
unpack() {
    folder=$PWD/.tools/$1
    shift
    [ -e "$folder/.complete" ] && return
    need apt-get dpkg
    rm -rf "$folder"
    mkdir -p "$folder/.debs"
    # Lists of packages that are missing or out of date are the usual reason to fail.
    (cd "$folder/.debs" && { download "$@" || { apt-get update -qq && download "$@"; }; }) >"$folder/.log" 2>&1 ||
        fail "cannot download $*: $(tail -n 3 "$folder/.log")"
    for package in "$folder"/.debs/*.deb; do
        dpkg -x "$package" "$folder"
    done
    rm -rf "$folder/.debs" "$folder/.log"
    : >"$folder/.complete"
}

unpack postfix postfix
unpack exim exim4-daemon-light libnss-wrapper
unpack swaks swaks libnet-ssleay-perl
