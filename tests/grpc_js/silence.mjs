// Reads one turn that is silent for a while: node silence.mjs ADDRESS PROTO MESSAGE. Prints one JSON object.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, proto, message] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, oneofs: true });
const { ChatService } = grpc.loadPackageDefinition(definition).chat;
const client = new ChatService(address, grpc.credentials.createInsecure());
const seen = { events: [], code: grpc.status.OK };
try {
  for await (const event of client.SendMessage({ message })) seen.events.push(event);
} catch (error) {
  seen.code = error.code;
  seen.details = error.details;
}
client.close();
console.log(JSON.stringify(seen));
