"""A server with something to try every feature of MCP on, in both eras, for the client drivers in clients/.

    feature_server.py [--port PORT] [--stdio]

Prints `listening on http://127.0.0.1:PORT/mcp` when it is ready. Lists come in pages of PAGE. A tool that needs the client
asks it as its era does: a request of the server in the legacy era, an `input_required` result in the modern one.
"""

import asyncio
import json
from collections import Counter

import fixture
import mcp_types as types
from fixture import PNG, accepted, answer, elicitation, input_required, is_modern, object_schema, response, text
from mcp.server import CacheHint, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

PAGE = 5
STRING = {"type": "string"}

tool = fixture.Tools()
bus = InMemorySubscriptionBus()
# How many calls of `slow` began and were cancelled, by the key that they were given.
started, cancelled = Counter(), Counter()
# How often each resource was touched.
touched = Counter()
# Legacy sessions: who subscribed to which resource, and the level that each wants to have logged.
subscribers, levels = {}, {}


def session_id(ctx):
    return ctx.request.headers.get("mcp-session-id") if ctx.request is not None else "stdio"


def lacks(ctx, capability):
    """What a client hears that has not declared this capability; None if it has."""
    declared = ctx.session.client_capabilities
    if declared is not None and getattr(declared, capability) is not None:
        return None
    if not is_modern(ctx):
        return answer(f"the client has not declared {capability}", is_error=True)
    needed = {"requiredCapabilities": {capability: {}}}
    raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)


@tool("echo", "Repeats a text", object_schema(text=STRING), object_schema(text=STRING))
async def echo(ctx, params):
    words = params.arguments["text"]
    return answer(words, structured_content={"text": words})


@tool("content", "Returns content of several types")
async def content(ctx, params):
    resource = types.TextResourceContents(uri="feature://note/1", mime_type="text/plain", text="Note 1")
    parts = [text("text"), fixture.image(), fixture.audio(), types.EmbeddedResource(type="resource", resource=resource)]
    return types.CallToolResult(content=parts)


@tool("fail", "Fails, by its own account")
async def fail(ctx, params):
    return answer("no luck today", is_error=True)


@tool("progress", "Reports progress three times")
async def progress(ctx, params):
    for step in (1, 2, 3):
        await ctx.session.report_progress(step, 3, f"step {step}")
        await asyncio.sleep(0.05)
    return answer("progressed")


@tool("log", "Logs at the level `info`; tells at which level the session wants it, in the legacy era")
async def log(ctx, params):
    await ctx.session.send_log_message("info", "a line of log", "feature", ctx.request_id)
    return answer(f"level: {levels.get(session_id(ctx))}")


@tool("slow", "Takes a minute, unless it is cancelled", object_schema(key=STRING))
async def slow(ctx, params):
    key = params.arguments["key"]
    started[key] += 1
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled[key] += 1
        raise
    return answer("slow")


@tool("calls", "Tells how many calls of `slow` with this key began and were cancelled", object_schema(key=STRING))
async def calls(ctx, params):
    key = params.arguments["key"]
    return answer(json.dumps({"started": started[key], "cancelled": cancelled[key]}))


@tool("capabilities", "Tells which capabilities the client has declared")
async def capabilities(ctx, params):
    declared = ctx.session.client_capabilities or types.ClientCapabilities()
    return answer(json.dumps(sorted(declared.model_dump(exclude_none=True))))


@tool("sample", "Lets the client's model say something", object_schema(prompt=STRING))
async def sample(ctx, params):
    if refusal := lacks(ctx, "sampling"):
        return refusal
    message = types.SamplingMessage(role="user", content=text(params.arguments["prompt"]))
    if is_modern(ctx):
        given = response(params, "sample")
        if params.request_state != "sampling" or not isinstance(given, types.CreateMessageResult):
            asked = types.CreateMessageRequestParams(messages=[message], max_tokens=100)
            return input_required("sampling", sample=types.CreateMessageRequest(params=asked))
    else:
        given = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return answer(f"sampled: {given.content.text}")


@tool("elicit", "Asks the user for a name")
async def elicit(ctx, params):
    if refusal := lacks(ctx, "elicitation"):
        return refusal
    if is_modern(ctx):
        name = accepted(params, "elicit", "name")
        if params.request_state != "eliciting" or name is None:
            return input_required("eliciting", elicit=elicitation("Your name?", name=STRING))
    else:
        given = await ctx.session.elicit_form("Your name?", object_schema(name=STRING), ctx.request_id)
        name = (given.content or {}).get("name")
    return answer(f"elicited: {name}")


@tool("roots", "Tells the client's roots")
async def roots(ctx, params):
    if refusal := lacks(ctx, "roots"):
        return refusal
    if is_modern(ctx):
        given = response(params, "roots")
        if not isinstance(given, types.ListRootsResult):
            return input_required(roots=types.ListRootsRequest())
    else:
        # On the call's own stream, as above: there may be no other.
        metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
        given = await ctx.session.send_request(types.ListRootsRequest(), types.ListRootsResult, metadata=metadata)
    return answer("roots: " + " ".join(str(root.uri) for root in given.roots))


