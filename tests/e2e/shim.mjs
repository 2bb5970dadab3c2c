// A reverse proxy that adds a token, for clients that cannot send a header of ours (the conformance suite):
//
//     TARGET=http://127.0.0.1:PORT TOKEN=... shim.mjs [PORT]
//
// Every request goes to TARGET with `Authorization: Bearer $TOKEN`; bodies are streamed both ways. Prints
// `listening on http://127.0.0.1:PORT` when it is ready. Its own name in `Host` and `Origin` becomes the target's; any
// other stays, so that the target's own check of them is still what is tested.
import http from 'node:http';

const target = new URL(process.env.TARGET);
const authorization = `Bearer ${process.env.TOKEN}`;

const server = http.createServer((request, response) => {
    const headers = { ...request.headers, authorization };
    const { port } = server.address();
    for (const host of ['127.0.0.1', 'localhost', '[::1]']) {
        if (headers.host === `${host}:${port}`) headers.host = target.host;
        if (headers.origin === `http://${host}:${port}`) headers.origin = target.origin;
    }
    const { method, url: path } = request;
    const upstream = http.request({ host: target.hostname, port: target.port, method, path, headers });
    upstream.setNoDelay(true);
    upstream.on('response', answer => {
        response.writeHead(answer.statusCode, answer.headers);
        // An event stream may have nothing to say for long: its client waits for the headers.
        response.flushHeaders();
        answer.pipe(response);
        answer.on('error', () => response.destroy());
    });
    upstream.on('error', failure => {
        if (response.headersSent) return response.destroy();
        response.writeHead(502, { 'content-type': 'text/plain' });
        response.end(`${failure.message}\n`);
    });
    // To a modern server a client that goes away has cancelled: it must hear of it.
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
});
server.on('connection', socket => socket.setNoDelay(true));
server.requestTimeout = 0;
server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
