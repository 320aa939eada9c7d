#!/usr/bin/env python3
"""Hands in messages whose recipients all differ, pipelined, and says when each was accepted.

    smtp_feed.py HOST PORT MESSAGES SIZE_BYTES RATE ADDRESS [REVERSE_PATH]

`ADDRESS` has `{n}` where the message's number goes: `r{n}@live.example`, `r@s{n}.example`; `{n%100}` counts to 99 and
begins again. With a `RATE` above 0 messages fall due evenly, one transaction at a time on each of a few connections;
with 0 they go as fast as they are taken, a hundred unanswered on one connection. The last line is JSON: `ok`, `failed`,
`seconds`, and with a rate `handed`, the time (seconds since 1970) just before each was written, by number.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time

CONNECTIONS = 8
FLIGHT = 100
REPLIES = 3


def main() -> None:
    host, port, messages, size_bytes, rate, *ends = sys.argv[1:]
    server, count, content = (host, int(port)), int(messages), make_content(int(size_bytes))
    make = Transaction(content, *ends)
    begun = time.monotonic()
    handed: list[float] = [0.0] * count
    if float(rate) > 0:
        taken = paced(server, make, float(rate), handed)
    else:
        taken = flooded(server, make, count)
    seconds = time.monotonic() - begun
    said = {"ok": sum(taken), "failed": count - sum(taken), "seconds": seconds}
    print(json.dumps({**said, "handed": handed} if float(rate) > 0 else said))


def paced(server, make: Transaction, rate: float, handed: list[float]) -> list[bool]:
    """Message `n` is due after `n / rate` seconds, on connection `n` modulo their number."""
    begun = time.monotonic() + 0.1
    taken: list[bool] = []

    def work(mine: int) -> None:
        session = Session(server)
        for number in range(mine, len(handed), CONNECTIONS):
            octets = make(number)
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            handed[number] = time.time()
            session.write(octets)
            taken.extend(session.taken(1))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def flooded(server, make: Transaction, count: int) -> list[bool]:
    session, taken = Session(server), []
    for start in range(0, count, FLIGHT):
        numbers = range(start, min(start + FLIGHT, count))
        session.write(b"".join(make(number) for number in numbers))
        taken.extend(session.taken(len(numbers)))
    return taken


class Session:
    """One connection, after EHLO."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._socket = socket.create_connection(server)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._reply()
        self.write(b"EHLO feed.example\r\n")
        self._reply()

    def write(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def taken(self, transactions: int) -> list[bool]:
        """Whether the last reply of each was a 250."""
        return [[self._reply() for _ in range(REPLIES)][-1] == b"250" for _ in range(transactions)]

    def _reply(self) -> bytes:
        while True:
            line = self._file.readline()
            if not line:
                raise SystemExit("the server hung up")
            if line[3:4] != b"-":
                return line[:3]


class Transaction:
    """MAIL, RCPT and the content in one BDAT, RFC 3030."""

    def __init__(self, content: bytes, pattern: str, reverse_path: str = "feed@a.example") -> None:
        self._content, self._pattern, self._reverse_path = content, pattern, reverse_path

    def __call__(self, number: int) -> bytes:
        wrapped = lambda found: str(number % int(found[1]))  # noqa: E731
        address = re.sub(r"\{n%(\d+)\}", wrapped, self._pattern).replace("{n}", str(number))
        commands = f"MAIL FROM:<{self._reverse_path}>\r\nRCPT TO:<{address}>\r\n"
        return f"{commands}BDAT {len(self._content)} LAST\r\n".encode() + self._content


def make_content(size_bytes: int) -> bytes:
    head = b"From: <feed@a.example>\r\nSubject: bench\r\n\r\n"
    line = b"x" * 76 + b"\r\n"
    return head + line * max(1, (size_bytes - len(head)) // len(line))


if __name__ == "__main__":
    main()
