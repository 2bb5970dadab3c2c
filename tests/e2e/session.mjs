// Clients on an official SDK that stay connected and do what they are told by lines of JSON: version 1 of the
// TypeScript SDK in the legacy era, version 2 in the modern one. tests/e2e/session.rs starts it.
//
//     session.mjs TOKEN legacy|modern URL...
//
// In: {"id": 1, "client": 0, "list": true}, {"id": 2, "client": 0, "call": TOOL, "arguments": {}}; the clients are in the
// order of their URLs. Out: {"connected": VERSION} once all are, then {"id": 1, "tools": [...]}, {"id": 2, "result": {...}}
// or {"id": 2, "error": "..."}, in the order in which they end, and {"client": 0, "heard": METHOD} for each notification.
// It ends at the end of its input.
import { createInterface } from 'node:readline';

import { require } from './clients/features.mjs';

const [token, era, ...urls] = process.argv.slice(2);
const isLegacy = era === 'legacy';
const sdk = name => require(isLegacy ? `@modelcontextprotocol/sdk/client/${name}.js` : '@modelcontextprotocol/client');
const { Client } = sdk('index');
const { StreamableHTTPClientTransport } = sdk('streamableHttp');

const say = message => console.log(JSON.stringify(message));

const versionNegotiation = { mode: isLegacy ? 'legacy' : 'auto' };
const requestInit = { headers: { Authorization: `Bearer ${token}` } };

async function connect(url, number) {
    const client = new Client({ name: 'session', version: '1' }, isLegacy ? {} : { versionNegotiation });
    client.fallbackNotificationHandler = async ({ method }) => say({ client: number, heard: method });
    client.onerror = failure => console.error(failure.message);
    const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
    await client.connect(transport);
    if (!isLegacy) await client.listen({ toolsListChanged: true });
    return { client, version: isLegacy ? transport.protocolVersion : client.getNegotiatedProtocolVersion() };
}

const connected = await Promise.all(urls.map(connect));
say({ connected: connected[0].version });

async function list(client) {
    const tools = [];
    let page;
    do {
        page = await client.listTools(page && { cursor: page.nextCursor });
        tools.push(...page.tools.map(tool => tool.name));
    } while (page.nextCursor !== undefined);
    return { tools };
}

async function call(client, { call: name, arguments: args }) {
    const params = { name, arguments: args };
    const options = { timeout: 300_000 };
    return { result: await (isLegacy ? client.callTool(params, undefined, options) : client.callTool(params, options)) };
}

for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    const { client } = connected[asked.client];
    const answer = asked.list ? list(client) : call(client, asked);
    answer.then(done => say({ id: asked.id, ...done }), failure => say({ id: asked.id, error: failure.message }));
}
// An open stream would keep the process.
process.exit(0);
