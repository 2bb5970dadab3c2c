// Tries the features of MCP that the Inspector's command line has against feature_server.py, in both eras; every step is a
// run of `mcp-inspector --cli`. Needs Node 22.19. See features.mjs.
//
//     inspector.mjs URL TOKEN legacy|modern FEATURE|all
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { NotHere, PROMPTS, RESOURCES, TEMPLATES, TOOLS, check, hasAll, main, packages, prefixed, show } from './features.mjs';

const program = path.join(packages, 'node_modules', '.bin', 'mcp-inspector');
// The Inspector keeps files in its user's home.
const home = mkdtempSync(path.join(tmpdir(), 'inspector-'));
process.on('exit', () => rmSync(home, { recursive: true, force: true }));

/** What the Inspector prints for a method; throws what it says of a failure. */
function inspect({ url, token, era }, method, ...options) {
    const fixed = ['--transport', 'http', '--protocol-era', era, '--stored-auth-only', '--format', 'json', '--quiet'];
    const header = ['--header', `Authorization: Bearer ${token}`];
    const args = [program, '--cli', url, ...fixed, ...header, '--method', method, ...options];
    const env = { PATH: process.env.PATH, HOME: home };
    return new Promise((resolve, reject) => {
        execFile(process.execPath, args, { env, timeout: 20_000 }, (failure, stdout, stderr) => {
            // A tool that fails is a result, too, and ends the program with an error.
            if (stdout.trim() !== '') return resolve(JSON.parse(stdout).result);
            reject(new Error(stderr.trim() || failure?.message || 'printed nothing'));
        });
    });
}

const call = (run, name, args = {}, ...options) =>
    inspect(run, 'tools/call', '--tool-name', ...prefixed([name]), '--tool-args-json', JSON.stringify(args), ...options);

const refused = promise => promise.then(result => Boolean(result.isError), () => true);

function cannot(what) {
    return () => {
        throw new NotHere(`the Inspector's command line ${what}`);
    };
}

const FEATURES = {
    list: async run => {
        const { protocolVersion } = await inspect(run, 'initialize');
        check((protocolVersion === '2026-07-28') === (run.era === 'modern'), `speaks ${protocolVersion}`);
        const { tools } = await inspect(run, 'tools/list');
        hasAll(tools.map(tool => tool.name), prefixed(TOOLS));
    },

    call: async run => {
        const words = 'gr\u00fc\u00dfe \u{1f600}\n';
        let result = await call(run, 'echo', { text: words });
        check(result.content[0].text === words, `text: ${show(result.content)}`);
        check(result.structuredContent?.text === words, `structured: ${show(result.structuredContent)}`);
        result = await call(run, 'content');
        const kinds = result.content.map(part => part.type).join();
        check(kinds === 'text,image,audio,resource', `content: ${kinds}`);
        result = await call(run, 'fail');
        check(result.isError && result.content[0].text === 'no luck today', `fail: ${show(result)}`);
        check(await refused(call(run, 'no_such_tool')), 'an unknown tool was called');
    },

    resources: async run => {
        const { resources } = await inspect(run, 'resources/list');
        hasAll(resources.map(resource => resource.uri), RESOURCES);
        const { resourceTemplates } = await inspect(run, 'resources/templates/list');
        hasAll(resourceTemplates.map(template => template.uriTemplate), TEMPLATES);
        const uri = 'feature://item/42';
        const [contents] = (await inspect(run, 'resources/read', '--uri', uri)).contents;
        check(contents.uri === uri && contents.text.startsWith(uri), `read: ${show(contents)}`);
        const unknown = inspect(run, 'resources/read', '--uri', 'feature://nothing');
        check(await refused(unknown), 'an unknown resource was read');
    },

    prompts: async run => {
        const { prompts } = await inspect(run, 'prompts/list');
        hasAll(prompts.map(prompt => prompt.name), prefixed(PROMPTS));
        const named = ['--prompt-name', ...prefixed(['greet']), '--prompt-args', 'name=Ada'];
        const result = await inspect(run, 'prompts/get', ...named);
        check(result.messages[0].content.text === 'Greet Ada.', `got: ${show(result.messages)}`);
    },

    complete: cannot('has no completion/complete'),
    progress: cannot('shows no notifications'),

    log: async run => {
        if (run.era === 'modern') throw new NotHere('no logging/setLevel in the modern era');
        await inspect(run, 'logging/setLevel', '--log-level', 'warning');
        // Every run is a session of its own, which begins with the level `debug`. The line of log is not shown.
        const [{ text }] = (await call(run, 'log')).content;
        check(text === 'level: debug', `the server heard of ${text}`);
    },

    cancel: cannot('cannot cancel'),
    sample: cannot('cannot answer sampling'),
    elicit: cannot('cannot answer elicitation'),

    roots: async run => {
        // It has none, and says so.
        const [{ text }] = (await call(run, 'roots')).content;
        check(text === 'roots: ', text);
    },

    subscribe: cannot('cannot subscribe'),
    list_changed: cannot('shows no notifications'),
    ping: cannot('has no ping'),

    /** Not a feature of MCP: many calls at once. */
    load: async run => {
        const options = ['--load', '--load-requests', '200', '--load-concurrency', '20'];
        const { ok, requests, errorMessages } = await call(run, 'echo', { text: 'load' }, ...options);
        check(requests === 200 && ok === 200, `${ok} of ${requests}: ${errorMessages}`);
    },
};

await main('inspector', ['legacy', 'modern'], Object.keys(FEATURES), (run, feature) => FEATURES[feature](run));
