"""What one message costs the client: system calls, instructions, allocations.

Every figure is the difference between a longer and a shorter run, divided by the messages between
them, so that what a process spends on starting, connecting and warming up cancels.
"""

from __future__ import annotations

from collections import Counter

from . import callgrind, clients, measure, processes, receivers, report, tools
from .clients import Client, Load
from .measure import Effort
from .report import Section
from .speed import CONNECTIONS, OURS

SYSCALL_RUNS = (1_000, 6_000)
VALGRIND_RUNS = (500, 2_500)
TIMEOUT_SECONDS = 600


def per_message(effort: Effort) -> Section:
    """System calls of everyone; instructions and allocations of our modes."""
    shrink = 5 if effort.quick else 1
    section = Section(
        f"Cost of one message in the client, {CONNECTIONS} connections, into mailrail sink",
        ["Client", "system calls", "the most frequent", "instructions", "allocations"],
        [],
        raw=[],
    )
    with receivers.our_sink() as receiver:
        for client in [*OURS, clients.SMTP_SOURCE_D, clients.GO, clients.LETTRE]:
            _row(section, client, receiver.port, shrink)
    return section


def _row(section: Section, client: Client, port: int, shrink: int) -> None:
    try:
        calls = _syscalls(client, port, shrink)
        machine = _machine(client, port, shrink) if client.ours else (None, None)
    except measure.FAILURES as problem:
        report.not_measured(section, client.name, problem)
        return
    frequent = ", ".join(f"{name} {n:.2f}" for name, n in calls.most_common(4) if n >= 0.005)
    figures = [report.count(f) if f is not None else "" for f in machine]
    total = f"{sum(calls.values()):.2f}"
    tools.say(f"  {client.name:<38} {total} system calls ({frequent})  {' '.join(figures)}")
    section.rows.append([client.name, total, frequent, *figures])
    raw = {"client": client.name, "syscalls": dict(calls)}
    section.raw.append({**raw, "instructions": machine[0], "allocations": machine[1]})


def _syscalls(client: Client, port: int, shrink: int) -> Counter:
    trace = tools.OUT / "logs" / "strace.txt"
    command = [tools.debian("strace", "strace"), "-f", "-c", "-o", str(trace)]
    counts = []
    for messages in lengths(SYSCALL_RUNS, shrink):
        _under(command, client, Load(port, CONNECTIONS, messages))
        counts.append((messages, read_strace(trace.read_text())))
    return difference(counts)


def difference(counts: list[tuple[int, Counter]]) -> Counter:
    """Calls a message, of a shorter and a longer run."""
    (few, shorter), (many, longer) = counts
    names = set(shorter) | set(longer)
    return Counter({name: (longer[name] - shorter[name]) / (many - few) for name in names})


def read_strace(text: str) -> Counter:
    """`% time  seconds  usecs/call  calls  [errors]  name`, one line a system call."""
    counts: Counter = Counter()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            counts[words[-1]] += int(words[3])
    return counts


def _machine(client: Client, port: int, shrink: int) -> list[float]:
    """Instructions and allocations."""
    command = [tools.debian("valgrind", "valgrind"), *callgrind.OPTIONS]
    totals = []
    for messages in lengths(VALGRIND_RUNS, shrink):
        _under(command, client, Load(port, CONNECTIONS, messages))
        totals.append((messages, callgrind.totals()))
    return slope(totals)


def slope(totals: list[tuple[int, list[int]]]) -> list[float]:
    """Each figure a message, of a shorter and a longer run."""
    (few, shorter), (many, longer) = totals
    return [(b - a) / (many - few) for a, b in zip(shorter, longer)]


def _under(tool: list[str], client: Client, load: Load) -> None:
    log = tools.OUT / "logs" / "cost"
    command = [*tool, *client.command(load)]
    processes.run(command, log, timeout_seconds=TIMEOUT_SECONDS).check()


def lengths(runs: tuple[int, int], shrink: int) -> list[int]:
    """The messages of the shorter and of the longer run."""
    return [messages // shrink for messages in runs]
