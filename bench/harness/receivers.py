"""The two receivers: Postfix's smtp-sink, and ours with or without a link delay."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import processes, tools

READY_SECONDS = 10.0
# Where our sink with `OWN_TLS` leaves the authority it made, for clients to trust.
OWN_CA = tools.OUT / "own-ca.pem"
OWN_TLS = ("--implicit-tls", "--ca-out", str(OWN_CA))
_CONNECTIONS_MAX = 2048


@dataclass(frozen=True)
class Receiver:
    """A receiver that is serving."""

    name: str
    port: int
    pid: int
    # All that it listens on, where it was told to listen on several.
    ports: tuple[int, ...] = ()


@contextlib.contextmanager
def smtp_sink() -> Iterator[Receiver]:
    """Postfix's smtp-sink: PIPELINING, no CHUNKING, one thread, discards what it gets."""
    port = processes.free_port()
    command = [tools.smtp_sink(), "-m", str(_CONNECTIONS_MAX)]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    command += [f"127.0.0.1:{port}", str(_CONNECTIONS_MAX)]
    with started("smtp-sink", command) as (process, _):
        await_(lambda: greets(port), "smtp-sink", process)
        yield Receiver("smtp-sink", port, process.pid)


@contextlib.contextmanager
def our_sink(*options: str) -> Iterator[Receiver]:
    """`mailrail sink` with `options`; it prints the address it listens on."""
    command = [tools.mailrail(), "sink", "--listen", "127.0.0.1:0", *options]
    wanted = max(1, command.count("--listen"))
    with started("mailrail-sink", command) as (process, log):
        ports = await_(lambda: _announced(log, wanted), "mailrail sink", process)
        yield Receiver(" ".join(["mailrail sink", *options]), ports[0], process.pid, ports)


def rsa_tls() -> tuple[tuple[str, ...], Path]:
    """Options for a sink with an RSA-2048 certificate, as many servers have; and its authority."""
    folder = tools.OUT / "rsa"
    if not (folder / "leaf.pem").exists():
        _make_rsa_pair(folder)
    pair = ("--cert", str(folder / "leaf.pem"), "--key", str(folder / "leaf.key"))
    return ("--implicit-tls", *pair), folder / "ca.pem"


def _make_rsa_pair(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    openssl = [tools.debian("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    common = ["-days", "3650"]
    authority = ["-subj", "/CN=bench authority", "-keyout", "ca.key", "-out", "ca.pem"]
    leaf = ["-subj", "/CN=bench", "-keyout", "leaf.key", "-out", "leaf.pem"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    for command in (
        [*openssl, *common, *authority],
        [*openssl, *common, *leaf, *names, "-CA", "ca.pem", "-CAkey", "ca.key"],
    ):
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def started(name: str, command: list[str], grace_seconds: float = processes.GRACE_SECONDS):
    """Starts what serves, with a log of its own; stops it at the end."""
    log = tools.OUT / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = processes.start(command, output, output)
    try:
        yield process, log
    finally:
        processes.stop(process, grace_seconds)


def await_(ready, name: str, process, patience_seconds: float = READY_SECONDS):
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        answer = ready()
        if answer:
            return answer
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{name} exited {process.returncode} before it served")
        time.sleep(0.02)
    raise RuntimeError(f"{name} did not serve within {patience_seconds:.0f} s")


def greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False


def _announced(log, wanted: int) -> tuple[int, ...]:
    """The ports, once all that are wanted are there."""
    ports = re.findall(r"listening on \S+:(\d+)\n", log.read_text(errors="replace"))
    return tuple(int(port) for port in ports) if len(ports) >= wanted else ()
