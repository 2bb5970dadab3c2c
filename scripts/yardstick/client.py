"""An MCP client of the legacy era with one connection and one session. It checks every answer."""

import json
import socket
import time

VERSION = "2025-11-25"

# *Chosen*: under valgrind on a machine that runs other builds, a start takes seconds and the slowest call about one.
TIMEOUT = 300


class Client:
    def __init__(self, port, path, token):
        self.port, self.path, self.token, self.session = port, path, token, None
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffered = self.socket.makefile("rb")

    def open_session(self):
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "yardstick", "version": "1"}}
        headers, _ = self.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, 200)
        self.session = headers["mcp-session-id"]
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, 202)

    def call(self, number):
        """Calls `echo`. The id always has ten digits: every call is equally long."""
        params = {"name": "echo", "arguments": {"message": "hello, world"}}
        message = {"jsonrpc": "2.0", "id": 1_000_000_000 + number, "method": "tools/call", "params": params}
        _, body = self.post(message, 200)
        answer = json.loads(body)
        text = answer.get("result", {}).get("content", [{}])[0].get("text")
        if answer.get("id") != message["id"] or text != "hello, world":
            raise RuntimeError(f"unexpected answer to tools/call: {body.decode()}")

    def post(self, message, expected):
        body = json.dumps(message, separators=(",", ":")).encode()
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            f"authorization: Bearer {self.token}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            f"content-length: {len(body)}",
        ]
        if self.session:
            lines += [f"mcp-protocol-version: {VERSION}", f"mcp-session-id: {self.session}"]
        # One write a request, so that the gateway reads it at once.
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return self.read(expected)

    def read(self, expected):
        status_line = self.buffered.readline()
        headers = {}
        while (line := self.buffered.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        body = self.buffered.read(int(headers.get("content-length", 0)))
        if status_line.split(b" ")[1:2] != [str(expected).encode()]:
            raise RuntimeError(f"expected status {expected}, got {status_line!r}: {body.decode()}")
        return headers, body


def wait_for_port(port, process):
    """Waits until a process listens on `port`."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the gateway exited with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the gateway does not listen on port {port} after {TIMEOUT} s")
