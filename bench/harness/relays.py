"""Relays side by side: SMTP in, durable, SMTP out; the same load and the same receiver for each.

`smtp-source -d -s 20 -l 4096` hands in; `mailrail sink` takes and keeps a record of each message, by
which the end is seen. Load, relay and receiver share the machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import grp
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import processes, receivers, tools
from .measure import Effort
from .report import Section, count, spread

SESSIONS = 20
OCTETS = 4096
PATIENCE_SECONDS = 120.0
# Postfix as its own documents advise for this, see BENCHMARKS.md.
POSTFIX = """compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
myhostname = postfix.example
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{receiver}
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_peername_lookup = no
default_process_limit = 100
default_destination_concurrency_limit = 100
initial_destination_concurrency = 50
smtp_connection_cache_destinations = [127.0.0.1]:{receiver}
smtp_destination_recipient_limit = 50
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
"""
MASTER = """127.0.0.1:{port} inet n - n - 100 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - 100 smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Run:
    """One load through one relay."""

    accepted_per_s: float
    delivered_per_s: float
    # Of the relay, all of its processes; None where that is not known.
    cpu_us: float | None
    rss_peak_mib: float | None


def side_by_side(effort: Effort) -> Section:
    """Interleaved rounds: Postfix, then mailrail, again and again."""
    load = tools.debian("smtp-source", "postfix")
    runs: dict[str, list[Run]] = {}
    for _ in range(effort.rounds):
        for name, relay, messages in (
            ("Postfix", postfix, int(1000 * effort.seconds)),
            ("mailrail serve", serve, int(20_000 * effort.seconds)),
        ):
            runs.setdefault(name, []).append(_one(load, relay, messages))
    return _section(runs)


def _one(load: str, relay, messages: int) -> Run:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        records = Path(folder) / "records"
        with receivers.our_sink("--jsonl", str(records)) as receiver:
            with relay(Path(folder), receiver.port) as (port, cost):
                before, began = cost(), time.monotonic()
                command = [load, "-d", "-s", str(SESSIONS), "-l", str(OCTETS), "-m", str(messages)]
                command += ["-f", "app@a.example", "-t", "b@b.example", f"127.0.0.1:{port}"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                accepted = time.monotonic() - began
                _await_lines(records, messages)
                delivered, after = time.monotonic() - began, cost()
    cpu, rss = None, None
    if after is not None:
        cpu, rss = (after[0] - before[0]) * 1e6 / messages, after[1]
    return Run(messages / accepted, messages / delivered, cpu, rss)


def _await_lines(path: Path, lines: int) -> None:
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, 0
    with path.open("rb") as records:
        while seen < lines:
            seen += records.read().count(b"\n")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seen} of {lines} messages arrived")
            time.sleep(0.01)


@contextlib.contextmanager
def serve(folder: Path, receiver: int) -> Iterator[tuple[int, object]]:
    """`mailrail serve` with the least configuration there is."""
    route = f'[[route]]\ndomain = "*"\nvia = "smtp://127.0.0.1:{receiver}?tls=none"\n'
    (folder / "mailrail.toml").write_text(route)
    command = [tools.mailrail(), "serve", "--config", str(folder / "mailrail.toml")]
    command += ["--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0"]
    command += ["--http", "127.0.0.1:0"]
    with receivers.started("mailrail-serve", command) as (process, log):
        receivers.await_(lambda: "\nready\n" in log.read_text(), "mailrail serve", process)
        port = re.search(r"listening on smtp://127.0.0.1:(\d+)", log.read_text())
        yield int(port[1]), lambda: _cost(process.pid)


def _cost(pid: int) -> tuple[float, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    return processes.cpu_seconds(pid), int(peak[1]) / 1024


@contextlib.contextmanager
def postfix(folder: Path, receiver: int) -> Iterator[tuple[int, object]]:
    """Debian's Postfix with folders of its own; needs root, as Postfix does."""
    program = tools.debian("postfix", "postfix")
    port = processes.free_port()
    config = folder / "postfix"
    for name in ("queue", "data"):
        (config / name).mkdir(parents=True)
    owner = pwd.getpwnam("postfix").pw_uid
    os.chown(config / "data", owner, grp.getgrnam("postfix").gr_gid)
    (config / "main.cf").write_text(POSTFIX.format(dir=config, receiver=receiver))
    (config / "master.cf").write_text(MASTER.format(port=port))
    for name in ("dynamicmaps.cf", "postfix-files"):
        if Path("/etc/postfix", name).exists():
            shutil.copy(Path("/etc/postfix", name), config)
    control = [program, "-c", str(config)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*control, "start"], check=True, **quiet)
    try:
        receivers.await_(lambda: receivers.greets(port), "postfix", None)
        yield port, lambda: None
    finally:
        subprocess.run([*control, "stop"], check=False, **quiet)


def _section(runs: dict[str, list[Run]]) -> Section:
    peer = runs["Postfix"]
    rows = []
    for name, of_one in runs.items():
        ratios = [one.delivered_per_s / other.delivered_per_s for one, other in zip(of_one, peer)]
        cpu = [one.cpu_us for one in of_one if one.cpu_us is not None]
        rss = [one.rss_peak_mib for one in of_one if one.rss_peak_mib is not None]
        delivered = [one.delivered_per_s for one in of_one]
        rows.append(
            [
                name,
                count(statistics.median(one.accepted_per_s for one in of_one)),
                count(statistics.median(delivered)),
                spread(min(delivered), max(delivered)),
                count(statistics.median(ratios)),
                count(statistics.median(cpu)) if cpu else "–",
                count(max(rss)) if rss else "–",
            ]
        )
    columns = ["relay", "accepted/s", "end to end/s", "spread", "× Postfix", "CPU µs", "peak MiB"]
    notes = [f"smtp-source -d -s {SESSIONS} -l {OCTETS}; each message synced before its 250."]
    raw = {name: [vars(one) for one in of_one] for name, of_one in runs.items()}
    return Section("SMTP in, SMTP out", columns, rows, notes, raw)
