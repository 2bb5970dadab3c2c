"""Tries the features of MCP against feature_server.py, directly or through a gateway, with the official Python client.

    python_client.py URL TOKEN legacy|modern FEATURE|all

Prints one JSON line a feature: {"client", "era", "feature", "ok", "why"}; `ok` is null where the client or the era has no
such feature. Exits with 0 unless a feature failed. $TOOL_PREFIX stands before the name of every tool and prompt.
"""

import asyncio
import json
import logging
import os
import sys
import time
import uuid
import warnings
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged

warnings.simplefilter("ignore", MCPDeprecationWarning)
# The SDK says of every call that it does not know the tool's schema.
logging.basicConfig(level=logging.ERROR)

PREFIX = os.environ.get("TOOL_PREFIX", "")
MODERN = "2026-07-28"
TOOLS = "echo content fail progress log slow calls capabilities sample elicit roots touch add_tool remove_tool".split()
PROMPTS = ["greet"] + [f"plain_{n}" for n in range(1, 8)]
RESOURCES = [f"feature://note/{n}" for n in range(1, 8)] + ["feature://pixel"]
TEMPLATES = [f"feature://{kind}/{{id}}" for kind in ("note", "item", "page", "line", "word", "letter")]


class NotHere(Exception):
    """The client or the era has no such feature."""


def check(condition, why):
    if not condition:
        raise AssertionError(why)


@asynccontextmanager
async def connected(run, **options):
    """A client and what it has heard of the server: `notifications`, `logs`."""
    heard = SimpleNamespace(notifications=[], logs=[])

    async def on_message(message):
        heard.notifications.append(message)

    async def on_log(params):
        heard.logs.append(params)

    headers = {"Authorization": f"Bearer {run.token}"}
    # Loopback: never by way of a proxy of the machine.
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        async with Client(
            streamable_http_client(run.url, http_client=http),
            mode="legacy" if run.era == "legacy" else "auto",
            message_handler=on_message,
            logging_callback=on_log,
            **options,
        ) as client:
            version = client.protocol_version
            check((version == MODERN) == (run.era == "modern"), f"speaks {version}")
            yield client, heard


async def call(client, name, arguments=None, **options):
    result = await client.call_tool(PREFIX + name, arguments or {}, **options)
    check(not result.is_error, f"{name} failed: {result.content}")
    return result.content[0].text


async def pages(list_page, field):
    things, cursor, seen = [], None, set()
    while True:
        page = await list_page(cursor=cursor)
        things += getattr(page, field)
        cursor = page.next_cursor
        if cursor is None:
            return things
        check(cursor not in seen, "a cursor came twice")
        seen.add(cursor)


def has_all(listed, wanted):
    check(len(listed) == len(set(listed)), f"listed twice: {listed}")
    missing = set(wanted) - set(listed)
    check(not missing, f"not listed: {sorted(missing)}")


async def refused(awaitable):
    """A refusal is an error of the protocol, or one of the tool."""
    try:
        result = await awaitable
    except MCPError:
        return True
    return bool(getattr(result, "is_error", False))


