"""Reads an export of events as DuckDB and pandas do; prints types and rows of both as JSON.

usage: read_export.py FILE.parquet FILE.jsonl
"""

import json
import sys

import duckdb
import pandas
import pyarrow.parquet


def plain(value):
    """Times as microseconds since the epoch, maps as objects, what is missing as null."""
    if isinstance(value, list):
        return dict(value)
    if value is None or value is pandas.NaT or value != value:
        return None
    if isinstance(value, pandas.Timestamp):
        return value.value // 1000
    if isinstance(value, float) and value.is_integer():
        # What pandas makes of whole numbers of which some are missing.
        return int(value)
    return value.item() if hasattr(value, "item") else value


def by_duckdb(file):
    table = duckdb.connect().execute("SET TimeZone = 'UTC'")
    table = table.execute("SELECT * FROM read_parquet(?)", [file])
    types = {column[0]: str(column[1]) for column in table.description}
    table = duckdb.execute(
        """SELECT * REPLACE (epoch_us("at") AS "at", epoch_us(due_at) AS due_at) FROM read_parquet(?)""", [file]
    )
    names = [column[0] for column in table.description]
    return {"types": types, "rows": [dict(zip(names, row)) for row in table.fetchall()]}


def by_pandas(file):
    frame = pandas.read_parquet(file)
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(file)}
    rows = [{name: plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
    return {"types": types, "rows": rows}


def main():
    table, lines = sys.argv[1:]
    delivered = "SELECT count(*) FROM read_json_auto(?) WHERE status = 'delivered' AND code = 250"
    print(json.dumps({
        "duckdb": by_duckdb(table),
        "pandas": by_pandas(table),
        "delivered": {
            "duckdb": duckdb.execute(delivered, [lines]).fetchone()[0],
            "pandas": int((pandas.read_json(lines, lines=True).status == "delivered").sum()),
        },
    }))


main()
