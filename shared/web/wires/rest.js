// Plain REST in a browser: fetch, and the whole reply at once.

import { Lost, parsed, Silent, unbroken } from "../api.js";
import { eventOf, fromBase64 } from "../events.js";
import { Watch } from "../patience.js";

export const title = "REST";
export const note = "one fetch, one whole reply: nothing is shown before everything is there";

const POLL_S = 20;

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.waiting = new Set();
  }

  chat(body, key) { return this.#whole("/chat", body, key); }
  image(body, key) { return this.#whole("/images", body, key); }

  /** A waiting POST is silent by nature, so its patience ends in the same POST with the same key: that joins the same turn. */
  async *#whole(path, body, key) {
    this.onFrame("up", `POST ${path} ${JSON.stringify(body)}`);
    const text = await this.#patiently(this.api.patienceMs, async (signal) => {
      const response = await this.api.send("POST", path, { body, headers: { "Idempotency-Key": key }, signal });
      return unbroken(response.text());
    });
    this.onFrame("down", text, text.length);
    const reply = parsed(text);
    if (reply.image) {
      reply.bytes = fromBase64(reply.image);
      delete reply.image;
    }
    yield { ...reply, type: "reply" };
  }

  /** Another window's turn: long-poll its events. */
  async *read(turnId, after) {
    const wait = Math.min(POLL_S, (2 * this.api.heartbeatMs) / 1000);
    for (;;) {
      const path = `/turns/${turnId}/events?after=${after}&wait=${wait}`;
      const polled = await this.#patiently(wait * 1000 + this.api.heartbeatMs, (signal) => this.api.json("GET", path, { signal }));
      this.onFrame("down", JSON.stringify(polled));
      for (const event of polled.events) {
        after = event.seq;
        yield eventOf(event);
      }
      if (polled.status !== "running") return;
    }
  }

  /** One request; Lost after `ms` without its answer, when the page wakes meanwhile, and when the line is cut. */
  async #patiently(ms, request) {
    const abort = new AbortController();
    const cut = () => abort.abort(new Lost("the line was cut"));
    const lose = (why) => abort.abort(new Silent(why));
    const watch = new Watch(ms, {
      silent: () => lose(`${watch.words}: asked again with the same key`),
      woken: () => lose("the page woke while it waited: asked again with the same key"),
    });
    this.waiting.add(cut);
    try {
      return await request(abort.signal);
    } finally {
      watch.stop();
      this.waiting.delete(cut);
    }
  }

  reach() { return this.api.look("/health"); }

  /** Drop the waiting request; the page repeats it with the same key and gets the same turn's reply. */
  cut() { for (const cut of this.waiting) cut(); }
  close() { this.cut(); }
}
