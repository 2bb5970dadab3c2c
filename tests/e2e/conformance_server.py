"""The server that the protocol's conformance suite expects: its tools, resources and prompts, in both eras.

Written on the official SDK, with one tool more: `slow`. Prints `listening on URL` once it serves.
"""

import argparse
import asyncio
import base64
import json
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    AudioContent,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
import mcp_types
from pydantic import BaseModel, Field

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
    )
).decode()
WAV = base64.b64encode(
    b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    + bytes.fromhex("0100010044ac000088580100020010 00".replace(" ", "")) + b"data" + (0).to_bytes(4, "little")
).decode()

server = MCPServer(name="gatepost-fixture", version="1", instructions="For tests.")


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def form(message: str, **properties) -> ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def question(value: str, tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=text(value))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=tokens))


STRING = {"type": "string"}


def ask(state: str | None = None, **requests) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def given(ctx: Context, key: str):
    """The client's answer of this name, if it is one."""
    answer = (ctx.input_responses or {}).get(key)
    return answer if isinstance(answer, (mcp_types.ElicitResult, mcp_types.CreateMessageResult, mcp_types.ListRootsResult)) else None


def content_of(ctx: Context, key: str, field: str):
    answer = given(ctx, key)
    content = getattr(answer, "content", None)
    return content.get(field) if isinstance(content, dict) else None


# Content of every kind.


@server.tool()
def test_simple_text() -> str:
    """A text."""
    return "This is a simple text response for testing."


@server.tool()
def test_image_content() -> list[ImageContent]:
    """An image."""
    return [ImageContent(type="image", data=PNG, mime_type="image/png")]


@server.tool()
def test_audio_content() -> list[AudioContent]:
    """A sound."""
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


def embedded(uri: str, mime_type: str, value: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=value))


@server.tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    """A resource within a result."""
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool()
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Several kinds at once."""
    data = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        ImageContent(type="image", data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", "application/json", data),
    ]


@server.tool()
def test_error_handling() -> str:
    """Fails."""
    raise RuntimeError("This tool intentionally returns an error for testing")


# What a call sends before its result.


@server.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Three log messages."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(message)
        await asyncio.sleep(0.05)
    return "logged"


@server.tool()
async def test_logging_tool(ctx: Context) -> str:
    """A log message where the request asks for such."""
    await ctx.info("a log message")
    return "logged"


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Three times progress."""
    for progress in (0, 50, 100):
        await ctx.report_progress(progress=progress, total=100, message=f"{progress} of 100")
        await asyncio.sleep(0.05)
    return "done"


# What a legacy server asks its client.


@server.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model."""
    message = SamplingMessage(role="user", content=text(prompt))
    answer = await ctx.session.create_message(messages=[message], max_tokens=100)
    return f"LLM response: {answer.content.text}"


class Person(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


def outcome(answer) -> str:
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"action={answer.action}, content={content}"


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user."""
    return "User response: " + outcome(await ctx.elicit(message=message, schema=Person))


class Defaults(BaseModel):
    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True)


@server.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks the user, with defaults."""
    return "Elicitation completed: " + outcome(await ctx.elicit(message="Who are you?", schema=Defaults))


def titled(*pairs):
    return [{"const": const, "title": title} for const, title in pairs]


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titledSingle: str = Field(json_schema_extra={"oneOf": titled(("value1", "First"), ("value2", "Second"))})
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]})
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2"]}})
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": titled(("value1", "First"), ("value2", "Second"))}})


@server.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks the user to choose."""
    return "Elicitation completed: " + outcome(await ctx.elicit(message="Choose", schema=Choices))


@server.tool()
async def test_reconnection(ctx: Context) -> str:
    """Closes its stream in the middle."""
    await ctx.info("before")
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed"


# What a modern server needs of its client.


@server.tool()
def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Needs a name."""
    name = content_of(ctx, "user_name", "name")
    return f"Hello, {name}!" if name else ask(user_name=form("What is your name?", name=STRING))


@server.tool()
def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's model."""
    answer = given(ctx, "capital_question")
    if answer is None:
        return ask(capital_question=question("What is the capital of France?", 100))
    return getattr(answer.content, "text", "no text")


@server.tool()
def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's roots."""
    answer = given(ctx, "client_roots")
    if answer is None:
        return ask(client_roots=ListRootsRequest())
    return " ".join(str(root.uri) for root in answer.roots)


