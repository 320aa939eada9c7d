"""Conditions that watch memory: a thousand connections at work, and a million messages."""

from __future__ import annotations

from pathlib import Path

from . import clients, measure, receivers, report, tools
from .clients import Client, Load
from .measure import Effort, Run
from .report import Section

CONNECTIONS = 1_000
ROUND_TRIP = "20ms"
MESSAGES = 1_000_000
TRUST = ("--ca", str(receivers.OWN_CA))

_LOOPBACK_BYTES = Path("/sys/class/net/lo/statistics/rx_bytes")


def thousand_connections(effort: Effort) -> Section:
    """Memory of the client with 1,000 connections busy over a 20 ms link."""
    per_connection = 10 if effort.quick else 100
    section = Section(
        f"{CONNECTIONS:,} connections at work, {ROUND_TRIP} round trip",
        ["Client", "peak resident MiB", "connections opened", "msg/s", "failed"],
        [],
        raw=[],
    )
    def measure_over(link: tuple[str, ...], transport: str, measured: list[Client]) -> None:
        with receivers.our_sink("--rtt", ROUND_TRIP, *link) as receiver:
            for client in measured:
                share = per_connection if client.ours else per_connection // 10
                load = Load(receiver.port, CONNECTIONS, CONNECTIONS * share)
                _memory_row(section, client, load, receiver, transport)

    measure_over((), "plaintext", [clients.mailrail("overlapped"), clients.mailrail("windowed", window=8)])
    measure_over(receivers.OWN_TLS, "TLS 1.3", [
        clients.mailrail("overlapped", *TRUST, scheme="smtps"),
        clients.mailrail("windowed", *TRUST, window=8, scheme="smtps"),
    ])
    # The peers last: some take minutes at so many connections.
    measure_over((), "plaintext", [clients.GO, clients.NODEMAILER, clients.AIOSMTPLIB, clients.LETTRE])
    return section


def _memory_row(section: Section, client: Client, load: Load, receiver, transport: str) -> None:
    try:
        run = measure.once(client, load, receiver)
    except measure.FAILURES as problem:
        report.not_measured(section, f"{client.name}, {transport}", problem)
        return
    tools.say(f"  {client.name:<38} {transport:<10} {run.rss_peak_kib / 1024:8.1f} MiB")
    section.raw.append({"transport": transport, **vars(run)})
    peak, rate = report.mebibytes(run.rss_peak_kib), report.count(run.rate)
    name = f"{client.name}, {transport}"
    opened = f"{run.said.get('connections_opened', load.connections):,}"
    section.rows.append([name, peak, opened, rate, str(run.failed)])


def million_messages(effort: Effort) -> Section:
    """One long run: is memory flat, and does the rate drift?"""
    messages = 200_000 if effort.quick else MESSAGES
    interval = 0.05 if effort.quick else 0.25
    section = Section(
        f"{messages:,} messages in one run, 10 connections, into mailrail sink",
        ["Client", "msg/s", "first quarter", "last quarter", "drift of the rate"]
        + ["resident MiB at ¼", "at the end", "peak"],
        [],
        ["Rate over time is read from the loopback's byte counter; "
         "drift is the slope of a line through it, over the whole run."],
        raw=[],
    )
    for client in (clients.mailrail("overlapped"), clients.mailrail("windowed", window=8)):
        with receivers.our_sink() as receiver:
            _long_row(section, client, Load(receiver.port, 10, messages), receiver, interval)
    return section


def _long_row(section: Section, client: Client, load: Load, receiver, interval: float) -> None:
    def observe(sample: dict) -> None:
        sample["loopback_bytes"] = int(_LOOPBACK_BYTES.read_text())

    before = int(_LOOPBACK_BYTES.read_text())
    try:
        run = measure.once(client, load, receiver, interval_seconds=interval, observe=observe)
        bytes_per_message = (int(_LOOPBACK_BYTES.read_text()) - before) / run.messages
        rates = _rates(run, bytes_per_message)
        cells = _long_cells(run, rates)
    except measure.FAILURES as problem:
        report.not_measured(section, client.name, problem)
        return
    section.raw.append({**vars(run), "rates": rates})
    section.rows.append(cells)


def _rates(run: Run, bytes_per_message: float) -> list[float]:
    """Messages a second between neighbouring samples; the first, with the connects, left out."""
    pairs = list(zip(run.samples[1:], run.samples[2:]))
    if len(pairs) < 4:
        raise RuntimeError("too short a run to judge its drift")
    return [
        (b["loopback_bytes"] - a["loopback_bytes"])
        / bytes_per_message
        / (b["at_seconds"] - a["at_seconds"])
        for a, b in pairs
    ]


def _long_cells(run: Run, rates: list[float]) -> list[str]:
    quarter = max(1, len(rates) // 4)
    first, last = rates[:quarter], rates[-quarter:]
    resident = [sample["rss_kib"] for sample in run.samples]
    return [
        run.client,
        report.count(run.rate),
        report.count(sum(first) / len(first)),
        report.count(sum(last) / len(last)),
        f"{_drift(rates):+.1%}",
        report.mebibytes(resident[len(resident) // 4]),
        report.mebibytes(resident[-1]),
        report.mebibytes(run.rss_peak_kib),
    ]


def _drift(values: list[float]) -> float:
    """Least-squares slope times the length of the run, as a share of the mean."""
    n = len(values)
    middle, mean = (n - 1) / 2, sum(values) / n
    slope = sum((i - middle) * (v - mean) for i, v in enumerate(values))
    slope /= sum((i - middle) ** 2 for i in range(n))
    return slope * (n - 1) / mean
