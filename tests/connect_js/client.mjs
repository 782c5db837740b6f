// connect's own clients for node: one chat, its error and its cancel, over each protocol. Prints one JSON object a line.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { pathToFileURL } from "node:url";

const [baseUrl, kind, generated, key] = process.argv.slice(2);
const { ChatService } = await import(pathToFileURL(generated));
const make = { grpc: createGrpcTransport, "grpc-web": createGrpcWebTransport, connect: createConnectTransport, "connect-json": createConnectTransport }[kind];
const httpVersion = kind === "grpc" ? "2" : "1.1";
const client = createClient(ChatService, make({ baseUrl, httpVersion, useBinaryFormat: kind !== "connect-json" }));
const headers = key ? { authorization: `Bearer ${key}` } : {};
const say = (value) => console.log(JSON.stringify(value, (name, one) => (typeof one === "bigint" ? Number(one) : one)));

const cases = [];
let text = "";
let turnId = "";
for await (const event of client.sendMessage({ message: "/tokens 12 hello" }, { headers })) {
  cases.push(event.body.case);
  turnId = event.turnId;
  if (event.body.case === "chunk") text += event.body.value.text;
}
say({ cases, text });

const rest = [];
for await (const event of client.resumeTurn({ turnId, after: 10n }, { headers })) rest.push(Number(event.seq));
say({ rest });

const refused = async (work) => {
  try {
    await work();
    return null;
  } catch (error) {
    const status = ConnectError.from(error);
    return { code: Code[status.code], details: status.details.map((one) => one.type) };
  }
};
say(await refused(() => client.getTurn({ turnId: "nowhere" }, { headers })));
say(await refused(async () => { for await (const event of client.resumeTurn({ turnId: "nowhere" }, { headers })) void event; }));
say(await refused(() => client.listModels({}, { headers: { authorization: "Bearer wrong" } })));
say(await refused(async () => { for await (const answer of client.chat((async function* () {})(), { headers })) void answer; }));

const stalled = client.sendMessage({ message: "/tokens 40 /stall 600 hello" }, { headers })[Symbol.asyncIterator]();
const { value } = await stalled.next();
await client.cancelTurn({ turnId: value.turnId }, { headers });
let last;
for (let next = await stalled.next(); !next.done; next = await stalled.next()) last = next.value.body.case;
say({ last });
