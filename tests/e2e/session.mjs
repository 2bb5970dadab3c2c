// A client on an official SDK that stays connected and does what it is told by lines of JSON: version 1 of the
// TypeScript SDK in the legacy era, version 2 in the modern one. tests/e2e/session.rs starts it.
//
//     session.mjs URL TOKEN legacy|modern
//
// In: {"id": 1, "list": true}, {"id": 2, "call": TOOL, "arguments": {}}. Out: {"connected": VERSION}, then
// {"id": 1, "tools": [...]}, {"id": 2, "result": {...}} or {"id": 2, "error": "..."}, in the order in which they end, and
// {"heard": METHOD} for each notification. It ends at the end of its input.
import { createInterface } from 'node:readline';

import { require } from './clients/features.mjs';

const [url, token, era] = process.argv.slice(2);
const isLegacy = era === 'legacy';
const sdk = name => require(isLegacy ? `@modelcontextprotocol/sdk/client/${name}.js` : '@modelcontextprotocol/client');
const { Client } = sdk('index');
const { StreamableHTTPClientTransport } = sdk('streamableHttp');

const say = message => console.log(JSON.stringify(message));

const versionNegotiation = { mode: isLegacy ? 'legacy' : 'auto' };
const client = new Client({ name: 'session', version: '1' }, isLegacy ? {} : { versionNegotiation });
client.fallbackNotificationHandler = async ({ method }) => say({ heard: method });
client.onerror = failure => console.error(failure.message);
const requestInit = { headers: { Authorization: `Bearer ${token}` } };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
await client.connect(transport);
if (!isLegacy) await client.listen({ toolsListChanged: true });
say({ connected: isLegacy ? transport.protocolVersion : client.getNegotiatedProtocolVersion() });

async function list() {
    const tools = [];
    let page;
    do {
        page = await client.listTools(page && { cursor: page.nextCursor });
        tools.push(...page.tools.map(tool => tool.name));
    } while (page.nextCursor !== undefined);
    return { tools };
}

async function call({ call: name, arguments: args }) {
    const params = { name, arguments: args };
    const options = { timeout: 300_000 };
    return { result: await (isLegacy ? client.callTool(params, undefined, options) : client.callTool(params, options)) };
}

for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    const answer = asked.list ? list() : call(asked);
    answer.then(done => say({ id: asked.id, ...done }), failure => say({ id: asked.id, error: failure.message }));
}
// An open stream would keep the process.
process.exit(0);
