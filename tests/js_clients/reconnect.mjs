// Two clients of Server-Sent Events from npm read a turn whose line is cut once: node reconnect.mjs SERVER NAME
// Prints the seqs in the order in which the client gave them, as JSON.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [server, name] = process.argv.slice(2);
const OPEN = {
  eventsource: (url) => new (require("eventsource").EventSource)(url),
  // With a header, as people use it: the native EventSource cannot send one.
  "event-source-polyfill": (url) => new (require("event-source-polyfill").EventSourcePolyfill)(url, { headers: { "X-API-Key": "any" } }),
};

const post = (path, body) => fetch(server + path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
const turn = await (await post("/turns", JSON.stringify({ message: "/tokens 40 hello" }))).json();
const source = OPEN[name](`${server}/turns/${turn.turn_id}/stream`);
const seqs = [];
for (const type of ["turn_started", "chunk", "turn_completed"]) {
  source.addEventListener(type, ({ data }) => {
    const { seq } = JSON.parse(data);
    seqs.push(seq);
    if (seq === 15) post(`/turns/${turn.turn_id}/cut`);
    if (type === "turn_completed") {
      source.close();
      console.log(JSON.stringify(seqs));
      process.exit(0);
    }
  });
}
