#!/usr/bin/env python3
"""Checks a record and its proof without Gatepost: gatepost_verify.py POLICY RECORD.json RECORD.tlog-proof

It needs Python 3.9 and the package "cryptography" (Ed25519). docs/evidence.md and docs/trail.md specify all that it
computes. Exit code 0: the record is in the log, and the policy's witnesses have signed that; 1: it is not proven.
"""

import base64, calendar, hashlib, json, re, struct, sys, time, uuid

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# docs/trail.md, "The columns of audit_log": the columns of each group in the order of the table, with their types.
OPEN = """gateway_id:uuid epoch:int seq:int request_id:uuid parent_id:uuid timestamp:time latency_ms:double method:text
    tool_name:text backend_name:text client_role:text client_issuer:text params_digest:hex args_digest:hex
    response_digest:hex response_bytes:int response_status:text decided_by:text policy_digest:hex tool_digest:hex"""
GROUPS = {
    "who": "client_subject:text client_name:text client_id:text actor_subject:text",
    "circumstances": "token_id:text client_addr:text session_id:text rpc_id:text context:json",
    "content": "resource_uri:text request_args:json request_extra:json response:json error_message:text",
}
COLUMNS = [column for columns in (OPEN, *GROUPS.values()) for column in columns.split()]
NAMES = {column.split(":")[0] for column in COLUMNS} | {"salt_" + name for name in GROUPS} | {
    "prev_hash", "hash", "quarantined", "context_exact", "request_args_exact", "request_extra_exact", "response_exact"}

def need(condition, reason):
    if not condition:
        raise ValueError(reason)

def bytes32(text):
    need(re.fullmatch(r"[0-9a-f]{64}", text), f"{text!r} is not 32 bytes")
    return bytes.fromhex(text)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def number(text):
    need(re.fullmatch(r"0|[1-9][0-9]{0,18}", text), f"{text!r} is not a number")
    return int(text)

def members(line):
    """The members of the one JSON object of a line, each as its exact text. No other names than the columns' are allowed."""
    decoder, found, at = json.JSONDecoder(parse_int=str), {}, 1
    need(line.startswith("{") and line.endswith("}\n"), "the file is not one line with one record")
    while line[at] != "}":
        name, at = decoder.raw_decode(line, at)
        need(line[at] == ":" and name in NAMES and name not in found, f"{name!r} is no column, or is there twice")
        _, end = decoder.raw_decode(line, at + 1)
        need(line[end] in ",}", "the line is not JSON")
        found[name], at = line[at + 1:end], end + (line[end] == ",")
    need(line[at:] == "}\n", "there is more than one record")
    return found

def micros(text):
    """Microseconds since 1970 of a time like 2026-11-30T17:52:52.123456Z."""
    match = re.fullmatch(r"([+-]?\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z", text)
    need(match, f"{text!r} is not a time")
    return calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) * 1_000_000 + int(match[2])

def field(record, column):
    """A column as it is hashed: its length and its value."""
    name, kind = column.split(":")
    raw = record[name]
    value = None if kind == "json" else json.loads(raw)
    if kind == "json" and name + "_exact" in record:
        exact = json.loads(record[name + "_exact"])
        need(raw == exact.replace("\n", " ").replace("\r", " "), f"{name} is not {name}_exact")
        data = exact.encode()
    elif raw == "null":
        return b"\xff\xff\xff\xff"
    else:
        data = {
            "json": lambda: raw.encode(),
            "text": lambda: value.encode(),
            "hex": lambda: bytes32(value),
            "uuid": lambda: uuid.UUID(value).bytes,
            "int": lambda: struct.pack("<q", value),
            "time": lambda: struct.pack("<q", micros(value)),
            "double": lambda: struct.pack("<d", value),
        }[kind]()
    return struct.pack("<I", len(data)) + data

def record_hash(line):
    """The hash of the record in a line of an export: docs/trail.md, "The hash"."""
    record = members(line)

    def fields(columns):
        return b"".join(field(record, column) for column in columns.split())

    def salt(name):
        return bytes32(json.loads(record["salt_" + name]))

    commitments = [sha256(f"gatepost.v2.{name}".encode(), salt(name), fields(columns)) for name, columns in GROUPS.items()]
    return sha256(b"gatepost.v2.record", bytes32(json.loads(record["prev_hash"])), fields(OPEN), *commitments)

