// Tries the features of MCP against feature_server.py with mcp-remote, which desktop clients start as a stdio server.
// What talks to it is version 1 of the TypeScript SDK. See features.mjs.
//
//     mcp_remote.mjs URL TOKEN legacy FEATURE|all
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { drive, packages, require } from './features.mjs';
import { sdk } from './sdk_v1.mjs';

const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');

const program = path.join(packages, 'node_modules', '.bin', 'mcp-remote');
// It keeps files there.
const home = mkdtempSync(path.join(tmpdir(), 'mcp-remote-'));
process.on('exit', () => rmSync(home, { recursive: true, force: true }));

await drive({
    ...sdk,
    name: 'mcp_remote',
    newTransport: (url, headers) => {
        const args = [program, url.href, '--allow-http', '--transport', 'http-only'];
        args.push('--header', `Authorization: ${headers.Authorization}`);
        const env = { PATH: process.env.PATH, HOME: home, MCP_REMOTE_CONFIG_DIR: home };
        const transport = new StdioClientTransport({ command: process.execPath, args, env, stderr: 'ignore' });
        transport.setProtocolVersion = version => void (transport.protocolVersion = version);
        return transport;
    },
});
