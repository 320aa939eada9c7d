"""Reads what a server says of itself with other people's parsers.

usage: check.py openapi|metrics, the text on standard input. Prints what was found, as JSON.
"""

import json
import sys

from openapi_spec_validator import validate
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def openapi(text):
    document = json.loads(text)
    validate(document)
    return sorted(
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
    )


def metrics(text):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append([sample.labels, sample.value])
    return found


print(json.dumps({"openapi": openapi, "metrics": metrics}[sys.argv[1]](sys.stdin.read())))
