#!/usr/bin/env python3
"""Checks evidence without Gatepost, from docs/evidence.md and docs/trail.md alone:
    gatepost_verify.py POLICY RECORD.json RECORD.tlog-proof    a record is in its log
    gatepost_verify.py POLICY CERTIFICATE                      no record of a range is missing, or none of a person's
It needs Python 3.9 and the package "cryptography" (Ed25519). Exit code 0: proven; 1: not proven.
"""
import base64, calendar, collections, functools, hashlib, json, re, struct, sys, time, uuid
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
# docs/trail.md, "The columns of audit_log": the columns of each group in the order of the table, with their types.
GROUPS = {group: [column.split(":") for column in columns.split()] for group, columns in {
    "open": """gateway_id:uuid epoch:int seq:int request_id:uuid parent_id:uuid timestamp:time latency_ms:double
        method:text tool_name:text backend_name:text client_role:text client_issuer:text params_digest:hex
        args_digest:hex response_digest:hex response_bytes:int response_status:text decided_by:text policy_digest:hex
        tool_digest:hex""",
    "who": "client_subject:text client_name:text client_id:text actor_subject:text",
    "circumstances": "token_id:text client_addr:text session_id:text rpc_id:text context:json",
    "content": "resource_uri:text request_args:json request_extra:json response:json error_message:text"}.items()}
NAMES = {name for columns in GROUPS.values() for name, _ in columns} | {
    name + "_exact" for columns in GROUPS.values() for name, kind in columns if kind == "json"} | {
    "prev_hash", "hash", "salt_who", "salt_circumstances", "salt_content"}
COMMITMENTS = {"commitment_circumstances", "commitment_content"}  # who called is never withheld in a certificate
def need(value, reason):
    if not value:
        raise ValueError(reason)
    return value
def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()
def base64_(text):
    is_canonical = base64.b64encode(data := base64.b64decode(text)).decode() == text
    return need(is_canonical and [data], f"{text!r} is not base64 as it is written")[0]
def bytes32(text):
    return bytes.fromhex(need(re.fullmatch(r"[0-9a-f]{64}", text), f"{text!r} is not 32 bytes")[0])
def number(text):
    return int(need(re.fullmatch(r"0|[1-9][0-9]{0,18}", text), f"{text!r} is not a number")[0])
def micros(text):
    pattern = r"(\d{4}|\+[1-9]\d{4,5}|-(?!0000)\d{4})(-\d\d-\d\dT\d\d:\d\d:[0-5]\d)\.(\d{6})Z"
    match = need(re.fullmatch(pattern, text, re.ASCII), f"{text!r} is not a time as it is written")
    cycles, year = divmod(int(match[1]), 400)  # strptime knows few years: every 400 have 146,097 days
    begun = calendar.timegm(time.strptime(f"{2000 + year}{match[2]}", "%Y-%m-%dT%H:%M:%S"))
    return (begun + (cycles - 5) * 146_097 * 86_400) * 1_000_000 + int(match[3])
def members(line, names):
    """The members of the one JSON object in a line, each as its exact text. No names but `names` are allowed."""
    decoder, found, at = json.JSONDecoder(parse_int=str, parse_constant=number), {}, 1
    need(line[:1] == "{" and line[-1:] == "}", "a line is not one JSON object")
    while line[at] != "}":
        name, at = decoder.raw_decode(line, at)
        need(line[at] == ":" and name in names and name not in found, f"{name!r} is not known, or is there twice")
        _, end = decoder.raw_decode(line, at + 1)
        need(line[end] == "}" or line[end:end + 2] == ',"', "a line is not JSON")
        found[name], at = line[at + 1:end], end + (line[end] == ",")
    need(line[at:] == "}", "there is more than one record in a line")
    return found
def field(record, name, kind):
    """A column as it is hashed: its length and its value."""
    raw, exact = record[name], json.loads(record.get(name + "_exact", "null"))
    need(exact is None or raw == exact.replace("\n", " ").replace("\r", " "), f"{name} is not {name}_exact")
    if raw == "null" and exact is None:
        return b"\xff\xff\xff\xff"
    value = (raw if exact is None else exact) if kind == "json" else json.loads(raw)
    need(kind != "int" or str(value) == raw, f"{name} is not a whole number")
    data = {"json": str.encode, "text": str.encode, "hex": bytes32, "int": struct.Struct("<q").pack,
            "uuid": lambda id_: need(str(uuid.UUID(id_)) == id_ and uuid.UUID(id_), f"{id_!r} is not a UUID").bytes,
            "double": struct.Struct("<d").pack, "time": lambda text: struct.pack("<q", micros(text))}[kind](value)
    return struct.pack("<I", len(data)) + data
def fields(record, group):
    return b"".join(field(record, name, kind) for name, kind in GROUPS[group])
