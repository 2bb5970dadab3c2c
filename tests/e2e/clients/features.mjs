// What ts_legacy.mjs and ts_modern.mjs share: the features of feature_server.py, each tried with a fresh client. An SDK is
//
//     {name, eras, newClient(capabilities, era), newTransport(url, headers), callTool(client, params, options),
//      onRequest(client, method, handler), onNotification(client, method, handler), version(client, transport)}
//
// and `drive(sdk)` is a program `URL TOKEN ERA FEATURE|all` that prints what python_client.py prints.
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';

const here = import.meta.dirname;
/** Where the node packages are: not beside these files, and an `import` looks nowhere else. */
export const packages = path.resolve(process.env.E2E_NODE ?? path.join(here, '..', '..', '..', '.test-env', 'node'));
export const require = createRequire(path.join(packages, 'package.json'));

const PREFIX = process.env.TOOL_PREFIX ?? '';
const MODERN = '2026-07-28';
const numbers = Array.from({ length: 7 }, (_, n) => n + 1);
export const TOOLS = [
    ...['echo', 'content', 'fail', 'progress', 'log', 'slow', 'calls', 'capabilities', 'sample', 'elicit', 'roots'],
    ...['touch', 'add_tool', 'remove_tool'],
];
export const PROMPTS = ['greet', ...numbers.map(n => `plain_${n}`)];
export const RESOURCES = [...numbers.map(n => `feature://note/${n}`), 'feature://pixel'];
export const TEMPLATES = ['note', 'item', 'page', 'line', 'word', 'letter'].map(kind => `feature://${kind}/{id}`);

/** The client or the era has no such feature. */
export class NotHere extends Error {}

export function check(condition, why) {
    if (!condition) throw new Error(why);
}

export const show = value => JSON.stringify(value);
export const prefixed = names => names.map(name => PREFIX + name);
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

export function hasAll(listed, wanted) {
    check(new Set(listed).size === listed.length, `listed twice: ${listed}`);
    const missing = wanted.filter(name => !listed.includes(name));
    check(missing.length === 0, `not listed: ${missing}`);
}

/** A client, and what it has heard of the server: `notifications`. */
async function connected(run, work, { capabilities = {}, requests = {} } = {}) {
    const { sdk } = run;
    const client = sdk.newClient(capabilities, run.era);
    const heard = [];
    const kinds = ['message', 'resources/updated', 'tools/list_changed'];
    for (const kind of kinds) sdk.onNotification(client, `notifications/${kind}`, message => void heard.push(message));
    for (const [method, handler] of Object.entries(requests)) sdk.onRequest(client, method, handler);
    const transport = sdk.newTransport(new URL(run.url), { Authorization: `Bearer ${run.token}` });
    await client.connect(transport);
    try {
        const version = sdk.version(client, transport);
        check((version === MODERN) === (run.era === 'modern'), `speaks ${version}`);
        return await work(client, heard);
    } finally {
        if (run.era === 'legacy') await transport.terminateSession?.().catch(() => {});
        await client.close();
    }
}

const callTool = (run, client, name, args = {}, options = undefined, meta = undefined) =>
    run.sdk.callTool(client, { name: PREFIX + name, arguments: args, ...(meta && { _meta: meta }) }, options);

async function call(run, client, name, args, options, meta) {
    const result = await callTool(run, client, name, args, options, meta);
    check(!result.isError, `${name} failed: ${show(result.content)}`);
    return result.content[0].text;
}

async function pages(client, method, field) {
    let page = await client[method]();
    const things = [...page[field]];
    const seen = new Set();
    while (page.nextCursor !== undefined) {
        const cursor = page.nextCursor;
        check(!seen.has(cursor), 'a cursor came twice');
        seen.add(cursor);
        page = await client[method]({ cursor });
        things.push(...page[field]);
    }
    return things;
}

/** A refusal is an error of the protocol, or one of the tool. */
async function refused(promise) {
    try {
        return Boolean((await promise).isError);
    } catch {
        return true;
    }
}

async function waitUntil(happened, milliseconds = 5000) {
    const deadline = Date.now() + milliseconds;
    while (Date.now() < deadline) {
        if (await happened()) return true;
        await pause(50);
    }
    return false;
}

/** What is sent before the client's stream is open is lost, and nothing tells when it is: tries again. */
async function provoke(act, happened) {
    for (let attempt = 0; attempt < 5; attempt++) {
        await act();
        if (await waitUntil(happened, 2000)) return true;
    }
    return false;
}

/** What a client cannot do must not be asked of it, whatever other clients of a gateway can do. */
const needs = (run, capability, name, args) =>
    connected(run, async client => {
        const declared = JSON.parse(await call(run, client, 'capabilities'));
        check(!declared.includes(capability), `the server takes this client for one with ${declared}`);
        const failed = await refused(callTool(run, client, name, args));
        check(failed, `${name} did not fail for a client without ${capability}`);
    });