@server.tool()
def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Needs a confirmation, and its own state."""
    if given(ctx, "confirm") is None or ctx.request_state != "asked":
        return ask("asked", confirm=form("Please confirm", ok={"type": "boolean"}))
    return "state-ok"


@server.tool()
def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """The same, for those who change the state."""
    if given(ctx, "confirm") is None:
        return ask("asked", confirm=form("Please confirm", ok={"type": "boolean"}))
    return "state-ok"


@server.tool()
def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Needs three things at once."""
    if all(given(ctx, key) is not None for key in ("user_name", "greeting", "client_roots")):
        return "all there"
    return ask(
        "asked",
        user_name=form("What is your name?", name=STRING),
        greeting=question("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    )


@server.tool()
def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Needs two things, one after the other."""
    if ctx.request_state == "second" and content_of(ctx, "step2", "color"):
        return "both there"
    if ctx.request_state == "first" and content_of(ctx, "step1", "name"):
        return ask("second", step2=form("Step 2: What is your favorite color?", color=STRING))
    return ask("first", step1=form("Step 1: What is your name?", name=STRING))


@server.tool()
def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Needs whatever the client can give."""
    can = ctx.client_capabilities
    requests = {}
    if can is not None and can.sampling is not None:
        requests["sample"] = question("Say something", 10)
    if can is not None and can.elicitation is not None:
        requests["form"] = form("Who?", name=STRING)
    return ask(**requests) if requests and not ctx.input_responses else "done"


@server.tool()
def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Needs input, and never asks for it on the stream."""
    return "done" if ctx.input_responses else ask(user_name=form("Who?", name=STRING))


@server.tool()
def test_missing_capability(ctx: Context) -> str:
    """Needs a capability that the client must have declared."""
    can = ctx.client_capabilities
    if can is None or can.sampling is None:
        raise MCPError(
            code=mcp_types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="this needs sampling",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "declared"


@server.prompt()
def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """A prompt that needs input."""
    context = content_of(ctx, "user_context", "context")
    if context is None:
        return ask(user_context=form("What context should the prompt use?", context=STRING))
    return [UserMessage(content=text(f"In the context of {context}"))]


# Changes.


@server.tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Says that the tools have changed."""
    await ctx.notify_tools_changed()
    return "changed"


@server.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Says that the prompts have changed."""
    await ctx.notify_prompts_changed()
    return "changed"


@server.tool()
async def slow(seconds: float) -> str:
    """Takes its time; no tool of the suite's."""
    await asyncio.sleep(seconds)
    return "slept"


# Resources and prompts.


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image."""
    return base64.b64decode(PNG)


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    """One of many."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    """One that changes."""
    return "Watched resource content"


@server.prompt()
def test_simple_prompt() -> list[UserMessage]:
    """A prompt without arguments."""
    return [UserMessage(content=text("This is a simple prompt for testing."))]


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """A prompt with two."""
    return [UserMessage(content=text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt with a resource in it."""
    return [
        UserMessage(content=embedded(resourceUri, "text/plain", "Embedded resource content for testing.")),
        UserMessage(content=text("Please process the embedded resource above.")),
    ]


@server.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image in it."""
    return [
        UserMessage(content=ImageContent(type="image", data=PNG, mime_type="image/png")),
        UserMessage(content=text("Please analyze the image above.")),
    ]


@server.completion()
async def complete(ref, argument, context):
    """Words that begin as the argument does."""
    words = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
    return Completion(values=words, total=len(words), has_more=False)


async def set_level(ctx, params):
    return mcp_types.EmptyResult()


async def subscribe(ctx, params):
    return mcp_types.EmptyResult()


def add_legacy_handlers() -> None:
    """What the high-level server leaves to the low-level one."""
    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", mcp_types.SetLevelRequestParams, set_level)
    low.add_request_handler("resources/subscribe", mcp_types.SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", mcp_types.UnsubscribeRequestParams, subscribe)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true")
    arguments = parser.parse_args()
    add_legacy_handlers()
    if arguments.stdio:
        server.run("stdio")
        return
    listener = socket.create_server(("127.0.0.1", arguments.port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    app = server.streamable_http_app()
    print(f"listening on {url}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
