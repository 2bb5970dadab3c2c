// A client that signs in by itself and calls `echo`: version 1 or 2 of the TypeScript SDK, or mcp-remote.
//
//     sign_in.mjs ts_v1|ts_v2|mcp_remote URL OPTIONS
//
// OPTIONS is JSON: {"tool": NAME}, {"client_id": ID, "port": PORT} for a client that is registered already, with its redirect
// URL at that port, {"kept": TOKEN} for one that has kept a token (mcp-remote signs in first, and has it instead of its own
// then), {"token": TOKEN} for one that has a token and no sign-in.
// Printed: {"text": TEXT} or {"error": MESSAGE}, and for mcp-remote what it showed, {"shown": TEXT}.
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { packages, require } from '../clients/features.mjs';
import { signIn } from './browser.mjs';

const [name, url, rest] = process.argv.slice(2);
const { tool = 'echo', client_id, port = 8765, kept, token } = JSON.parse(rest ?? '{}');
const redirectUrl = `http://127.0.0.1:${port}/callback`;
const args = { name: tool, arguments: { text: 'signed in' } };

/** What an application keeps for the SDK. */
class Person {
    kept = kept ? { tokens: { access_token: kept, token_type: 'Bearer' } } : {};
    redirectUrl = redirectUrl;
    clientMetadata = {
        client_name: 'sign_in',
        redirect_uris: [redirectUrl],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        token_endpoint_auth_method: 'none',
    };
    state = () => 'state';
    clientInformation = () => this.kept.client ?? (client_id && { client_id });
    saveClientInformation = client => void (this.kept.client = client);
    tokens = () => this.kept.tokens;
    saveTokens = tokens => void (this.kept.tokens = tokens);
    saveCodeVerifier = verifier => void (this.kept.verifier = verifier);
    codeVerifier = () => this.kept.verifier;
    saveDiscoveryState = found => void (this.kept.found = found);
    discoveryState = () => this.kept.found;
    redirectToAuthorization = async at => void (this.kept.callback = await signIn(at));
}

async function bySdk(module) {
    const { Client } = require(module('index'));
    const { StreamableHTTPClientTransport } = require(module('streamableHttp'));
    const person = new Person();
    const options = token ? { requestInit: { headers: { Authorization: `Bearer ${token}` } } } : { authProvider: person };
    for (let signedIn = 0; ; signedIn++) {
        const client = new Client({ name: 'sign_in', version: '1' });
        const transport = new StreamableHTTPClientTransport(new URL(url), options);
        try {
            await client.connect(transport);
            const result = await client.callTool(args);
            await client.close();
            return { text: result.content[0].text };
        } catch (failure) {
            const callback = person.kept.callback?.searchParams;
            if (callback?.has('error')) throw new Error(`the sign-in failed: ${callback}`);
            if (!callback || signedIn === 2) throw failure;
            delete person.kept.callback;
            await transport.finishAuth(name === 'ts_v1' ? callback.get('code') : callback);
        }
    }
}

async function byRemote() {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
    const home = mkdtempSync(path.join(tmpdir(), 'mcp-remote-'));
    process.on('exit', () => rmSync(home, { recursive: true, force: true }));
    const browser = path.join(home, 'browser');
    const script = path.join(import.meta.dirname, 'browser.mjs');
    writeFileSync(browser, `#!/bin/sh\nexec '${process.execPath}' '${script}' "$1"\n`);
    chmodSync(browser, 0o755);
    const program = path.join(packages, 'node_modules', '.bin', 'mcp-remote');
    const words = [program, url, ...(client_id ? [String(port)] : []), '--allow-http', '--transport', 'http-only'];
    if (client_id) words.push('--static-oauth-client-info', JSON.stringify({ client_id }));
    if (token) words.push('--header', `Authorization: Bearer ${token}`);
    const env = { PATH: process.env.PATH, HOME: home, MCP_REMOTE_CONFIG_DIR: home, BROWSER: browser };
    const once = async () => {
        const transport = new StdioClientTransport({ command: process.execPath, args: words, env, stderr: 'pipe' });
        let shown = '';
        transport.stderr.on('data', chunk => void (shown += chunk));
        const client = new Client({ name: 'sign_in', version: '1' });
        let pid;
        // It may still wait for a sign-in; if not, it has ended.
        process.on('exit', () => {
            try {
                process.kill(pid, 'SIGKILL');
            } catch {}
        });
        try {
            const connecting = client.connect(transport, { timeout: 60_000 });
            ({ pid } = transport);
            await connecting;
            const result = await client.callTool(args);
            return { text: result.content[0].text, shown };
        } catch (failure) {
            return { error: failure.message, shown };
        } finally {
            await client.close();
        }
    };
    if (kept) {
        const first = await once();
        if (first.error) return first;
        const files = readdirSync(home, { recursive: true }).filter(file => file.endsWith('tokens.json'));
        if (files.length !== 1) throw new Error(`files with tokens: ${files}`);
        const file = path.join(home, files[0]);
        const { refresh_token, ...tokens } = JSON.parse(readFileSync(file, 'utf8'));
        writeFileSync(file, JSON.stringify({ ...tokens, access_token: kept }));
    }
    return once();
}

const clients = {
    ts_v1: () => bySdk(part => `@modelcontextprotocol/sdk/client/${part}.js`),
    ts_v2: () => bySdk(() => '@modelcontextprotocol/client'),
    mcp_remote: byRemote,
};
console.log(JSON.stringify(await clients[name]().catch(failure => ({ error: failure.message }))));
process.exit(0);
