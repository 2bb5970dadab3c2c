"""A stdio MCP server that answers with exact bytes, for tests of what is relayed and of what reaches a backend.

    raw_server.py [LOG]

Every call is written to LOG, one JSON line, before it is answered. The tools come on two pages. Tools: `exact` answers
with EXACT below; `rpc_error` with a JSON-RPC error; `die` ends the process and `kill` kills it; `hold` never answers; `echo` repeats its arguments'
text.
"""

import json
import os
import signal
import sys

EXACT = (
    '{"zeta":1,"content":[{"type":"text","text":"caf\\u00e9 \\ud83d\\ude00","_x":{"b":2,"a":1}}],'
    '"unknown":{"n":12345678901234567890123,"f":1.0e400,"deep":[[],{}]},"isError":false, "spaced" : true}'
)

TOOLS = ["exact", "rpc_error", "die", "echo", "kill", "hold"]


def main():
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if len(sys.argv) > 1 else None
    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params") or {}
        if "id" not in message:
            continue
        if method == "initialize":
            version = params["protocolVersion"]
            info = {"name": "raw", "version": "1"}
            answer = json.dumps({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        elif method == "tools/list":
            page = TOOLS[2:] if params.get("cursor") else TOOLS[:2]
            listed = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in page]}
            answer = json.dumps(listed if params.get("cursor") else {**listed, "nextCursor": "second page"})
        elif method == "tools/call":
            if log is not None:
                os.write(log, (json.dumps(params) + "\n").encode())
            if params["name"] == "die":
                sys.exit(1)
            if params["name"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if params["name"] == "hold":
                continue
            if params["name"] == "rpc_error":
                error = {"code": -32050, "message": "no luck today", "data": {"why": [1, 2.50]}}
                reply = {"jsonrpc": "2.0", "id": message["id"], "error": error}
                print(json.dumps(reply), flush=True)
                continue
            text = params.get("arguments", {}).get("text", "")
            answer = EXACT if params["name"] == "exact" else json.dumps({"content": [{"type": "text", "text": text}]})
        else:
            answer = "{}"
        print('{"jsonrpc":"2.0","id":%s,"result":%s}' % (json.dumps(message["id"]), answer), flush=True)


main()
