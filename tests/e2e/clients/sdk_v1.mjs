// Version 1 of the TypeScript SDK, as features.mjs takes it.
import { require } from './features.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const requests = {
    'sampling/createMessage': types.CreateMessageRequestSchema,
    'elicitation/create': types.ElicitRequestSchema,
    'roots/list': types.ListRootsRequestSchema,
};
const notifications = {
    'notifications/message': types.LoggingMessageNotificationSchema,
    'notifications/resources/updated': types.ResourceUpdatedNotificationSchema,
    'notifications/tools/list_changed': types.ToolListChangedNotificationSchema,
};

export const sdk = {
    name: 'ts_legacy',
    eras: ['legacy'],
    newClient: capabilities => new Client({ name: 'ts_legacy', version: '1' }, { capabilities }),
    newTransport: (url, headers) => new StreamableHTTPClientTransport(url, { requestInit: { headers } }),
    callTool: (client, params, options) => client.callTool(params, undefined, options),
    onRequest: (client, method, handler) => client.setRequestHandler(requests[method], handler),
    onNotification: (client, method, handler) => client.setNotificationHandler(notifications[method], handler),
    version: (_, transport) => transport.protocolVersion,
};
