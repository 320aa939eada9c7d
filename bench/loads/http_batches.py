#!/usr/bin/env python3
"""Hands in messages by `POST /emails/batch` as fast as they are taken, and says how many as JSON.

    http_batches.py HOST PORT KEY_FILE CONNECTIONS MESSAGES SIZE_BYTES BATCH

A thread a connection, one request at a time on each. A request is made once, before the clock starts, and
posted again and again, so that what is measured is the server: the threads only write and read sockets.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    host, port, key_file, *numbers = sys.argv[1:]
    connections, messages, size_bytes, batch = map(int, numbers)
    request = make_request(Path(key_file).read_text().strip(), size_bytes, batch)
    batches = max(1, messages // batch // connections)
    taken, refused = [], []

    def work() -> None:
        with socket.create_connection((host, int(port))) as connection:
            for _ in range(batches):
                connection.sendall(request)
                (taken if read_status(connection) == 200 else refused).append(batch)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    print(json.dumps({"ok": sum(taken), "failed": sum(refused), "seconds": seconds}))


def make_request(key: str, size_bytes: int, batch: int) -> bytes:
    line = "This line is there a number of times, as text has lines of about this length.\n"
    text = line * (size_bytes // len(line))
    emails = [
        {
            "from": "App <app@a.example>",
            "to": f"b{number}@b.example",
            "subject": "A message of the bench",
            "text": text,
        }
        for number in range(batch)
    ]
    body = json.dumps(emails).encode()
    head = (
        f"POST /emails/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_status(connection: socket.socket) -> int:
    """Reads one answer in full."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += receive(connection)
    head = answer[:end].lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    left = length - (len(answer) - end - 4)
    while left > 0:
        left -= len(receive(connection))
    return int(head.split(b" ", 2)[1])


def receive(connection: socket.socket) -> bytes:
    octets = connection.recv(65536)
    if not octets:
        raise SystemExit("the server hung up")
    return octets


if __name__ == "__main__":
    main()
