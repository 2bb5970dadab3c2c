"""What the official Python client can do through an endpoint, feature by feature.

    python_client.py URL TOKEN ERA PREFIX

ERA is `legacy` or `modern`; PREFIX stands before the names of tools and prompts. The server behind the endpoint is
`conformance_server.py`. Prints one JSON object: {"feature": "ok" | "what went wrong" | null where the era has none}.
"""

import asyncio
import json
import sys
import warnings

import httpx2
import mcp_types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged

# Much of the legacy era is deprecated by now.
warnings.simplefilter("ignore")

PATIENCE = 15
WATCHED = "test://watched-resource"


class Features:
    def __init__(self, client, era, prefix, seen):
        self.client, self.era, self.prefix, self.seen = client, era, prefix, seen

    async def text(self, tool, **arguments):
        result = await self.client.call_tool(self.prefix + tool, arguments)
        assert not result.is_error, result
        return result.content[0].text

    async def all_pages(self, listing, member):
        items, cursor = [], None
        while True:
            page = await listing(cursor=cursor)
            items += getattr(page, member)
            cursor = page.next_cursor
            if cursor is None:
                return items

    async def list(self):
        names = [tool.name for tool in await self.all_pages(self.client.list_tools, "tools")]
        assert self.prefix + "test_simple_text" in names, names

    async def call(self):
        assert "simple text" in await self.text("test_simple_text")

    async def resources(self):
        listed = [str(item.uri) for item in await self.all_pages(self.client.list_resources, "resources")]
        assert "test://static-text" in listed, listed
        templates = await self.all_pages(self.client.list_resource_templates, "resource_templates")
        assert "test://template/{id}/data" in [item.uri_template for item in templates]
        read = await self.client.read_resource("test://template/7/data")
        assert "Data for ID: 7" in read.contents[0].text

    async def prompts(self):
        names = [item.name for item in await self.all_pages(self.client.list_prompts, "prompts")]
        assert self.prefix + "test_simple_prompt" in names, names
        got = await self.client.get_prompt(self.prefix + "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
        assert "arg1='a'" in got.messages[0].content.text

    async def complete(self):
        ref = mcp_types.PromptReference(type="ref/prompt", name=self.prefix + "test_prompt_with_arguments")
        got = await self.client.complete(ref, {"name": "arg1", "value": "par"})
        assert "paris" in got.completion.values, got

    async def progress(self):
        heard = []

        async def on_progress(progress, total, message):
            heard.append(progress)

        await self.client.call_tool(self.prefix + "test_tool_with_progress", {}, progress_callback=on_progress)
        assert heard == [0, 50, 100], heard

    async def log(self):
        if self.era == "legacy":
            await self.client.set_logging_level("info")
        await self.text("test_tool_with_logging")
        await until(lambda: self.seen["log"] >= 3, self.seen)

    async def cancel(self):
        before = int(await self.text("cancelled"))
        task = asyncio.create_task(self.text("slow", seconds=60))
        await asyncio.sleep(0.5)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        for _ in range(50):
            if int(await self.text("cancelled")) > before:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the server did not hear of it")

    async def sample(self):
        if self.era == "legacy":
            assert "LLM response: sampled" in await self.text("test_sampling", prompt="x")
        else:
            assert "sampled" in await self.text("test_input_required_result_sampling")

    async def elicit(self):
        if self.era == "legacy":
            assert "ann@example" in await self.text("test_elicitation", message="x")
        else:
            assert "Hello, ann!" in await self.text("test_input_required_result_elicitation")

    async def roots(self):
        tool = "list_roots" if self.era == "legacy" else "test_input_required_result_list_roots"
        assert "file:///work" in await self.text(tool)

    async def rounds(self):
        if self.era == "legacy":
            return "none"
        assert "both there" in await self.text("test_input_required_result_multi_round")

    async def subscribe(self):
        if self.era == "legacy":
            await self.client.subscribe_resource(WATCHED)
            await self.text("touch_watched")
            await until(lambda: self.seen["updated"] > 0, self.seen)
            await self.client.unsubscribe_resource(WATCHED)
            return None
        async with self.client.listen(resource_subscriptions=[WATCHED]) as events:
            await self.text("touch_watched")
            async for event in events:
                if isinstance(event, ResourceUpdated):
                    return None

    async def list_changed(self):
        if self.era == "legacy":
            await self.text("change_tools")
            await until(lambda: self.seen["tools"] > 0, self.seen)
            return None
        async with self.client.listen(tools_list_changed=True) as events:
            await self.text("test_trigger_tool_change")
            async for event in events:
                if isinstance(event, ToolsListChanged):
                    return None

    async def ping(self):
        if self.era == "modern":
            return "none"
        await self.client.send_ping()


async def until(done, shown):
    for _ in range(100):
        if done():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited in vain: {shown}")


FEATURES = (
    "list call resources prompts complete progress log cancel sample elicit roots rounds subscribe list_changed ping"
).split()


async def main(url, token, era, prefix=""):
    seen = {"log": 0, "tools": 0, "updated": 0}

    async def on_log(params):
        seen["log"] += 1

    async def on_message(message):
        if isinstance(message, mcp_types.ToolListChangedNotification):
            seen["tools"] += 1
        if isinstance(message, mcp_types.ResourceUpdatedNotification):
            seen["updated"] += 1

    async def on_sample(context, params):
        content = mcp_types.TextContent(type="text", text="sampled")
        return mcp_types.CreateMessageResult(role="assistant", content=content, model="m", stop_reason="endTurn")

    async def on_elicit(context, params):
        content = {"username": "ann", "email": "ann@example", "name": "ann", "color": "red", "ok": True}
        wanted = params.requested_schema["properties"]
        return mcp_types.ElicitResult(action="accept", content={key: content[key] for key in wanted})

    async def on_roots(context):
        return mcp_types.ListRootsResult(roots=[mcp_types.Root(uri="file:///work", name="work")])

    headers, results = {"Authorization": f"Bearer {token}"}, {}
    mode = "legacy" if era == "legacy" else "2026-07-28"
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        async with Client(
            streamable_http_client(url, http_client=http),
            mode=mode,
            sampling_callback=on_sample,
            elicitation_callback=on_elicit,
            list_roots_callback=on_roots,
            logging_callback=on_log,
            log_level="info" if era == "modern" else None,
            message_handler=on_message,
        ) as client:
            features = Features(client, era, prefix, seen)
            for name in FEATURES:
                try:
                    got = await asyncio.wait_for(getattr(features, name)(), PATIENCE)
                    results[name] = None if got == "none" else "ok"
                except Exception as failure:
                    results[name] = f"{type(failure).__name__}: {failure}"[:300]
    print(json.dumps(results))


asyncio.run(main(*sys.argv[1:]))