def record_hash(record):
    """The hash of a record, in which commitments may take the places of groups: docs/trail.md, "The hash"."""
    sealed = []
    for group in ("who", "circumstances", "content"):
        if "commitment_" + group in record:
            names = {"salt_" + group, *dict(GROUPS[group])}
            need(not names & {re.sub("_exact$", "", name) for name in record}, f"{group} is both withheld and shown")
            sealed.append(bytes32(json.loads(record["commitment_" + group])))
        else:
            salt = bytes32(json.loads(record["salt_" + group]))
            sealed.append(sha256(b"gatepost.v2." + group.encode(), salt, fields(record, group)))
    found = sha256(b"gatepost.v2.record", bytes32(json.loads(record["prev_hash"])), fields(record, "open"), *sealed)
    need(json.loads(record["hash"]) == found.hex(), "a record has another hash than it says: it was changed")
    return found
def verifier_key(text):
    """The name, id, type and public key of a verifier key: C2SP signed-note."""
    name, key_id, data = *text.split("+", 2)[:2], base64_(text.split("+", 2)[2])
    need(sha256(name.encode(), b"\n", data)[:4].hex() == key_id.lower() and re.fullmatch(r"[^\s\x80-\x9f]{1,255}", name)
         and (data[0], len(data)) in ((1, 33), (4, 33), (6, 1313)), f"key {name} has a wrong id, name, type or length")
    return name, key_id.lower(), data[0], data[1:]
def parse_policy(text):
    """The keys of logs, the keys of witnesses and the groups by name, and the quorum: C2SP tlog-policy."""
    need(re.fullmatch(r"[^\0-\x08\x0b-\x1f\x7f\x85\u2028\u2029]*\n", text), "the policy has control characters")
    logs, witnesses, groups, quorum, free = [], {}, {}, [], set()
    for kind, name, *words in (re.findall(r"[^ \t]+", line) for line in re.findall(r"(?m)^[ \t]*([^ \t\n#].*)", text)):
        need((kind == "quorum") == (name in ("none", *witnesses, *groups)) or kind == "log", f"{name}: not once")
        need(len(words) <= {"log": 1, "witness": 2, "quorum": 0}.get(kind, len(words)), f"{name}: too many words")
        if kind in ("log", "quorum"):
            logs, quorum = (logs + [verifier_key(name)], quorum) if kind == "log" else (logs, quorum + [name])
        elif kind == "witness":
            witnesses[name], free = verifier_key(words[0]), free | {name}
        else:
            count, *names = need(kind == "group" and words, f"{kind} is not known")
            count = {"all": len(names), "any": 1}.get(count) or number(count)
            need(0 < count <= len(names) == len({*names} & free), f"{name} has members of others, or too few")
            groups[name], free = (count, names), free - {*names} | {name}
    unique = [public for *_, public in witnesses.values()] + [*{public for *_, public in logs}]  # logs may share one
    need(len(quorum) == 1 and len({*unique}) == len(unique) and len({(key[0], key[3]) for key in logs}) == len(logs)
         and {key[2] for key in witnesses.values()} <= {4, 6}, "needed: one quorum, and each key once, of its type")
    return logs, witnesses, groups, quorum[0]
def signed_by(key, text, lines):
    """The last time at which `key` signed `text` (0 for a signature without one), or None: C2SP signed-note."""
    (name, key_id, kind, public), times = key, []
    for dash, signer, data in (line.split(" ") for line in lines):
        data = base64_(data)
        if (dash, signer, data[:4].hex()) == ("\u2014", name, key_id) and kind != 6:  # ML-DSA-44 is not checked here
            times.append(need(max(0, *struct.unpack(">q", data[4:12])), "a time is wrong") if kind == 4 else 0)
            message = f"cosignature/v1\ntime {times[-1]}\n{text}" if kind == 4 else text
            Ed25519PublicKey.from_public_bytes(public).verify(data[12 if kind == 4 else 4:], message.encode())
    return max(times, default=None)
def checkpoint(note, policy):
    """Origin, size, root and the times of the witnesses of a note that the policy accepts."""
    logs, witnesses, groups, quorum = policy
    text, lines = note.rpartition("\n\n")[0] + "\n", note.rpartition("\n\n")[2].split("\n")[:-1]
    origin, size, root = text.split("\n")[:3]
    own = {signed_by(key, text, lines) for key in logs if key[0] == origin}
    need(own - {None}, f"the policy does not name the log {origin}, or it has not signed the checkpoint")
    times = {name: signed_by(key, text, lines) for name, key in witnesses.items()}
    holds = {"none": True, **{name: when is not None for name, when in times.items()}}
    for name, (count, names) in groups.items():
        holds[name] = sum(holds[member] for member in names) >= count
    need(holds[quorum], "too few witnesses have signed the checkpoint")
    return origin, number(size), base64_(root), {name: when for name, when in times.items() if when is not None}
def root_of(index, size, leaf, path):
    """The root that an inclusion proof leads to: RFC 6962, section 2.1.1."""
    need(index < size and (size == 1) == (not path), "the proof has another length")
    if size == 1:
        return leaf
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return sha256(b"\x01", root_of(index, half, leaf, path[:-1]), path[-1])
    return sha256(b"\x01", path[-1], root_of(index - half, size - half, leaf, path[:-1]))
