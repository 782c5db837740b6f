// WebSocket in a browser: one native socket for everything; turns of all windows of the session arrive on it.

import { Lost, parsed, PASSING, Refused, requestKey, Silent } from "../api.js";
import { CURSOR_LOST, eventOf, TERMINAL } from "../events.js";
import { Inbox } from "../inbox.js";
import { backoffMs, elapsed, pause, Watch } from "../patience.js";

export const title = "WebSocket";
export const note = "one native WebSocket, both ways: who types, and everybody's turns, live";

const PROTOCOL = "genai.chat.v1";
const UNAUTHENTICATED = 4401;

/** The page may set `onTurn(events)`, `onUpdate(hint)`, `onAway(error)` and `onJoined(joined)`; the last two come with a lost connection. */
export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.connection = null;
    this.session = null;
    this.rejoining = false;
    this.onTurn = () => {};
    this.onUpdate = () => {};
    this.onAway = () => {};
    this.onJoined = () => {};
  }

  chat(body, key) { return this.#turn({ type: "chat", ...body, request_id: key }); }
  image(body, key) { return this.#turn({ type: "image", ...body, request_id: key }); }
  read(turnId, after) { return this.#turn({ type: "resume", turn_id: turnId, after, request_id: requestKey() }); }

  async *#turn(message) { yield* (await this.#connected()).turn(message); }

  /** Join a session, and again after each lost connection; the `session_joined`. Rejects with Refused or Lost. */
  async join(sessionId) {
    this.session = sessionId;
    return sessionId ? (await this.#connected()).join(sessionId) : null;
  }

  typing(on) { this.connection?.say({ type: on ? "typing_start" : "typing_stop" }); }

  #connected() {
    this.connection ??= new Connection(this);
    return this.connection.ready;
  }

  /** What a connection tells when it is lost: `error` is Lost, or Refused without a valid key. */
  lost(connection, error) {
    if (this.connection !== connection) return;
    this.connection = null;
    if (this.session === null) return;
    this.onAway(error);
    if (error instanceof Lost && !this.rejoining) this.#rejoin(error instanceof Silent);
  }

  /** `silent`: the socket died without a sign, and so may have the idle connections on which the page asks over HTTP. */
  async #rejoin(silent) {
    this.rejoining = true;
    for (let attempt = 0; this.rejoining; attempt++) {
      await pause(backoffMs(attempt));
      try {
        if (silent) await this.reach();
        silent = false;
        const joined = await this.join(this.session);
        this.rejoining = false;
        if (joined) this.onJoined(joined);
      } catch (error) {
        this.rejoining = error instanceof Lost || PASSING.has(error.code);
        if (!this.rejoining) this.onAway(error);
      }
    }
  }

  reach() { return this.api.look("/health"); }
  cut() { this.connection?.lose(new Lost("the line was cut")); }

  close() {
    this.session = null;
    this.cut();
  }
}

/** One socket and what is asked on it. Messages of a socket that was given up do not reach a later connection. */
class Connection {
  constructor(wire) {
    this.wire = wire;
    this.turns = new Map(); // inboxes by turn_id
    this.asked = new Map(); // inboxes by request_id
    this.joins = new Map(); // session_id by request_id
    this.picture = null; // an image_chunk whose bytes are the next frame
    this.pings = 0;
    this.pongs = 0;
    this.socket = new WebSocket(`${wire.api.base.replace(/^http/, "ws")}/ws`, PROTOCOL);
    this.socket.binaryType = "arraybuffer";
    this.watch = new Watch(wire.api.heartbeatMs, { silent: () => this.#silent(), woken: () => this.#woken() });
    this.ready = new Promise((resolve, reject) => { this.settle = { resolve, reject }; });
    this.ready.catch(() => {});
    this.socket.addEventListener("open", () => this.#authenticate());
    this.socket.addEventListener("message", ({ data }) => this.#frame(data));
    this.socket.addEventListener("close", ({ code }) => this.lose(
      code === UNAUTHENTICATED
        ? new Refused({ code: "unauthenticated", detail: "A valid API key is required; give it in the field API key." })
        : new Lost(`the socket closed (${code})`),
    ));
  }

  say(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.wire.onFrame("up", JSON.stringify(message));
    this.socket.send(JSON.stringify(message));
  }

  /** Send a chat, an image or a resume, and yield the events of its turn. */
  async *turn(message) {
    const inbox = new Inbox();
    this.asked.set(message.request_id, inbox);
    if (message.turn_id) this.turns.set(message.turn_id, inbox);
    this.say(message);
    try {
      yield* this.#events(inbox);
    } finally {
      this.asked.delete(message.request_id);
    }
  }

  async *#events(inbox) {
    let turnId = null;
    try {
      for await (const event of inbox) {
        turnId = event.turn_id;
        yield event;
        if (TERMINAL.has(event.type)) return;
      }
    } finally {
      if (this.turns.get(turnId) === inbox) this.turns.delete(turnId);
    }
  }

  async join(sessionId) {
    const inbox = new Inbox();
    const requestId = requestKey();
    this.asked.set(requestId, inbox);
    this.joins.set(requestId, sessionId);
    this.say({ type: "join_session", session_id: sessionId, request_id: requestId });
    try {
      for await (const joined of inbox) return joined;
      throw new Lost("the join was not answered");
    } finally {
      this.asked.delete(requestId);
      this.joins.delete(requestId);
    }
  }

  /** End everything that waits on this connection with an error; the next request opens a new one. */
  lose(error) {
    if (this.watch.stopped) return;
    this.watch.stop();
    this.settle.reject(error);
    for (const inbox of new Set([...this.turns.values(), ...this.asked.values()])) inbox.fail(error);
    this.socket.close();
    this.wire.lost(this, error);
  }

  async #authenticate() {
    try {
      const ticket = await this.wire.api.ticket(null);
      if (ticket) this.socket.send(JSON.stringify({ type: "auth", ticket }));
    } catch (error) {
      this.lose(error);
    }
  }

  /** A browser hides the protocol's pings from a script, so the page sends its own and waits for the server's pong. */
  #silent() {
    if (this.pings > this.pongs) this.lose(new Silent(`${this.watch.words}, not even a pong`));
    else this.#ping();
  }

  async #woken() {
    this.#ping();
    const ping = this.pings;
    await elapsed(this.wire.api.lookMs);
    if (this.pongs < ping && this.watch.quiet) this.lose(new Silent(`${this.watch.words}, not even a pong after the page woke`));
  }

  #ping() {
    this.pings++;
    this.say({ type: "ping" });
  }

  #frame(data) {
    if (this.watch.stopped) return;
    this.watch.heard();
    if (typeof data !== "string") {
      this.wire.onFrame("down", `(binary, ${data.byteLength} bytes)`, data.byteLength);
      this.picture.bytes = new Uint8Array(data);
      this.#event(this.picture);
      return;
    }
    this.wire.onFrame("down", data, data.length);
    const message = parsed(data);
    if (message.type === "image_chunk") this.picture = message;
    else if (message.seq !== undefined) this.#event(eventOf(message));
    else this.#word(message);
  }

  #event(event) {
    if (event.type === "turn_started") this.#started(event);
    this.turns.get(event.turn_id)?.put(event);
  }

  #started({ turn_id, request_id, session_id }) {
    const asked = this.asked.get(request_id);
    if (asked) this.turns.set(turn_id, asked);
    else if (!this.turns.has(turn_id) && session_id === this.wire.session) {
      const inbox = new Inbox();
      this.turns.set(turn_id, inbox);
      this.wire.onTurn(this.#events(inbox));
    }
  }

  #word(message) {
    switch (message.type) {
      case "pong":
        this.pongs++;
        break;
      case "connected":
        this.settle.resolve(this);
        break;
      case "error":
        this.asked.get(message.request_id)?.fail(new Refused({ code: message.code, detail: message.message }));
        break;
      case "session_joined":
        for (const [requestId, sessionId] of this.joins) if (sessionId === message.session_id) this.asked.get(requestId).put(message);
        break;
      case "session_update":
        this.wire.onUpdate(message);
        break;
      case "resumed":
        if (message.lost) this.turns.get(message.turn_id)?.put({ ...message, type: CURSOR_LOST });
        else if (message.status !== "running" && message.after === message.last_seq) this.turns.get(message.turn_id)?.end();
        break;
    }
  }
}
