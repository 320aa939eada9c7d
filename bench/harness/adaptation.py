"""How well a limit that nobody is told is found and used: 100, then 300, then 60 messages a second, ten seconds each.

In virtual time every way of control beside ours; over real sockets the whole engine, and Postfix, against one receiver.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable

from . import processes, receivers, relays, tools
from .measure import FAILURES, Effort
from .report import Section

ANSWERS = ("451", "421")
MESSAGES = 8000
CONTENT_OCTETS = 1024
# What the virtual bench calls the answers.
_ANSWER_OF = {"Temporary": "451", "Close": "421"}
_SUMMARY = re.compile(r"used +([\d.]+) %.*?([\d.]+) % of attempts refused, found after (.+)")
_VIRTUAL = re.compile(r"  (.+?) +used +([\d.]+) %.*refused +([\d.]+) %.*found after (.+)")
_RUN_SECONDS = 30


def unknown_limit(effort: Effort) -> Section:
    """Virtual time first; then real sockets, in rounds."""
    columns = ["Sender", "answer above", "limit used", "least", "refused", "most", "found after each step"]
    section = Section("a limit that nobody is told", columns, [], raw={})
    _virtual(section, seeds=3 if effort.quick else 20)
    ways: list[tuple[str, Callable[[str], str]]] = [
        ("mailrail engine, sockets", lambda answer: _engine(answer)),
        ("the same, restarted in the middle", lambda answer: _engine(answer, "restart")),
        ("Postfix 3.7, sockets", _postfix),
    ]
    seen: dict[tuple[str, str], list[tuple]] = {}
    for _ in range(effort.rounds):
        for name, way in ways:
            for answer in ANSWERS:
                try:
                    seen.setdefault((name, answer), []).append(_read(way(answer)))
                except FAILURES as problem:
                    section.failures.append(f"{name}, {answer}: {problem}")
                    section.notes.append(f"Not measured: {name}, {answer}: {problem}")
    for (name, answer), runs in seen.items():
        used, refused, found = zip(*runs, strict=True)
        section.rows.append(
            [
                name,
                answer,
                f"{statistics.median(used):.1f} %",
                f"{min(used):.1f} %",
                f"{statistics.median(refused):.1f} %",
                f"{max(refused):.1f} %",
                found[0],
            ]
        )
        section.raw[f"{name}, {answer}"] = runs
    return section


def _virtual(section: Section, seeds: int) -> None:
    """Means over seeds, at a latency of 2 to 6 ms."""
    said = _run("mailrail-schedule", str(seeds))
    answer = None
    for line in said.splitlines():
        if not line.startswith(" "):
            known = re.match(r"100, 300, 60 a second: (\w+), latency 2 to", line)
            answer = known and _ANSWER_OF[known[1]]
            continue
        figures = _VIRTUAL.match(line)
        if answer and figures:
            least, most = re.findall(r"\((?:least|most) +([\d.]+)\)", line)
            name, used, refused, found = figures.groups()
            shares = [f"{share} %" for share in (used, least, refused, most)]
            section.rows.append([f"{name}, virtual time", answer, *shares, found])
    section.raw["virtual"] = said


def _engine(*arguments: str) -> str:
    return _run("mailrail-engine", *arguments)


def _run(package: str, *arguments: str) -> str:
    command = [tools.cargo_bench(package, "adaptation"), *arguments]
    log = tools.OUT / "logs" / f"adaptation-{package}"
    return processes.run(command, log, timeout_seconds=300).check().stdout


def _postfix(answer: str) -> str:
    """As many messages as for the engine, by `smtp-source`, into Postfix with its feedback as it comes."""
    receiver = [tools.cargo_bench("mailrail-engine", "adaptation"), answer, "receiver"]
    with receivers.started("adaptation-receiver", receiver) as (process, log):
        listens = lambda: re.search(r"listening on .*:(\d+)", log.read_text())  # noqa: E731
        port = int(receivers.await_(listens, "the receiver", process)[1])
        with relays.folder() as folder, relays.postfix(folder, port) as relay:
            load = [tools.smtp_source(), "-d", "-s", "20", "-m", str(MESSAGES)]
            load += ["-l", str(CONTENT_OCTETS), f"127.0.0.1:{relay.port}"]
            processes.run(load, tools.OUT / "logs" / "adaptation-load").check()
            deadline = time.monotonic() + _RUN_SECONDS + 10
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        return log.read_text()


def _read(said: str) -> tuple[float, float, str]:
    figures = _SUMMARY.search(said)
    if figures is None:
        raise RuntimeError("no figures were printed")
    return float(figures[1]), float(figures[2]), figures[3].strip()
