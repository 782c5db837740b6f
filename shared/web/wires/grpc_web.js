// gRPC in a browser: gRPC-Web by the official connect-web over fetch, protobuf messages, the status at the end of the body.

import { Api as HttpApi, Lost, Refused, Silent } from "../api.js";
import { Watch } from "../patience.js";
import {
  ChatService, Code, ConnectError, createClient, createGrpcWebTransport, ErrorInfoSchema, EventSchema, toBinary,
} from "../vendor/connect-web.mjs";

export const title = "gRPC-Web";
export const note = "connect-web over fetch: protobuf messages, the status at the end of the body, resume by ResumeTurn";

/** A message has a length prefix of this size: a flag and four bytes. */
const PREFIX_BYTES = 5;
/** Statuses of a broken connection, where the server has not named an error of its own. */
const BROKEN = new Set([Code.Canceled, Code.Unknown, Code.Unavailable, Code.Internal, Code.DeadlineExceeded]);

/** What the chat page asks besides turns, by the RPCs of the same service. */
export class Api extends HttpApi {
  constructor(base) {
    super(base);
    this.service = serviceAt(base);
  }

  about() { return this.#call("getServerStats"); }
  createSession() { return this.#call("createSession"); }
  sessions() { return this.#call("listSessions", { limit: 30 }); }
  session(id) { return this.#call("getSessionInfo", { sessionId: id }); }
  messages(id) { return this.#call("listMessages", { sessionId: id }); }
  clear(id) { return this.#call("clearSession", { sessionId: id }); }
  remove(id) { return this.#call("deleteSession", { sessionId: id }); }
  turn(id) { return this.#call("getTurn", { turnId: id }); }
  cancel(turnId) { return this.#call("cancelTurn", { turnId }); }

  async image(imageId) {
    const pieces = [];
    let type = "";
    try {
      for await (const { info, data } of this.service.getImage({ imageId }, this.#options())) {
        if (info) type = info.mimeType;
        pieces.push(data);
      }
    } catch (error) {
      throw failure(error);
    }
    return new Blob(pieces, { type });
  }

  async #call(method, request = {}) {
    try {
      return plain(await this.service[method](request, this.#options()));
    } catch (error) {
      throw failure(error);
    }
  }

  #options() { return { headers: this.headers(), signal: AbortSignal.timeout(this.patienceMs) }; }
}

export class Wire {
  constructor(api, onFrame) {
    this.api = api;
    this.onFrame = onFrame;
    this.open = new Set();
    this.service = serviceAt(api.base);
  }

  chat({ message, session_id, model_id }, key) {
    return this.#stream("sendMessage", { message, ...named(session_id, model_id), requestId: key });
  }
  image({ prompt, size, session_id }, key) {
    return this.#stream("generateImage", { prompt, size: size ?? undefined, ...named(session_id), requestId: key });
  }
  read(turnId, after) { return this.#stream("resumeTurn", { turnId, after: BigInt(after) }, turnId, after); }

  async *#stream(method, request, turnId = null, after = 0) {
    const abort = new AbortController();
    const cut = () => abort.abort(new Lost("the line was cut"));
    const lose = (why) => abort.abort(new Silent(why));
    const watch = new Watch(this.api.patienceMs, {
      silent: () => lose(`${watch.words}, not even a heartbeat`),
      woken: async () => {
        const why = turnId === null ? "the page woke before the turn had begun" : await watch.look(this.#asked, turnId, () => after);
        if (why) lose(why);
      },
    });
    this.open.add(cut);
    this.onFrame("up", `ChatService/${method} ${JSON.stringify(request, shown)}`);
    try {
      for await (const message of this.service[method](request, { headers: this.api.headers(), signal: abort.signal })) {
        watch.heard();
        this.onFrame("down", JSON.stringify(message, shown), PREFIX_BYTES + toBinary(EventSchema, message).length);
        if (message.body.case === "heartbeat") continue;
        const event = eventFrom(message);
        [turnId, after] = [event.turn_id, event.seq];
        yield event;
      }
    } catch (error) {
      throw abort.signal.aborted ? abort.signal.reason : failure(error);
    } finally {
      watch.stop();
      this.open.delete(cut);
      abort.abort();
    }
  }

  /** The server's state of the turn, for `Watch.look`. */
  get #asked() {
    return {
      look: async (path) => {
        const signal = AbortSignal.timeout(this.api.lookMs);
        const turn = await this.service.getTurn({ turnId: path.split("/").at(-1) }, { headers: this.api.headers(), signal });
        return { ok: true, status: 200, text: JSON.stringify({ last_seq: Number(turn.lastSeq) }) };
      },
    };
  }

  reach() { return this.api.look("/health"); }
  cut() { for (const cut of this.open) cut(); }
  close() { this.cut(); }
}

function serviceAt(base) { return createClient(ChatService, createGrpcWebTransport({ baseUrl: base })); }

function named(sessionId, modelId) {
  return { sessionId: sessionId ?? undefined, modelId: modelId ?? undefined };
}

/** An event as the other wires give it: one object, the names in snake_case, numbers instead of BigInt. */
function eventFrom({ turnId, seq, at, body }) {
  const { data, ...fields } = plain(body.value);
  return { type: snake(body.case), turn_id: turnId, seq: Number(seq), at, ...fields, ...(data ? { bytes: data } : {}) };
}

function plain(value) {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  const fields = Object.entries(value).filter(([name]) => !name.startsWith("$"));
  return Object.fromEntries(fields.map(([name, field]) => [snake(name), plain(field)]));
}

function snake(name) { return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`); }

function shown(name, value) {
  if (name === "$typeName") return undefined;
  if (typeof value === "bigint") return Number(value);
  return value instanceof Uint8Array ? `(${value.length} bytes)` : value;
}

/** The error of the table that the status names, else a lost line. */
function failure(error) {
  const status = ConnectError.from(error);
  const info = status.findDetails(ErrorInfoSchema).find(({ domain }) => domain === "genai-protocols");
  // With CURSOR_LOST the trailers have the last seq of the turn as it is stored.
  const last_seq = Number(status.metadata.get("last_seq") ?? 0);
  if (info) return new Refused({ code: info.reason.toLowerCase(), detail: status.rawMessage, last_seq });
  if (BROKEN.has(status.code)) return new Lost("the connection broke");
  return new Refused({ code: snake(Code[status.code]).slice(1), detail: status.rawMessage });
}
