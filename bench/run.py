#!/usr/bin/env python3
"""Measures mailrail beside its peers: same machine, same receiver, one run.

    python3 bench/run.py                   everything
    python3 bench/run.py --quick           a short smoke of everything; its figures mean little
    python3 bench/run.py --only link-delay one part (may be given several times)

Sets up what it needs, uses loopback and free ports only, and stops what it started. Writes
bench/out/results.json (every run) and bench/out/results.md (tables for BENCHMARKS.md).
"""

from __future__ import annotations

import argparse
import resource
import sys

from harness import adaptation, cost, fairness, latency, memory, parts, processes, relay_cost
from harness import report, speed, throughput, tls, tools, waiting
from harness.measure import FAILURES, Effort

CONDITIONS = {
    "smtp-sink": speed.no_delay_smtp_sink,
    "our-sink": speed.no_delay_our_sink,
    "link-delay": speed.link_delay,
    "connections": memory.thousand_connections,
    "million": memory.million_messages,
    "tls": tls.handshakes,
    "cost": cost.per_message,
    "relays": throughput.smtp_in,
    "latency": latency.at_half_load,
    "in-flight": waiting.in_flight,
    "waiting": waiting.million,
    "dead-site": fairness.dead_site,
    "tenants": fairness.tenants,
    "adaptation": adaptation.unknown_limit,
    "schedule": parts.schedule,
    "history": parts.history,
    "relay-cost": relay_cost.per_message,
    "http-in": throughput.http_in,
}


def main() -> int:
    arguments = parse_arguments()
    effort = Effort(1, 1.0) if arguments.quick else Effort(arguments.rounds, arguments.seconds)
    processes.install_handlers()
    allow_many_files()
    machine = report.environment(effort)
    if machine["load_average_before"] > 0.5:
        tools.say(f"the machine is busy (load {machine['load_average_before']:.2f}): expect noise")
    sections = []
    for name in arguments.only or CONDITIONS:
        tools.say(f"{name}:")
        section = attempt(name, effort)
        sections.append(section)
        print(section.text(), flush=True)
        report.write(sections, machine)
    tools.say(f"\nwrote {tools.OUT / 'results.json'} and {tools.OUT / 'results.md'}")
    return 1 if any(section.failures for section in sections) else 0


def attempt(name: str, effort: Effort) -> report.Section:
    """Runs one condition; one that cannot start at all still leaves a section that says why."""
    try:
        return CONDITIONS[name](effort)
    except FAILURES as problem:
        notes = [f"Not measured: {problem}"]
        return report.Section(name, ["not measured"], [], notes, failures=[str(problem)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=CONDITIONS, metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run, about")
    return parser.parse_args()


def allow_many_files() -> None:
    """A thousand connections need as many descriptors; what we start inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
