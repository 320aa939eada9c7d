"""Parts of the engine alone, by their own `cargo bench`: the schedule with admission, and history.

Their rates are of one thread's CPU time, so they say little of what else the machine does; their answer times are by the clock.
"""

from __future__ import annotations

import re
import statistics
import tempfile

from . import processes, report, tools
from .measure import Effort
from .report import Section

TIMEOUT_SECONDS = 900


def schedule(_effort: Effort) -> Section:
    """Insert, grant and settle; the retry wheel; admission. The median of the bench's rounds."""
    section = Section("schedule and admission", ["", "million a second", "spread"], [], raw={})
    said = _run("mailrail-schedule", "throughput")
    rates: dict[str, list[float]] = {}
    for name, rate in re.findall(r"^  (.+): ([\d.]+) million a second$", said, re.MULTILINE):
        rates.setdefault(name, []).append(float(rate))
    for name, of_one in rates.items():
        cells = [report.count(statistics.median(of_one)), report.spread(min(of_one), max(of_one))]
        section.rows.append([name, *cells])
    section.raw = rates
    return section


def history(effort: Effort) -> Section:
    """Records in, what they take, and questions among them."""
    millions = "0.2" if effort.quick else "10"
    section = Section(f"history of {millions} million records", ["", ""], [])
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        said = _run("mailrail-store", "history", millions, folder)
    section.rows = [re.split(r"\s{2,}", line, maxsplit=1) for line in said.splitlines()]
    section.raw = said
    return section


def _run(package: str, bench: str, *arguments: str) -> str:
    command = [tools.cargo_bench(package, bench), *arguments]
    log = tools.OUT / "logs" / bench
    return processes.run(command, log, timeout_seconds=TIMEOUT_SECONDS).check().stdout
