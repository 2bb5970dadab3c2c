"""The server that `@modelcontextprotocol/conformance` looks for, of both eras: its tools, resources and prompts by name.

    conformance_server.py [--port PORT] [--stdio]

Prints `listening on http://127.0.0.1:PORT/mcp` when it is ready.
"""

import asyncio
import json

import fixture
import mcp_types as types
from fixture import PNG, accepted, answer, elicitation, input_required, is_modern, object_schema, response, text
from mcp.server import CacheHint, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}

tool = fixture.Tools()
bus = InMemorySubscriptionBus()
# What the two triggers add and take away again.
added_prompts = set()


def resource_text(uri, words, mime_type="text/plain"):
    return types.TextResourceContents(uri=uri, mime_type=mime_type, text=words)


def embedded(uri, words, mime_type="text/plain"):
    return types.EmbeddedResource(type="resource", resource=resource_text(uri, words, mime_type))


@tool("test_simple_text", "Returns simple text")
async def simple_text(ctx, params):
    return answer("This is a simple text response for testing.")


@tool("test_image_content", "Returns an image")
async def image_content(ctx, params):
    return types.CallToolResult(content=[fixture.image()])


@tool("test_audio_content", "Returns audio")
async def audio_content(ctx, params):
    return types.CallToolResult(content=[fixture.audio()])


@tool("test_embedded_resource", "Returns an embedded resource")
async def embedded_resource(ctx, params):
    part = embedded("test://embedded-resource", "This is an embedded resource content.")
    return types.CallToolResult(content=[part])


@tool("test_multiple_content_types", "Returns content of several types")
async def multiple_content_types(ctx, params):
    part = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return types.CallToolResult(content=[text("Multiple content types test:"), fixture.image(), part])


async def log(ctx, words):
    await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)


@tool("test_tool_with_logging", "Sends log messages during execution")
async def tool_with_logging(ctx, params):
    await log(ctx, "Tool execution started")
    await asyncio.sleep(0.05)
    await log(ctx, "Tool processing data")
    await asyncio.sleep(0.05)
    await log(ctx, "Tool execution completed")
    return answer("Logged three messages")


@tool("test_logging_tool", "Logs, if the request asks for it")
async def logging_tool(ctx, params):
    await log(ctx, "A message for those who asked for it")
    return answer("Logged a message")


@tool("test_error_handling", "Always returns an error")
async def error_handling(ctx, params):
    return answer("This tool intentionally returns an error for testing", is_error=True)


@tool("test_tool_with_progress", "Reports progress")
async def tool_with_progress(ctx, params):
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100)
        await asyncio.sleep(0.05)
    return answer("Reported progress")


@tool("test_sampling", "Requests sampling from the client", object_schema(prompt=STRING))
async def sampling(ctx, params):
    if not (ctx.session.client_capabilities and ctx.session.client_capabilities.sampling):
        return answer("The client does not support sampling", is_error=True)
    message = types.SamplingMessage(role="user", content=text(params.arguments["prompt"]))
    result = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return answer(f"LLM response: {result.content.text}")


async def elicit(ctx, message, schema, said):
    if not (ctx.session.client_capabilities and ctx.session.client_capabilities.elicitation):
        return answer("The client does not support elicitation", is_error=True)
    result = await ctx.session.elicit_form(message, schema, ctx.request_id)
    return answer(f"{said}: action={result.action}, content={json.dumps(result.content)}")


