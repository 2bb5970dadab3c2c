// A real OpenID provider for the tests: oidc-provider, on a free port of loopback. Whoever asks is signed in as `ann`, and
// agrees to everything, by following redirects. tests/e2e/sign_in.rs starts it.
//
//     provider.mjs OPTIONS
//
// OPTIONS is JSON: {"registration": false} refuses dynamic registration, {"audience": AUD} issues all tokens for AUD,
// {"refuse": true} has the person refuse all scopes of the resource, {"role": ROLE} is a claim of ID tokens, {"ask": true} has the
// person press a button at each step, {"clients": [{"client_id", "redirect_uris"}]} are registered before. It prints
// `listening on ISSUER`.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

import { require } from '../clients/features.mjs';

const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
const { registration = true, audience, refuse = false, role, ask = false, clients = [] } = JSON.parse(process.argv[2] ?? '{}');

const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
    clients: clients.map(client => ({ ...client, token_endpoint_auth_method: 'none', application_type: 'native' })),
    scopes: ['openid', 'offline_access', 'mcp'],
    claims: { openid: ['sub', 'role'] },
    conformIdTokenClaims: false,
    findAccount: (_, accountId) => ({ accountId, claims: async () => ({ sub: accountId, role }) }),
    extraTokenClaims: () => ({ role: 'admin' }),
    interactions: { url: (_, { uid }) => `/sign-in/${uid}` },
    features: {
        devInteractions: { enabled: false },
        registration: { enabled: registration },
        resourceIndicators: {
            enabled: true,
            useGrantedResource: () => true,
            getResourceServerInfo: (_, resource) => ({
                scope: 'mcp',
                audience: audience ?? resource,
                accessTokenFormat: 'jwt',
                jwt: { sign: { alg: 'RS256' } },
            }),
        },
    },
    renderError: (ctx, out) => void (ctx.body = JSON.stringify(out)),
});

async function signIn(request, response) {
    const { grantId, params, prompt, session } = await provider.interactionDetails(request, response);
    if (prompt.name === 'login') {
        return provider.interactionFinished(request, response, { login: { accountId: 'ann' } });
    }
    const grant = grantId
        ? await provider.Grant.find(grantId)
        : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    const { missingOIDCScope = [], missingOIDCClaims = [], missingResourceScopes = {} } = prompt.details;
    grant.addOIDCScope(missingOIDCScope.join(' '));
    grant.addOIDCClaims(missingOIDCClaims);
    for (const [resource, asked] of Object.entries(missingResourceScopes)) {
        if (refuse) grant.rejectResourceScope(resource, asked.join(' '));
        else grant.addResourceScope(resource, asked.join(' '));
    }
    const result = { consent: { grantId: await grant.save() } };
    return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

const callback = provider.callback();
server.on('request', (request, response) => {
    // A scope by default, as RFC 6749 3.3 says: a client need not know any.
    if (request.url.startsWith('/auth?') && !request.url.includes('scope=')) request.url += '&scope=openid';
    if (!request.url.startsWith('/sign-in/')) return callback(request, response);
    if (ask && request.method === 'GET') {
        response.writeHead(200, { 'content-type': 'text/html' });
        return response.end('<form method="post"><button>Continue</button></form>');
    }
    return signIn(request, response).catch(failure => {
        console.error(failure);
        response.writeHead(500).end(String(failure));
    });
});
console.log(`listening on ${issuer}`);