async def wait_until(happened, seconds=5.0):
    """Whether it happened in time; may be asked of the server, so that `happened` may be async."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = happened()
        if await result if asyncio.iscoroutine(result) else result:
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
    async with connected(run) as (client, _):
        tools = await pages(client.list_tools, "tools")
    has_all([tool.name for tool in tools], [PREFIX + name for name in TOOLS])
    schema = next(tool for tool in tools if tool.name == PREFIX + "echo").input_schema
    check(schema["properties"] == {"text": {"type": "string"}}, f"schema: {schema}")


async def call_(run):
    async with connected(run) as (client, _):
        # The client needs the schema to check the structured result.
        await pages(client.list_tools, "tools")
        words = "gr\u00fc\u00dfe \U0001f600\n"
        result = await client.call_tool(PREFIX + "echo", {"text": words})
        check(result.content[0].text == words, f"text: {result.content}")
        check(result.structured_content == {"text": words}, f"structured: {result.structured_content}")
        result = await client.call_tool(PREFIX + "content", {})
        kinds = [part.type for part in result.content]
        check(kinds == ["text", "image", "audio", "resource"], f"content: {kinds}")
        result = await client.call_tool(PREFIX + "fail", {})
        check(result.is_error and result.content[0].text == "no luck today", f"fail: {result}")
        check(await refused(client.call_tool(PREFIX + "no_such_tool", {})), "an unknown tool was called")


async def resources(run):
    async with connected(run) as (client, _):
        listed = await pages(client.list_resources, "resources")
        has_all([str(resource.uri) for resource in listed], RESOURCES)
        listed = await pages(client.list_resource_templates, "resource_templates")
        has_all([template.uri_template for template in listed], TEMPLATES)
        for uri in ("feature://note/7", "feature://item/42"):
            contents = (await client.read_resource(uri)).contents[0]
            check(str(contents.uri) == uri and contents.text.startswith(uri), f"read: {contents}")
        contents = (await client.read_resource("feature://pixel")).contents[0]
        check(contents.mime_type == "image/png" and contents.blob, f"read: {contents}")
        check(await refused(client.read_resource("feature://nothing")), "an unknown resource was read")


async def prompts(run):
    async with connected(run) as (client, _):
        listed = await pages(client.list_prompts, "prompts")
        has_all([prompt.name for prompt in listed], [PREFIX + name for name in PROMPTS])
        result = await client.get_prompt(PREFIX + "greet", {"name": "Ada"})
        check(result.messages[0].content.text == "Greet Ada.", f"got: {result.messages}")
        check(await refused(client.get_prompt(PREFIX + "no_such_prompt")), "an unknown prompt was given")


async def complete(run):
    async with connected(run) as (client, _):
        reference = types.PromptReference(name=PREFIX + "greet")
        result = await client.complete(reference, {"name": "name", "value": "al"})
        check(result.completion.values == ["alice", "albert"], f"prompt: {result.completion}")
        reference = types.ResourceTemplateReference(uri="feature://item/{id}")
        result = await client.complete(reference, {"name": "id", "value": "1"})
        check(len(result.completion.values) == 10, f"template: {result.completion}")


async def progress(run):
    seen = []

    async def on_progress(progress, total, message):
        seen.append((progress, total, message))

    async with connected(run) as (client, _):
        await call(client, "progress", progress_callback=on_progress)
        await wait_until(lambda: len(seen) == 3, 1.0)
    check(len(seen) >= 2, f"seen: {seen}")
    check(seen == sorted(seen) and seen[-1][:2] == (3, 3), f"seen: {seen}")


async def log(run):
    # The modern era has no session to set a level for: every request says it.
    options = {} if run.era == "legacy" else {"log_level": "debug"}
    async with connected(run, **options) as (client, heard):
        if run.era == "legacy":
            await client.set_logging_level("debug")
        said = await call(client, "log")
        check(run.era == "modern" or said == "level: debug", f"the server heard of {said}")
        check(await wait_until(lambda: heard.logs), "no log came")
    check((heard.logs[0].level, heard.logs[0].data) == ("info", "a line of log"), f"logs: {heard.logs}")


async def cancel(run):
    key = uuid.uuid4().hex

    async with connected(run) as (client, _):

        async def count(name):
            return json.loads(await call(client, "calls", {"key": key}))[name]

        async def began():
            return await count("started") == 1

        async def was_cancelled():
            return await count("cancelled") == 1

        calling = asyncio.create_task(client.call_tool(PREFIX + "slow", {"key": key}))
        check(await wait_until(began), "the call did not begin")
        before = time.monotonic()
        calling.cancel()
        await asyncio.wait([calling], timeout=10)
        took = time.monotonic() - before
        check(calling.done() and took < 2, f"the call ended after {took:.1f} s")
        check(await wait_until(was_cancelled), "the server did not hear of it")


async def needs(run, capability, name, arguments=None):
    """What a client cannot do must not be asked of it, whatever other clients of a gateway can do."""
    async with connected(run) as (client, _):
        declared = json.loads(await call(client, "capabilities"))
        check(capability not in declared, f"the server takes this client for one with {declared}")
        failed = await refused(client.call_tool(PREFIX + name, arguments or {}))
        check(failed, f"{name} did not fail for a client without {capability}")


async def sample(run):
    async def on_sampling(context, params):
        words = params.messages[0].content.text
        content = types.TextContent(type="text", text=f"you said {words}")
        return types.CreateMessageResult(role="assistant", content=content, model="none", stop_reason="endTurn")

    async with connected(run, sampling_callback=on_sampling) as (client, _):
        said = await call(client, "sample", {"prompt": "hello"})
    check(said == "sampled: you said hello", said)
    await needs(run, "sampling", "sample", {"prompt": "hello"})


async def elicit(run):
    async def on_elicitation(context, params):
        return types.ElicitResult(action="accept", content={"name": f"Ada, asked {params.message}"})

    async with connected(run, elicitation_callback=on_elicitation) as (client, _):
        said = await call(client, "elicit")
    check(said == "elicited: Ada, asked Your name?", said)
    await needs(run, "elicitation", "elicit")


async def roots(run):
    async def on_roots(context):
        return types.ListRootsResult(roots=[types.Root(uri="file:///of/the/client")])

    async with connected(run, list_roots_callback=on_roots) as (client, _):
        said = await call(client, "roots")
    check(said == "roots: file:///of/the/client", said)
    await needs(run, "roots", "roots")


async def first_event(subscription, wanted):
    try:
        async with asyncio.timeout(5):
            async for event in subscription:
                if event == wanted:
                    return True
    except TimeoutError:
        pass
    return False


async def subscribe(run):
    uri = f"feature://item/{uuid.uuid4().hex}"
    async with connected(run) as (client, heard):

        def told():
            return any(
                isinstance(message, types.ResourceUpdatedNotification) and str(message.params.uri) == uri
                for message in heard.notifications
            )

        async def touch():
            await call(client, "touch", {"uri": uri})

        if run.era == "modern":
            async with client.listen(resource_subscriptions=[uri]) as subscription:
                await touch()
                check(await first_event(subscription, ResourceUpdated(uri=uri)), "no update came")
            return
        await client.subscribe_resource(uri)
        check(await provoke(touch, told), "no update came")
        await client.unsubscribe_resource(uri)
        heard.notifications.clear()
        await touch()
        check(not await wait_until(told, 0.5), "an update came after all was unsubscribed")


async def list_changed(run):
    name = f"added_{uuid.uuid4().hex[:8]}"
    async with connected(run) as (client, heard):

        def told():
            return any(isinstance(message, types.ToolListChangedNotification) for message in heard.notifications)

        async def add():
            await call(client, "add_tool", {"name": name})

        async def listed():
            return PREFIX + name in [tool.name for tool in await pages(client.list_tools, "tools")]

        try:
            if run.era == "modern":
                async with client.listen(tools_list_changed=True) as subscription:
                    await add()
                    check(await first_event(subscription, ToolsListChanged()), "no notification came")
            else:
                check(await provoke(add, told), "no notification came")
            check(await wait_until(listed, 2.0), "the new tool is not listed")
            await call(client, name)
        finally:
            await call(client, "remove_tool", {"name": name})


async def ping(run):
    if run.era == "modern":
        raise NotHere("no ping in the modern era")
    async with connected(run) as (client, _):
        await client.send_ping()


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


def reason(failure):
    """A task group wraps what happened in it."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return str(failure) or type(failure).__name__


async def attempt(run, feature):
    try:
        async with asyncio.timeout(30):
            await FEATURES[feature](run)
    except NotHere as failure:
        ok, why = None, str(failure)
    except Exception as failure:
        ok, why = False, reason(failure)
    else:
        ok, why = True, ""
    print(json.dumps({"client": "python", "era": run.era, "feature": feature, "ok": ok, "why": why}), flush=True)
    return ok


async def main(url, token, era, feature):
    run = SimpleNamespace(url=url, token=token, era=era)
    results = [await attempt(run, name) for name in (FEATURES if feature == "all" else [feature])]
    return 1 if False in results else 0


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[3] not in ("legacy", "modern") or sys.argv[4] not in ("all", *FEATURES):
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(*sys.argv[1:])))
