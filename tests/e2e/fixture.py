"""What both fixture servers share: content, registration of tools, and how they are served."""

import argparse
import asyncio
import base64
import socket
import warnings

import uvicorn
from mcp.server import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import INVALID_PARAMS, AudioContent, CallToolResult, ElicitRequest, ElicitRequestFormParams, ElicitResult
from mcp_types import ImageContent, InputRequiredResult, TextContent, Tool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

# Sampling, roots and logging/setLevel are deprecated in the modern era and the whole point in the legacy one.
warnings.simplefilter("ignore", MCPDeprecationWarning)

# One red pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
# A header and no samples.
WAV = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0"
).decode()


def text(words):
    return TextContent(type="text", text=words)


def image():
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def audio():
    return AudioContent(type="audio", data=WAV, mime_type="audio/wav")


def answer(words, **more):
    return CallToolResult(content=[text(words)], **more)


def object_schema(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def is_modern(ctx):
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def elicitation(message, **properties):
    """An `elicitation/create` to put into an `input_required` result."""
    params = ElicitRequestFormParams(message=message, requested_schema=object_schema(**properties))
    return ElicitRequest(params=params)


def input_required(state=None, **requests):
    return InputRequiredResult(input_requests=requests, request_state=state)


def response(params, key):
    return (params.input_responses or {}).get(key)


def accepted(params, key, field):
    """The field that the user filled in, None without one."""
    given = response(params, key)
    if not isinstance(given, ElicitResult) or given.action != "accept":
        return None
    return (given.content or {}).get(field)


class Tools:
    """The tools of a server, in the order of their registration."""

    def __init__(self):
        self.tools, self.handlers = {}, {}

    def __call__(self, name, description, schema=None, output_schema=None):
        """Decorates a handler, `async (ctx, params) -> result`."""

        def register(handler):
            self.tools[name] = Tool(
                name=name,
                description=description,
                input_schema=schema or {"type": "object", "properties": {}},
                output_schema=output_schema,
            )
            self.handlers[name] = handler
            return handler

        return register

    def remove(self, name):
        del self.tools[name], self.handlers[name]

    async def call(self, ctx, params):
        handler = self.handlers.get(params.name)
        if handler is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
        return await handler(ctx, params)


def advertise_changes(server):
    """The SDK asks for this at every start of a legacy session and has no other place to say it."""
    plain, options = server.create_initialization_options, NotificationOptions(True, True, True)
    server.create_initialization_options = lambda: plain(options)


async def serve_http(server, port):
    app = server.streamable_http_app()
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, lifespan="on")
    web = uvicorn.Server(config)
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    while not web.started and not serving.done():
        await asyncio.sleep(0.01)
    if web.started:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    await serving


async def serve_stdio(server):
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


def main(server, description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0, the default: any that is free")
    parser.add_argument("--stdio", action="store_true", help="serve standard input and output instead of HTTP")
    args = parser.parse_args()
    advertise_changes(server)
    try:
        asyncio.run(serve_stdio(server) if args.stdio else serve_http(server, args.port))
    except KeyboardInterrupt:
        pass