@tool("test_elicitation", "Requests input from the user", object_schema(message=STRING))
async def plain_elicitation(ctx, params):
    schema = object_schema(
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    return await elicit(ctx, params.arguments["message"], schema, "User response")


@tool("test_elicitation_sep1034_defaults", "Requests input, with a default value of every primitive type")
async def elicitation_defaults(ctx, params):
    schema = object_schema(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return await elicit(ctx, "Please review the defaults", {**schema, "required": []}, "Elicitation completed")


def titled(*pairs):
    return [{"const": value, "title": title} for value, title in pairs]


@tool("test_elicitation_sep1330_enums", "Requests input, with every kind of enum")
async def elicitation_enums(ctx, params):
    plain, ordinals = ["option1", "option2", "option3"], ("First", "Second", "Third")
    options = titled(*((f"value{n}", f"{ordinal} Option") for n, ordinal in enumerate(ordinals, 1)))
    choices = titled(*((f"value{n}", f"{ordinal} Choice") for n, ordinal in enumerate(ordinals, 1)))
    legacy = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    schema = object_schema(
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": options},
        legacyEnum={"type": "string", **legacy},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": choices}},
    )
    return await elicit(ctx, "Please choose", {**schema, "required": []}, "Elicitation completed")


# The modern era: what the server needs of the client is asked for in an `input_required` result.


def ask_capital():
    message = types.SamplingMessage(role="user", content=text("What is the capital of France?"))
    return sample(message, 100)


def sample(message, max_tokens):
    params = types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    return types.CreateMessageRequest(params=params)


@tool("test_input_required_result_elicitation", "Needs a name")
async def needs_name(ctx, params):
    name = accepted(params, "user_name", "name")
    if name is None:
        return input_required(user_name=elicitation("What is your name?", name=STRING))
    return answer(f"Hello, {name}!")


@tool("test_input_required_result_sampling", "Needs sampling")
async def needs_sampling(ctx, params):
    given = response(params, "capital_question")
    if not isinstance(given, types.CreateMessageResult):
        return input_required(capital_question=ask_capital())
    return answer(given.content.text)


@tool("test_input_required_result_list_roots", "Needs roots")
async def needs_roots(ctx, params):
    given = response(params, "client_roots")
    if not isinstance(given, types.ListRootsResult):
        return input_required(client_roots=types.ListRootsRequest())
    return answer("Roots: " + ", ".join(str(root.uri) for root in given.roots))


@tool("test_input_required_result_request_state", "Needs a confirmation, and its own state back")
async def needs_state(ctx, params):
    if params.request_state != "confirming" or accepted(params, "confirm", "ok") is None:
        return input_required("confirming", confirm=elicitation("Please confirm", ok=BOOLEAN))
    return answer("state-ok")


@tool("test_input_required_result_tampered_state", "Refuses a state that is not its own")
async def refuses_tampered_state(ctx, params):
    # What was tampered with does not come this far: RequestStateBoundary refuses it.
    return await needs_state(ctx, params)


@tool("test_input_required_result_multiple_inputs", "Needs three things at once")
async def needs_three(ctx, params):
    name, greeting = accepted(params, "user_name", "name"), response(params, "greeting")
    roots = response(params, "client_roots")
    if params.request_state != "three" or name is None or greeting is None or roots is None:
        message = types.SamplingMessage(role="user", content=text("Generate a greeting"))
        return input_required(
            "three",
            user_name=elicitation("What is your name?", name=STRING),
            greeting=sample(message, 50),
            client_roots=types.ListRootsRequest(),
        )
    return answer(f"{greeting.content.text} {name}, with {len(roots.roots)} roots")


@tool("test_input_required_result_multi_round", "Needs two rounds")
async def needs_two_rounds(ctx, params):
    state = json.loads(params.request_state or "{}")
    name = state.get("name") or accepted(params, "step1", "name")
    if name is None:
        return input_required('{"round":1}', step1=elicitation("Step 1: What is your name?", name=STRING))
    color = accepted(params, "step2", "color")
    if color is None:
        state = json.dumps({"round": 2, "name": name})
        return input_required(state, step2=elicitation("Step 2: What is your favorite color?", color=STRING))
    return answer(f"{name} likes {color}")


@tool("test_input_required_result_capabilities", "Asks only for what the client can do")
async def asks_what_is_possible(ctx, params):
    can = ctx.session.client_capabilities or types.ClientCapabilities()
    requests = {}
    if can.elicitation is not None:
        requests["user_name"] = elicitation("What is your name?", name=STRING)
    if can.sampling is not None:
        requests["capital_question"] = ask_capital()
    if can.roots is not None:
        requests["client_roots"] = types.ListRootsRequest()
    if params.input_responses or not requests:
        return answer("Got " + ", ".join(sorted(params.input_responses or ["nothing"])))
    return input_required(**requests)


@tool("test_streaming_elicitation", "Reports progress, then needs input")
async def streaming_elicitation(ctx, params):
    await ctx.session.report_progress(1, 2)
    return await needs_name(ctx, params)


@tool("test_missing_capability", "Needs a client that can sample")
async def missing_capability(ctx, params):
    if ctx.session.client_capabilities is None or ctx.session.client_capabilities.sampling is None:
        needed = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
    return answer("The client can sample")


@tool("test_trigger_tool_change", "Adds a tool, or takes it away again")
async def trigger_tool_change(ctx, params):
    if "test_added_tool" in tool.tools:
        tool.remove("test_added_tool")
    else:
        tool("test_added_tool", "Comes and goes")(simple_text)
    await changed(ctx, ToolsListChanged(), ctx.session.send_tool_list_changed)
    return answer("Changed the tools")


@tool("test_trigger_prompt_change", "Adds a prompt, or takes it away again")
async def trigger_prompt_change(ctx, params):
    added_prompts.symmetric_difference_update({"test_added_prompt"})
    await changed(ctx, PromptsListChanged(), ctx.session.send_prompt_list_changed)
    return answer("Changed the prompts")


async def changed(ctx, event, tell_session):
    await bus.publish(event)
    if not is_modern(ctx):
        await tell_session()


@tool(
    "json_schema_2020_12_tool",
    "Has a schema of the newer kind",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": STRING, "city": STRING},
            }
        },
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema(ctx, params):
    return answer(json.dumps(params.arguments))


@tool(
    "test_parameter_header",
    "Has a parameter that modern clients repeat in a header",
    {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
)
async def parameter_header(ctx, params):
    return answer((params.arguments or {}).get("region", "no region"))


RESOURCES = [
    ("test://static-text", "Static text", "text/plain"),
    ("test://static-binary", "Static image", "image/png"),
    ("test://watched-resource", "A resource to subscribe to", "text/plain"),
]
TEMPLATE = "test://template/{id}/data"


async def list_tools(ctx, params):
    return types.ListToolsResult(tools=list(tool.tools.values()))


async def list_resources(ctx, params):
    listed = [
        types.Resource(uri=uri, name=uri.removeprefix("test://"), description=description, mime_type=mime_type)
        for uri, description, mime_type in RESOURCES
    ]
    return types.ListResourcesResult(resources=listed)


async def list_templates(ctx, params):
    template = types.ResourceTemplate(
        uri_template=TEMPLATE, name="template", description="Data by id", mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(ctx, params):
    uri = str(params.uri)
    before, after = TEMPLATE.split("{id}")
    if uri == "test://static-text":
        contents = resource_text(uri, "This is the content of the static text resource.")
    elif uri == "test://static-binary":
        contents = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    elif uri == "test://watched-resource":
        contents = resource_text(uri, "Watched resource content")
    elif uri.startswith(before) and uri.endswith(after):
        name = uri[len(before) : -len(after)]
        data = {"id": name, "templateTest": True, "data": f"Data for ID: {name}"}
        contents = resource_text(uri, json.dumps(data), "application/json")
    else:
        # The legacy revisions have a code of their own for this.
        code = types.INVALID_PARAMS if is_modern(ctx) else -32002
        raise MCPError(code, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[contents])


async def subscribe(ctx, params):
    return types.EmptyResult()


PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(ctx, params):
    listed = [
        types.Prompt(
            name=name,
            description=name.replace("_", " "),
            arguments=[types.PromptArgument(name=argument, description=argument, required=True) for argument in names],
        )
        for name, names in {**PROMPTS, **{name: [] for name in sorted(added_prompts)}}.items()
    ]
    return types.ListPromptsResult(prompts=listed)


def prompt(*parts):
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=part) for part in parts])


