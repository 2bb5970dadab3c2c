"""A stdio MCP server that writes each line that reaches it into LOG, for tests of what is forwarded.

    recorder.py LOG ALIAS
"""

import json
import os
import sys

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
lists = {
    "tools/list": {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]},
    "prompts/list": {"prompts": [{"name": "p"}]},
    "resources/list": {"resources": [{"uri": "a:" + sys.argv[2], "name": "r"}]},
    "resources/templates/list": {"resourceTemplates": []},
}
for line in sys.stdin:
    os.write(log, line.encode())
    message = json.loads(line)
    if "id" not in message:
        continue
    method = message["method"]
    if method == "initialize":
        version, info = message["params"]["protocolVersion"], {"name": "recorder", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}, "resources": {}, "prompts": {}, "completions": {}, "logging": {}, "tasks": {"list": {}}}, "serverInfo": info}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "done"}]}
    else:
        result = lists.get(method, {})
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
