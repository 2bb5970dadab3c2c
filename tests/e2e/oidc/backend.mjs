// An MCP server of the older era that takes only tokens of one issuer for itself, and keeps a log of their subjects.
// tests/e2e/backend_tokens.rs starts it.
//
//     backend.mjs ISSUER
//
// Its tool `whoami` returns the subject. `GET /log` returns what it was sent, as JSON: [{"method", "subject"}], with the
// reason as `refused` in place of the subject of a token that is not good. It prints `listening on URL`, which is also the
// audience of its tokens.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { require } from '../clients/features.mjs';

const { createRemoteJWKSet, jwtVerify } = await import(pathToFileURL(require.resolve('jose')));
const issuer = process.argv[2];
const keys = createRemoteJWKSet(new URL(`${issuer}/jwks`));
const log = [];

const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const url = `http://127.0.0.1:${server.address().port}/mcp`;

function result(method, subject) {
    switch (method) {
        case 'initialize':
            return {
                protocolVersion: '2025-11-25',
                capabilities: { tools: {} },
                serverInfo: { name: 'crm', version: '1' },
            };
        case 'tools/list':
            return { tools: [{ name: 'whoami', inputSchema: { type: 'object' } }] };
        case 'tools/call':
            return { content: [{ type: 'text', text: subject }] };
    }
    return undefined;
}

async function serve(request, response) {
    if (request.url === '/log') return response.end(JSON.stringify(log));
    if (request.method !== 'POST') return response.writeHead(405).end();
    let body = '';
    for await (const chunk of request) body += chunk;
    const { id, method } = JSON.parse(body);
    const token = request.headers.authorization?.replace(/^Bearer /, '') ?? '';
    let subject;
    try {
        subject = (await jwtVerify(token, keys, { issuer, audience: url })).payload.sub;
    } catch (failure) {
        log.push({ method, refused: String(failure) });
        return response.writeHead(401).end();
    }
    log.push({ method, subject });
    if (id === undefined) return response.writeHead(202).end();
    const answer = result(method, subject);
    if (answer === undefined) return response.writeHead(400).end();
    const headers = { 'content-type': 'application/json', 'mcp-session-id': `of-${subject}` };
    return response.writeHead(200, headers).end(JSON.stringify({ jsonrpc: '2.0', id, result: answer }));
}

server.on('request', (request, response) => {
    serve(request, response).catch(failure => response.writeHead(500).end(String(failure)));
});
console.log(`listening on ${url}`);
