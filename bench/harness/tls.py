"""What a TLS handshake costs the client, full and resumed."""

from __future__ import annotations

from . import clients, measure, receivers, report, tools
from .clients import Client, Load
from .measure import Effort
from .memory import TLS_OPTIONS
from .report import Section
from .speed import CONNECTIONS

MESSAGES_PER_CONNECTION = 10
RECONNECT = ("--reconnect-every", str(MESSAGES_PER_CONNECTION))

PLAIN_KEPT = clients.mailrail("overlapped", name="plaintext, connections kept")
PLAIN = clients.mailrail("overlapped", *RECONNECT, name="plaintext, 10 messages a connection")
KEPT = clients.mailrail("overlapped", *TLS_OPTIONS, scheme="smtps", name="TLS, connections kept")
RESUMED = clients.mailrail(
    "overlapped", *RECONNECT, *TLS_OPTIONS, scheme="smtps", name="TLS resumed"
)
FULL = clients.mailrail(
    "overlapped", *RECONNECT, "--no-resumption", *TLS_OPTIONS, scheme="smtps", name="TLS full"
)


def handshakes(effort: Effort) -> Section:
    """A new connection = (CPU with reconnects − without) ÷ connections; a handshake = TLS − plain."""
    connections = 200 if effort.quick else 3_000
    section = Section(
        f"TLS 1.3, {MESSAGES_PER_CONNECTION} messages a connection, into mailrail sink",
        ["", "full", "resumed", "full ÷ resumed"],
        [],
        raw=[],
    )
    try:
        rounds = [_round(connections, section.raw) for _ in range(effort.rounds)]
    except measure.FAILURES as problem:
        report.not_measured(section, "handshakes", problem)
        return section
    for name in rounds[0]:
        full, resumed = (sorted(r[name][i] for r in rounds) for i in (0, 1))
        section.rows.append([name, _shown(full), _shown(resumed), _ratio(full, resumed)])
    section.notes = [_handshakes_seen(section.raw, client) for client in (FULL, RESUMED)]
    return section


def _round(connections: int, raw: list) -> dict[str, tuple[float, float]]:
    cpu: dict[str, float] = {}
    rate: dict[str, float] = {}
    messages = connections * MESSAGES_PER_CONNECTION
    groups = {(): (PLAIN_KEPT, PLAIN), ("--implicit-tls",): (KEPT, RESUMED, FULL)}
    for options, group in groups.items():
        with receivers.our_sink(*options) as receiver:
            for client in group:
                run = _run(client, messages, receiver)
                cpu[client.name], rate[client.name] = run.cpu_seconds * 1e6, run.rate
                raw.append(vars(run))
    reconnect = (cpu[PLAIN.name] - cpu[PLAIN_KEPT.name]) / connections
    full, resumed = ((cpu[c.name] - cpu[KEPT.name]) / connections for c in (FULL, RESUMED))
    return {
        "client CPU µs, a new connection in all": (full, resumed),
        "client CPU µs, the handshake alone": (full - reconnect, resumed - reconnect),
        "msg/s": (rate[FULL.name], rate[RESUMED.name]),
    }


def _run(client: Client, messages: int, receiver):
    run = measure.once(client, Load(receiver.port, CONNECTIONS, messages), receiver)
    seen = run.said.get("tls", {})
    tools.say(
        f"  {client.name:<38} {run.cpu_seconds:8.2f} s of CPU {run.rate:>10,.0f} msg/s; "
        f"handshakes: {seen.get('full', 0)} full, {seen.get('resumed', 0)} resumed"
    )
    return run


def _handshakes_seen(raw: list[dict], client: Client) -> str:
    """What the client itself counted: a run that resumed nothing must not pass for one that did."""
    counts = [run["said"].get("tls", {}) for run in raw if run["client"] == client.name]
    full, resumed = (sum(c.get(kind, 0) for c in counts) for kind in ("full", "resumed"))
    return f"{client.name}: {full:,} full and {resumed:,} resumed handshakes in all rounds."


def _shown(ordered: list[float]) -> str:
    middle = report.count(ordered[len(ordered) // 2])
    return middle if len(ordered) == 1 else f"{middle} ({report.spread(ordered[0], ordered[-1])})"


def _ratio(full: list[float], resumed: list[float]) -> str:
    below = resumed[len(resumed) // 2]
    return f"{full[len(full) // 2] / below:.2f}" if below > 0 else ""
