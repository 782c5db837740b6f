// NDJSON over HTTP in a browser: fetch with a reader, one JSON event a line (NDJSON).

import { Lost, Refused, Silent, unbroken } from "../api.js";
import { CURSOR_LOST, eventOf } from "../events.js";
import { Watch } from "../patience.js";

export const title = "NDJSON";
export const note = "fetch with a reader: UTF-8 decoded across chunks, lines joined across chunks, resume by ?after=";

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.open = new Set();
  }

  chat(body, key) { return this.#stream("POST", "/chat/stream", { body, headers: { "Idempotency-Key": key } }); }
  image(body, key) { return this.#stream("POST", "/images/stream", { body, headers: { "Idempotency-Key": key } }); }
  read(turnId, after) { return this.#stream("GET", `/turns/${turnId}/stream?after=${after}`, {}, turnId, after); }

  async *#stream(method, path, options, turnId = null, after = 0) {
    const abort = new AbortController();
    const cut = () => abort.abort(new Lost("the line was cut"));
    const lose = (why) => abort.abort(new Silent(why));
    const watch = new Watch(this.api.patienceMs, {
      silent: () => lose(`${watch.words}, not even a heartbeat`),
      woken: async () => {
        const why = turnId === null ? "the page woke before the turn had begun" : await watch.look(this.api, turnId, () => after);
        if (why) lose(why);
      },
    });
    this.open.add(cut);
    this.onFrame("up", `${method} ${path} ${options.body ? JSON.stringify(options.body) : ""}`);
    try {
      const response = await this.api.send(method, path, { ...options, signal: abort.signal });
      for await (const line of this.#lines(response, watch)) {
        this.onFrame("down", line === "" ? "(blank line: heartbeat)" : line, line.length + 1);
        if (line === "") continue;
        const event = eventOf(line);
        // The stream ends here: what GET refuses with 409.
        if (event.type === CURSOR_LOST) throw new Refused({ code: CURSOR_LOST, last_seq: event.last_seq });
        [turnId, after] = [event.turn_id, event.seq];
        yield event;
      }
    } finally {
      watch.stop();
      this.open.delete(cut);
      abort.abort();
    }
  }

  async *#lines(response, watch) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder("utf-8", { fatal: true });
    let rest = "";
    for (;;) {
      const { value, done } = await unbroken(reader.read());
      if (done) return;
      watch.heard();
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  }

  reach() { return this.api.look("/health"); }
  cut() { for (const cut of this.open) cut(); }
  close() { this.cut(); }
}