const FEATURES = {
    list: run =>
        connected(run, async client => {
            const tools = await pages(client, 'listTools', 'tools');
            const names = tools.map(tool => tool.name);
            hasAll(names, prefixed(TOOLS));
            const schema = tools.find(tool => tool.name === `${PREFIX}echo`).inputSchema;
            check(schema.properties.text.type === 'string', `schema: ${show(schema)}`);
        }),

    call: run =>
        connected(run, async client => {
            // The client needs the schema to check the structured result.
            await pages(client, 'listTools', 'tools');
            const words = 'gr\u00fc\u00dfe \u{1f600}\n';
            let result = await callTool(run, client, 'echo', { text: words });
            check(result.content[0].text === words, `text: ${show(result.content)}`);
            check(result.structuredContent?.text === words, `structured: ${show(result.structuredContent)}`);
            result = await callTool(run, client, 'content');
            const kinds = result.content.map(part => part.type).join();
            check(kinds === 'text,image,audio,resource', `content: ${kinds}`);
            result = await callTool(run, client, 'fail');
            check(result.isError && result.content[0].text === 'no luck today', `fail: ${show(result)}`);
            check(await refused(callTool(run, client, 'no_such_tool')), 'an unknown tool was called');
        }),

    resources: run =>
        connected(run, async client => {
            const listed = await pages(client, 'listResources', 'resources');
            hasAll(listed.map(resource => resource.uri), RESOURCES);
            const templates = await pages(client, 'listResourceTemplates', 'resourceTemplates');
            hasAll(templates.map(template => template.uriTemplate), TEMPLATES);
            for (const uri of ['feature://note/7', 'feature://item/42']) {
                const [contents] = (await client.readResource({ uri })).contents;
                check(contents.uri === uri && contents.text.startsWith(uri), `read: ${show(contents)}`);
            }
            const [pixel] = (await client.readResource({ uri: 'feature://pixel' })).contents;
            check(pixel.mimeType === 'image/png' && pixel.blob, `read: ${show(pixel)}`);
            check(await refused(client.readResource({ uri: 'feature://nothing' })), 'an unknown resource was read');
        }),

    prompts: run =>
        connected(run, async client => {
            const listed = await pages(client, 'listPrompts', 'prompts');
            hasAll(listed.map(prompt => prompt.name), prefixed(PROMPTS));
            const result = await client.getPrompt({ name: `${PREFIX}greet`, arguments: { name: 'Ada' } });
            check(result.messages[0].content.text === 'Greet Ada.', `got: ${show(result.messages)}`);
            check(await refused(client.getPrompt({ name: `${PREFIX}no_such_prompt` })), 'an unknown prompt was given');
        }),

    complete: run =>
        connected(run, async client => {
            const prompt = { type: 'ref/prompt', name: `${PREFIX}greet` };
            let result = await client.complete({ ref: prompt, argument: { name: 'name', value: 'al' } });
            check(result.completion.values.join() === 'alice,albert', `prompt: ${show(result.completion)}`);
            const template = { type: 'ref/resource', uri: 'feature://item/{id}' };
            result = await client.complete({ ref: template, argument: { name: 'id', value: '1' } });
            check(result.completion.values.length === 10, `template: ${show(result.completion)}`);
        }),

    progress: run =>
        connected(run, async client => {
            const seen = [];
            await call(run, client, 'progress', {}, { onprogress: step => void seen.push(step) });
            await waitUntil(() => seen.length === 3, 1000);
            check(seen.length >= 2, `seen: ${show(seen)}`);
            const steps = seen.map(step => step.progress);
            check(steps.every((step, n) => n === 0 || step > steps[n - 1]), `seen: ${show(seen)}`);
            check(seen.at(-1).progress === 3 && seen.at(-1).total === 3, `seen: ${show(seen)}`);
        }),

    log: run =>
        connected(run, async (client, heard) => {
            // The modern era has no session to set a level for: every request says it.
            const meta = run.era === 'modern' ? { 'io.modelcontextprotocol/logLevel': 'debug' } : undefined;
            if (run.era === 'legacy') await client.setLoggingLevel('debug');
            const said = await call(run, client, 'log', {}, undefined, meta);
            check(run.era === 'modern' || said === 'level: debug', `the server heard of ${said}`);
            check(await waitUntil(() => heard.length > 0), 'no log came');
            const { level, data } = heard[0].params;
            check(level === 'info' && data === 'a line of log', `logs: ${show(heard)}`);
        }),

    cancel: run =>
        connected(run, async client => {
            const key = randomUUID();
            const count = async name => JSON.parse(await call(run, client, 'calls', { key }))[name];
            const control = new AbortController();
            const calling = refused(callTool(run, client, 'slow', { key }, { signal: control.signal }));
            check(await waitUntil(async () => (await count('started')) === 1), 'the call did not begin');
            const before = Date.now();
            control.abort();
            const ended = await Promise.race([calling, pause(10_000).then(() => 'late')]);
            check(ended === true && Date.now() - before < 2000, `the call ended after ${Date.now() - before} ms`);
            check(await waitUntil(async () => (await count('cancelled')) === 1), 'the server did not hear of it');
        }),

    sample: async run => {
        const answer = ({ params }) => {
            const [{ content }] = params.messages;
            const { text } = Array.isArray(content) ? content[0] : content;
            return { role: 'assistant', content: { type: 'text', text: `you said ${text}` }, model: 'none' };
        };
        const options = { capabilities: { sampling: {} }, requests: { 'sampling/createMessage': answer } };
        await connected(run, async client => {
            const said = await call(run, client, 'sample', { prompt: 'hello' });
            check(said === 'sampled: you said hello', said);
        }, options);
        await needs(run, 'sampling', 'sample', { prompt: 'hello' });
    },

    elicit: async run => {
        const answer = ({ params }) => ({ action: 'accept', content: { name: `Ada, asked ${params.message}` } });
        const options = { capabilities: { elicitation: {} }, requests: { 'elicitation/create': answer } };
        await connected(run, async client => {
            const said = await call(run, client, 'elicit');
            check(said === 'elicited: Ada, asked Your name?', said);
        }, options);
        await needs(run, 'elicitation', 'elicit');
    },

    roots: async run => {
        const answer = () => ({ roots: [{ uri: 'file:///of/the/client' }] });
        const options = { capabilities: { roots: {} }, requests: { 'roots/list': answer } };
        await connected(run, async client => {
            const said = await call(run, client, 'roots');
            check(said === 'roots: file:///of/the/client', said);
        }, options);
        await needs(run, 'roots', 'roots');
    },

    subscribe: run =>
        connected(run, async (client, heard) => {
            const uri = `feature://item/${randomUUID()}`;
            const told = () =>
                heard.some(({ method, params }) => method === 'notifications/resources/updated' && params.uri === uri);
            const touch = () => call(run, client, 'touch', { uri });
            if (run.era === 'modern') {
                const subscription = await client.listen({ resourceSubscriptions: [uri] });
                await touch();
                check(await waitUntil(told), 'no update came');
                await subscription.close();
            } else {
                await client.subscribeResource({ uri });
                check(await provoke(touch, told), 'no update came');
                await client.unsubscribeResource({ uri });
            }
            heard.length = 0;
            await touch();
            check(!(await waitUntil(told, 500)), 'an update came after all was unsubscribed');
        }),

    list_changed: run =>
        connected(run, async (client, heard) => {
            const name = `added_${randomUUID().slice(0, 8)}`;
            const told = () => heard.some(({ method }) => method === 'notifications/tools/list_changed');
            const add = () => call(run, client, 'add_tool', { name });
            const listed = async () =>
                (await pages(client, 'listTools', 'tools')).some(tool => tool.name === PREFIX + name);
            try {
                if (run.era === 'modern') {
                    const subscription = await client.listen({ toolsListChanged: true });
                    await add();
                    check(await waitUntil(told), 'no notification came');
                    await subscription.close();
                } else {
                    check(await provoke(add, told), 'no notification came');
                }
                check(await waitUntil(listed, 2000), 'the new tool is not listed');
                await call(run, client, name);
            } finally {
                await call(run, client, 'remove_tool', { name });
            }
        }),

    ping: run => {
        if (run.era === 'modern') throw new NotHere('no ping in the modern era');
        return connected(run, client => client.ping());
    },
};

