"""What a TLS handshake costs, full and resumed, on either side, with two kinds of certificate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from . import clients, measure, receivers, report, tools
from .clients import Client, Load
from .measure import Effort, Run
from .report import Section
from .speed import CONNECTIONS

MESSAGES_PER_CONNECTION = 10
RECONNECT = ("--reconnect-every", str(MESSAGES_PER_CONNECTION))

PLAIN_KEPT = clients.mailrail("overlapped", name="plaintext, connections kept")
PLAIN = clients.mailrail("overlapped", *RECONNECT, name="plaintext, reconnecting")


def handshakes(effort: Effort) -> Section:
    """A new connection costs what reconnecting adds; a handshake, what TLS adds to that."""
    connections = 200 if effort.quick else 3_000
    section = Section(
        f"TLS 1.3, {MESSAGES_PER_CONNECTION} messages a connection, into mailrail sink",
        ["", "full", "resumed", "full ÷ resumed"],
        [],
        raw=[],
    )
    try:
        rounds = [_round(connections, section) for _ in range(effort.rounds)]
    except measure.FAILURES as problem:
        report.not_measured(section, "handshakes", problem)
        return section
    for name in rounds[0]:
        full, resumed = (sorted(r[name][i] for r in rounds) for i in (0, 1))
        section.rows.append([name, _shown(full), _shown(resumed), _ratio(full, resumed)])
    section.notes = _handshakes_seen(section.raw)
    return section


def _round(connections: int, section: Section) -> dict[str, tuple[float, float]]:
    rsa_options, rsa_authority = receivers.rsa_tls()
    kinds = {
        "ECDSA P-256": (receivers.OWN_TLS, receivers.OWN_CA),
        "RSA 2048": (rsa_options, rsa_authority),
    }
    kept, reconnecting = _runs((), [PLAIN_KEPT, PLAIN], connections, section)
    plain = _per_connection(reconnecting, kept, connections)
    figures: dict[str, tuple[float, float]] = {}
    for kind, (options, authority) in kinds.items():
        kept, full, resumed = _runs(options, _clients(kind, authority), connections, section)
        both = [_per_connection(run, kept, connections) for run in (full, resumed)]
        for side in ("client", "receiver"):
            alone = tuple(cpu[side] - plain[side] for cpu in both)
            figures[f"{kind}: {side} CPU µs, the handshake alone"] = alone
        whole = tuple(cpu["client"] for cpu in both)
        figures[f"{kind}: client CPU µs, a new connection in all"] = whole
        figures[f"{kind}: msg/s"] = (full.rate, resumed.rate)
    return figures


def _clients(kind: str, authority: Path) -> list[Client]:
    """Connections kept, every handshake full, handshakes resumed; the certificate is verified."""
    variants = {
        "connections kept": (),
        "full": (*RECONNECT, "--no-resumption"),
        "resumed": RECONNECT,
    }
    trust = ("--ca", str(authority))
    return [
        clients.mailrail("overlapped", *options, *trust, scheme="smtps", name=f"{kind}, {name}")
        for name, options in variants.items()
    ]


def _runs(
    sink_options: tuple[str, ...], group: list[Client], connections: int, section: Section
) -> list[Run]:
    messages = connections * MESSAGES_PER_CONNECTION
    with receivers.our_sink(*sink_options) as receiver:
        load = Load(receiver.port, CONNECTIONS, messages)
        runs = [measure.once(client, load, receiver) for client in group]
    for run in runs:
        tools.say(f"  {run.client:<38} {run.cpu_seconds:8.2f} s of CPU {run.rate:>10,.0f} msg/s")
        section.raw.append(vars(run))
    return runs


def _per_connection(reconnecting: Run, kept: Run, connections: int) -> dict[str, float]:
    """CPU in µs that each side spends on one more connection."""
    per_message = {
        "client": reconnecting.cpu_us_per_message - kept.cpu_us_per_message,
        "receiver": reconnecting.receiver_cpu_us_per_message - kept.receiver_cpu_us_per_message,
    }
    return {side: cpu * reconnecting.messages / connections for side, cpu in per_message.items()}


def _handshakes_seen(raw: list[dict]) -> list[str]:
    """What the client itself counted: a run that resumed nothing must not pass for one that did."""
    seen: dict[str, Counter] = {}
    for run in raw:
        seen.setdefault(run["client"], Counter()).update(run["said"].get("tls", {}))
    return [
        f"{name}: {counts['full']:,} full and {counts['resumed']:,} resumed handshakes in all."
        for name, counts in seen.items()
        if counts.total()
    ]


def _shown(ordered: list[float]) -> str:
    middle = report.count(ordered[len(ordered) // 2])
    return middle if len(ordered) == 1 else f"{middle} ({report.spread(ordered[0], ordered[-1])})"


def _ratio(full: list[float], resumed: list[float]) -> str:
    below = resumed[len(resumed) // 2]
    return f"{full[len(full) // 2] / below:.2f}" if below > 0 else ""