@tool("touch", "Changes a resource, and tells who subscribed to it", object_schema(uri=STRING))
async def touch(ctx, params):
    uri = params.arguments["uri"]
    touched[uri] += 1
    await bus.publish(ResourceUpdated(uri=uri))
    for key, session in list(subscribers.get(uri, {}).items()):
        try:
            await session.send_resource_updated(uri)
        except Exception:
            # A session that is gone.
            subscribers[uri].pop(key, None)
    return answer(f"touched: {touched[uri]}")


@tool("add_tool", "Adds a tool, and tells its caller's session and all who listen", object_schema(name=STRING))
async def add_tool(ctx, params):
    tool(params.arguments["name"], "Was added")(content)
    await tools_changed(ctx)
    return answer("added")


@tool("remove_tool", "Takes a tool away that was added", object_schema(name=STRING))
async def remove_tool(ctx, params):
    name = params.arguments["name"]
    if tool.tools.get(name) is None or tool.tools[name].description != "Was added":
        raise MCPError(types.INVALID_PARAMS, f"Not an added tool: {name}")
    tool.remove(name)
    await tools_changed(ctx)
    return answer("removed")


async def tools_changed(ctx):
    await bus.publish(ToolsListChanged())
    if not is_modern(ctx):
        await ctx.session.send_tool_list_changed()


RESOURCES = [
    types.Resource(uri=f"feature://note/{n}", name=f"note {n}", description="A note", mime_type="text/plain")
    for n in range(1, 8)
] + [types.Resource(uri="feature://pixel", name="pixel", description="An image", mime_type="image/png")]

TEMPLATES = [
    types.ResourceTemplate(
        uri_template=f"feature://{kind}/{{id}}", name=kind, description="By id", mime_type="text/plain"
    )
    for kind in ("note", "item", "page", "line", "word", "letter")
]

PROMPTS = [
    types.Prompt(
        name="greet",
        description="Greets someone",
        arguments=[types.PromptArgument(name="name", description="Whom to greet", required=True)],
    )
] + [types.Prompt(name=f"plain_{n}", description="Without arguments") for n in range(1, 8)]

WORDS = ["alice", "albert", "bob"]


def page(things, params):
    """A page of them and the cursor of the next one, None after the last."""
    try:
        begin = int(params.cursor) if params is not None and params.cursor is not None else 0
    except ValueError:
        raise MCPError(types.INVALID_PARAMS, "Invalid cursor") from None
    end = begin + PAGE
    return things[begin:end], str(end) if end < len(things) else None


async def list_tools(ctx, params):
    tools, cursor = page(list(tool.tools.values()), params)
    return types.ListToolsResult(tools=tools, next_cursor=cursor)


async def list_resources(ctx, params):
    resources, cursor = page(RESOURCES, params)
    return types.ListResourcesResult(resources=resources, next_cursor=cursor)


async def list_templates(ctx, params):
    templates, cursor = page(TEMPLATES, params)
    return types.ListResourceTemplatesResult(resource_templates=templates, next_cursor=cursor)


async def list_prompts(ctx, params):
    prompts, cursor = page(PROMPTS, params)
    return types.ListPromptsResult(prompts=prompts, next_cursor=cursor)


async def read_resource(ctx, params):
    uri = str(params.uri)
    if uri == "feature://pixel":
        contents = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    elif any(uri.startswith(template.uri_template.removesuffix("{id}")) for template in TEMPLATES):
        words = f"{uri}, touched {touched[uri]} times"
        contents = types.TextResourceContents(uri=uri, mime_type="text/plain", text=words)
    else:
        code = types.INVALID_PARAMS if is_modern(ctx) else -32002
        raise MCPError(code, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[contents])


async def subscribe(ctx, params):
    subscribers.setdefault(str(params.uri), {})[session_id(ctx)] = ctx.session
    return types.EmptyResult()


async def unsubscribe(ctx, params):
    subscribers.get(str(params.uri), {}).pop(session_id(ctx), None)
    return types.EmptyResult()


async def get_prompt(ctx, params):
    if params.name == "greet":
        if "name" not in (params.arguments or {}):
            raise MCPError(types.INVALID_PARAMS, "Missing argument: name")
        words = f"Greet {params.arguments['name']}."
    elif any(prompt.name == params.name for prompt in PROMPTS):
        words = f"This is {params.name}."
    else:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text(words))])


async def complete(ctx, params):
    if isinstance(params.ref, types.PromptReference):
        if params.ref.name != "greet":
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.ref.name}")
        candidates = WORDS
    else:
        candidates = [str(n) for n in range(10, 20)]
    values = [word for word in candidates if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def set_level(ctx, params):
    levels[session_id(ctx)] = params.level
    return types.EmptyResult()


CACHEABLE = "tools/list prompts/list resources/list resources/templates/list resources/read"

server = Server(
    "feature",
    version="1",
    cache_hints={method: CacheHint(ttl_ms=0, scope="private") for method in CACHEABLE.split()},
    on_list_tools=list_tools,
    on_call_tool=tool.call,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_subscriptions_listen=ListenHandler(bus),
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=set_level,
)
server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server.name))

if __name__ == "__main__":
    fixture.main(server, "A fixture with every feature of MCP.")
