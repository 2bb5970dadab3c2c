"""Reads what callgrind writes, and divides it into parts.

A profile has the instructions of each function and source file (code that was inlined keeps its own file), and the calls
between functions, each with the file that calls. The format: https://valgrind.org/docs/manual/cl-format.html"""

import re
from collections import defaultdict

# Name, source files, functions. The first row that matches decides; the file of the code goes before its function. What
# matches no row belongs to its callers: `core`, `serde_json` and `memcpy` work for whoever calls them.
PARTS = [
    ("allocator", r"mimalloc", r"^_?mi_|^__rust(c::__rust)?_(de|re)?alloc|^__rdl_"),
    ("authentication: signature", r"aws-lc", r"aws_lc|^(aesni|bn_|rsaz|sha256_|sha512_|ecp_)"),
    ("authentication: the rest", r"(^|/)src/(gateway/)?auth(/|\.rs)|/jsonwebtoken-|/base64-", r"^$"),
    ("record and outbox", r"(^|/)src/audit(/|\.rs)|/src/gateway/(trail|redact|tally|floods)|/src/gateway/(call/(audit_entry|refusal_windows)|dispatch/(begun|finished))|/redb-|/bincode-|/crc32c-", r"^$"),
    ("HTTP client", r"(^|/)src/upstream/http(/|\.rs)|/reqwest-|/hyper-[^/]*/src/client|/hyper-util-[^/]*/src/client|/url-|/idna", r"^$"),
    ("answer", r"(^|/)src/upstream(/|\.rs)|(^|/)src/gateway/(reply|answer)", r"^$"),
    ("envelope and JSON members", r"(^|/)src/mcp(/|\.rs)|(^|/)src/gateway/(envelope|raw|target|headers|message)", r"^$"),
    ("HTTP server", r"/hyper-[^/]*/src/server|/axum|/hyper-util-[^/]*/src/server|(^|/)src/gateway/(http|listener)", r"^$"),
    ("gateway, the rest", r"(^|/)src/(gateway|rbac|config|ops|cli)(/|\.rs)", r"^$"),
    ("tokio", r"/(tokio|mio)-\d", r"^$"),
]
REST = "the rest"


class Profile:
    """Costs are instructions; `cost` has them by (function, file), `calls` has [count, cost] by (caller, file, callee)."""

    def __init__(self):
        self.cost = defaultdict(int)
        self.calls = defaultdict(lambda: [0, 0])
        self.home = {}

    @classmethod
    def read(cls, path):
        profile, names, function, file, callee, pending = cls(), {}, None, None, None, None

        def name(kind, text):
            # `(7) name` defines a name, `(7)` repeats it.
            number, _, rest = text.partition(" ")
            if rest:
                names[kind, number] = rest
            return names[kind, number]

        with open(path, errors="replace") as lines:
            for line in lines:
                key, equals, text = line.rstrip("\n").partition("=")
                if key in ("fl", "fi", "fe"):
                    file = name("file", text)
                elif key == "fn":
                    function = name("function", text)
                    profile.home.setdefault(function, file)
                elif key == "cfn":
                    callee = name("function", text)
                elif key in ("cfi", "cfl"):
                    # The file of a function that is only called is needed if no line of it was executed.
                    name("file", text)
                elif key == "calls":
                    pending = int(text.split()[0])
                elif not equals and line[:1] in "0123456789+-*" and function is not None:
                    cost = int(line.split()[1])
                    if pending is None:
                        profile.cost[function, file] += cost
                    else:
                        call = profile.calls[function, file, callee]
                        call[0] += pending
                        call[1] += cost
                        pending = None
        return profile

    def minus(self, other):
        """What this run did beyond another one."""
        profile = Profile()
        profile.home = {**other.home, **self.home}
        for key in self.cost.keys() | other.cost.keys():
            profile.cost[key] = self.cost.get(key, 0) - other.cost.get(key, 0)
        for key in self.calls.keys() | other.calls.keys():
            mine, theirs = self.calls.get(key, (0, 0)), other.calls.get(key, (0, 0))
            profile.calls[key] = [mine[0] - theirs[0], mine[1] - theirs[1]]
        return profile

    def total(self):
        return sum(self.cost.values())

    def count(self, pattern):
        """Calls from outside into the functions that match, and the instructions below these calls."""
        matches = re.compile(pattern).search
        count = cost = 0
        for (caller, _, callee), call in self.calls.items():
            if matches(callee) and not matches(caller):
                count, cost = count + call[0], cost + call[1]
        return count, cost

    def functions(self, pattern):
        """Calls, inclusive and own instructions of each function that matches."""
        matches = re.compile(pattern).search
        found = defaultdict(lambda: [0, 0, 0])
        for (caller, _, callee), call in self.calls.items():
            if callee != caller and matches(callee):
                found[callee][0] += call[0]
                found[callee][1] += call[1]
        for (function, _), cost in self.cost.items():
            if matches(function):
                found[function][2] += cost
        return found

    def shares(self):
        """Instructions by part. The sum is the total."""
        shares, open_cost = defaultdict(float), defaultdict(float)
        for (function, file), cost in self.cost.items():
            part = self.part(function, file)
            if part:
                shares[part] += cost
            else:
                open_cost[function] += cost
        callers = defaultdict(list)
        for (caller, file, callee), (_, cost) in self.calls.items():
            if cost > 0 and caller != callee:
                callers[callee].append((caller, file, cost))
        # A cost without a part moves to the callers, in proportion to what the calls cost, until it meets a part.
        for _ in range(200):
            moved = defaultdict(float)
            for function, cost in open_cost.items():
                total = sum(call[2] for call in callers[function])
                if not total:
                    shares[REST] += cost
                for caller, file, call_cost in callers[function]:
                    share = cost * call_cost / total
                    part = self.part(caller, file)
                    if part:
                        shares[part] += share
                    else:
                        moved[caller] += share
            open_cost = moved
        shares[REST] += sum(open_cost.values())
        return shares

    def part(self, function, file):
        for where in (file, self.home.get(function)):
            for part, files, functions in COMPILED:
                if files.search(where or "") or functions.search(function):
                    return part
        return None


COMPILED = [(part, re.compile(files), re.compile(functions)) for part, files, functions in PARTS]