/** Tries one feature and prints the line about it. */
export async function report(client, era, feature, attempt) {
    let ok = true;
    let why = '';
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('took more than 30 s')), 30_000);
    });
    try {
        await Promise.race([attempt(), late]);
    } catch (failure) {
        ok = failure instanceof NotHere ? null : false;
        why = failure.message;
    }
    clearTimeout(timer);
    console.log(JSON.stringify({ client, era, feature, ok, why }));
    return ok;
}

/** The command line of every driver: calls `attempt(run, feature)`. */
export async function main(name, eras, features, attempt) {
    const [url, token, era, feature] = process.argv.slice(2);
    if (!['legacy', 'modern'].includes(era) || !['all', ...features].includes(feature)) {
        console.error(`usage: URL TOKEN legacy|modern ${features.join('|')}|all`);
        process.exit(2);
    }
    const run = { url, token, era };
    const results = [];
    for (const each of feature === 'all' ? features : [feature]) {
        const trying = async () => {
            if (!eras.includes(era)) throw new NotHere(`the client does not speak the ${era} era`);
            await attempt(run, each);
        };
        results.push(await report(name, era, each, trying));
    }
    // Not later: what hangs must not keep the program.
    process.exit(results.includes(false) ? 1 : 0);
}

export const drive = sdk =>
    main(sdk.name, sdk.eras, Object.keys(FEATURES), (run, feature) => FEATURES[feature]({ ...run, sdk }));
