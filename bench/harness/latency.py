"""How long a client waits for its 250 at half of what the relay can bear.

An open loop: messages fall due evenly at half of the rate just measured, and a latency counts from when its message
was due, so that a stall shows in everything that had to wait for it. Beside it the disk's own sync time, taken alone
just before and just after: no durable 250 can be faster.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass

from . import clients, measure, processes, receivers, relays, throughput, tools
from .measure import Effort
from .report import Section, count, spread
from .throughput import Way

# About what a group of the journal's holds at such a rate.
SYNC_BYTES = 32 * 1024
WAYS = [throughput.SMTP_WAYS[2], throughput.SMTP_WAYS[3]]
COLUMNS = ["full load", "full/s", "offered/s", "p50 ms", "spread", "p99 ms", "spread", "max ms"]
COLUMNS += ["disk alone: p50 ms", "p99 ms", "journal's sync, mean ms"]


@dataclass(frozen=True)
class Run:
    """Latencies in ms, from due to final reply."""

    full_per_s: float
    offered_per_s: float
    p50: float
    p99: float
    max: float
    disk_p50: float
    disk_p99: float
    # Of the journal's syncs while the load ran.
    sync_mean: float


def at_half_load(effort: Effort) -> Section:
    """Rounds of: full load, disk alone, half of it, disk alone."""
    section = Section("Latency of the durable 250 at half load", COLUMNS, [], raw={})
    for way in WAYS:
        runs = []
        for number in range(1, effort.rounds + 1):
            try:
                run = _one(way, effort)
            except measure.FAILURES as problem:
                section.failures.append(f"{way.name}: {problem}")
                section.notes.append(f"Round {number}, {way.name}: {problem}")
                continue
            runs.append(run)
            tools.say(f"  round {number}  {way.name:<44} p50 {run.p50:.2f} ms  p99 {run.p99:.2f} ms")
        if runs:
            section.rows.append(_row(way.name, runs))
        section.raw[way.name] = [vars(run) for run in runs]
    section.notes.append(
        "Half load is offered by `mailrail bench --mode overlapped --rate`, an open loop; latencies count from when a "
        f"message was due. Disk alone: {SYNC_BYTES // 1024} KiB written and synced, again and again, before and after."
    )
    return section


def _one(way: Way, effort: Effort) -> Run:
    full = throughput.through(way, int(way.messages_per_s * effort.seconds / 2)).delivered_per_s
    offered = max(1, round(full / 2))
    half = clients.mailrail("overlapped", "--rate", f"{offered}/s")
    with relays.folder() as folder, receivers.our_sink() as receiver:
        with relays.serve(folder, relays.route(receiver.port)) as relay:
            relay.hand_in(clients.mailrail("overlapped"), way.connections * 20)
            before = _disk_alone(folder)
            syncs, seconds = relay.metric("journal_syncs_total"), relay.metric("journal_sync_seconds_total")
            latency = relay.hand_in(half, int(offered * effort.seconds)).said["latency_ms"]
            syncs = relay.metric("journal_syncs_total") - syncs
            seconds = relay.metric("journal_sync_seconds_total") - seconds
            after = _disk_alone(folder)
    return Run(
        full_per_s=full,
        offered_per_s=offered,
        p50=latency["p50"],
        p99=latency["p99"],
        max=latency["max"],
        disk_p50=(before["p50"] + after["p50"]) / 2,
        disk_p99=max(before["p99"], after["p99"]),
        sync_mean=seconds * 1000 / max(syncs, 1),
    )


def _disk_alone(folder) -> dict:
    script = tools.BENCH / "loads" / "disk_sync.py"
    command = [sys.executable, str(script), str(folder), "0.5", str(SYNC_BYTES)]
    return json.loads(processes.run(command, tools.OUT / "logs" / "disk").check().stdout)


def _row(name: str, runs: list[Run]) -> list[str]:
    median = lambda figure: statistics.median(getattr(run, figure) for run in runs)  # noqa: E731
    between = lambda figure: spread(  # noqa: E731
        min(getattr(run, figure) for run in runs), max(getattr(run, figure) for run in runs)
    )
    return [
        name,
        count(median("full_per_s")),
        count(median("offered_per_s")),
        count(median("p50")),
        between("p50"),
        count(median("p99")),
        between("p99"),
        count(max(run.max for run in runs)),
        count(median("disk_p50")),
        count(median("disk_p99")),
        count(median("sync_mean")),
    ]
