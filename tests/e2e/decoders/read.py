"""Reads each message of a JSON list of texts as a Python server does, and prints what it reads, as a JSON list.

An alias that pydantic models accept counts as the member that it stands for, if that member is missing.
"""

import json
import sys

MEMBERS = ["name", "uri", "arguments", "inputResponses", "requestState", "_meta"]


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


def read(text):
    try:
        params = json.loads(text)["params"]
        return {name: params.get(name, params.get(snake(name))) for name in MEMBERS}
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


print(json.dumps([read(text) for text in json.load(sys.stdin)]))
