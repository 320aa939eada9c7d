"""What one message costs `mailrail serve`: system calls, instructions, allocations.

As in `cost`: each figure is the difference between a longer and a shorter run, divided by the messages between
them, so that starting, connecting and stopping cancel. Both stop by SIGINT once all is delivered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from . import callgrind, cost, measure, receivers, relays, report, throughput, tools
from .clients import Client
from .measure import Effort
from .report import Section

LOADS = [
    ("smtp-source -d", throughput.SMTP_SOURCE, ()),
    ("mailrail bench overlapped", throughput.OVERLAPPED, ()),
    ("mailrail bench, window 8", throughput.WINDOWED, ()),
    ("the same, overlapped on the way out", throughput.WINDOWED, ('wire = "overlapped"',)),
]
SYSCALL_RUNS = (2_000, 12_000)
VALGRIND_RUNS = (500, 2_500)
READY_SECONDS = 120.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Subject:
    """What is measured: a load, and the settings of the route that it takes."""

    client: Client
    route: tuple[str, ...]


def per_message(effort: Effort) -> Section:
    """Of everything the relay does for a message, from its acceptance to the record of its delivery."""
    shrink = 5 if effort.quick else 1
    section = Section(
        f"Cost of one message in mailrail serve, {relays.SESSIONS} connections in",
        ["Load", "system calls", "the most frequent", "instructions", "allocations"],
        [],
        ["Under strace or valgrind everything is slower, so that fewer messages share a sync and a wake-up."],
        raw=[],
    )
    for name, client, route in LOADS:
        try:
            _row(section, name, Subject(client, route), shrink)
        except measure.FAILURES as problem:
            report.not_measured(section, name, problem)
    return section


def _row(section: Section, name: str, subject: Subject, shrink: int) -> None:
    calls = _syscalls(subject, shrink)
    machine = _machine(subject, shrink)
    frequent = ", ".join(f"{call} {n:.2f}" for call, n in calls.most_common(6) if n >= 0.05)
    figures = [report.count(figure) for figure in machine]
    total = f"{sum(calls.values()):.2f}"
    tools.say(f"  {name:<40} {total} system calls ({frequent})  {' '.join(figures)}")
    section.rows.append([name, total, frequent, *figures])
    raw = {"load": name, "syscalls": dict(calls)}
    section.raw.append({**raw, "instructions": machine[0], "allocations": machine[1]})


def _syscalls(subject: Subject, shrink: int) -> Counter:
    trace = tools.OUT / "logs" / "strace-serve.txt"
    tool = (tools.debian("strace", "strace"), "-f", "-c", "-o", str(trace))
    counts = []
    for messages in cost.lengths(SYSCALL_RUNS, shrink):
        _under(tool, subject, messages)
        counts.append((messages, cost.read_strace(trace.read_text())))
    return cost.difference(counts)


def _machine(subject: Subject, shrink: int) -> list[float]:
    """Instructions and allocations."""
    tool = (tools.debian("valgrind", "valgrind"), *callgrind.OPTIONS)
    totals = []
    for messages in cost.lengths(VALGRIND_RUNS, shrink):
        _under(tool, subject, messages)
        totals.append((messages, callgrind.totals()))
    return cost.slope(totals)


def _under(tool: tuple[str, ...], subject: Subject, messages: int) -> None:
    """Runs one load through the relay under a tool.

    So slowed down, the relay may find itself short of disk or CPU and refuse for now: then once more.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(tool, subject, messages)
        except RuntimeError as problem:
            tools.say(f"    {problem}")
            if attempt == ATTEMPTS - 1:
                raise


def _attempt(tool: tuple[str, ...], subject: Subject, messages: int) -> None:
    with relays.folder() as folder, receivers.our_sink() as receiver:
        config = relays.route(receiver.port, *subject.route)
        with relays.serve(folder, config, tool, READY_SECONDS) as relay:
            relay.hand_in(subject.client, messages)
            relay.await_delivered(messages)