def root_of_edge(edge):  # the perfect subtrees of a tree, each with its size and hash, the largest first
    hashes = [found for _, found in reversed(edge)] or [sha256()]
    return functools.reduce(lambda right, left: sha256(b"\x01", left, right), hashes)
def signatures(what, times):
    said = {ascii(name)[1:-1]: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) for name, when in times.items()}
    return [f"{what} by the witness {name} at {at}" for name, at in sorted(said.items())] or [f"{what} by no witness"]
def prove_record(policy, record, proof):
    """Checks a record and its proof: docs/evidence.md, "Proofs"."""
    head, note = proof.split("\n\n", 1)
    first, *lines = [line for line in head.split("\n") if not line.startswith("extra ")]
    need(first == "c2sp.org/tlog-proof@v1" and lines[0].startswith("index "), "this is not a proof")
    index, (origin, size, root, times) = number(lines[0][6:]), checkpoint(note, policy)
    leaf = sha256(b"\x00", record_hash(members(re.sub(r"\n\Z", "", record), NAMES | {"quarantined"})))
    need(root_of(index, size, leaf, [base64_(line) for line in lines[1:]]) == root, "the record is not in the log")
    return [f"proven: record {index} (from 0) of the first {size} in {origin}", *signatures("signed", times)]
def prove_range(policy, certificate):
    """Checks a certificate: docs/evidence.md, "Certificates"."""
    head, *lines, end = certificate.split("\n")
    names = "format subject since until from edge to".split()
    head = {name: json.loads(raw) for name, raw in members(head, names).items()}
    subject, kinds, last = head["subject"], collections.Counter(), None
    need(len(head) == 7 and head["format"] == "gatepost.certificate.v1" and not end, "this is not a certificate")
    origin, size, root, after = checkpoint(head["to"], policy)
    log, first, first_root, before = checkpoint(head["from"], policy) if head["from"] else (origin, 0, sha256(), {})
    need(len((subject or "").encode()) <= 1024 and "\0" not in (subject or ""), "no record has this subject whole")
    need(log == origin and first + len(lines) == size, "the lines are not those between the two checkpoints")
    need(max(before.values(), default=-1 << 60) * 1_000_000 <= micros(head["since"]) < micros(head["until"]),
         "the range is empty, or begins before it is proven")
    need(min(after.values(), default=1 << 60) * 1_000_000 >= micros(head["until"]), "the range ends after it is proven")
    edge = [*zip([1 << bit for bit in range(63, -1, -1) if first >> bit & 1], map(bytes32, head["edge"]))]
    need(len(edge) == len(head["edge"]) and root_of_edge(edge) == first_root, "the edge is not the first checkpoint's")
    for index, record in enumerate((members(line, NAMES | COMMITMENTS | {"index"}) for line in lines), first):
        need(number(record.pop("index")) == index, f"record {index} is not in its line")
        people = [json.loads(record.get(name, "null")) for name in ("client_subject", "actor_subject")]
        kind = "withheld" if {*record} == {"hash"} else "of others" if COMMITMENTS & {*record} else "shown"
        allowed = ("shown", "withheld") if subject is None else ["shown" if subject in people else "of others"]
        need(kind in allowed, f"record {index} is {kind}, which is not what the certificate says")
        found = bytes32(json.loads(record["hash"])) if kind == "withheld" else record_hash(record)
        need(kind == "withheld" or json.loads(record["gateway_id"]) in log.split("/") and (record["seq"] == "1" or
             last in (None, json.loads(record["prev_hash"]))), f"record {index} does not continue its gateway's stream")
        kinds.update([kind, ("method", json.loads(record.get("method", "null"))), ("who", people[0])])
        last = found.hex()
        edge.append((1, sha256(b"\x00", found)))
        while len(edge) > 1 and edge[-1][0] == edge[-2][0]:
            (half, right), (_, left) = edge.pop(), edge.pop()
            edge.append((2 * half, sha256(b"\x01", left, right)))
    need(root_of_edge(edge) == root, "the records do not lead to the second checkpoint: one was changed")
    whose, rest = ("", "withheld") if subject is None else (f" of {ascii(str.__str__(subject))}", "of others")
    counts = kinds["method", "gateway/gap"] + kinds["method", "gateway/refusals"]
    return [f"proven: no record{whose} is missing among the {len(lines)} from number {first} (from 0) on in {origin}",
            f"{kinds['shown']} shown, {kinds[rest]} {rest}; {counts} of those seen count calls without records, "
            f"{kinds['who', 'anonymous']} do not say who called",
            *(signatures("those before them were signed", before) if first else ["they begin with the log"]),
            *signatures("they were signed", after)]
if __name__ == "__main__":
    len(sys.argv) in (3, 4) or sys.exit(__doc__)
    try:
        policy, *texts = [open(name, "rb").read() for name in sys.argv[1:]]
        policy = parse_policy(policy.decode(errors="surrogateescape"))  # octets: C2SP tlog-policy, "Character set"
        print(*(prove_range if len(texts) == 1 else prove_record)(policy, *map(bytes.decode, texts)), sep="\n")
    except Exception as error:  # whatever is wrong with the input: nothing is proven
        sys.exit(f"not proven: {str(error) or type(error).__name__}")
