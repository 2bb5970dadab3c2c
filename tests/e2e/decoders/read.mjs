// Reads each message of a JSON list of texts as a Node server does, and prints what it reads, as a JSON list.
const members = ['name', 'uri', 'arguments', 'inputResponses', 'requestState', '_meta'];
let input = '';
for await (const part of process.stdin) input += part;
const read = (text) => {
  try {
    const { params } = JSON.parse(text);
    return Object.fromEntries(members.map((name) => [name, params[name] ?? null]));
  } catch {
    return null;
  }
};
console.log(JSON.stringify(JSON.parse(input).map(read)));