async def get_prompt(ctx, params):
    given = params.arguments or {}
    missing = [name for name in PROMPTS.get(params.name, []) if name not in given]
    if missing:
        raise MCPError(types.INVALID_PARAMS, f"Missing arguments: {', '.join(missing)}")
    if params.name == "test_simple_prompt" or params.name in added_prompts:
        return prompt(text("This is a simple prompt for testing."))
    if params.name == "test_prompt_with_arguments":
        return prompt(text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))
    if params.name == "test_prompt_with_embedded_resource":
        part = embedded(given["resourceUri"], "Embedded resource content for testing.")
        return prompt(part, text("Please process the embedded resource above."))
    if params.name == "test_prompt_with_image":
        return prompt(fixture.image(), text("Please analyze the image above."))
    if params.name == "test_input_required_result_prompt":
        context = accepted(params, "user_context", "context")
        if context is None:
            question = elicitation("What context should the prompt use?", context=STRING)
            return input_required(user_context=question)
        return prompt(text(f"With the context: {context}"))
    raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")


async def complete(ctx, params):
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def set_level(ctx, params):
    return types.EmptyResult()


CACHEABLE = "tools/list prompts/list resources/list resources/templates/list resources/read"

server = Server(
    "conformance",
    version="1",
    cache_hints={method: CacheHint(ttl_ms=0, scope="private") for method in CACHEABLE.split()},
    on_list_tools=list_tools,
    on_call_tool=tool.call,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=subscribe,
    on_subscriptions_listen=ListenHandler(bus),
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=set_level,
)
server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server.name))

if __name__ == "__main__":
    fixture.main(server, "The fixture of the conformance suite.")
