// Server-Sent Events in a browser: POST /turns, then the native EventSource, which comes back by itself with Last-Event-ID.

import { fromBase64, TERMINAL } from "../api.js";

export const title = "Server-Sent Events";
export const note = "native EventSource: the browser itself reconnects with Last-Event-ID";

const TYPES = [
  "turn_started", "thinking", "chunk", "image_started", "image_chunk", "image_completed", ...TERMINAL,
];

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.reading = new Set();
  }

  async *chat(body, key) { yield* this.#start(body, key); }
  async *image(body, key) { yield* this.#start(body, key); }

  async *#start(body, key) {
    this.onFrame("up", `POST /turns ${JSON.stringify(body)}`);
    const turn = await this.api.startTurn(body, key);
    yield* this.read(turn.turn_id, 0);
  }

  async *read(turnId, after) {
    const query = new URLSearchParams();
    if (after) query.set("after", after);
    const ticket = await this.api.ticket(turnId);
    if (ticket) query.set("ticket", ticket);
    const path = `/turns/${turnId}/stream`;
    this.onFrame("up", `EventSource ${path}`);
    const source = new EventSource(`${this.api.base}${path}${query.size ? `?${query}` : ""}`);
    const arrived = [];
    let wake = () => {};
    const put = (item) => { arrived.push(item); wake(); };
    let lostAt = null;
    let last = after;
    for (const type of TYPES) {
      source.addEventListener(type, (message) => {
        this.onFrame("down", `event: ${type}\nid: ${message.lastEventId}\ndata: ${message.data}`, message.data.length);
        const event = JSON.parse(message.data);
        if (event.data !== undefined) event.bytes = fromBase64(event.data);
        if (lostAt !== null) put({ type: "resumed", after: last, ms: performance.now() - lostAt, native: true });
        lostAt = null;
        last = event.seq;
        put(event);
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) put(new Error("EventSource gave up"));
      else if (lostAt === null) {
        lostAt = performance.now();
        put({ type: "lost", after: last, why: "EventSource is reconnecting by itself" });
      }
    });
    this.reading.add(turnId);
    try {
      for (;;) {
        while (arrived.length === 0) await new Promise((resolve) => { wake = resolve; });
        const item = arrived.shift();
        if (item instanceof Error) throw item;
        yield item;
        if (TERMINAL.has(item.type)) return;
      }
    } finally {
      source.close();
      this.reading.delete(turnId);
    }
  }

  /** EventSource cannot be cut from here without losing its memory, so the server drops the line. */
  cut() { for (const turnId of this.reading) this.api.cut(turnId).catch(() => {}); }
  close() {}
}
