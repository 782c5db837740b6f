// The HTTP routes that all four servers share, over fetch. The key is kept in the memory of this object and nowhere else.

/** The server refused the request, with an error of the table in shared/errors.py. A retry helps only where `PASSING` has the code. */
export class Refused extends Error {
  constructor(problem, status = 0) {
    super(problem.detail || `The server answered ${status}.`);
    this.code = problem.code || "internal";
    this.status = status;
    this.lastSeq = problem.last_seq ?? 0;
  }
}

/** The line broke, or nothing came for too long. Whether the server has done the work is not known: resume, or repeat the request. */
export class Lost extends Error {}

/** Nothing came for too long: the line is dead, and so may be the other connections that the browser keeps to this server. */
export class Silent extends Lost {}

/** Refusals that pass: after a lost line the page repeats the request, as shared/client/following.py does. */
export const PASSING = new Set(["shutting_down", "storage_unavailable", "rate_limited", "too_many_streams", "cursor_out_of_range"]);

/** The statuses of a gateway that does not reach the server behind it. */
const GATEWAY = new Set([502, 503, 504]);
/** A line without a byte for this many heartbeats is lost: 45 s with the default HEARTBEAT_S. */
const HEARTBEATS = 3;
/** How long a look at the server may take. A browser opens six HTTP/1.1 connections to a host; the look may try each of them. */
const LOOK_MS = 5000;
const CONNECTIONS = 6;
const NEXT_CONNECTION_MS = 250;

export class Api {
  constructor(base = location.origin) {
    this.base = base;
    this.key = "";
    this.heartbeatS = 15;
  }

  get heartbeatMs() { return this.heartbeatS * 1000; }
  get patienceMs() { return HEARTBEATS * this.heartbeatMs; }
  get lookMs() { return Math.min(LOOK_MS, this.patienceMs); }

  headers(extra = {}) {
    return this.key ? { Authorization: `Bearer ${this.key}`, ...extra } : { ...extra };
  }

  /** A response with a status below 400. Rejects with Refused or Lost; without a `signal` after `patienceMs`. */
  async send(method, path, { body, headers, signal = AbortSignal.timeout(this.patienceMs) } = {}) {
    const response = await unbroken(fetch(this.base + path, {
      method,
      signal,
      headers: this.headers({ ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers }),
      body: body === undefined ? undefined : JSON.stringify(body),
    }));
    if (!response.ok) throw problem(await unbroken(response.text()), response.status);
    return response;
  }

  async json(method, path, options) {
    const response = await this.send(method, path, options);
    return response.status === 204 ? null : parsed(await unbroken(response.text()));
  }

  /**
   * GET a small answer on a line that may be dead: `{ok, status, text}`, whatever the status. The browser may send it on an idle
   * connection that died with the line, so a second request follows while the first has no answer, and so on.
   */
  async look(path) {
    const answered = new AbortController();
    const signal = AbortSignal.any([answered.signal, AbortSignal.timeout(this.lookMs)]);
    const ask = async (number) => {
      await new Promise((resolve) => setTimeout(resolve, number * NEXT_CONNECTION_MS));
      const response = await unbroken(fetch(this.base + path, { signal, headers: this.headers(), cache: "no-store" }));
      return { ok: response.ok, status: response.status, text: await unbroken(response.text()) };
    };
    try {
      return await Promise.any(Array.from({ length: CONNECTIONS }, (_, number) => ask(number)));
    } catch (error) {
      throw error.errors[0];
    } finally {
      answered.abort();
    }
  }

  about() { return this.json("GET", "/"); }
  createSession() { return this.json("POST", "/sessions", { body: {} }); }
  sessions() { return this.json("GET", "/sessions?limit=30"); }
  session(id) { return this.json("GET", `/sessions/${id}`); }
  messages(id) { return this.json("GET", `/sessions/${id}/messages`); }
  clear(id) { return this.json("POST", `/sessions/${id}/clear`); }
  remove(id) { return this.json("DELETE", `/sessions/${id}`); }
  startTurn(body, key) { return this.json("POST", "/turns", { body, headers: { "Idempotency-Key": key } }); }
  turn(id) { return this.json("GET", `/turns/${id}`); }
  cancel(turnId) { return this.json("POST", `/turns/${turnId}/cancel`); }
  cut(turnId) { return this.json("POST", `/turns/${turnId}/cut`); }

  async image(imageId) { return (await this.send("GET", `/images/${imageId}`)).blob(); }

  /** A ticket where the browser cannot set headers: EventSource (for one turn) and WebSocket. Null when no key is set. */
  async ticket(turnId) {
    if (!this.key) return null;
    const body = turnId ? { turn_id: turnId } : {};
    return (await this.json("POST", "/tickets", { body })).ticket;
  }
}

/** What fetch or a body's reader resolves to. Its failures become Lost: a reason that is Lost already, a time-out, a broken connection. */
export async function unbroken(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Lost) throw error;
    throw error.name === "TimeoutError" ? new Silent("nothing came for too long") : new Lost("the connection broke");
  }
}

/** A JSON text of the server. Lost where it is none: something on the way answered in the server's place. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Lost("the answer is not JSON");
  }
}

/** The error of an answer: problem+json (RFC 9457) is Refused; a gateway that does not reach the server is a lost line. */
function problem(text, status) {
  try {
    const body = JSON.parse(text);
    if (body.code && body.detail) return new Refused(body, status);
  } catch {
    // Not problem+json: the status says what there is to know.
  }
  return GATEWAY.has(status) ? new Lost(`a gateway answered ${status}`) : new Refused({}, status);
}

/** A key for one request: the same key joins the same turn, so a repeated request is never paid for twice. */
export function requestKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
