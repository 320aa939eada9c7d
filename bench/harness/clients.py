"""The table of clients: who is measured, and how each is called."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from . import tools
from .processes import Finished


HTTP_BATCH = 100


@dataclass(frozen=True)
class Load:
    """What a client is asked to send, and where."""

    port: int
    connections: int
    messages: int
    size_bytes: int = 4096
    host: str = "127.0.0.1"
    # Of a server with an API: its port, and the file with a key for it.
    http_port: int = 0
    key_file: str = ""


@dataclass(frozen=True)
class Sent:
    """What a client says it sent; `said` is its whole report, where it makes one."""

    ok: int
    failed: int
    seconds: float
    said: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Client:
    """One row of the tables."""

    name: str
    command: Callable[[Load], list[str]]
    read: Callable[[Finished, Load], Sent]
    ours: bool = False


def _read_json(finished: Finished, _load: Load) -> Sent:
    said = last_json(finished)
    return Sent(said["ok"], said["failed"], said["seconds"], said)


def _read_clock(finished: Finished, load: Load) -> Sent:
    """smtp-source says nothing and exits with 0 once all is sent: its whole life is timed."""
    finished.check()
    return Sent(load.messages, 0, finished.wall_seconds)


def _read_ours(finished: Finished, _load: Load) -> Sent:
    said = last_json(finished)
    if said["messages"] == 0:
        raise RuntimeError(f"nothing was sent: {said.get('first_failure')}")
    return Sent(said["messages"], said["failed"] + said["unknown"], said["seconds"], said)


def last_json(finished: Finished) -> dict:
    """The object that the whole output is, or that its last line holds."""
    for candidate in (finished.stdout, *finished.stdout.splitlines()[-1:]):
        with contextlib.suppress(ValueError):
            return json.loads(candidate)
    finished.check()
    raise RuntimeError("no JSON object in the output")


def _positional(program: Callable[[], list[str]]) -> Callable[[Load], list[str]]:
    def command(load: Load) -> list[str]:
        numbers = (load.port, load.connections, load.messages, load.size_bytes)
        return [*program(), load.host, *map(str, numbers)]

    return command


def _http_batches(load: Load) -> list[str]:
    where = [load.host, str(load.http_port), load.key_file]
    numbers = [load.connections, load.messages, load.size_bytes, HTTP_BATCH]
    return [sys.executable, str(tools.BENCH / "loads" / "http_batches.py"), *where, *map(str, numbers)]


def _smtp_source(*options: str) -> Callable[[Load], list[str]]:
    def command(load: Load) -> list[str]:
        sizes = ["-s", load.connections, "-m", load.messages, "-l", load.size_bytes]
        words = [tools.smtp_source(), *options, *map(str, sizes)]
        ends = ["-f", "bench@example.com", "-t", "someone@example.net"]
        return [*words, *ends, f"{load.host}:{load.port}"]

    return command


def mailrail(
    mode: str,
    *options: str,
    window: int | None = None,
    scheme: str = "smtp",
    name: str | None = None,
) -> Client:
    """Ours: `mailrail bench` in one of its modes."""

    def command(load: Load) -> list[str]:
        numbers = {
            "--connections": load.connections,
            "--messages": load.messages,
            "--size": load.size_bytes,
            "--window": window,
        }
        words = [tools.mailrail(), "bench", f"{scheme}://{load.host}:{load.port}", "--json"]
        for flag, number in numbers.items():
            words += [flag, str(number)] if number is not None else []
        return [*words, "--mode", mode, *options]

    shown = name or f"mailrail {mode}" + (f", window {window}" if window else "")
    return Client(shown, command, _read_ours, ours=True)


LETTRE = Client(
    "lettre 0.11 pool", _positional(lambda: [tools.rust_competitor("lettre")]), _read_json
)
MAIL_SEND = Client(
    "mail-send 0.7", _positional(lambda: [tools.rust_competitor("mail_send")]), _read_json
)
AIOSMTPLIB = Client("aiosmtplib 5", _positional(tools.python_competitor), _read_json)
NODEMAILER = Client("nodemailer 10 pool", _positional(tools.node_competitor), _read_json)
GO = Client("Go net/smtp", _positional(lambda: [tools.go_competitor()]), _read_json)
SMTP_SOURCE_D = Client("smtp-source -d", _smtp_source("-d"), _read_clock)
SMTP_SOURCE = Client("smtp-source, a connection a message", _smtp_source(), _read_clock)
HTTP_BATCHES = Client(f"HTTP, batches of {HTTP_BATCH}", _http_batches, _read_json, ours=True)

LIBRARIES = [LETTRE, MAIL_SEND, AIOSMTPLIB, NODEMAILER, GO]
PEERS = [*LIBRARIES, SMTP_SOURCE_D, SMTP_SOURCE]
