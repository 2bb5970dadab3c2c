"""An MCP server for the measured gateway to forward calls to: one tool, `echo`, over HTTP or stdio, in both eras. It runs
outside of valgrind and is not counted. As a program it serves stdio."""

import json
import socket
import sys
import threading

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ECHO = {"name": "echo", "description": "Returns its message.", "inputSchema": {"type": "object"}}
EMPTY_LISTS = {"resources/list": "resources", "prompts/list": "prompts", "resources/templates/list": "resourceTemplates"}


def answer(message, is_modern):
    """The response to a request; None for a notification."""
    if "id" not in message:
        return None
    method, params = message.get("method", ""), message.get("params") or {}
    capabilities = {"tools": {}}
    cached = {"ttlMs": 60000, "cacheScope": "private"} if is_modern else {}
    if method == "initialize":
        info = {"name": "yardstick", "version": "1"}
        result = {"protocolVersion": LEGACY, "capabilities": capabilities, "serverInfo": info}
    elif method == "server/discover":
        result = {"supportedVersions": [MODERN], "capabilities": capabilities, **cached}
        result["serverInfo"] = {"name": "yardstick", "version": "1"}
    elif method == "tools/list":
        result = {"tools": [ECHO], **cached}
    elif method == "tools/call":
        text = params.get("arguments", {}).get("message", "")
        result = {"content": [{"type": "text", "text": text}], "isError": False}
    elif method in EMPTY_LISTS:
        result = {EMPTY_LISTS[method]: []}
    elif method == "ping":
        result = {}
    else:
        error = {"code": -32601, "message": "no such method"}
        return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    if is_modern:
        result["resultType"] = "complete"
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def encode(message):
    return json.dumps(message, separators=(",", ":")).encode()


def serve_stdio():
    for line in sys.stdin.buffer:
        message = json.loads(line)
        meta = (message.get("params") or {}).get("_meta") or {}
        response = answer(message, meta.get("io.modelcontextprotocol/protocolVersion") == MODERN)
        if response is not None:
            sys.stdout.buffer.write(encode(response) + b"\n")
            sys.stdout.buffer.flush()


def serve_http():
    """Starts a server on a free port of loopback, and returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve_connection, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def serve_connection(connection):
    buffered = connection.makefile("rb")
    with connection, buffered:
        while (request := read_request(buffered)) is not None:
            # One write a response, so that the gateway reads it at once.
            connection.sendall(respond(*request))


def read_request(buffered):
    """Method, headers and body of the next request; None at the end of the connection."""
    request_line = buffered.readline()
    if not request_line.strip():
        return None
    headers = {}
    while (line := buffered.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while (size := int(buffered.readline().split(b";")[0], 16)) > 0:
            body += buffered.read(size)
            buffered.readline()
        buffered.readline()
    else:
        body = buffered.read(int(headers.get("content-length", 0)))
    return request_line.split(b" ")[0].decode(), headers, body


def respond(method, headers, body):
    if method == "GET":
        return b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"
    if method == "DELETE":
        return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    message = json.loads(body)
    response = answer(message, headers.get("mcp-protocol-version") == MODERN)
    if response is None:
        return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
    session = "mcp-session-id: s1\r\n" if message.get("method") == "initialize" else ""
    text = encode(response)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{session}content-length: {len(text)}\r\n\r\n"
    return head.encode() + text


if __name__ == "__main__":
    serve_stdio()
