// Adds a token to every request: the conformance suite has no option for headers. Streams both ways, keeps nothing.
// TARGET is the gateway's base URL, TOKEN the token. Prints `listening on URL` once it serves.
import http from "node:http";

const target = new URL(process.env.TARGET);

const server = http.createServer((request, response) => {
  const headers = { ...request.headers, authorization: `Bearer ${process.env.TOKEN}` };
  // What names the shim names the gateway; anything else is for the gateway to judge.
  const own = `:${server.address().port}`;
  for (const name of ["host", "origin"]) {
    if (headers[name]?.endsWith(own)) headers[name] = headers[name].replace(own, `:${target.port}`);
  }
  const options = { host: target.hostname, port: target.port, method: request.method, path: request.url, headers };
  const forwarded = http.request({ ...options, agent: false }, (reply) => {
    response.writeHead(reply.statusCode, reply.headers);
    response.flushHeaders();
    reply.pipe(response);
    reply.on("error", () => response.destroy());
  });
  forwarded.on("error", () => response.destroy());
  response.on("close", () => forwarded.destroy());
  request.pipe(forwarded);
});

server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
