// Server-Sent Events in a browser: POST /turns, then the native EventSource, which comes back by itself with Last-Event-ID.

import { Lost, Silent } from "../api.js";
import { CURSOR_LOST, eventOf, TERMINAL, TYPES } from "../events.js";
import { Inbox } from "../inbox.js";
import { Watch } from "../patience.js";

export const title = "Server-Sent Events";
export const note = "native EventSource: the browser itself reconnects with Last-Event-ID";

/** EventSource hides heartbeats from a script, so the page asks where the turn stands after this many of them without an event. */
const SILENT_HEARTBEATS = 2;

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.reading = new Set();
  }

  chat(body, key) { return this.#start(body, key); }
  image(body, key) { return this.#start(body, key); }

  async *#start(body, key) {
    this.onFrame("up", `POST /turns ${JSON.stringify(body)}`);
    const turn = await this.api.startTurn(body, key);
    yield* this.read(turn.turn_id, 0);
  }

  async *read(turnId, after) {
    const inbox = new Inbox();
    const source = await this.#source(turnId, after);
    const look = async () => {
      const why = await watch.look(this.api, turnId, () => after);
      if (why) inbox.fail(new Silent(why));
    };
    const watch = new Watch(SILENT_HEARTBEATS * this.api.heartbeatMs, { silent: look });
    for (const type of TYPES) {
      source.addEventListener(type, (message) => {
        this.onFrame("down", `event: ${type}\nid: ${message.lastEventId}\ndata: ${message.data}`, message.data.length);
        watch.heard();
        inbox.put(message.data);
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) this.#ended(turnId, inbox);
      else inbox.put(null);
    });
    this.reading.add(turnId);
    try {
      for await (const data of inbox) {
        if (data === null) {
          yield { type: "lost", why: "EventSource reconnects by itself" };
          continue;
        }
        const event = eventOf(data);
        after = event.type === CURSOR_LOST ? 0 : event.seq;
        yield event;
        if (TERMINAL.has(event.type)) return;
      }
    } finally {
      watch.stop();
      source.close();
      this.reading.delete(turnId);
    }
  }

  async #source(turnId, after) {
    const query = new URLSearchParams();
    if (after) query.set("after", after);
    const ticket = await this.api.ticket(turnId);
    if (ticket) query.set("ticket", ticket);
    const path = `/turns/${turnId}/stream`;
    this.onFrame("up", `EventSource ${path}`);
    return new EventSource(`${this.api.base}${path}${query.size ? `?${query}` : ""}`);
  }

  /** EventSource gave up, and tells no script why. A request for the same turn over fetch tells the reason. */
  async #ended(turnId, inbox) {
    try {
      await this.api.turn(turnId);
      inbox.fail(new Lost("EventSource gave up"));
    } catch (error) {
      inbox.fail(error);
    }
  }

  reach() { return this.api.look("/health"); }

  /** A script that closes an EventSource loses the last event id with it, so the server drops the line. */
  cut() { for (const turnId of this.reading) this.api.cut(turnId).catch(() => {}); }
  close() {}
}
