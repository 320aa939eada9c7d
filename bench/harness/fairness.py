"""Load of one kind must not hold up other mail.

* `dead_site`: how long messages take through a relay in which a million wait for a site that is down, and through
  one that has nothing else to do. Both run all the time; short rounds alternate between them.
* `tenants`: one tenant has handed in 100,000 for a slow site; another hands in one message for the same site.

How long a message takes is counted from just before it is handed in until the receiver has taken it, by the
receiver's own record.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from . import clients, processes, receivers, relays, tools, waiting
from .measure import Effort
from .relays import Relay
from .report import Section, count, spread

MILLION = 1_000_000
PROBES_PER_S = 1000
FLOOD = 100_000
SINGLES = 20
SLOW_ROUND_TRIP = "20ms"
SLOW_CONNECTIONS = 4
PATIENCE_SECONDS = 30.0


@dataclass
class Probed:
    """A relay with a receiver that keeps records."""

    relay: Relay
    records: Path
    # Of each round, how long its messages took, in ms and in order.
    rounds: list[list[float]]

    def round(self, number: int, seconds: float) -> None:
        """Hands in messages at an even rate, and notes how long they took."""
        messages = int(PROBES_PER_S * seconds)
        name = f"p{number}"
        said = waiting.feed(self.relay, messages, 4096, f"{name}-{{n}}@live.example", PROBES_PER_S)
        if said["failed"]:
            raise RuntimeError(f"{said['failed']} of {messages} probes were refused")
        addresses = [f"{name}-{n}@live.example" for n in range(messages)]
        arrived = await_arrivals(self.records, addresses)
        handed = zip(addresses, said["handed"])
        self.rounds.append(sorted((arrived[address] - at) * 1000 for address, at in handed))

    def percentiles(self, percent: int) -> list[float]:
        """Over all rounds together, then of each; the first round, which warms up, left out."""
        counted = self.rounds[1:]
        together = sorted(ms for of_one in counted for ms in of_one)
        return [took[len(took) * percent // 100] for took in (together, *counted)]


def dead_site(effort: Effort) -> Section:
    """p50 and p99 beside a million messages that wait, against those of an empty queue."""
    messages = MILLION // 20 if effort.quick else MILLION
    section = Section(
        f"Others while {messages:,} wait for a site that is down",
        ["ms from handing in to arrival", "p50", "spread", "p99", "spread"],
        [],
        [f"{PROBES_PER_S:,} messages a second of 4096 octets, {effort.rounds} rounds of each in turn, taken together; "
         "the spread is of the rounds."],
    )
    with _probed("empty") as empty, _probed("full") as full:
        _fill(full.relay, messages)
        for number in range(effort.rounds + 1):
            for probed in (empty, full) if number % 2 else (full, empty):
                probed.round(number, max(1.0, effort.seconds))
        held = int(full.relay.metric("spool_messages"))
    if held < messages:
        section.failures.append(f"only {held} of {messages} waited")
    both = {"empty queue": empty, f"{messages:,} waiting": full}
    figures = {name: [p.percentiles(50), p.percentiles(99)] for name, p in both.items()}
    for name, of_one in figures.items():
        cells = [[count(whole), spread(min(rounds), max(rounds))] for whole, *rounds in of_one]
        section.rows.append([name, *cells[0], *cells[1]])
    beside, alone = figures[f"{messages:,} waiting"], figures["empty queue"]
    ratios = [f"{full_[0] / empty_[0]:.3f}" for full_, empty_ in zip(beside, alone)]
    section.rows.append(["ratio", ratios[0], "", ratios[1], ""])
    section.raw = figures
    return section


@contextlib.contextmanager
def _probed(name: str) -> Iterator[Probed]:
    nobody = processes.free_port()
    with relays.folder() as folder:
        records = folder / f"{name}.jsonl"
        with receivers.our_sink("--jsonl", str(records)) as receiver:
            routes = [
                relays.route(nobody, domain="dead.example"),
                relays.route(receiver.port, domain="live.example"),
            ]
            with relays.serve(folder, "\n".join(routes)) as relay:
                yield Probed(relay, records, [])


def _fill(relay: Relay, messages: int) -> None:
    client = clients.mailrail("windowed", "--to", "b@dead.example", window=8)
    relay.hand_in(client, messages, 300)


def tenants(effort: Effort) -> Section:
    """One message of one tenant beside a hundred thousand of another's, for the same slow site."""
    messages = FLOOD // 20 if effort.quick else FLOOD
    singles = SINGLES // 4 if effort.quick else SINGLES
    section = Section(
        f"A single message beside another tenant's {messages:,} for the same site",
        ["site", "waiting before", "and after", "median ms", "longest ms"],
        [],
        [f"{singles} singles by HTTP, one after another, from the request to the arrival."],
    )
    with relays.folder() as folder:
        records = folder / "records.jsonl"
        slow = receivers.our_sink("--jsonl", str(records), "--rtt", SLOW_ROUND_TRIP)
        with slow as receiver:
            config = relays.route(receiver.port, f"connections_max = {SLOW_CONNECTIONS}")
            with relays.serve(folder, config) as relay:
                relay.hand_in(clients.mailrail("windowed", window=8), messages)
                before = int(relay.metric("spool_messages"))
                took = _singles(relay, records, singles)
                after = int(relay.metric("spool_messages"))
    site = f"{SLOW_ROUND_TRIP} round trip, {SLOW_CONNECTIONS} connections"
    figures = [count(statistics.median(took)), count(max(took))]
    section.rows.append([site, f"{before:,}", f"{after:,}", *figures])
    section.raw = {"took_ms": took}
    if after == 0:
        section.failures.append("the flood was over before the last single message")
    return section


def _singles(relay: Relay, records: Path, singles: int) -> list[float]:
    wanted = {"name": "single", "tenant": "single", "scopes": ["send"]}
    key = relay.call("/keys", wanted)["token"]
    took = []
    for number in range(singles):
        address = f"single-{number}@b.example"
        begun = time.time()
        email = {"from": "app@a.example", "to": address, "subject": "One", "text": "One."}
        relay.call("/emails", email, key)
        took.append((await_arrivals(records, [address])[address] - begun) * 1000)
    return took


def await_arrivals(records: Path, addresses: list[str]) -> dict[str, float]:
    """When each address got its message, in seconds since 1970, by the sink's records."""
    wanted, arrived = set(addresses), {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    with records.open("rb") as lines:
        while wanted:
            line = lines.readline()
            if not line.endswith(b"\n"):
                lines.seek(-len(line), 1)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{len(wanted)} of {len(addresses)} messages did not arrive")
                time.sleep(0.01)
                continue
            record = json.loads(line)
            for address in wanted.intersection(record["to"]):
                wanted.remove(address)
                time_ = datetime.fromisoformat(record["time"].replace("Z", "+00:00"))
                arrived[address] = time_.timestamp()
    return arrived
