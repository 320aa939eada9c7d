"""Mail through a relay: how fast, and what it costs; every way in the same round.

Load, relay and receiver share the machine. The receiver is `mailrail sink`, which keeps no records but counts;
that it took every message is checked at the end of each run.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from . import clients, measure, processes, receivers, relays, tools
from .clients import Client
from .measure import Effort
from .report import Section, count, spread

REFERENCE = "Postfix ← smtp-source -d"
SMTP_SOURCE = clients.SMTP_SOURCE_D
OVERLAPPED = clients.mailrail("overlapped")
WINDOWED = clients.mailrail("windowed", window=8)


COLUMNS = ["relay ← load", "accepted/s", "end to end/s", "spread", "× the first", "refused"]
COLUMNS += ["CPU µs: relay", "load", "receiver", "peak MiB"]


@dataclass(frozen=True)
class Way:
    """A relay and what hands in to it."""

    name: str
    load: Client
    # Messages of a run, for each second that it is to last.
    messages_per_s: int
    # Settings of the route of `mailrail serve`; None for Postfix.
    route: tuple[str, ...] | None = ()
    connections: int = relays.SESSIONS

    def relay(self, folder: Path, receiver: int) -> contextlib.AbstractContextManager:
        if self.route is None:
            return relays.postfix(folder, receiver)
        return relays.serve(folder, relays.route(receiver, *self.route))


@dataclass(frozen=True)
class Run:
    """One load through one relay. CPU is in µs a message."""

    accepted_per_s: float
    delivered_per_s: float
    refused: int
    relay_cpu_us: float
    load_cpu_us: float
    receiver_cpu_us: float
    # Of `mailrail serve`; Postfix is a hundred processes that share much of theirs.
    rss_peak_mib: float | None


SMTP_WAYS = [
    Way(REFERENCE, SMTP_SOURCE, 700, route=None),
    Way("Postfix ← mailrail bench overlapped", OVERLAPPED, 700, route=None),
    Way("mailrail serve ← smtp-source -d", SMTP_SOURCE, 12_000),
    Way("mailrail serve ← mailrail bench overlapped", OVERLAPPED, 25_000),
    Way("mailrail serve ← mailrail bench, window 8", WINDOWED, 40_000),
    Way(
        "the same, overlapped on the way out",
        WINDOWED,
        35_000,
        route=('wire = "overlapped"',),
    ),
]
HTTP_WAYS = [
    *SMTP_WAYS[2:5],
    Way("mailrail serve ← HTTP, batches of 100", clients.HTTP_BATCHES, 30_000, connections=8),
]


def smtp_in(effort: Effort) -> Section:
    """SMTP in, SMTP out: Postfix and ours, fed in lockstep and pipelined."""
    section = _interleaved("SMTP in, SMTP out", SMTP_WAYS, effort)
    section.notes.append(
        f"{relays.SESSIONS} connections in, 4096 octets, one recipient; each message synced before its 250."
    )
    return section


def http_in(effort: Effort) -> Section:
    """HTTP in beside SMTP in, through the same relay."""
    section = _interleaved("HTTP in beside SMTP in", HTTP_WAYS, effort)
    section.notes.append(
        "HTTP: 8 connections, 100 messages with a text of 4096 octets in each request, which is made before "
        "the clock starts; one recipient each; an answer means synced."
    )
    return section


def _interleaved(title: str, ways: list[Way], effort: Effort) -> Section:
    runs: dict[str, list[tuple[int, Run]]] = {way.name: [] for way in ways}
    section = Section(title, COLUMNS, [])
    for number in range(1, effort.rounds + 1):
        for way in ways:
            messages = int(way.messages_per_s * effort.seconds)
            try:
                run = through(way, messages)
            except measure.FAILURES as problem:
                section.failures.append(f"{way.name}: {problem}")
                section.notes.append(f"Round {number}, {way.name}: {problem}")
                continue
            runs[way.name].append((number, run))
            tools.say(f"  round {number}  {way.name:<44} {run.delivered_per_s:>9,.0f} msg/s")
    first = {number: run for number, run in runs[ways[0].name]}
    section.rows = [_row(name, of_one, first) for name, of_one in runs.items() if of_one]
    section.raw = {name: [vars(run) for _, run in of_one] for name, of_one in runs.items()}
    return section


def through(way: Way, messages: int) -> Run:
    """One load through a relay that begins with nothing."""
    log = tools.OUT / "logs" / "load"
    with relays.folder() as folder, receivers.our_sink() as receiver:
        with way.relay(folder, receiver.port) as relay:
            relay_before = relay.cpu_seconds()
            receiver_before = processes.cpu_seconds(receiver.pid)
            load = relay.load(way.connections, messages)
            finished = processes.run(way.load.command(load), log)
            sent = way.load.read(finished, load)
            ended = time.monotonic()
            relay.await_delivered(sent.ok)
            delivered = sent.seconds + time.monotonic() - ended
            relay_cpu = relay.cpu_seconds() - relay_before
            receiver_cpu = processes.cpu_seconds(receiver.pid) - receiver_before
            rss = relay.rss_mib("VmHWM") if relay.pid else None
    return Run(
        accepted_per_s=sent.ok / sent.seconds,
        delivered_per_s=sent.ok / delivered,
        refused=sent.failed,
        relay_cpu_us=relay_cpu / sent.ok * 1e6,
        load_cpu_us=finished.cpu_seconds / sent.ok * 1e6,
        receiver_cpu_us=receiver_cpu / sent.ok * 1e6,
        rss_peak_mib=rss,
    )


def _row(name: str, of_one: list[tuple[int, Run]], first: dict[int, Run]) -> list[str]:
    runs = [run for _, run in of_one]
    median = lambda figure: statistics.median(getattr(run, figure) for run in runs)  # noqa: E731
    # Against the first way of the same round, so that drift of the machine falls out.
    ratios = [run.delivered_per_s / first[n].delivered_per_s for n, run in of_one if n in first]
    peaks = [run.rss_peak_mib for run in runs if run.rss_peak_mib is not None]
    delivered = [run.delivered_per_s for run in runs]
    return [
        name,
        count(median("accepted_per_s")),
        count(median("delivered_per_s")),
        spread(min(delivered), max(delivered)),
        count(statistics.median(ratios)) if ratios else "–",
        str(sum(run.refused for run in runs)),
        count(median("relay_cpu_us")),
        count(median("load_cpu_us")),
        count(median("receiver_cpu_us")),
        count(max(peaks)) if peaks else "–",
    ]
