"""A stdio server of the older era, with a fault that real ones have.

    odd_server.py mute           # reads, and never answers
    odd_server.py slow FILE      # answers nothing before FILE exists
    odd_server.py pages          # the second page of its tools is an error
    odd_server.py quiet          # the tool `quiet` answers after `seconds`, and sends nothing before

All but `mute` have the tool `echo`.
"""

import json
import os
import sys
import threading
import time

ECHO = {"name": "echo", "inputSchema": {"type": "object"}}
kind, *rest = sys.argv[1:]
lock = threading.Lock()


def answer(message, **outcome):
    with lock:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)


def call(message):
    arguments = message["params"].get("arguments") or {}
    if message["params"]["name"] == "quiet":
        time.sleep(arguments["seconds"])
    answer(message, result={"content": [{"type": "text", "text": arguments.get("text", "done")}]})


for line in sys.stdin:
    message = json.loads(line)
    while kind == "slow" and not os.path.exists(rest[0]):
        time.sleep(0.01)
    method = message.get("method")
    if kind == "mute" or "id" not in message:
        continue
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        info = {"name": kind, "version": "1"}
        answer(message, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/list" and kind == "pages":
        if message.get("params", {}).get("cursor"):
            answer(message, error={"code": -32603, "message": "no such page"})
        else:
            answer(message, result={"tools": [ECHO], "nextCursor": "second"})
    elif method == "tools/list":
        answer(message, result={"tools": [ECHO, {"name": "quiet", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call":
        threading.Thread(target=call, args=[message], daemon=True).start()
    else:
        answer(message, error={"code": -32601, "message": "unknown method"})
