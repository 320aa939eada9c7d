"""The relays that are compared: Postfix, and `mailrail serve`; each with folders of its own.

Each says how many messages it has delivered and what it has cost so far, so that the receiver need not
keep records: keeping them would take CPU that relay and load then lack.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import processes, receivers, tools
from .clients import Client, Load, Sent

# Connections in.
SESSIONS = 20
STOP_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
# What a Postfix needs that runs from a folder of its own, and beside it what its own documents advise for this,
# see BENCHMARKS.md.
POSTFIX = tools.ROOT / "tests" / "real" / "postfix"
MAIN = """relayhost = [127.0.0.1]:{receiver}
smtpd_tls_security_level = none
default_process_limit = 100
default_destination_concurrency_limit = 100
initial_destination_concurrency = 50
smtp_connection_cache_destinations = [127.0.0.1]:{receiver}
smtp_destination_recipient_limit = 50
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
"""
MASTER = """127.0.0.1:{port} inet n - n - 100 smtpd
smtp unix - - n - 100 smtp
"""


@dataclass
class Relay:
    """A relay that is running."""

    port: int
    # Messages handed on so far.
    delivered: Callable[[], int]
    # Of all of its processes, since they began.
    cpu_seconds: Callable[[], float]
    # `mailrail serve` only.
    pid: int = 0
    http: str = ""
    folder: Path = field(default_factory=Path)
    log: Path = field(default_factory=Path)

    def load(self, connections: int, messages: int, size_bytes: int = 4096) -> Load:
        http_port = int(self.http.rpartition(":")[2] or 0)
        key_file = str(self.folder / "operator.key")
        return Load(self.port, connections, messages, size_bytes, http_port=http_port, key_file=key_file)

    def hand_in(self, client: Client, messages: int, size_bytes: int = 4096) -> Sent:
        """Over as many connections as everywhere; raises unless all are accepted."""
        load = self.load(SESSIONS, messages, size_bytes)
        sent = client.read(processes.run(client.command(load), tools.OUT / "logs" / "load"), load)
        if sent.ok != messages:
            raise RuntimeError(f"{messages - sent.ok} of {messages} were refused: {sent.said.get('first_failure')}")
        return sent

    def await_delivered(self, messages: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (seen := self.delivered()) < messages:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seen} of {messages} messages were delivered")
            time.sleep(0.02)

    def rss_mib(self, which: str = "VmRSS") -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(which + r":\s+(\d+)", status)[1]) / 1024

    def metric(self, name: str) -> float:
        """One of `/metrics`, without its prefix, with its labels."""
        with urllib.request.urlopen(f"{self.http}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.search(rf"^mailrail_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"there is no metric {name}")
        return float(found[1])

    def key(self) -> str:
        return (self.folder / "operator.key").read_text().strip()

    def call(self, path: str, body: object, key: str | None = None) -> dict:
        """Posts to the API, with a key that may do everything unless another is given."""
        bearer = f"Bearer {key or self.key()}"
        headers = {"Authorization": bearer, "Content-Type": "application/json"}
        request = urllib.request.Request(self.http + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """On a real disk, which /tmp may not be; readable by Postfix's own users."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def route(port: int, *more: str, domain: str = "*") -> str:
    """The table of a route to a port of this machine."""
    via = f'via = "smtp://127.0.0.1:{port}?tls=none"'
    return "\n".join(["[[route]]", f'domain = "{domain}"', via, *more, ""])


@contextlib.contextmanager
def serve(
    folder: Path, config: str, under: tuple[str, ...] = (), ready_seconds: float = 60.0
) -> Iterator[Relay]:
    """`mailrail serve` on `folder/data`, which may be there from before.

    * `config`: `mailrail.toml`; nothing but routes is the least that there is.
    * `under`: a tool to run it under, such as strace.
    """
    data = folder / "data"
    (folder / "mailrail.toml").write_text(config)
    command = [*under, tools.mailrail(), "serve", "--config", str(folder / "mailrail.toml")]
    command += ["--data-dir", str(data), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with receivers.started("mailrail-serve", command, STOP_SECONDS) as (process, log):
        is_ready = lambda: "\nready\n" in log.read_text(errors="replace")  # noqa: E731
        receivers.await_(is_ready, "mailrail serve", process, ready_seconds)
        where = json.loads((data / "listening.json").read_text())
        pid, http = where["pid"], f"http://{where['http']}"
        relay = Relay(
            int(where["smtp"][0].rpartition(":")[2]),
            lambda: int(relay.metric("delivered_recipients_total")),
            lambda: processes.cpu_seconds(pid),
            pid,
            http,
            data,
            log,
        )
        yield relay


@contextlib.contextmanager
def postfix(folder: Path, receiver: int) -> Iterator[Relay]:
    """Debian's Postfix with folders of its own; needs root, as Postfix does."""
    program = tools.debian("postfix", "postfix")
    port = processes.free_port()
    config = folder / "postfix"
    for name in ("queue", "data"):
        (config / name).mkdir(parents=True)
    owner = pwd.getpwnam("postfix").pw_uid
    os.chown(config / "data", owner, grp.getgrnam("postfix").gr_gid)
    for name, more in (("main.cf", MAIN.format(receiver=receiver)), ("master.cf", MASTER.format(port=port))):
        (config / name).write_text((POSTFIX / name).read_text() + more)
    for name in ("dynamicmaps.cf", "postfix-files"):
        if Path("/etc/postfix", name).exists():
            shutil.copy(Path("/etc/postfix", name), config)
    control = [program, "-c", str(config)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*control, "start"], check=True, **quiet)
    try:
        receivers.await_(lambda: receivers.greets(port), "postfix", None)
        master = int((config / "queue" / "pid" / "master.pid").read_text())
        sent = _Lines(config / "mail.log", b"status=sent")
        yield Relay(port, sent.count, lambda: processes.family_cpu_seconds(master))
    finally:
        subprocess.run([*control, "stop"], check=False, **quiet)


class _Lines:
    """Counts lines with a word in a file that grows."""

    def __init__(self, path: Path, word: bytes) -> None:
        self._path, self._word = path, word
        self._at, self._seen, self._rest = 0, 0, b""

    def count(self) -> int:
        if not self._path.exists():
            return 0
        with self._path.open("rb") as lines:
            lines.seek(self._at)
            text = self._rest + lines.read()
            self._at = lines.tell()
        whole, _, self._rest = text.rpartition(b"\n")
        self._seen += whole.count(self._word)
        return self._seen
