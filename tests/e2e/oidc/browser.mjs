// A browser without a window: follows the redirects of a sign-in at tests/e2e/oidc/provider.mjs, with cookies.
//
//     browser.mjs URL
//
// follows them to the client's own page, as the program that a client starts to open a browser.

/** The URL of the first redirect away from the provider, which is not fetched. */
export async function signIn(url) {
    const cookies = new Map();
    const { origin } = new URL(url);
    let at = new URL(url);
    while (at.origin === origin) {
        const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
        const response = await fetch(at, { redirect: 'manual', headers: { cookie } });
        for (const line of response.headers.getSetCookie()) {
            const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
            cookies.set(name, value);
        }
        const next = response.headers.get('location');
        if (!next) throw new Error(`no way on from ${at.pathname}: HTTP ${response.status} ${await response.text()}`);
        at = new URL(next, at);
    }
    return at;
}

/** Fetches the client's page. mcp-remote opens the browser before it listens, which no person is fast enough to see. */
async function visit(page) {
    for (let tries = 1; ; tries++) {
        try {
            return await fetch(page);
        } catch (failure) {
            if (failure.cause?.code !== 'ECONNREFUSED' || tries === 600) throw failure;
            await new Promise(resolve => setTimeout(resolve, 50));
        }
    }
}

if (process.argv[1] === import.meta.filename) await visit(await signIn(process.argv[2]));
