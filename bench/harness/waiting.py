"""Memory of `mailrail serve` with much mail in it, and how soon it is back after a kill.

* `in_flight`: as many messages as possible sent and unanswered at once. There are as many relays (ports of one sink) as
  it takes, each with one connection and a window of 8 messages on it, which a few messages open first; from then on the
  receiver answers nothing.
* `million`: a route to a port where nobody listens, so that everything waits for its retry. Then SIGKILL, and a start
  on the same folder, with its files in the page cache and without.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import sys
import time
from datetime import datetime
from pathlib import Path

from . import clients, processes, receivers, relays, tools
from .measure import Effort
from .relays import Relay
from .report import Section, count

IN_FLIGHT = 20_000
WINDOW = 8
HOLD = "100s"
HELD = "held@a.example"
# Each success lets one more be unanswered on a connection.
WARM = 2 * WINDOW
MESSAGES = 1_000_000
SIZE_BYTES = 300
SETTLE_SECONDS = 90.0


def in_flight(effort: Effort) -> Section:
    """Resident memory with 20,000 messages on the wire."""
    messages = IN_FLIGHT // 10 if effort.quick else IN_FLIGHT
    relays_needed = messages // WINDOW
    section = Section(
        "Memory with messages in flight",
        ["in flight", "waiting", "connections out", "resident MiB", "peak MiB", "before, MiB", "sockets of the sink"],
        [],
        raw=[],
    )
    # One more is there anyway.
    listens = ["--listen", "127.0.0.1:0"] * (relays_needed - 1)
    rule = f'at = "mail", address = "{HELD}", delay = "{HOLD}"'
    with relays.folder() as folder, receivers.our_sink(*listens, "--rule", rule) as receiver:
        more = ("connections_max = 1", f'wire = "windowed:{WINDOW}"')
        routes = [relays.route(port, *more, domain=f"s{n}.example") for n, port in enumerate(receiver.ports)]
        with relays.serve(folder, "\n".join(routes)) as relay:
            before = relay.rss_mib()
            recipients = f"b@s{{n%{relays_needed}}}.example"
            feed(relay, WARM * relays_needed, SIZE_BYTES, recipients)
            relay.await_delivered(WARM * relays_needed)
            for beside in (0, messages // 10):
                feed(relay, beside or messages, 4096, recipients, reverse_path=HELD)
                reached = _await_in_flight(relay, messages)
                time.sleep(1)
                rss, peak = relay.rss_mib(), relay.rss_mib("VmHWM")
                connections = int(relay.metric("open_connections"))
                unanswered = _connections_of(receiver.pid)
                section.rows.append(
                    [
                        f"{reached:,}",
                        f"{beside:,}",
                        f"{connections:,}",
                        count(rss),
                        count(peak),
                        count(before),
                        f"{unanswered:,}",
                    ]
                )
                section.raw.append(
                    {
                        "in_flight": reached,
                        "waiting": beside,
                        "connections": connections,
                        "rss_mib": rss,
                        "peak_mib": peak,
                    }
                )
    section.notes.append(
        f"{relays_needed:,} routes, each to a port of one sink, with one connection and `windowed:{WINDOW}`, opened by "
        f"{WARM} messages each; then 4096 octets a message, and the sink answers nothing for {HOLD}. Then a tenth more, "
        "which finds no room on the wire. Sockets open at the sink: one a port to listen, one a connection."
    )
    return section


def feed(
    relay: Relay,
    messages: int,
    size_bytes: int,
    pattern: str,
    rate: float = 0,
    reverse_path: str = "feed@a.example",
) -> dict:
    """Hands in messages to recipients that differ; see `loads/smtp_feed.py`."""
    command = [sys.executable, str(tools.BENCH / "loads" / "smtp_feed.py"), "127.0.0.1", str(relay.port)]
    command += [str(messages), str(size_bytes), str(rate), pattern, reverse_path]
    finished = processes.run(command, tools.OUT / "logs" / "feed").check()
    return clients.last_json(finished)


def _await_in_flight(relay: Relay, messages: int) -> int:
    """What is in flight once it is that many, or no longer grows."""
    until, most = time.monotonic() + SETTLE_SECONDS, 0
    while most < messages and time.monotonic() < until:
        most = max(most, int(relay.metric('queue_jobs{state="in_flight"}')))
        time.sleep(0.2)
    return most


def _connections_of(pid: int) -> int:
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink())
    return sum(link.startswith("socket:") for link in links)


def million(effort: Effort) -> Section:
    """Resident memory with a million messages that wait, and the start after a SIGKILL."""
    messages = MESSAGES // 20 if effort.quick else MESSAGES
    section = Section(
        f"{messages:,} messages for a site that is down",
        ["", "resident MiB", "peak MiB", "accepting after s", "complete after s", "accepted/s meanwhile"],
        [],
        [f"{SIZE_BYTES} octets a message, handed in by `mailrail bench --window 8`, each synced before its 250."],
        raw=[],
    )
    nobody = processes.free_port()
    with relays.folder() as folder:
        with _killed(folder, nobody) as relay:
            rate = _fill(relay, messages)
            section.rows.append(["waiting", *_memory(relay), "", "", count(rate)])
        for name, prepare in (
            ("started again, page cache warm", lambda _: None),
            ("started again, page cache cold", _drop_from_cache),
        ):
            prepare(folder / "data")
            begun, wall = time.monotonic(), time.time()
            with _killed(folder, nobody) as relay:
                _await_accepting(relay)
                accepting = time.monotonic() - begun
                complete = _await_recovered(relay, wall)
                memory = _memory(relay)
                _check(relay, messages)
            section.rows.append([name, *memory, f"{accepting:.2f}", f"{complete:.2f}", ""])
            section.raw.append({"start": name, "accepting_s": accepting, "complete_s": complete})
            tools.say(f"  {name}: accepting after {accepting:.2f} s, complete after {complete:.2f} s")
    return section


@contextlib.contextmanager
def _killed(folder: Path, receiver: int):
    """A server that ends by SIGKILL."""
    with relays.serve(folder, relays.route(receiver)) as relay:
        try:
            yield relay
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(relay.pid, signal.SIGKILL)


def _fill(relay: Relay, messages: int) -> float:
    sent = relay.hand_in(clients.mailrail("windowed", window=8), messages, SIZE_BYTES)
    return sent.ok / sent.seconds


def _memory(relay: Relay) -> list[str]:
    return [count(relay.rss_mib()), count(relay.rss_mib("VmHWM"))]


def _await_accepting(relay: Relay) -> None:
    """Until a message has its 250."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
        client.sendmail("app@a.example", "b@b.example", "Subject: after the kill\r\n\r\nHello\r\n")


def _await_recovered(relay: Relay, begun: float) -> float:
    """Seconds from `begun`, on the wall clock, until the log says that all is back."""
    pattern = re.compile(r'"timestamp":"([^"]+)".*"recovery has ended"')
    found = receivers.await_(
        lambda: pattern.search(relay.log.read_text(errors="replace")), "recovery", None, SETTLE_SECONDS
    )
    return _seconds(found[1]) - begun


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _check(relay: Relay, messages: int) -> None:
    waiting = int(relay.metric("spool_messages"))
    # One more was handed in by each start to see that it accepts.
    if not messages <= waiting <= messages + 2:
        raise RuntimeError(f"{waiting} of {messages} messages are there")


def _drop_from_cache(data: Path) -> None:
    """Writes back our files and has the kernel forget them; nobody else's."""
    for path in data.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