def parse_policy(text):
    """The keys of logs and witnesses by name, the groups, and the quorum: C2SP tlog-policy."""
    need(not re.search(r"[^\n\t\x20-\x7e]", text) and text.endswith("\n"), "the policy has other characters than ASCII")
    logs, witnesses, groups, quorum, free = [], {}, {}, [], set()
    for words in (line.split() for line in text.split("\n") if line.strip() and not line.startswith("#")):
        kind, name = words[0], words[1]
        need(kind in ("log", "quorum") or name not in (*witnesses, *groups, "none"), f"{name!r} is there twice")
        if kind == "log":
            logs.append(name)
        elif kind == "witness":
            need(base64.b64decode(words[2].split("+", 2)[2])[0] in (4, 6), f"the key of {name} is not a witness's")
            witnesses[name] = words[2]
        elif kind == "group":
            count = {"all": len(words) - 3, "any": 1}.get(words[2]) or number(words[2])
            need(0 < count <= len(words) - 3, f"the group {name} has another number of members")
            for member in words[3:]:
                need(member in free, f"{member!r} is not on an earlier line, or in two groups")
                free.remove(member)
            groups[name] = (count, words[3:])
        else:
            need(kind == "quorum" and (name == "none" or name in (*witnesses, *groups)), f"{words} is not understood")
            quorum.append(name)
        free |= {name} if kind in ("witness", "group") else set()
    raw = [base64.b64decode(key.split("+", 2)[2])[1:] for key in (*logs, *witnesses.values())]
    need(len(quorum) == 1 and len({*raw}) == len({*raw[:len(logs)]}) + len(witnesses), "not one quorum, or a key twice")
    return logs, witnesses, groups, quorum[0]

def signed_by(key, text, lines):
    """The time at which `key` signed `text` (0 for a signature without one), or None: C2SP signed-note."""
    name, key_id, encoded = key.split("+", 2)
    public = base64.b64decode(encoded, validate=True)
    need(hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id, f"the id of key {name} is wrong")
    found = None
    for line in lines if public[0] in (1, 4) else []:  # type 6 is ML-DSA-44, which this program does not check
        dash, signer, data = line.split(" ")
        data = base64.b64decode(data, validate=True)
        if dash != "\u2014" or signer != name or data[:4].hex() != key_id:
            continue
        when, message, signature = 0, text.encode(), data[4:]
        if public[0] == 4:
            when, signature = struct.unpack(">Q", data[4:12])[0], data[12:]
            message = f"cosignature/v1\ntime {when}\n".encode() + message
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature, message)
        except InvalidSignature:
            raise ValueError(f"the signature of {name} does not match") from None
        found = max(when, found or 0)
    return found

def checkpoint(note, policy):
    """Origin, size, root and the times of the witnesses of a note that the policy accepts."""
    logs, witnesses, groups, quorum = policy
    text, lines = note.rsplit("\n\n", 1)[0] + "\n", note.rsplit("\n\n", 1)[1].splitlines()
    origin, size, root = text.split("\n")[:3]
    own = [key for key in logs if key.split("+")[0] == origin]
    need(own, f"the policy does not name the log {origin}")
    need([key for key in own if signed_by(key, text, lines) is not None], f"{origin} has not signed the checkpoint")
    times = {name: signed_by(key, text, lines) for name, key in witnesses.items()}

    def holds(name):
        if name in witnesses:
            return times[name] is not None
        count, names = groups[name]
        return sum(holds(member) for member in names) >= count

    need(quorum == "none" or holds(quorum), "too few witnesses have signed the checkpoint")
    return origin, number(size), base64.b64decode(root, validate=True), {k: v for k, v in times.items() if v is not None}

def root_of(index, size, leaf, path):
    """The root that an inclusion proof leads to: RFC 9162, section 2.1.3.2."""
    need(index < size, f"record {index} is not in a tree of {size} records")
    at, last, found = index, size - 1, leaf
    for sibling in path:
        need(last > 0, "the proof is too long")
        if at & 1 or at == last:
            found = sha256(b"\x01", sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = sha256(b"\x01", found, sibling)
        at, last = at >> 1, last >> 1
    need(last == 0, "the proof is too short")
    return found

def main(policy_file, record_file, proof_file):
    texts = [open(name, encoding="utf-8", newline="").read() for name in (policy_file, record_file, proof_file)]
    head, note = texts[2].split("\n\n", 1)
    first, *lines = [line for line in head.split("\n") if not line.startswith("extra ")]
    need(first == "c2sp.org/tlog-proof@v1" and lines[0].startswith("index "), "this is not a proof")
    index, path = number(lines[0][6:]), [base64.b64decode(line, validate=True) for line in lines[1:]]
    origin, size, root, times = checkpoint(note, parse_policy(texts[0]))
    found = root_of(index, size, sha256(b"\x00", record_hash(texts[1])), path)
    need(found == root, "the record is not in the log: it was changed, or the proof is that of another one")
    said = [f"proven: the record is number {index} (from 0) of the first {size} in {origin}"]
    for name, when in sorted(times.items()):
        said.append(f"signed by the witness {name} at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(when))}")
    print("\n".join(said))

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever is wrong with the input: nothing is proven
        sys.exit(f"not proven: {error}")
