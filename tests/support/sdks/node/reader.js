// Receives the HTTP request on standard input as a server does, and prints the event that the SDK reads, as JSON.

const { createServer } = require("node:http");
const { connect } = require("node:net");
const { HTTP } = require("cloudevents");

async function read(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const event = HTTP.toEvent({ headers: request.headers, body: Buffer.concat(parts).toString() });
  const { data, data_base64: encoded, ...attributes } = event.toJSON();
  if (encoded !== undefined) return { attributes, data_base64: encoded };
  if (typeof data === "string") return { attributes, data_base64: Buffer.from(data).toString("base64") };
  return { attributes, data };
}

const server = createServer(async (request) => {
  console.log(JSON.stringify(await read(request)));
  server.close();
  request.destroy();
});
server.listen(0, "127.0.0.1", () => process.stdin.pipe(connect(server.address().port, "127.0.0.1")));
