"""Recomputes the hash of records from docs/trail.md alone: recompute.py < records (JSON, one a line).

A record may have, in place of a group, its commitment: {"commitments": {"who": "..."}}. Prints the hash of each."""
import datetime, hashlib, json, struct, sys, uuid  # noqa: E401

TABLE = """gateway_id uuid o, epoch bigint o, seq bigint o, request_id uuid o, parent_id uuid o, timestamp timestamptz o,
latency_ms double o, method text o, tool_name text o, backend_name text o, resource_uri text c, client_role text o,
client_issuer text o, client_subject text w, client_name text w, client_id text w, actor_subject text w, token_id text x,
client_addr text x, session_id text x, rpc_id text x, context json x, request_args json c, request_extra json c,
params_digest bytea o, args_digest bytea o, response json c, response_digest bytea o, response_bytes bigint o,
error_message text c, response_status text o, decided_by text o, policy_digest bytea o, tool_digest bytea o"""
COLUMNS = [column.split() for column in TABLE.split(",")]
GROUPS = {"who": "w", "circumstances": "x", "content": "c"}

def micros(text):
    since = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (since.days * 86400 + since.seconds) * 1000000 + since.microseconds

ENCODE = {
    "uuid": lambda value: uuid.UUID(value).bytes, "bytea": bytes.fromhex, "text": str.encode, "json": str.encode,
    "bigint": lambda value: struct.pack("<q", value), "double": lambda value: struct.pack("<d", value),
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
