// Pages with an MCP client, version 2 of the TypeScript SDK as it is published, in Chromium: one of an allowed origin,
// and one of another. Started by tests/e2e/browser_client.rs as
//
//     node browser_client.mjs MODULES URL TOKEN PORT
//
// The pages are at http://app.example:PORT/ and http://other.example:PORT/, both on loopback. Prints a line of JSON for
// each.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, normalize } from "node:path";

import { drive, modules, shots as port, start, token, url } from "./browser.mjs";

// What a bundler would resolve. The SDK is published as modules of the language, with a version for browsers.
const imports = Object.fromEntries(
  Object.entries({
    "@modelcontextprotocol/client": "@modelcontextprotocol/client/dist/index.mjs",
    "@modelcontextprotocol/client/_shims": "@modelcontextprotocol/client/dist/shimsBrowser.mjs",
    "@modelcontextprotocol/core/internal": "@modelcontextprotocol/core/dist/internal.mjs",
    "eventsource": "eventsource/dist/index.js",
    "eventsource-parser": "eventsource-parser/dist/index.js",
    "eventsource-parser/stream": "eventsource-parser/dist/stream.js",
    "pkce-challenge": "pkce-challenge/dist/index.browser.js",
    "zod/v4": "zod/v4/index.js",
  }).map(([name, file]) => [name, `/modules/${file}`]),
);
const page = `<!doctype html><title>client</title><script type="importmap">${JSON.stringify({ imports })}</script>`;

const server = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, "http://page").pathname);
  if (!path.startsWith("/modules/")) return response.setHeader("content-type", "text/html").end(page);
  const file = await readFile(join(modules, "node_modules", path.slice("/modules/".length))).catch(() => null);
  if (file === null) return response.writeHead(404).end();
  response.setHeader("content-type", "text/javascript").end(file);
});
await new Promise((resolve) => server.listen(Number(port), "127.0.0.1", resolve));

// In the page.
const client = async ({ url, token }) => {
  const found = { list: [], call: [] };
  const refused = (failure) => `refused: ${failure.name}`;
  const plain = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
  found.challenge = await fetch(`${url}/mcp`, plain).then((reply) => reply.headers.get("www-authenticate"), refused);
  const metadata = `${url}/.well-known/oauth-protected-resource/mcp`;
  found.metadata = await fetch(metadata).then((reply) => reply.status, refused);
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  for (const mode of ["legacy", "auto"]) {
    const requestInit = { headers: { Authorization: `Bearer ${token}` } };
    const transport = new StreamableHTTPClientTransport(new URL(`${url}/mcp`), { requestInit });
    const client = new Client({ name: "page", version: "1" }, { versionNegotiation: { mode } });
    try {
      await client.connect(transport);
      found.list.push((await client.listTools()).tools.some((tool) => tool.name === "example__echo"));
      const { content } = await client.callTool({ name: "example__echo", arguments: { text: "from a page" } });
      found.call.push(content[0].text);
      if (mode === "legacy") await transport.terminateSession();
      await client.close();
    } catch (failure) {
      found.call.push(refused(failure));
    }
  }
  return found;
};

await drive(async () => {
  const context = await start({ args: ["--host-resolver-rules=MAP *.example 127.0.0.1"] });
  for (const host of ["app.example", "other.example"]) {
    const page = await context.newPage();
    page.on("console", (message) => console.error(message.text()));
    await page.goto(`http://${host}:${port}/`);
    console.log(JSON.stringify({ host, ...(await page.evaluate(client, { url, token })) }));
  }
  await context.close();
});
