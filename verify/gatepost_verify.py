#!/usr/bin/env python3
"""Checks a record and its proof without Gatepost: gatepost_verify.py POLICY RECORD.json RECORD.tlog-proof

It needs Python 3.9 and the package "cryptography" (Ed25519). docs/evidence.md and docs/trail.md specify all that it
computes. Exit code 0: the record is in the log, and the policy's witnesses have signed that; 1: it is not proven.
"""

import base64
import calendar
import hashlib
import json
import re
import struct
import sys
import time
import uuid

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


class NotProven(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise NotProven(reason)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def members(line):
    """The members of a JSON object, each as its exact text."""
    decoder, found, at = json.JSONDecoder(), {}, line.index("{") + 1
    while line[at] != "}":
        name, at = decoder.raw_decode(line, at)
        need(line[at] == ":" and name not in found, f"member {name!r} is there twice, or the line is not JSON")
        _, end = decoder.raw_decode(line, at + 1)
        found[name], at = line[at + 1:end], end + (line[end] == ",")
    return found


def micros(text):
    """Microseconds since 1970 of a time like 2026-11-30T17:52:52.123456Z."""
    match = re.fullmatch(r"([+-]?\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z", text)
    need(match, f"{text!r} is not a time")
    return calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) * 1_000_000 + int(match[2])


def field(record, column):
    """A column as it is hashed: its length and its value."""
    name, kind = column.split(":")
    raw = record.get(name, "null")
    value = json.loads(raw)
    if kind == "json" and name + "_exact" in record:
        data = json.loads(record[name + "_exact"]).encode()
    elif value is None:
        return b"\xff\xff\xff\xff"
    else:
        data = {
            "json": lambda: raw.encode(),
            "text": lambda: value.encode(),
            "hex": lambda: bytes.fromhex(value),
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
        return bytes.fromhex(json.loads(record["salt_" + name]))

    commitments = [sha256(f"gatepost.v2.{name}".encode(), salt(name), fields(columns)) for name, columns in GROUPS.items()]
    previous = bytes.fromhex(json.loads(record["prev_hash"]))
    return sha256(b"gatepost.v2.record", previous, fields(OPEN), *commitments)


def parse_policy(text):
    """The keys of logs and witnesses by name, the groups, and the quorum: C2SP tlog-policy."""
    logs, witnesses, groups, quorum = [], {}, {}, None
    for words in (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")):
        if words[0] == "log":
            logs.append(words[1])
        elif words[0] == "witness":
            witnesses[words[1]] = words[2]
        elif words[0] == "group":
            count = {"all": len(words) - 3, "any": 1}.get(words[2]) or int(words[2])
            groups[words[1]] = (count, words[3:])
        elif words[0] == "quorum":
            quorum = words[1]
        else:
            raise NotProven(f"the policy has a line that begins with {words[0]!r}")
    need(quorum is not None, "the policy has no quorum")
    return logs, witnesses, groups, quorum


def signed_by(key, text, lines):
    """The time at which `key` signed `text` (0 for a signature without one), or None: C2SP signed-note."""
    name, key_id, encoded = key.split("+", 2)
    public = base64.b64decode(encoded, validate=True)
    need(hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id, f"the id of key {name} is wrong")
    if public[0] not in (1, 4):
        return None  # ML-DSA-44, which this program does not check
    for line in lines:
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
            raise NotProven(f"the signature of {name} does not match") from None
        return when
    return None


def checkpoint(note, policy):
    """Origin, size, root and the times of the witnesses of a note that the policy accepts."""
    logs, witnesses, groups, quorum = policy
    text, lines = note.rsplit("\n\n", 1)[0] + "\n", note.rsplit("\n\n", 1)[1].splitlines()
    origin, size, root = text.split("\n")[:3]
    own = [key for key in logs if key.split("+")[0] == origin]
    need(own, f"the policy does not name the log {origin}")
    need(any(signed_by(key, text, lines) is not None for key in own), f"{origin} has not signed the checkpoint")
    times = {name: signed_by(key, text, lines) for name, key in witnesses.items()}

    def holds(name):
        if name in witnesses:
            return times[name] is not None
        count, names = groups[name]
        return sum(holds(member) for member in names) >= count

    need(quorum == "none" or holds(quorum), "too few witnesses have signed the checkpoint")
    return origin, int(size), base64.b64decode(root, validate=True), {k: v for k, v in times.items() if v is not None}


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
    index, path = int(lines[0][6:]), [base64.b64decode(line, validate=True) for line in lines[1:]]
    origin, size, root, times = checkpoint(note, parse_policy(texts[0]))
    found = root_of(index, size, sha256(b"\x00", record_hash(texts[1])), path)
    need(found == root, "the record is not in the log: it was changed, or the proof is that of another one")
    print(f"proven: the record is number {index} (from 0) of the first {size} in {origin}")
    for name, when in sorted(times.items()):
        print(f"signed by the witness {name} at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(when))}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever is wrong with the input: nothing is proven
        sys.exit(f"not proven: {error}")
