"""Processes the harness starts: each is timed, sampled, and stopped by its own id.

Invariant: whatever is started here is in `_running` until it has been waited for, and
`stop_all`, registered at exit, ends what is left, also after an error or a signal.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
GRACE_SECONDS = 5.0

_running: dict[int, subprocess.Popen] = {}


@dataclass
class Finished:
    """What a process that ran to its end cost and said."""

    command: list[str]
    returncode: int
    stdout: str
    stderr: str
    wall_seconds: float
    cpu_seconds: float
    rss_peak_kib: int
    samples: list[dict] = field(default_factory=list)

    def check(self) -> Finished:
        """Raises unless the process exited with 0."""
        if self.returncode != 0:
            last = (self.stderr.strip() or self.stdout.strip() or "no output").splitlines()[-1]
            raise RuntimeError(f"{Path(self.command[0]).name} exited {self.returncode}: {last}")
        return self


def start(command: list[str], stdout, stderr, cwd: Path | None = None) -> subprocess.Popen:
    """Starts a process in a group of its own, so that its children can be stopped with it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        start_new_session=True,
    )
    _running[process.pid] = process
    return process


def stop(process: subprocess.Popen, grace_seconds: float = GRACE_SECONDS) -> None:
    """Interrupts, and kills after a grace time, what is still running; always waits."""
    try:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is not None:
                break
            _signal_group(process, number)
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                continue
    finally:
        _running.pop(process.pid, None)


def stop_all() -> None:
    for process in list(_running.values()):
        stop(process)


def install_handlers() -> None:
    """Makes a plain `kill` and the end of the interpreter both stop what was started."""
    atexit.register(stop_all)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(
    command: list[str],
    log: Path,
    timeout_seconds: float = 300,
    interval_seconds: float = 0.05,
    observe=None,
) -> Finished:
    """Runs a client to its end, with `/proc` sampled every `interval_seconds`.

    * `log`: stem of the files that take stdout and stderr.
    * `observe`: called with each sample, to add figures of the caller's to it.
    """
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as stdout, err.open("wb") as stderr:
        began = time.monotonic()
        process = start(command, stdout, stderr)
        sampler = _Sampler(process.pid, began, interval_seconds, observe)
        killer = threading.Timer(timeout_seconds, _signal_group, (process, signal.SIGKILL))
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            killer.cancel()
            samples = sampler.finish()
            stop(process)
    return Finished(
        command=command,
        returncode=process.returncode,
        stdout=out.read_text(errors="replace"),
        stderr=err.read_text(errors="replace"),
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        rss_peak_kib=max((s["rss_peak_kib"] for s in samples), default=0),
        samples=samples,
    )


def cpu_seconds(pid: int) -> float:
    """CPU time a live process has used, all of its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def family_cpu_seconds(pid: int) -> float:
    """CPU time of a live process and of all its descendants, those that have ended included.

    What a descendant's own children used counts once somebody has waited for them.
    """
    fields, children = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        number = int(stat.parent.name)
        fields[number] = rest
        children.setdefault(int(rest[1]), []).append(number)
    ticks, todo = 0, [pid]
    while todo:
        one = todo.pop()
        ticks += sum(int(tick) for tick in fields[one][11:15])
        todo += children.get(one, [])
    return ticks / TICKS_PER_SECOND


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


class _Sampler:
    """Reads VmHWM and VmRSS while a process runs.

    `ru_maxrss` would not do: it starts from the size of the parent that spawned the process.
    """

    def __init__(self, pid: int, began: float, interval_seconds: float, observe) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._began = began
        self._interval = interval_seconds
        self._observe = observe
        self._samples: list[dict] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.wait(self._interval):
            try:
                text = self._status.read_text()
            except OSError:
                return
            if "VmHWM" not in text:  # already a zombie
                return
            sample = {
                "at_seconds": round(time.monotonic() - self._began, 3),
                "rss_kib": _kib(text, "VmRSS"),
                "rss_peak_kib": _kib(text, "VmHWM"),
            }
            if self._observe is not None:
                self._observe(sample)
            self._samples.append(sample)

    def finish(self) -> list[dict]:
        self._over.set()
        self._thread.join()
        return self._samples


def _kib(status: str, field_name: str) -> int:
    line = next(line for line in status.splitlines() if line.startswith(field_name + ":"))
    return int(line.split()[1])
