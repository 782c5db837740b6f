// Streamable HTTP in a browser: fetch with a reader, one JSON event a line (NDJSON).

import { fromBase64 } from "../api.js";

export const title = "Streamable HTTP (NDJSON)";
export const note = "fetch with a reader: UTF-8 decoded across chunks, lines joined across chunks, resume by ?after=";

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.open = new Set();
  }

  async *chat(body, key) { yield* this.#stream("POST", "/chat/stream", { body, headers: { "Idempotency-Key": key } }); }
  async *image(body, key) { yield* this.#stream("POST", "/images/stream", { body, headers: { "Idempotency-Key": key } }); }
  async *read(turnId, after) { yield* this.#stream("GET", `/turns/${turnId}/stream?after=${after}`, {}); }

  async *#stream(method, path, options) {
    const abort = new AbortController();
    this.open.add(abort);
    this.onFrame("up", `${method} ${path} ${options.body ? JSON.stringify(options.body) : ""}`);
    try {
      const response = await this.api.send(method, path, { ...options, signal: abort.signal });
      const reader = response.body.getReader();
      const decoder = new TextDecoder("utf-8", { fatal: true });
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          this.onFrame("down", line === "" ? "(blank line: heartbeat)" : line, line.length + 1);
          if (line === "") continue;
          const event = JSON.parse(line);
          if (event.data !== undefined) event.bytes = fromBase64(event.data);
          yield event;
        }
      }
    } finally {
      this.open.delete(abort);
      abort.abort();
    }
  }

  cut() { for (const abort of this.open) abort.abort(); }
  close() { this.cut(); }
}
