// WebSocket in a browser: one native socket for everything; turns of all windows of the session arrive on it.

import { Refused, TERMINAL } from "../api.js";

export const title = "WebSocket";
export const note = "one native WebSocket, both ways: who types, and everybody's turns, live";

const PROTOCOL = "genai.chat.v1";

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.socket = null;
    this.turns = new Map();
    this.asked = new Map();
    this.onOther = () => {};
    this.onUpdate = () => {};
    this.session = null;
  }

  async *chat(body, key) { yield* this.#ask({ type: "chat", ...body, request_id: key }, key); }
  async *image(body, key) { yield* this.#ask({ type: "image", ...body, request_id: key }, key); }

  async *read(turnId, after) {
    const inbox = new Inbox();
    this.turns.set(turnId, inbox);
    await this.#send({ type: "resume", turn_id: turnId, after });
    yield* this.#drain(inbox, turnId);
  }

  async *#ask(message, key) {
    const inbox = new Inbox();
    this.asked.set(key, inbox);
    try {
      await this.#send(message);
      yield* this.#drain(inbox, null);
    } finally {
      this.asked.delete(key);
    }
  }

  async *#drain(inbox, turnId) {
    try {
      for await (const event of inbox) {
        turnId = event.turn_id;
        yield event;
        if (TERMINAL.has(event.type)) return;
      }
    } finally {
      if (turnId !== null && this.turns.get(turnId) === inbox) this.turns.delete(turnId);
    }
  }

  async join(sessionId) {
    this.session = sessionId;
    await this.#send({ type: "join_session", session_id: sessionId });
  }

  typing(on) { if (this.socket?.readyState === WebSocket.OPEN) this.#send({ type: on ? "typing_start" : "typing_stop" }); }

  async #send(message) {
    const socket = await this.#connected();
    this.onFrame("up", JSON.stringify(message));
    socket.send(JSON.stringify(message));
  }

  async #connected() {
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return this.ready;
    const socket = new WebSocket(`${this.api.base.replace(/^http/, "ws")}/ws`, PROTOCOL);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let picture = null;
    this.ready = new Promise((resolve, reject) => {
      socket.addEventListener("open", async () => {
        const ticket = await this.api.ticket(null);
        if (ticket) socket.send(JSON.stringify({ type: "auth", ticket }));
      });
      socket.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") {
          this.onFrame("down", `(binary, ${data.byteLength} bytes)`, data.byteLength);
          picture.bytes = new Uint8Array(data);
          this.#event(picture);
          picture = null;
          return;
        }
        this.onFrame("down", data, data.length);
        const message = JSON.parse(data);
        if (message.type === "connected") {
          if (this.session) socket.send(JSON.stringify({ type: "join_session", session_id: this.session }));
          resolve(socket);
        } else if (message.type === "image_chunk") picture = { ...message, bytes: null };
        else if (message.seq !== undefined) this.#event(message);
        else this.#word(message);
      });
      socket.addEventListener("close", (event) => {
        const lost = event.code === 4401
          ? new Refused(401, { code: "unauthenticated", detail: "A valid API key is required." })
          : new Error(`the socket closed (${event.code})`);
        reject(lost);
        for (const inbox of [...this.turns.values(), ...this.asked.values()]) inbox.fail(lost);
        this.turns.clear();
      });
    });
    this.ready.catch(() => {});
    return this.ready;
  }

  #event(event) {
    if (event.type === "turn_started" && this.asked.has(event.request_id)) {
      this.turns.set(event.turn_id, this.asked.get(event.request_id));
    }
    const inbox = this.turns.get(event.turn_id);
    if (inbox) inbox.put(event);
    else this.onOther(event);
  }

  #word(message) {
    if (message.type === "error" && this.asked.has(message.request_id)) {
      this.asked.get(message.request_id).fail(new Refused(0, { code: message.code, detail: message.message }));
    } else if (message.type === "session_update") this.onUpdate(message);
    else if (message.type === "resumed" && message.status !== "running" && message.after === message.last_seq) {
      this.turns.get(message.turn_id)?.end();
    }
  }

  cut() { this.socket?.close(); }
  close() { this.session = null; this.socket?.close(); }
}

/** What has arrived for one turn, in order, for one reader. */
class Inbox {
  constructor() {
    this.items = [];
    this.wake = () => {};
  }

  put(item) { this.items.push({ item }); this.wake(); }
  fail(error) { this.items.push({ error }); this.wake(); }
  end() { this.items.push({ done: true }); this.wake(); }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.items.length === 0) await new Promise((resolve) => { this.wake = resolve; });
      const next = this.items.shift();
      if (next.error) throw next.error;
      if (next.done) return;
      yield next.item;
    }
  }
}
