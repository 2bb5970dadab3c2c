"""A stdio server on version 1.3.0 of the Python SDK, whose newest protocol is 2024-11-05. It runs in the
environment `mcp-1.3`."""

import os

from mcp.server.fastmcp import FastMCP

server = FastMCP("old")


@server.tool()
def echo(text: str) -> str:
    return text


@server.tool()
def pid() -> str:
    return str(os.getpid())


server.run()
