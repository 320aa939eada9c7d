"""Conditions that compare rates: without a delay, and over a link of 20 ms."""

from __future__ import annotations

from . import clients, measure, receivers, report
from .measure import Effort, Series
from .report import Section

CONNECTIONS = 10
ROUND_TRIP_SECONDS = 0.020
WINDOW = 8

LOCKSTEP = clients.mailrail("lockstep")
PIPELINED = clients.mailrail("pipelined")
OVERLAPPED = clients.mailrail("overlapped")
WINDOWED = clients.mailrail("windowed", window=WINDOW)
OURS = [LOCKSTEP, PIPELINED, OVERLAPPED, WINDOWED]


def no_delay_smtp_sink(effort: Effort) -> Section:
    """Everyone into smtp-sink, which has no CHUNKING: so no windowed row."""
    with receivers.smtp_sink() as receiver:
        rows = [*clients.PEERS, LOCKSTEP, PIPELINED, OVERLAPPED]
        table = measure.interleaved(rows, receiver, CONNECTIONS, effort)
    title = f"No delay, {CONNECTIONS} connections, into smtp-sink"
    return report.speed_section(title, table, {"× smtp-source -d": _against_smtp_source(table)})


def no_delay_our_sink(effort: Effort) -> Section:
    """Our modes, and the two fastest peers, into our sink; both share the machine."""
    with receivers.our_sink() as receiver:
        rows = [clients.GO, clients.SMTP_SOURCE_D, *OURS]
        table = measure.interleaved(rows, receiver, CONNECTIONS, effort)
    title = f"No delay, {CONNECTIONS} connections, into mailrail sink"
    return report.speed_section(title, table, {"× smtp-source -d": _against_smtp_source(table)})


def link_delay(effort: Effort) -> Section:
    """A link of 20 ms; runs are longer, so that the first and last trip do not count."""
    longer = Effort(effort.rounds, effort.seconds * 2)
    with receivers.our_sink("--rtt", f"{ROUND_TRIP_SECONDS * 1000:.0f}ms") as receiver:
        table = measure.interleaved([*clients.PEERS, *OURS], receiver, CONNECTIONS, longer)
    extra = {"trips a message, seen": _trips, "share of the limit": _share}
    title = f"{ROUND_TRIP_SECONDS * 1000:.0f} ms round trip, {CONNECTIONS} connections"
    section = report.speed_section(title, table, extra)
    limit = CONNECTIONS / ROUND_TRIP_SECONDS
    section.notes.append(
        f"Limit at one trip a message: {limit:,.0f} msg/s; "
        f"at a window of {WINDOW}: {limit * WINDOW:,.0f} msg/s."
    )
    return section


def _against_smtp_source(table: list[Series]):
    """Median over the rounds of the ratio within one round."""

    def show(series: Series) -> str:
        peer = next(s for s in table if s.client is clients.SMTP_SOURCE_D)
        ratios = sorted(a.rate / b.rate for a, b in zip(series.runs, peer.runs))
        return f"{ratios[len(ratios) // 2]:.2f}" if ratios else ""

    return show


def _trips(series: Series) -> str:
    return report.count(CONNECTIONS / ROUND_TRIP_SECONDS / series.median("rate"))


def _share(series: Series) -> str:
    """Of the limit that a mode's own number of trips sets; peers have no such claim."""
    trips = {OVERLAPPED.name: 1.0, WINDOWED.name: 1 / WINDOW}.get(series.client.name)
    if trips is None:
        return ""
    limit = CONNECTIONS / ROUND_TRIP_SECONDS / trips
    return f"{series.median('rate') / limit:.1%}"
