"""Verifies DKIM signatures with dkimpy. Reads from stdin one JSON object:

{"records": {"s1._domainkey.example.org.": "v=DKIM1; …"},
 "messages": [{"name": …, "base64": …, "signatures": how many it must have}]}

and prints one line for each signature that is not what it should be. Silence is success.
"""

import base64
import json
import sys

import dkim

task = json.load(sys.stdin)
records = {name: value.encode() for name, value in task["records"].items()}


def txt(name, timeout=5):
    return records.get(name.decode() if isinstance(name, bytes) else name)


for message in task["messages"]:
    octets = base64.b64decode(message["base64"])
    want = message["signatures"]
    found = sum(name.lower() == b"dkim-signature" for name, _ in dkim.rfc822_parse(octets)[0])
    if found != want:
        print(f"{message['name']}: {found} signatures, not {want}")
    for index in range(found):
        try:
            good = dkim.DKIM(octets).verify(idx=index, dnsfunc=txt)
        except dkim.DKIMException as error:
            good = error
        if (good is True) != message["valid"]:
            print(f"{message['name']}: signature {index}: {good}")
