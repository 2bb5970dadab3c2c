// A real authorization server for the tests: oidc-provider, on a free port of loopback, with client credentials and token
// exchange (RFC 8693). tests/e2e/backend_tokens.rs starts it.
//
//     token_server.mjs CLIENTS
//
// CLIENTS is JSON: {CLIENT_ID: SECRET}. The client credentials of each give a token whose subject is the client. `gatepost`
// may also exchange tokens of this server for others with the same subject. Tokens are JWTs for the `resource` of the
// request. It prints `listening on ISSUER`.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { require } from '../clients/features.mjs';

const load = async name => import(pathToFileURL(require.resolve(name)));
const { Provider, errors } = await load('oidc-provider');
const { createRemoteJWKSet, jwtVerify } = await load('jose');
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';

const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const grants = id => (id === 'gatepost' ? ['client_credentials', EXCHANGE] : ['client_credentials']);
const clients = Object.entries(JSON.parse(process.argv[2])).map(([id, secret]) => ({
    client_id: id,
    client_secret: secret,
    grant_types: grants(id),
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'client_secret_basic',
}));
const info = resource => ({
    scope: 'mcp',
    audience: resource,
    accessTokenFormat: 'jwt',
    accessTokenTTL: 300,
    jwt: { sign: { alg: 'RS256' } },
});

const provider = new Provider(issuer, {
    clients,
    extraTokenClaims: () => ({ role: 'admin' }),
    features: {
        devInteractions: { enabled: false },
        clientCredentials: { enabled: true },
        resourceIndicators: { enabled: true, getResourceServerInfo: (_, resource) => info(resource) },
    },
    renderError: (ctx, out) => void (ctx.body = JSON.stringify(out)),
});

const keys = createRemoteJWKSet(new URL(`${issuer}/jwks`));
async function exchange(ctx) {
    const { subject_token: subjectToken, resource } = ctx.oidc.params;
    const verified = await jwtVerify(subjectToken, keys, { issuer }).catch(() => {
        throw new errors.InvalidGrant('the subject token is not valid');
    });
    const token = new provider.AccessToken({
        accountId: verified.payload.sub,
        client: ctx.oidc.client,
        gty: 'token_exchange',
        scope: 'mcp',
        resourceServer: new provider.ResourceServer(resource, info(resource)),
    });
    ctx.body = {
        access_token: await token.save(),
        issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
        token_type: token.tokenType,
        expires_in: token.expiration,
    };
}
const parameters = ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'resource', 'scope'];
provider.registerGrantType(EXCHANGE, exchange, parameters);
server.on('request', provider.callback());
console.log(`listening on ${issuer}`);
