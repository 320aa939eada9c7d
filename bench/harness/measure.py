"""One measured run, and the interleaved rounds of many."""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from . import processes, tools
from .clients import Client, Load
from .receivers import Receiver

# What a run may fail with; the rest is a bug of the harness and ends it.
FAILURES = (RuntimeError, OSError, KeyError, tools.Unavailable)


@dataclass(frozen=True)
class Effort:
    """How much is spent on each figure."""

    rounds: int
    seconds: float

    @property
    def quick(self) -> bool:
        return self.rounds == 1


@dataclass(frozen=True)
class Run:
    """The figures of one run of one client."""

    client: str
    messages: int
    failed: int
    seconds: float
    rate: float
    cpu_us_per_message: float
    receiver_cpu_us_per_message: float
    rss_peak_kib: int
    cpu_seconds: float
    command: list[str] = field(repr=False)
    samples: list[dict] = field(repr=False)
    said: dict = field(repr=False)


@dataclass
class Series:
    """All runs of one client under one condition, or why there are none."""

    client: Client
    runs: list[Run] = field(default_factory=list)
    error: str | None = None

    def median(self, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in self.runs)

    def spread(self, figure: str) -> tuple[float, float]:
        values = [getattr(run, figure) for run in self.runs]
        return min(values), max(values)


def once(client: Client, load: Load, receiver: Receiver, **options) -> Run:
    """Runs one client once.

    CPU counts the whole life of the process, start and warm-up included. `options` are those of
    `processes.run`.
    """
    log = tools.OUT / "logs" / re.sub(r"\W+", "-", client.name)
    cpu_before = processes.cpu_seconds(receiver.pid)
    finished = processes.run(client.command(load), log, **options)
    cpu_receiver = processes.cpu_seconds(receiver.pid) - cpu_before
    sent = client.read(finished, load)
    if sent.ok == 0:
        finished.check()
        raise RuntimeError("nothing was sent")
    return Run(
        client=client.name,
        messages=sent.ok,
        failed=sent.failed,
        seconds=sent.seconds,
        rate=sent.ok / sent.seconds,
        cpu_us_per_message=finished.cpu_seconds / sent.ok * 1e6,
        receiver_cpu_us_per_message=cpu_receiver / sent.ok * 1e6,
        rss_peak_kib=finished.rss_peak_kib,
        cpu_seconds=finished.cpu_seconds,
        command=finished.command,
        samples=finished.samples,
        said=sent.said,
    )


def interleaved(
    clients: Iterable[Client], receiver: Receiver, connections: int, effort: Effort
) -> list[Series]:
    """Rounds of A, B, C, … so that drift of the machine falls on all alike.

    Each client first finds, unrecorded, how many messages fill `effort.seconds`. A client that
    cannot run keeps its row, with the reason.
    """
    table = [Series(client) for client in clients]
    loads: dict[str, Load] = {}
    for series in table:
        with _excused(series):
            loads[series.client.name] = _fill(series.client, receiver, connections, effort)
    for number in range(1, effort.rounds + 1):
        for series in table:
            if series.error:
                continue
            with _excused(series):
                run = once(series.client, loads[series.client.name], receiver)
                series.runs.append(run)
                tools.say(f"  round {number}  {run.client:<38} {run.rate:>10,.0f} msg/s")
    return table


def _fill(client: Client, receiver: Receiver, connections: int, effort: Effort) -> Load:
    """The load that keeps `client` busy for about `effort.seconds`, found by two trials."""
    load = Load(receiver.port, connections, connections * 5)
    for seconds in (0.3, effort.seconds):
        rate = once(client, load, receiver).rate
        load = replace(load, messages=max(connections * 5, int(rate * seconds)))
    return load


@contextlib.contextmanager
def _excused(series: Series) -> Iterator[None]:
    """Keeps the first error of a client as the reason for its empty row."""
    try:
        yield
    except FAILURES as problem:
        series.error = series.error or str(problem)
