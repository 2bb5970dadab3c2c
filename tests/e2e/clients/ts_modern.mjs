// Tries the features of MCP against feature_server.py with version 2 of the TypeScript SDK, in both eras. See features.mjs.
//
//     ts_modern.mjs URL TOKEN legacy|modern FEATURE|all
import { drive, require } from './features.mjs';

const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

await drive({
    name: 'ts_modern',
    eras: ['legacy', 'modern'],
    newClient: (capabilities, era) => {
        const versionNegotiation = { mode: era === 'modern' ? 'auto' : 'legacy' };
        return new Client({ name: 'ts_modern', version: '1' }, { capabilities, versionNegotiation });
    },
    newTransport: (url, headers) => new StreamableHTTPClientTransport(url, { requestInit: { headers } }),
    callTool: (client, params, options) => client.callTool(params, options),
    onRequest: (client, method, handler) => client.setRequestHandler(method, handler),
    onNotification: (client, method, handler) => client.setNotificationHandler(method, handler),
    version: client => client.getNegotiatedProtocolVersion(),
});
