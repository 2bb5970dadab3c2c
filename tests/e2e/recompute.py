"""Recomputes the hash of records from docs/trail.md alone: recompute.py docs/trail.md < records (JSON, one a line).

A record may have, in place of a group, its commitment: {"commitments": {"who": "..."}}. Prints the hash of each."""
import datetime, hashlib, json, struct, sys, uuid  # noqa: E401

ROWS = open(sys.argv[1]).read().split("| column | type | group | meaning |\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
COLUMNS = [[cell.strip(" `") for cell in row.split("|")[1:4]] for row in ROWS]
GROUPS = {"who": "w", "circumstances": "x", "content": "c"}

def micros(text):
    since = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (since.days * 86400 + since.seconds) * 1000000 + since.microseconds

ENCODE = {
    "uuid": lambda value: uuid.UUID(value).bytes, "bytea": bytes.fromhex, "text": str.encode, "json": str.encode,
    "bigint": lambda value: struct.pack("<q", value), "double precision": lambda value: struct.pack("<d", value),
    "timestamptz": lambda value: struct.pack("<q", micros(value)),
}

def fields(record, group):
    for name, kind, of in COLUMNS:
        if of == group:
            value = record.get(name)
            encoded = b"" if value is None else ENCODE[kind](value)
            yield struct.pack("<I", 0xFFFFFFFF if value is None else len(encoded)) + encoded

def commitment(record, name):
    given = record.get("commitments", {}).get(name)
    salted = lambda: b"gatepost.v2." + name.encode() + bytes.fromhex(record["salt_" + name])  # noqa: E731
    return bytes.fromhex(given) if given else hashlib.sha256(salted() + b"".join(fields(record, GROUPS[name]))).digest()

for record in map(json.loads, sys.stdin):
    body = b"gatepost.v2.record" + bytes.fromhex(record["prev_hash"]) + b"".join(fields(record, "o"))
    print(hashlib.sha256(body + b"".join(commitment(record, name) for name in GROUPS)).hexdigest())
