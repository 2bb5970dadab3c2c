"""Tries the features of MCP against feature_server.py, through a gateway, with version 1 of the official Python
client, which most Python clients are made with: 1.3.0, which has no HTTP, or 1.30.0. See python_client.py.

    python_v1_client.py URL TOKEN legacy FEATURE|all

URL may be `stdio:` and the words of a command, which gets the token as $GATEPOST_TOKEN. What the version has no method
for is sent as a request of its own, as its users do; what it cannot receive is no feature of it. Version 1.3.0 sends no cursor, so it reads only the first page of a list.
"""

import asyncio
import inspect
import json
import logging
import os
import sys
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace

import mcp.types as types
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import McpError

logging.basicConfig(level=logging.CRITICAL)

PREFIX = os.environ.get("TOOL_PREFIX", "")
TOOLS = "echo content fail progress log slow calls capabilities sample elicit roots touch add_tool remove_tool".split()
PROMPTS = ["greet"] + [f"plain_{n}" for n in range(1, 8)]
RESOURCES = [f"feature://note/{n}" for n in range(1, 8)] + ["feature://pixel"]
TEMPLATES = [f"feature://{kind}/{{id}}" for kind in ("note", "item", "page", "line", "word", "letter")]
OPTIONS = inspect.signature(ClientSession.__init__).parameters


class NotHere(Exception):
    """The client has no such feature."""


def check(condition, why):
    if not condition:
        raise AssertionError(why)


