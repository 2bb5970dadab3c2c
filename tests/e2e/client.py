"""The official MCP client, for the Rust tests: lists and calls tools, prints one JSON object.

    client.py URL MODE TOKEN [--no-list] [TOOL ARGUMENTS_AS_JSON]...

MODE is `legacy` or a modern revision, as `2026-07-28`. Printed:
{"protocol": ..., "tools": [...], "calls": [{"is_error", "text", "structured"} or {"error": {"code", "message"}}]}
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client


async def list_all(client):
    names, cursor = [], None
    while True:
        page = await client.list_tools(cursor=cursor)
        names += [tool.name for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return names


async def call(client, tool, arguments):
    try:
        result = await client.call_tool(tool, arguments)
    except MCPError as failure:
        return {"error": {"code": failure.code, "message": failure.message}}
    text = [part.text for part in result.content if part.type == "text"]
    return {"is_error": bool(result.is_error), "text": text, "structured": result.structured_content}


async def main(url, mode, token, *rest):
    rest = list(rest)
    listing = rest[:1] != ["--no-list"]
    if not listing:
        rest.pop(0)
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    headers = {"Authorization": f"Bearer {token}"}
    # The test's own gateway, on loopback: never by way of a proxy of the machine.
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = await list_all(client) if listing else None
            calls = [await call(client, tool, json.loads(arguments)) for tool, arguments in pairs]
            printed = {"protocol": client.session.protocol_version, "tools": tools, "calls": calls}
    print(json.dumps(printed))


asyncio.run(main(*sys.argv[1:]))
