// A gRPC client in JavaScript, made from chat.proto alone: node client.mjs ADDRESS PROTO. Prints one JSON object.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, proto] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, oneofs: true });
const { ChatService } = grpc.loadPackageDefinition(definition).chat;
const client = new ChatService(address, grpc.credentials.createInsecure());

const unary = (name, request) =>
  new Promise((resolve, reject) => client[name](request, (error, answer) => (error ? reject(error) : resolve(answer))));

async function stream(name, request) {
  const call = client[name](request);
  const seen = { events: [], metadata: null, code: grpc.status.OK, reason: null };
  call.on("metadata", (metadata) => (seen.metadata = metadata.get("turn_id")[0] ?? null));
  try {
    for await (const event of call) seen.events.push(event);
  } catch (error) {
    seen.code = error.code;
    seen.details = error.metadata.get("grpc-status-details-bin")[0].toString("latin1");
  }
  return seen;
}

async function both(messages) {
  const call = client.Chat();
  const bodies = [];
  for (const message of messages) call.write(message);
  call.end();
  for await (const response of call) bodies.push(response.body === "event" ? response.event.body : response.body);
  return bodies;
}

const session = await unary("CreateSession", {});
const { session_id } = session;
const first = await stream("SendMessage", { session_id, message: "My name is Ada." });
const second = await stream("SendMessage", { session_id, message: "What is my name?" });
const failed = await stream("SendMessage", { session_id, message: "/fail model_timeout x" });
const refused = await stream("SendMessage", { session_id: "nobody's", message: "hello" });
const turn_id = second.events[0].turn_id;
const resumed = await stream("ResumeTurn", { turn_id, after: second.events.length - 2 });
const { messages } = await unary("ListMessages", { session_id });
const chat = await both([{ ping: {} }, { chat: { message: "/tokens 3 hello" } }]);
client.close();
console.log(JSON.stringify({ session, first, second, failed, refused, resumed, messages, chat }));