@asynccontextmanager
async def transport(run):
    if run.url.startswith("stdio:"):
        command, *words = run.url.removeprefix("stdio:").split()
        env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "GATEPOST_TOKEN": run.token}
        async with stdio_client(StdioServerParameters(command=command, args=words, env=env)) as (reader, writer):
            yield reader, writer
        return
    import httpx
    from mcp.client.streamable_http import streamable_http_client

    # Loopback: never by way of a proxy of the machine.
    headers = {"Authorization": f"Bearer {run.token}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        async with streamable_http_client(run.url, http_client=http) as (reader, writer, _):
            yield reader, writer


@asynccontextmanager
async def connected(run, **options):
    """A session, and the notifications that it has received."""
    heard = []

    async def on_message(message):
        if isinstance(message, types.ServerNotification):
            heard.append(message.root)

    async def receive(session):
        async for message in session.incoming_messages:
            await on_message(message)

    if "message_handler" in OPTIONS:
        options["message_handler"] = on_message
    async with transport(run) as (reader, writer):
        async with ClientSession(reader, writer, **options) as session:
            receiving = None if "message_handler" in OPTIONS else asyncio.create_task(receive(session))
            await session.initialize()
            yield session, heard
            if receiving is not None:
                receiving.cancel()


async def call_tool(session, name, arguments=None, meta=None):
    params = {"name": PREFIX + name, "arguments": arguments or {}}
    if meta is not None:
        params["_meta"] = meta
    request = types.CallToolRequest(method="tools/call", params=types.CallToolRequestParams(**params))
    return await session.send_request(types.ClientRequest(request), types.CallToolResult)


async def call(session, name, arguments=None, meta=None):
    result = await call_tool(session, name, arguments, meta)
    check(not result.isError, f"{name} failed: {result.content}")
    return result.content[0].text


async def pages(session, request, method, result, field):
    things, cursor = [], None
    while True:
        params = None if cursor is None else {"cursor": cursor}
        page = await session.send_request(types.ClientRequest(request(method=method, params=params)), result)
        things += getattr(page, field)
        check(page.nextCursor is None or page.nextCursor != cursor, "a cursor came twice")
        cursor = page.nextCursor
        if cursor is None:
            return things


async def tool_names(session):
    tools = await pages(session, types.ListToolsRequest, "tools/list", types.ListToolsResult, "tools")
    return [tool.name for tool in tools]


def has_all(listed, wanted):
    check(len(listed) == len(set(listed)), f"listed twice: {listed}")
    missing = set(wanted) - set(listed)
    check(not missing, f"not listed: {sorted(missing)}")


async def refused(awaitable):
    try:
        result = await awaitable
    except McpError:
        return True
    return bool(getattr(result, "isError", False))


async def wait_until(happened, seconds=5.0):
    for _ in range(int(seconds / 0.05)):
        if happened():
            return True
        await asyncio.sleep(0.05)
    return False


async def provoke(act, happened):
    """What is sent before the client's stream is open is lost, and nothing tells when it is: try again."""
    for _ in range(5):
        await act()
        if await wait_until(happened, 2.0):
            return True
    return False


async def list_(run):
    async with connected(run) as (session, _):
        has_all(await tool_names(session), [PREFIX + name for name in TOOLS])


async def call_(run):
    async with connected(run) as (session, _):
        words = "gr\u00fc\u00dfe \U0001f600\n"
        check(await call(session, "echo", {"text": words}) == words, "another text came back")
        check(await refused(call_tool(session, "fail")), "fail did not fail")
        check(await refused(call_tool(session, "no_such_tool")), "an unknown tool was called")
        if "message_handler" not in OPTIONS:
            # It does not know audio.
            return
        kinds = [part.type for part in (await call_tool(session, "content")).content]
        check(kinds == ["text", "image", "audio", "resource"], f"content: {kinds}")


async def resources(run):
    async with connected(run) as (session, _):
        kind = types.ListResourcesRequest, "resources/list", types.ListResourcesResult, "resources"
        has_all([str(resource.uri) for resource in await pages(session, *kind)], RESOURCES)
        kind = (
            *(types.ListResourceTemplatesRequest, "resources/templates/list"),
            *(types.ListResourceTemplatesResult, "resourceTemplates"),
        )
        has_all([template.uriTemplate for template in await pages(session, *kind)], TEMPLATES)
        contents = (await session.read_resource("feature://item/42")).contents[0]
        check(contents.text.startswith("feature://item/42"), f"read: {contents}")
        check((await session.read_resource("feature://pixel")).contents[0].blob, "no pixel")
        check(await refused(session.read_resource("feature://nothing")), "an unknown resource was read")


async def prompts(run):
    async with connected(run) as (session, _):
        kind = types.ListPromptsRequest, "prompts/list", types.ListPromptsResult, "prompts"
        has_all([prompt.name for prompt in await pages(session, *kind)], [PREFIX + name for name in PROMPTS])
        result = await session.get_prompt(PREFIX + "greet", {"name": "Ada"})
        check(result.messages[0].content.text == "Greet Ada.", f"got: {result.messages}")
        check(await refused(session.get_prompt(PREFIX + "no_such_prompt")), "an unknown prompt was given")


async def complete(run):
    async with connected(run) as (session, _):
        reference = types.PromptReference(type="ref/prompt", name=PREFIX + "greet")
        result = await session.complete(reference, {"name": "name", "value": "al"})
        check(result.completion.values == ["alice", "albert"], f"prompt: {result.completion}")


async def progress(run):
    async with connected(run) as (session, heard):

        def seen():
            reports = [message.params for message in heard if isinstance(message, types.ProgressNotification)]
            return [report.progress for report in reports if report.progressToken == "steps"]

        await call(session, "progress", meta={"progressToken": "steps"})
        check(await wait_until(lambda: seen() == [1, 2, 3]), f"seen: {seen()}")


async def log(run):
    async with connected(run) as (session, heard):
        await session.set_logging_level("debug")
        check(await call(session, "log") == "level: debug", "the server did not hear of the level")

        def logs():
            return [message.params.data for message in heard if isinstance(message, types.LoggingMessageNotification)]

        check(await wait_until(lambda: logs() == ["a line of log"]), f"logs: {logs()}")


async def cancel(run):
    raise NotHere("the client cannot cancel")


async def sample(run):
    async def on_sampling(context, params):
        content = types.TextContent(type="text", text=f"you said {params.messages[0].content.text}")
        return types.CreateMessageResult(role="assistant", content=content, model="none", stopReason="endTurn")

    async with connected(run, sampling_callback=on_sampling) as (session, _):
        said = await call(session, "sample", {"prompt": "hello"})
    check(said == "sampled: you said hello", said)


async def elicit(run):
    if "elicitation_callback" not in OPTIONS:
        raise NotHere("the client knows no elicitation")

    async def on_elicitation(context, params):
        return types.ElicitResult(action="accept", content={"name": f"Ada, asked {params.message}"})

    async with connected(run, elicitation_callback=on_elicitation) as (session, _):
        said = await call(session, "elicit")
    check(said == "elicited: Ada, asked Your name?", said)


async def roots(run):
    async def on_roots(context):
        return types.ListRootsResult(roots=[types.Root(uri="file:///of/the/client")])

    async with connected(run, list_roots_callback=on_roots) as (session, _):
        said = await call(session, "roots")
    check(said == "roots: file:///of/the/client", said)


async def subscribe(run):
    uri = f"feature://item/{uuid.uuid4().hex}"
    async with connected(run) as (session, heard):

        def told():
            updates = [message for message in heard if isinstance(message, types.ResourceUpdatedNotification)]
            return any(str(update.params.uri) == uri for update in updates)

        async def touch():
            await call(session, "touch", {"uri": uri})

        await session.subscribe_resource(uri)
        check(await provoke(touch, told), "no update came")
        await session.unsubscribe_resource(uri)
        heard.clear()
        await touch()
        check(not await wait_until(told, 0.5), "an update came after all was unsubscribed")


async def list_changed(run):
    name = f"added_{uuid.uuid4().hex[:8]}"
    async with connected(run) as (session, heard):

        def told():
            return any(isinstance(message, types.ToolListChangedNotification) for message in heard)

        async def add():
            await call(session, "add_tool", {"name": name})

        try:
            check(await provoke(add, told), "no notification came")
            check(PREFIX + name in await tool_names(session), "the new tool is not listed")
        finally:
            await call(session, "remove_tool", {"name": name})


async def ping(run):
    async with connected(run) as (session, _):
        await session.send_ping()


FEATURES = {
    "list": list_,
    "call": call_,
    "resources": resources,
    "prompts": prompts,
    "complete": complete,
    "progress": progress,
    "log": log,
    "cancel": cancel,
    "sample": sample,
    "elicit": elicit,
    "roots": roots,
    "subscribe": subscribe,
    "list_changed": list_changed,
    "ping": ping,
}


async def attempt(run, feature):
    try:
        async with asyncio.timeout(30):
            await FEATURES[feature](run)
    except Exception as failure:
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        ok = None if isinstance(failure, NotHere) else False
        why = str(failure) or type(failure).__name__
    else:
        ok, why = True, ""
    print(json.dumps({"client": "python_v1", "era": run.era, "feature": feature, "ok": ok, "why": why}), flush=True)
    return ok


async def main(url, token, era, feature):
    run = SimpleNamespace(url=url, token=token, era=era)
    results = [await attempt(run, name) for name in (FEATURES if feature == "all" else [feature])]
    return 1 if False in results else 0


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[3] != "legacy" or sys.argv[4] not in ("all", *FEATURES):
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(*sys.argv[1:])))
