"""aiosmtplib, one persistent client a task; the library has no pool.

Called as bench.py HOST PORT CONNECTIONS MESSAGES SIZE; prints one line of JSON. What is fair: the
content is made once and handed over as bytes; every connection is open, greeted and has carried
one message before the clock starts; QUIT is not timed.
"""

import asyncio
import json
import sys
import time

import aiosmtplib

SENDER = "bench@example.com"
RECIPIENT = "someone@example.net"


def make_content(size: int) -> bytes:
    header = f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: bench\r\n\r\n"
    line = "x" * 70 + "\r\n"
    text = header + line * (size // len(line) + 1)
    return (text[: size - 2].rstrip() + "\r\n").encode()


async def connect(host: str, port: int, content: bytes) -> aiosmtplib.SMTP:
    client = aiosmtplib.SMTP(
        hostname=host,
        port=port,
        use_tls=False,
        start_tls=False,
        local_hostname="bench.example.com",
    )
    await client.connect()
    await client.sendmail(SENDER, [RECIPIENT], content)
    return client


async def send_all(client: aiosmtplib.SMTP, content: bytes, counts: dict[str, int]) -> None:
    while counts["left"] > 0:
        counts["left"] -= 1
        try:
            await client.sendmail(SENDER, [RECIPIENT], content)
        except aiosmtplib.SMTPException:
            continue
        counts["ok"] += 1


async def main() -> None:
    host = sys.argv[1]
    port, connections, messages, size = map(int, sys.argv[2:])
    content = make_content(size)
    clients = [await connect(host, port, content) for _ in range(connections)]
    counts = {"left": messages, "ok": 0}
    start = time.perf_counter()
    await asyncio.gather(*(send_all(client, content, counts) for client in clients))
    seconds = time.perf_counter() - start
    for client in clients:
        client.close()
    failed = messages - counts["ok"]
    line = {"name": "aiosmtplib", "messages": messages, "seconds": seconds}
    print(json.dumps({**line, "ok": counts["ok"], "failed": failed}))


asyncio.run(main())
