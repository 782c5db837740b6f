// Plain REST in a browser: fetch, and the whole reply at once.

import { fromBase64 } from "../api.js";

export const title = "REST";
export const note = "one fetch, one whole reply: nothing is shown before everything is there";

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.waiting = new Set();
  }

  async *chat(body, key) { yield* this.#whole("/chat", body, key); }
  async *image(body, key) { yield* this.#whole("/images", body, key); }

  async *#whole(path, body, key) {
    const abort = new AbortController();
    this.waiting.add(abort);
    try {
      this.onFrame("up", `POST ${path} ${JSON.stringify(body)}`);
      const response = await this.api.send("POST", path, {
        body, headers: { "Idempotency-Key": key }, signal: abort.signal,
      });
      const text = await response.text();
      this.onFrame("down", text, text.length);
      const reply = JSON.parse(text);
      if (reply.image) {
        reply.bytes = fromBase64(reply.image);
        delete reply.image;
      }
      yield { ...reply, type: "reply" };
    } finally {
      this.waiting.delete(abort);
    }
  }

  /** Another window's turn: long-poll its events. */
  async *read(turnId, after) {
    for (;;) {
      const polled = await this.#poll(`/turns/${turnId}/events?after=${after}&wait=20`);
      this.onFrame("down", `GET events?after=${after} → ${polled.events.length} events`);
      for (const event of polled.events) {
        after = event.seq;
        if (event.data !== undefined) event.bytes = fromBase64(event.data);
        yield event;
      }
      if (polled.status !== "running") return;
    }
  }

  async #poll(path) {
    const abort = new AbortController();
    this.waiting.add(abort);
    try {
      return await this.api.json("GET", path, { signal: abort.signal });
    } finally {
      this.waiting.delete(abort);
    }
  }

  /** Drop the waiting request; the client repeats it with the same key and gets the same turn's reply. */
  cut() { for (const abort of this.waiting) abort.abort(); }
  close() { this.cut(); }
}
