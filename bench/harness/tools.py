"""Finds or sets up everything a benchmark needs; each tool only when a condition asks for it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
OUT = BENCH / "out"
COMPETITORS = BENCH / "competitors"

# Debian keeps Postfix's test programs there, which is not on every user's path.
_EXTRA_PATH = ("/usr/sbin", "/usr/local/sbin")


class Unavailable(Exception):
    """A tool is missing and could not be installed; says what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@functools.cache
def debian(program: str, package: str) -> str:
    """Path of `program`, with Debian's `package` installed for it when we are root."""
    search = os.pathsep.join((os.environ.get("PATH", ""), *_EXTRA_PATH))
    found = shutil.which(program, path=search)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {package} for {program}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        if _run(install, env=environment) != 0:
            _run(["apt-get", "update", "-qq"], env=environment)
            _run(install, env=environment)
        found = shutil.which(program, path=search)
    if found is None:
        raise Unavailable(f"{program} is missing: apt-get install {package}")
    return found


@functools.cache
def mailrail() -> str:
    """`$MAILRAIL`, or this repository's release build, brought up to date."""
    named = os.environ.get("MAILRAIL")
    if named:
        return named
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    _must(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "mailrail"], cwd=ROOT)
    return str(target / "release" / "mailrail")


@functools.cache
def cargo_bench(package: str, bench: str) -> str:
    """Path of one of this repository's benches, built for speed."""
    build = ["cargo", "bench", "--locked", "-p", package, "--bench", bench, "--no-run"]
    said = subprocess.run(
        [*build, "--message-format", "json"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    artifacts = (json.loads(line) for line in said.stdout.splitlines() if line.startswith("{"))
    for artifact in artifacts:
        if artifact.get("executable") and artifact["target"]["name"] == bench:
            return artifact["executable"]
    raise Unavailable(f"{' '.join(build)} made nothing")


@functools.cache
def rust_competitor(name: str) -> str:
    """Path of one of the Rust competitors, built if need be."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", BENCH / "target"))
    build = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    _must(build, cwd=COMPETITORS / "rust")
    return str(target / "release" / name)


@functools.cache
def go_competitor() -> str:
    go = debian("go", "golang-go")
    binary = OUT / "go-net-smtp"
    OUT.mkdir(exist_ok=True)
    _must([go, "build", "-o", str(binary), "."], cwd=COMPETITORS / "go")
    return str(binary)


@functools.cache
def node_competitor() -> list[str]:
    node, npm = debian("node", "nodejs"), debian("npm", "npm")
    folder = COMPETITORS / "node"
    if not (folder / "node_modules" / "nodemailer").exists():
        _must([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder)
    return [node, str(folder / "bench.js")]


@functools.cache
def python_competitor() -> list[str]:
    folder, venv = COMPETITORS / "python", OUT / "venv"
    python = venv / "bin" / "python"
    wanted = (folder / "requirements.txt").read_text()
    installed = venv / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted:
        _must([sys.executable, "-m", "venv", str(venv)])
        install = [str(python), "-m", "pip", "install", "-q", "-r", "requirements.txt"]
        _must(install, cwd=folder)
        installed.write_text(wanted)
    return [str(python), str(folder / "bench.py")]


def smtp_source() -> str:
    return debian("smtp-source", "postfix")


def smtp_sink() -> str:
    return debian("smtp-sink", "postfix")


def _run(command: list[str], **options) -> int:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": sys.stderr}
    return subprocess.run(command, **quiet, **options).returncode


def _must(command: list[str], **options) -> None:
    try:
        code = _run(command, **options)
    except FileNotFoundError as missing:
        raise Unavailable(f"{command[0]} is missing") from missing
    if code != 0:
        raise Unavailable(f"{' '.join(command)} failed with {code}")
