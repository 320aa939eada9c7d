"""Tables: to the terminal, to Markdown and, with every run behind them, to JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import tools
from .measure import Effort, Series


@dataclass
class Section:
    """One condition's result: a table, what to read beside it, and the raw figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    raw: object = None
    failures: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _rule(len(self.columns))]
        lines += [_line(row) for row in self.rows]
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        table = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        shown = [_padded(row, widths) for row in table]
        return "\n".join([f"\n== {self.title}", *shown, *self.notes])


def count(value: float) -> str:
    """A figure with three significant digits, or whole when it is large."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(low: float, high: float) -> str:
    return f"{count(low)}–{count(high)}"


def mebibytes(kib: float) -> str:
    return f"{kib / 1024:.1f}"


def not_measured(section: Section, client: str, problem: object) -> None:
    """Gives a client that could not be measured its row, and says why below the table."""
    reason = f"{client}: {problem}"
    tools.say(f"  {reason}")
    section.failures.append(reason)
    section.rows.append([client, "not measured"] + [""] * (len(section.columns) - 2))
    section.notes.append(f"Not measured: {reason}")


def speed_section(title: str, table: list[Series], extra: dict | None = None) -> Section:
    """The common table of rates; `extra` maps a column's name to a function of a series."""
    extra = extra or {}
    columns = ["Client", "msg/s, median", "min–max", "failed", *extra]
    columns += ["client CPU µs/msg", "receiver CPU µs/msg", "client peak MiB"]
    section = Section(title, columns, [], raw=[_raw(series) for series in table])
    for series in table:
        if series.runs:
            section.rows.append(_speed_row(series, extra))
        if series.error:
            not_measured(section, series.client.name, series.error)
    return section


def _speed_row(series: Series, extra: dict) -> list[str]:
    return [
        series.client.name,
        count(series.median("rate")),
        spread(*series.spread("rate")),
        str(sum(run.failed for run in series.runs)),
        *(show(series) for show in extra.values()),
        count(series.median("cpu_us_per_message")),
        count(series.median("receiver_cpu_us_per_message")),
        mebibytes(series.median("rss_peak_kib")),
    ]


def _raw(series: Series) -> dict:
    runs = [{**vars(run), "samples": len(run.samples)} for run in series.runs]
    return {"client": series.client.name, "error": series.error, "runs": runs}


def environment(effort: Effort) -> dict:
    """The machine and the versions, as far as they can be read."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": _first_field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_kib": int(_first_field("/proc/meminfo", "MemTotal").split()[0]),
        "kernel": platform.release(),
        "commit": _said(["git", "-C", str(tools.ROOT), "rev-parse", "--short", "HEAD"]),
        "rustc": _said(["rustc", "--version"]),
        "postfix": _said(["dpkg-query", "-W", "-f", "${Version}", "postfix"]),
        "python": platform.python_version(),
        "node": _said(["node", "--version"]),
        "go": _said(["go", "version"]),
        "load_average_before": os.getloadavg()[0],
        "rounds": effort.rounds,
        "seconds_per_run": effort.seconds,
    }


def write(sections: list[Section], machine: dict) -> None:
    """Writes `out/results.json` and `out/results.md`."""
    tools.OUT.mkdir(exist_ok=True)
    conditions = [
        {"title": s.title, "columns": s.columns, "rows": s.rows, "notes": s.notes, "raw": s.raw}
        for s in sections
    ]
    whole = {"environment": machine, "conditions": conditions}
    (tools.OUT / "results.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False))
    head = (
        f"{machine['date']}, commit {machine['commit']}; {machine['cores']} cores, "
        f"{machine['cpu']}; kernel {machine['kernel']}; {machine['rounds']} interleaved rounds "
        f"of about {machine['seconds_per_run']:g} s each; load average before: "
        f"{machine['load_average_before']:.2f}.\n"
    )
    body = "\n".join(section.markdown() for section in sections)
    (tools.OUT / "results.md").write_text(f"{head}\n{body}")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|---|" + "---:|" * (columns - 1)


def _padded(row: list[str], widths: list[int]) -> str:
    figures = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
    return "  ".join([row[0].ljust(widths[0]), *figures]).rstrip()


def _first_field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
