// The floors in Node: a prepared turn over NDJSON, SSE, a WebSocket (ws) or gRPC (@grpc/grpc-js), with one write an event.
//
// stdin has the turn as JSON: the bytes of each event as the floors in Python send them, and where its time stands in them;
// with the certificate and its key (PEM) the server speaks TLS.
// The server prints its address and serves until it is killed.
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";

const options = JSON.parse(await new Response(process.stdin).text());
const messages = options.messages.map(({ data, at, text }) => ({ data: Buffer.from(data, "base64"), at, text }));
const MEDIA_TYPE = { ndjson: "application/x-ndjson", sse: "text/event-stream" };
let open = 0;
let release;
const gate = new Promise((resolve) => (release = resolve));

// The bytes of an event with the present time in it.
function stamped({ data, at, text }) {
  if (at < 0) return { data, text };
  const copy = Buffer.from(data);
  const now = performance.timeOrigin + performance.now();
  if (options.protobuf) copy.writeDoubleLE(now, at);
  else copy.write(now.toFixed(3), at);
  return { data: copy, text };
}

// Send the whole turn to one reader; send resolves when the reader's socket takes more.
async function play(send) {
  let rest = messages;
  if (options.gate || options.hold) {
    await send(messages[0]);
    open += 1;
    if (options.hold) await new Promise(() => {});
    if (open >= options.gate) release();
    await gate;
    rest = messages.slice(1);
  }
  const begun = performance.now();
  for (const [i, message] of rest.entries()) {
    if (!options.rate) {
      await send(message);
      await turn();
      continue;
    }
    const wait = begun + (i * 1000) / options.rate - performance.now();
    if (wait > 0) await sleep(wait);
    await send(stamped(message));
  }
}

const drained = (stream, more) => (more ? undefined : new Promise((resolve) => stream.once("drain", resolve)));
const listening = (port) => process.stdout.write(`127.0.0.1:${port}\n`);

const { cert, key } = options;

function listeningServer(answer) {
  const server = cert ? https.createServer({ cert, key }, answer) : http.createServer(answer);
  server.keepAliveTimeout = 600_000;
  server.listen(0, "127.0.0.1", 2048, () => listening(server.address().port));
  return server;
}

// Unread bodies of requests are thrown away by the server.
function serveHttp(wire) {
  listeningServer(async (request, response) => {
    request.resume();
    response.writeHead(200, { "content-type": MEDIA_TYPE[wire] });
    await play(({ data }) => drained(response, response.write(data)));
    response.end();
  });
}

function serveWebSocket({ WebSocketServer }) {
  const server = new WebSocketServer({
    server: listeningServer(),
    perMessageDeflate: false,
    handleProtocols: () => "genai.chat.v1",
  });
  server.on("connection", (socket) => {
    socket.send('{"type":"connected"}');
    socket.on("message", () => play(({ data, text }) => socket.send(data, { binary: !text })));
  });
}

function serveGrpc({ Server, ServerCredentials }) {
  const same = (bytes) => bytes;
  const method = (name) => ({
    path: `/chat.ChatService/${name}`,
    requestStream: false,
    responseStream: true,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  });
  const stream = async (call) => {
    await play(({ data }) => drained(call, call.write(data)));
    call.end();
  };
  const server = new Server();
  const names = ["SendMessage", "ResumeTurn"];
  server.addService(
    Object.fromEntries(names.map((name) => [name, method(name)])),
    Object.fromEntries(names.map((name) => [name, stream])),
  );
  const credentials = cert
    ? ServerCredentials.createSsl(null, [{ cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }])
    : ServerCredentials.createInsecure();
  server.bindAsync("127.0.0.1:0", credentials, (error, port) => {
    if (error) throw error;
    listening(port);
  });
}

const require = createRequire(import.meta.url);
if (options.wire === "websocket") serveWebSocket(require("ws"));
else if (options.wire === "grpc") serveGrpc(require("@grpc/grpc-js"));
else serveHttp(options.wire);
